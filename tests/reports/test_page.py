"""The report page: what it answers, that it holds nothing foreign and does no harm, and that its bytes are settled."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reports import fake_records as fake
from reports import fake_study as study
from reports import reader
from reports.read_page import Element, Page, cells, outline

from softbench.contracts import quantities
from softbench.errors import ResultsError
from softbench.records import Record
from softbench.records.views import View
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.page import _answers, _machines, _pictures, _sections, page
from softbench.reports.tables import Column, Table

GOLDEN = Path(__file__).parent / "golden"
TEMPLATES = Path(_pictures.__file__).parent / "templates"
VIEWS: Mapping[str, Sequence[View]] = {
    "approx_error": [study.ERRORS, study.AGAINST_M, study.AGAINST_TIME, study.CHOICES],
    "pinv": [study.SUMMARY, study.COURSES, study.HEAT, study.PARETO]}


# A little of each kind: measures, and studies with all kinds of views.
STUDIED = [*fake.latency(lengths=(256, 1024)), *(r for r in study.errors() if r.coords["inputs"] == "image"),
           *(r for r in study.inverse() if r.coords["family"] in ("spread", "constant"))]


def made(records: Sequence[Record], **keys: Any) -> Page:
    return Page(page(records, VIEWS, **keys))


@pytest.fixture(scope="module")
def studied() -> Page:
    return made(STUDIED)


def timed(label: str, tokens: int, rounds: Sequence[float], **changed: Any) -> Record:
    """A latency with so many rounds of three samples each, taken in turn with all others of that length."""
    samples = [seconds * (1 + step) for seconds in rounds for step in (-0.01, 0, 0.01)]
    return fake.record(attention=label, label=label, tokens=tokens, samples=samples, **({
        "value": sorted(samples)[len(samples) // 2],
        "detail": {"group": f"g{tokens}", "samples_per_round": [3] * len(rounds)}} | changed))


def answered(records: Sequence[Record], baseline: str = "") -> list[_answers.Answer]:
    return [a for machine in _machines.machines(records) for a in _answers.answers(machine, baseline)]


# --- the answer


def test_sentence_names_who_is_fastest_from_which_length_on() -> None:
    answer, = answered(fake.latency())
    assert answer.sentence == ("softmax up to 1,024 tokens; soft from 4,096 tokens on. At 16,384 tokens, softmax gives"
                               " no number: oom.")
    assert [row[:4] for row in answer.table.rows] == [
        ["256", "softmax", "157 us", "1.00x"], ["1,024", "softmax", "2.20 ms", "1.00x"],
        ["4,096", "soft", "6.51 ms", "5.22x"], ["8,192", "soft", "11.0 ms", "12.3x"],
        ["16,384", "soft", "20.0 ms", "oom"]]


def test_the_last_length_says_how_far_the_fastest_is_ahead() -> None:
    answer, = answered([r for r in fake.latency() if r.status == "ok" and r.tokens < 9000])
    assert answer.sentence.endswith("At 8,192 tokens, soft is 12.3x as fast as softmax.")
    other, = answered(fake.latency(), baseline="performer")
    assert other.sentence.endswith("At 16,384 tokens, soft is 2.57x as fast as performer.")


def test_a_tie_is_called_a_tie_and_the_next_is_slower_beyond_doubt() -> None:
    even = [1e-3, 1.01e-3, 0.99e-3, 1.0e-3, 1.02e-3]
    records = [timed("softmax", 256, even), timed("soft", 256, [1.01 * s for s in even]),
               timed("performer", 256, [1.2 * s for s in even])]
    answer, = answered(records)
    assert answer.sentence == "soft and softmax at 256 tokens, which tie."
    assert answer.table.rows == [["256", "softmax = soft", "1.00 ms", "1.00x", "performer", "1.20x"]]


def test_noise_makes_a_tie_of_what_quiet_tells_apart() -> None:
    quiet = [timed("softmax", 256, [1e-3] * 5), timed("soft", 256, [1.1e-3, 1.101e-3, 1.1e-3, 1.099e-3, 1.1e-3])]
    noisy = [quiet[0], timed("soft", 256, [0.7e-3, 1.1e-3, 1.6e-3, 0.8e-3, 1.5e-3])]
    assert answered(quiet)[0].table.rows[0][1] == "softmax"
    assert answered(noisy)[0].table.rows[0][1] == "softmax = soft"


def test_of_single_rounds_the_middle_halves_must_lie_apart() -> None:
    base = fake.record(value=1e-3, samples=[0.9e-3, 1e-3, 1.1e-3])
    for samples, tied in (([1.0e-3, 1.2e-3, 1.3e-3], False), ([0.9e-3, 1.2e-3, 1.3e-3], True)):
        other = fake.record(attention="soft", value=1.2e-3, samples=samples)
        assert (" = " in answered([base, other])[0].table.rows[0][1]) is tied


def test_each_mode_and_dtype_has_its_own_answer() -> None:
    backward = [replace(r, mode="forward_backward") for r in fake.latency()]
    half = [replace(r, dtype="float16", batch=8) for r in fake.latency()]
    found = answered([*fake.latency(), *backward, *half])
    assert [answer.setting for answer in found] == ["forward, float32, cpu, batch 1",
                                                    "forward + backward, float32, cpu, batch 1",
                                                    "forward, float16, cpu, batch 8"]
    assert [answer.facets["dtype"] for answer in found] == ["float32", "float32", "float16"]


def test_models_are_answered_by_image() -> None:
    answer = answered(fake.models())[0]
    assert answer.sentence == ("timm:resnet18 from 224x224 to 512x384. At 512x384, timm:resnet18 is 2.00x as fast as"
                               " soft-tiny.")
    assert [row[0] for row in answer.table.rows] == ["224x224", "512x384"]


def test_times_of_the_scaling_study_serve_where_the_measure_has_none() -> None:
    scaling = [replace(r, measure="scaling", coords=r.coords | {"task": f"{r.label} at {r.tokens}"})
               for r in fake.latency()]
    exponent = replace(scaling[0], quantity="exponent", unit="1", value=1.0)
    assert answered([*scaling, exponent])[0].table == answered(fake.latency())[0].table
    found = answered([*scaling, *fake.latency(lengths=(1024, 4096))])
    assert [len(answer.table.rows) for answer in found] == [2]


def test_where_each_overtakes_the_baseline_belongs_to_the_answer() -> None:
    overtaking = [study.observation("crossover", "crossover", 512.0, label="soft", coords={"family": "a"})]
    views = {"crossover": [replace(study.SUMMARY, name="n", title="From which length on.", by=("label",), where={},
                                   quantities=("crossover",), pareto=(), among=())]}
    shown = Page(page(overtaking, views)).section("The answer")
    once = '<table class="sheet" aria-label="From which length on'
    assert page(overtaking, views).count(once) == 1
    assert cells(shown.one("table")) == [["crossover"], ["512"]]
    assert "nothing here says" not in shown.text


def test_one_attention_alone_has_no_answer() -> None:
    assert answered([r for r in fake.latency() if r.attention == "soft"]) == []
    shown = made([fake.record()]).section("The answer").text
    assert "nothing here says which is fastest" in shown


def errors_of(attention: str, size: int, value: float, inputs: str = "image", tokens: int = 1024) -> Record:
    against = "gaussian" if attention == "soft" else "softmax"
    return study.observation("approx_error", "error_matrix_fro", value, attention=attention, label=attention,
                             rows=32, cols=tokens // 32, options={"size": size, "kind": "a"},
                             coords={"inputs": inputs, "against": against})


def test_accuracy_is_of_the_nearest_options_and_says_which() -> None:
    options = {"options": {"size": 49, "kind": "a"}}
    records = [fake.record(), fake.record(attention="soft", **options),
               fake.record(attention="performer", options={"size": 256, "kind": "a"}),
               fake.record(attention="linformer", options={"size": 49, "kind": "b"}),
               errors_of("soft", 16, 0.9), errors_of("soft", 49, 0.25), errors_of("soft", 49, 0.5, "normal"),
               errors_of("soft", 49, 0.7, tokens=256), errors_of("performer", 16, 2.0),
               errors_of("performer", 144, 1.5), errors_of("linformer", 49, 0.1),
               replace(errors_of("softmax", 1, 0.0), options={})]
    table = _answers.errors(records)
    assert table is not None
    assert "at 1,024 tokens" in table.captions[0]
    assert [c.header for c in table.columns] == ["attention", "estimates", "measured with", "image", "normal"]
    assert table.rows == [["softmax", "itself: it is exact", "the same options", "0", "n/a"],
                          ["soft", "gaussian", "the same options", "0.250", "0.500"],
                          ["performer", "softmax", "size=144, not 256", "1.50", "n/a"]]
    assert _answers.errors(records[:4]) is None


# --- machines


def elsewhere(records: Sequence[Record], slower: float = 10.0, **environment: Any) -> list[Record]:
    other = fake.ENVIRONMENT | {"machine": "epyc-8c-64g-00ff00"} | environment
    return [replace(r, environment=other, value=None if r.value is None else r.value * slower,
                    samples=[s * slower for s in r.samples]) for r in records]


def test_machines_are_compared_by_their_own_baselines_and_never_by_times() -> None:
    found = made([*fake.latency(), *elsewhere(fake.latency(lengths=(256, 1024, 4096)))])
    section = found.section("Latency")
    merged, *own = [cells(table) for table in section.all("table")]
    assert merged[0] == ["tokens", "attention", "xeon-2c-8g-1a2b3c", "epyc-8c-64g-00ff00"]
    assert ["1,024", "soft", "0.704x", "0.704x"] in merged
    assert ["8,192", "soft", "12.3x", "n/a"] in merged
    assert len(own) == 2
    assert [len(rows) for rows in own] == [16, 10]
    assert {cell for rows in own for cell in rows[0]}.isdisjoint({"machine"})
    assert not any(re.search(r"\d [mun]?s$", cell) for row in merged for cell in row)
    assert [h.text for h in section.all("h3")] == ["xeon-2c-8g-1a2b3c", "epyc-8c-64g-00ff00"]


def test_machines_are_compared_in_each_form() -> None:
    lengths = (256, 1024)
    records = [*fake.latency(lengths=lengths), *(
        replace(r, causal=True, value=None if r.value is None else r.value * (3 if r.label == "softmax" else 1))
        for r in fake.latency(lengths=lengths))]
    section = made([*records, *elsewhere(records)]).section("Latency")
    head, *rows = cells(next(iter(section.all("table"))))
    assert head[:3] == ["causal", "tokens", "attention"]
    assert ["-", "256", "soft"] in [row[:3] for row in rows]
    ratio = {row[0]: row[3] for row in rows if row[1:3] == ["256", "soft"]}
    assert ratio["true"] != ratio["-"]


def test_tables_of_studies_stand_apart_by_machine_too() -> None:
    records = [r for r in study.errors() if r.coords["inputs"] == "image" and r.quantity != "error_choice"]
    found = made([*records, *elsewhere(records)])
    for table in found.section("Error against cost").all("table"):
        assert "machine" not in cells(table)[0]
    assert len(list(found.section("Error against cost").all("table"))) == 2


def test_one_machine_in_two_settings_is_two_and_says_what_differs() -> None:
    eight = elsewhere(fake.latency(), 1, machine="xeon-2c-8g-1a2b3c", threads=8)
    assert [m.name for m in _machines.machines([*fake.latency(), *eight])] == [
        "xeon-2c-8g-1a2b3c (threads 2)", "xeon-2c-8g-1a2b3c (threads 8)"]


def test_published_numbers_stand_beside_what_was_measured() -> None:
    quoted = replace(study.errors()[0], environment={}, value=0.5)
    together, = _machines.machines([*study.errors(), quoted])
    assert together.records[0] == quoted
    alone = _machines.machines([*fake.latency(), quoted])
    assert [m.name for m in alone] == ["xeon-2c-8g-1a2b3c", "published numbers"]


# --- harm

HOSTILE = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
           "</style><b>bold</b>", "<!--", "]]><svg onload=alert(1)>", "{{ 7 * 7 }}{% raw %}", "&lt;i&gt;",
           "\u202e\x00\x1b[31m")


def test_what_comes_from_a_file_is_text(tmp_path: Path, studied: Page) -> None:
    records: list[Record] = []
    for text in HOSTILE:
        environment = fake.ENVIRONMENT | {"command": f"softbench {text}", "cpu": text, text: text}
        records += [replace(r, environment=environment) for r in (
            fake.record(attention=text, label=text, note=text, impl=text, coords={text: text}),
            fake.record(measure=text, quantity=text, note=text),
            replace(study.errors()[0], label=text, note=text, attention=text),
            *(replace(r, coords=r.coords | {"method": text, "family": "spread"}, note=text)
              for r in study.inverse()[:3]))]
    records += [replace(fake.record(), environment=fake.ENVIRONMENT | {"machine": HOSTILE[0]}),
                fake.record(dtype=HOSTILE[1], mode=HOSTILE[2], label=HOSTILE[3])]
    found = made(records, problems=[f"{text}, line 1 is not a record" for text in HOSTILE])
    tags = {element.tag for element in found.root.all()}
    assert tags <= {element.tag for element in studied.root.all()} | {"h3"}
    assert not any(key.startswith("on") or key == "style" for e in found.root.all() for key in e.attributes)
    assert sum(1 for _ in found.root.all("script")) == 1
    shown = found.root.text
    labels = " ".join(e.attributes.get("aria-label", "") for e in found.root.all())
    for text in HOSTILE:
        assert " ".join(format.text(text).split()) in shown
        assert " ".join(format.text(text).split()) in labels
    assert found.records(tmp_path) == records


def test_nothing_is_loaded_from_anywhere(studied: Page) -> None:
    for element in studied.root.all():
        for key in ("src", "href", "action", "srcset", "poster", "xlink:href"):
            if value := element.attributes.get(key):
                assert value.startswith(("#", "data:application/gzip;base64,"))
    assert "://" not in re.sub(r"base64,[^\"]*", "", studied.source)
    assert "@import" not in studied.source


def test_policy_lets_in_this_style_and_this_script_only() -> None:
    found = made(fake.latency())
    policy = found.root.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for rule, tag in (("style-src", "style"), ("script-src", "script")):
        content, = (e.children[0] for e in found.root.all(tag))
        assert isinstance(content, str)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def test_ids_are_unique_and_what_refers_to_them_finds_them(studied: Page) -> None:
    found = studied
    ids = [e.attributes["id"] for e in found.root.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    wanted = [value[1:] for e in found.root.all() if (value := e.attributes.get("href", "")).startswith("#")]
    wanted += [v[5:-1] for e in found.root.all() for v in e.attributes.values() if v.startswith("url(#")]
    wanted += [v for e in found.root.all() if (v := e.attributes.get("aria-labelledby", ""))]
    assert len(wanted) > 50
    assert set(wanted) <= set(ids)


# --- the rest of the page


def test_whole_structure() -> None:
    problems = ["x.jsonl, line 3 is torn (its writer was interrupted); it is left out."]
    errors = [r for r in STUDIED if r.measure == "approx_error"]
    records = [*fake.latency(), *errors, *fake.flops(), study.lost("approx_error"),
               *elsewhere(fake.latency(lengths=(1024,)))]
    commands = [replace(r, environment=r.environment | {"command": f"softbench {r.measure}"}) for r in records]
    drawn = outline(made(commands, problems=problems))
    assert drawn == (GOLDEN / "report.txt").read_text(encoding="utf-8")


def test_same_records_give_the_same_bytes() -> None:
    records = fake.latency(lengths=(256, 1024))
    assert page(records, VIEWS) == page(records, VIEWS)


def test_the_records_are_inside(tmp_path: Path) -> None:
    records = [*fake.latency(), *fake.memory(lengths=(256,))]
    assert made(records).records(tmp_path) == records


def test_a_study_without_views_gets_the_tables_of_measures() -> None:
    found = Page(page(fake.generic()))
    assert "relative error" in cells(found.section("Quality").one("table"))[0]


def test_nothing_to_report_is_one_line() -> None:
    records = [fake.failed("oom"), fake.failed("oom", attention="soft"), fake.failed("timeout", attention="performer")]
    with pytest.raises(ResultsError, match=r"None of these records has a value \(2 oom, 1 timeout\)"):
        page(records)
    with pytest.raises(ResultsError, match="there are none"):
        page([])


def test_more_panels_than_a_figure_holds_become_several() -> None:
    records = [replace(r, dtype=dtype, batch=batch) for r in fake.latency(lengths=(256,))
               for dtype in ("float32", "float16") for batch in (1, 2, 4, 8)]
    found = made(records).section("Latency")
    assert len(list(found.all("figure"))) > 1
    assert len(list(found.all("svg", role="img"))) == 8
    assert "No picture" not in found.text


def test_a_view_that_cannot_be_drawn_says_why() -> None:
    records = [replace(r, coords=r.coords | {"family": f"{r.coords['family']}{n}"}) for r in study.inverse()
               for n in range(3) if r.detail.get("trace")]
    assert "No picture: View 'residuals' would need" in made(records).section(
        "The inverse of the landmarks' kernel").text


def test_thousands_of_records_stay_small() -> None:
    samples = [1e-3 + 1e-9 * step for step in range(100)]
    records = [fake.record(attention=f"a{number}", tokens=256 * (1 + step), value=1e-3, samples=samples)
               for number in range(8) for step in range(250)]
    assert len(page(records)) < 2_000_000


# --- tables


def test_a_unit_that_a_column_shares_stands_in_its_header() -> None:
    table = Table(["t"], [Column("time"), Column("memory"), Column("ratio"), Column("name", right=False)],
                  [["1.5 ms", "2 MiB", "1.0x", "12 ms"], ["oom", "1 GiB", "2.0x", "b"], ["20 ms", "n/a", "n/a", "c"]])
    grid = _sections.grid(table, {})
    assert [head.unit for head in grid.heads] == ["ms", "", "", ""]
    rows = [[(cell.text, cell.unit, cell.key, cell.kind) for cell in line.cells] for line in grid.bodies[0].lines]
    assert rows[0] == [("1.5", "", "0.0015", ""), ("2", "MiB", "2097152", ""), ("1.0x", "", "1", ""),
                       ("12 ms", "", "", "")]
    assert rows[1][0] == ("oom", "", "", "status")
    assert rows[2][1:3] == [("n/a", "", "", "missing")] * 2


def test_rows_below_a_heading_are_a_body_of_their_own() -> None:
    table = Table(["t"], [Column("a")], [["1"], ["2"], ["3"]], [2], [], {0: "one", 2: "two"})
    assert [(b.heading, len(b.lines)) for b in _sections.grid(table, {}).bodies] == [("one", 2), ("two", 1)]


def test_rows_say_what_they_can_be_chosen_by() -> None:
    found = made([*fake.latency(), *(replace(r, dtype="float16") for r in fake.latency())])
    row = next(r for r in found.section("Latency").all("tr") if "soft" in [c.text for c in r.all("td")])
    assert {k: v for k, v in row.attributes.items() if k.startswith("data-")} == {
        "data-attention": "soft", "data-mode": "forward", "data-dtype": "float32"}
    assert [[o.text for o in s.all("option")] for s in found.root.all("select")] == [
        ["all", "performer", "soft", "softmax"], ["all", "float16", "float32"]]


# --- pictures


def drawn(view: View, records: Sequence[Record]) -> tuple[_pictures.Picture, list[Element]]:
    with drawing.settings():
        figure = reader.figure(view, records)
        assert figure is not None
        picture = _pictures.cut(figure, "p")
    return picture, [Page(panel.svg).root.one("svg") for panel in picture.panels]


def test_each_panel_stands_by_itself() -> None:
    picture, panels = drawn(study.COURSES, STUDIED)
    assert picture.columns == 3
    assert len(panels) == 6
    assert [name for _, name in picture.legend] == list(study.METHODS)
    for panel in panels:
        texts = [t.text for t in panel.all("text")]
        assert "iteration" in texts
        assert len({*texts} & study.FAMILIES.keys()) == 1
        assert panel.attributes["role"] == "img"
    assert panels[0].attributes["aria-label"] == (
        "Residuals of each iteration. |AVA - A| / |A|. spread against iteration")
    _, panels = drawn(study.CHOICES, study.errors())
    assert all("kmeans" in [t.text for t in panel.all("text")] for panel in panels)


def test_what_is_drawn_lies_within_its_panel() -> None:
    figure = reader.figure(quantities.views("latency")[1], fake.latency())
    assert figure is not None
    with drawing.settings():
        picture = _pictures.cut(figure, "p")
    for panel in picture.panels:
        svg = Page(panel.svg).root.one("svg")
        left, top, width, height = map(float, svg.attributes["viewbox"].split())
        path = next(g for g in svg.all("g") if re.fullmatch(r"p-panel\d-line0", g.attributes.get("id", ""))).one("path")
        for x, y in re.findall(r"[ML] (\S+) (\S+)", path.attributes["d"]):
            assert left < float(x) < left + width
            assert top < float(y) < top + height


def test_colours_follow_the_page_but_writing_on_cells_does_not() -> None:
    picture, panels = drawn(study.HEAT, study.inverse())
    style = (TEMPLATES / "style.css").read_text()
    for name in set(_pictures.CLASSES.values()):
        assert f".fill-{name} {{ fill: var(--{'ink' if name == 'c0' else name}); }}" in style
        assert f".stroke-{name} {{ stroke: var(--{'ink' if name == 'c0' else name}); }}" in style
        if name != "c0":
            assert len(re.findall(rf"--{name}: #", style)) == 2  # light and dark
    cells_of = [g for panel in panels for g in panel.all("g") if g.attributes.get("class") == "on-colour"]
    assert cells_of
    assert not any("class" in e.attributes for g in cells_of for e in g.all())
    assert not any(value.lower() in _pictures.CLASSES for panel in panels for e in panel.all()
                   for key, value in e.attributes.items() if key in ("fill", "stroke")
                   and not any(e in list(g.all()) for g in cells_of))
    assert picture.title == study.HEAT.title


def test_numbers_are_read_back_from_what_is_written() -> None:
    for value, unit in ((1.234e-7, "s"), (0.0123, "s"), (9.9996e-4, "s"), (4.2e9, "B"), (6.87e10, "flop"),
                        (2.5e10, "B/s"), (0.0123, "1"), (-4.5, "1"), (16384.0, "1"), (3.4e-9, "1")):
        number, name, found = format.split(format.measured(value, unit))
        assert found == pytest.approx(value, rel=0.06 if unit == "1" and abs(value) < 1e-3 else 5e-3)
        assert f"{number} {name}".strip() == format.measured(value, unit)
    assert format.split("(2.1±0.3)e-7") == ("(2.1±0.3)e-7", "", pytest.approx(2.1e-7))
    assert format.split("539..567 us") == ("539..567", "us", pytest.approx(539e-6))
    assert format.split("12.0x [1]") == ("12.0x [1]", "", 12.0)
    assert format.split("55 %") == ("55", "%", pytest.approx(0.55))
    assert format.split("9e999999")[2] == float("inf")
    assert format.split("soft") == ("soft", "", None)
