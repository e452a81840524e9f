"""The report page in Chromium: no complaint, sorting and filtering by mouse and keys, layout on phone and screen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from reports import fake_records as fake
from reports import fake_study as study
from reports.browser import Browser, installed
from reports.test_page import HOSTILE, STUDIED, VIEWS, elsewhere

from softbench.reports.page import page

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium here: apt-get install chromium")

LATENCY = "document.querySelectorAll('#s0 table')[1]"  # after the one that compares machines
COLUMN = "[...{table}.tBodies[0].rows].map((row) => row.cells[{column}].textContent)"
SHOWN = ("[...document.querySelectorAll('section:not(#answer, #origin) tbody tr:not(.heading)')]"
         ".filter((row) => !row.hidden)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two machines, two dtypes and two studies, with hostile names."""
    hostile = [fake.record(attention=text, label=text, note=text, tokens=1024, value=5e-2) for text in HOSTILE]
    half = [fake.record(attention=name, dtype="float16") for name in ("softmax", "soft")]
    records = [*STUDIED, *half, *hostile, *elsewhere(fake.latency(lengths=(1024,))), study.lost("approx_error")]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(records, VIEWS), encoding="utf-8")
    return path


@pytest.fixture
def wide(browser: Browser, path: Path) -> Browser:
    browser.open(path, 1280)
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280])
def test_page_opens_without_complaint_and_fits_its_window(browser: Browser, path: Path, width: int,
                                                          scheme: str) -> None:
    browser.open(path, width, scheme=scheme)
    assert browser.complaints == []
    assert [url for url in browser.loaded if not url.startswith("data:")] == [path.as_uri()[:80]]
    assert browser.run("document.documentElement.scrollWidth") <= width
    wider = browser.run("[...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, svg, .skip')"
                        " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 99))")
    assert wider == []
    dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark is (scheme == "dark")
    assert browser.run("typeof alert === 'function' && !document.querySelector('img, b[onmouseover]')")


def test_panels_stand_below_each_other_on_a_phone_and_side_by_side_elsewhere(browser: Browser, path: Path) -> None:
    lefts = "new Set([...document.querySelectorAll('.p3')[0].children].map((e) => Math.round(e.offsetLeft))).size"
    for width, beside in ((380, 1), (1280, 3)):
        browser.open(path, width)
        assert browser.run(lefts) == beside
        assert browser.run("Math.max(...[...document.querySelectorAll('figure svg')]"
                           ".map((e) => e.getBoundingClientRect().right))") <= width


def test_writing_is_large_enough_on_a_phone(browser: Browser, path: Path) -> None:
    browser.open(path, 380)
    heights = browser.run("[...document.querySelectorAll('.panel text')].map((e) => e.getBoundingClientRect())"
                          ".map((b) => Math.min(b.width, b.height) || 99)")
    assert len(heights) > 100
    assert sorted(heights)[len(heights) // 2] > 8


def test_sorting_by_mouse(wide: Browser) -> None:
    median = COLUMN.format(table=LATENCY, column=4)
    head = f"{LATENCY}.tHead.rows[0].cells[4]"
    assert wide.run(f"{head}.textContent.trim()") == "median"
    before = wide.run(median)
    wide.click(f"{head}.querySelector('button')")
    up = wide.run(median)
    assert wide.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    wide.click(f"{head}.querySelector('button')")
    down = wide.run(median)
    assert wide.run(f"{head}.getAttribute('aria-sort')") == "descending"
    wide.click(f"{head}.querySelector('button')")
    assert wide.run(median) == before
    assert before != up != down
    seconds = [float(cell.split()[0]) * {"us": 1e-6, "ms": 1e-3}[cell.split()[1]] for cell in up if cell != "oom"]
    assert seconds == sorted(seconds)
    assert up[-1] == down[-1] == "oom"
    assert sorted(up) == sorted(down) == sorted(before)
    for _ in range(2):
        wide.click(f"{LATENCY}.tHead.rows[0].cells[1].querySelector('button')")
    tokens = wide.run(COLUMN.format(table=LATENCY, column=1))
    assert tokens == sorted(tokens, key=lambda cell: -int(cell.replace(",", "")))
    assert tokens[0] == "1,024"


def test_only_one_column_is_sorted_and_rows_stay_below_their_heading(wide: Browser) -> None:
    for column in (1, 2):
        wide.click(f"{LATENCY}.tHead.rows[0].cells[{column}].querySelector('button')")
    states = wide.run(f"[...{LATENCY}.tHead.rows[0].cells].map((e) => e.getAttribute('aria-sort'))")
    assert [place for place, state in enumerate(states) if state != "none"] == [2]


def test_sorting_by_keyboard(wide: Browser) -> None:
    names = COLUMN.format(table=LATENCY, column=2)
    wide.run(f"{LATENCY}.tHead.rows[0].cells[1].querySelector('button').focus()")
    wide.press("Tab")
    assert wide.run("document.activeElement.textContent.trim()") == "attention"
    assert wide.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    wide.press("Enter")
    found = wide.run(names)
    assert found.index("performer") < found.index("soft") < found.index("softmax")
    wide.press(" ")
    found = wide.run(names)
    assert found.index("performer") > found.index("soft") > found.index("softmax")


def test_filtering_by_text_and_clearing(wide: Browser) -> None:
    every = wide.run(f"{SHOWN}.length")
    assert wide.run("document.getElementById('shown').textContent") == f"{every} of {every} rows"
    wide.click("document.getElementById('find')")
    wide.type("PERFORMER 1,024")
    rows = wide.run(f"{SHOWN}.map((row) => row.textContent)")
    assert 0 < len(rows) < every
    assert all("performer" in row and "1,024" in row for row in rows)
    assert wide.run("document.getElementById('shown').textContent") == f"{len(rows)} of {every} rows"
    assert "No row of this table fits." in wide.run("document.querySelector('#s1').textContent")
    assert wide.run("[...document.querySelectorAll('#answer tbody tr')].every((row) => !row.hidden)")
    wide.click("document.querySelector('#filter button')")
    wide.run("new Promise((done) => setTimeout(done, 20))")
    assert wide.run(f"{SHOWN}.length") == every
    assert "No row of this table fits." not in wide.run("document.querySelector('#s1').textContent")


def test_filtering_by_attention_and_dtype(wide: Browser) -> None:
    def choose(facet: str, value: str) -> list[list[str]]:
        wide.run(f"(() => {{ const s = document.querySelector('[data-facet={facet}]'); s.value = '{value}';"
                 " s.dispatchEvent(new Event('input', {bubbles: true})); })()")
        found: list[list[str]] = wide.run(f"{SHOWN}.map(({{dataset: d}}) => [d.attention ?? '', d.dtype ?? ''])")
        return found

    assert {name for name, _ in choose("attention", "soft")} == {"soft", ""}
    assert {dtype for _, dtype in choose("dtype", "float16")} == {"float16", ""}


def test_everything_has_a_name_and_can_be_reached(wide: Browser) -> None:
    assert wide.run("[...document.querySelectorAll('svg:not([aria-hidden])')]"
                    ".every((e) => e.getAttribute('role') === 'img' && e.getAttribute('aria-label').length > 20)")
    assert wide.run("[...document.querySelectorAll('input, select')].every((e) => e.labels.length === 1)")
    assert wide.run("[...document.querySelectorAll('.scroll')].every((e) => e.tabIndex === 0 && e.ariaLabel)")
    assert wide.run("document.documentElement.lang") == "en"
    levels = wide.run("[...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for link in wide.run("[...document.querySelectorAll('nav a')].map((e) => e.getAttribute('href'))"):
        assert wide.run(f"Boolean(document.querySelector('{link}'))")


CONTRAST = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const found = {};
  for (const name of ['.lead', '.sentence', 'i', 'nav a', '.status', '.filter', '.fill-c1', '.fill-c2', '.fill-c3']) {
    const style = getComputedStyle(document.querySelector(name));
    const ink = light(name.startsWith('.fill') ? style.fill : style.color);
    found[name] = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }
  return found;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(browser: Browser, path: Path, scheme: str) -> None:
    """By the contrast that WCAG defines: 4.5 for text, 3 for the lightest of the lines."""
    browser.open(path, 1280, scheme=scheme)
    found = browser.run(CONTRAST)
    assert {name: ratio for name, ratio in found.items() if ratio < (3.0 if name == ".fill-c2" else 4.5)} == {}


def test_print_shows_light_pages_without_controls(browser: Browser, path: Path) -> None:
    browser.open(path, 1280, scheme="dark", media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("[...document.querySelectorAll('.filter, nav')].every((e) => e.offsetParent === null)")
