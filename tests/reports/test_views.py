"""Views of studies: whole tables against files in golden/, pictures read back from their SVG, and the edges of both."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from reports import fake_study as fake
from reports import reader

from softbench.errors import UsageError
from softbench.records import Record, to_frame
from softbench.records.views import Dots, Heatmap, Lines, Rows, Scatter, View
from softbench.reports import figures, format, tables
from softbench.reports.figures.drawing import _decades
from softbench.reports.rows import Row, front, grouped, of, select, telling

GOLDEN = Path(__file__).parent / "golden"
SVG = "{http://www.w3.org/2000/svg}"


def text(view: Rows, records: list[Record]) -> str:
    return "\n".join(tables.plain(table) for table in reader.listed(view, records))


def rows(view: Rows, records: list[Record]) -> list[list[str]]:
    """The cells of the view's table, without empty ones."""
    table = reader.listed(view, records)[0]
    return [[cell for cell in row if cell] for row in table.rows]


class Picture:
    """An SVG figure, with its texts and the drawing commands of its lines."""

    def __init__(self, view: View, records: list[Record], folder: Path) -> None:
        path = folder / "figure.svg"
        assert figures.plot(to_frame(records), path, view=view)
        self.root = ET.parse(path).getroot()
        self.texts = [node.text or "" for node in self.root.iter(f"{SVG}text")]
        self.ids = [node.get("id", "") for node in self.root.iter(f"{SVG}g")]

    def named(self, pattern: str) -> list[str]:
        return [name for name in self.ids if re.fullmatch(pattern, name)]

    def path(self, name: str) -> ET.Element:
        return next(next(g for g in self.root.iter(f"{SVG}g") if g.get("id") == name).iter(f"{SVG}path"))

    def points(self, name: str) -> list[tuple[float, float]]:
        """Vertices of a line on the page; y grows downwards."""
        found = re.findall(r"[ML] (\S+) (\S+)", self.path(name).get("d", ""))
        return [(float(x), float(y)) for x, y in found]

    def colour(self, name: str) -> str:
        return re.findall(r"stroke: (#\w+)", self.path(name).get("style", ""))[0]


def number(value: float | None = 1.0, quantity: str = "error", **changed: Any) -> Record:
    return fake.observation("study", quantity, value, **changed)


PLAIN = Rows(name="plain", title="Errors.", by=("family",), quantities=("error",))


@pytest.mark.parametrize(("name", "view", "records"), [
    ("study_inverse", fake.SUMMARY, [*fake.inverse(), fake.lost()]),
    ("study_errors", replace(fake.ERRORS, where={"inputs": ("normal", "image")}), fake.errors()),
])
def test_whole_tables(name: str, view: Rows, records: list[Record]) -> None:
    assert text(view, records) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_usual_tables_fit_eighty_columns() -> None:
    quantities = ("error_output", "error_matrix", "floor", "latency")
    one = replace(fake.ERRORS, where={"inputs": "image"}, quantities=quantities)
    for drawn in (text(replace(fake.SUMMARY, where={"family": "smooth"}), fake.inverse()), text(one, fake.errors())):
        assert max(map(len, drawn.splitlines())) <= 80


def test_columns_that_are_the_same_throughout_go_into_the_caption() -> None:
    table = reader.listed(replace(fake.ERRORS, where={"inputs": "image", "m": 49}), fake.errors())[0]
    assert [column.header for column in table.columns][:2] == ["attention", "output"]
    assert "float32, heads 8, head_dim 64, cpu, tokens 1,024" in table.captions
    few = [r for r in fake.errors() if r.coords["inputs"] == "image"]
    (table,) = reader.listed(fake.ERRORS, few)
    assert "float32, heads 8, head_dim 64, cpu, tokens 1,024, inputs image" in table.captions


def test_outer_columns_may_stand_above_their_rows() -> None:
    view = replace(fake.ERRORS, headings=("inputs",))
    table = reader.listed(view, fake.errors())[0]
    assert table.headings == {0: "normal", 16: "structured", 32: "image"}
    assert table.breaks == [16, 32]
    assert [column.header for column in table.columns][:2] == ["attention", "m"]
    lines = tables.plain(table).splitlines()
    assert lines[lines.index("structured") - 1] == ""
    assert lines[lines.index("structured") + 1].startswith("soft ")
    assert "| **image** | " in tables.markdown(table)
    one = [r for r in fake.errors() if r.coords["inputs"] == "image"]
    assert not reader.listed(view, one)[0].headings


def test_middle_of_a_column_is_chosen_when_the_table_is_drawn() -> None:
    view = replace(fake.ERRORS, middle="m")
    records = [r for r in fake.errors() if r.coords["inputs"] == "image" and "m" in r.coords]
    assert len(rows(fake.ERRORS, records)) == 16
    for kept, middle in (((16, 49, 144), 49), ((16, 49), 49), ((16,), 16)):
        table = reader.listed(view, [r for r in records if r.coords["m"] in kept])[0]
        assert len(table.rows) == 4
        assert f"m {middle}" in " ".join(table.captions)


def test_intervals_may_be_left_out() -> None:
    records = [r for r in fake.errors() if r.coords["inputs"] == "image" and r.attention == "soft"]
    assert "±" in text(replace(fake.ERRORS, quantities=("error_output",)), records)
    assert "±" not in text(replace(fake.ERRORS, quantities=("error_output",), plain=("error_output",)), records)


def test_where_keeps_a_value_or_one_of_several() -> None:
    for where, left in (({"inputs": "image"}, {"image"}), ({"inputs": ("image", "normal")}, {"image", "normal"}),
                        ({"options.size": 16, "inputs": "normal"}, {"normal"}), ({"inputs": "none"}, set())):
        kept = select(replace(fake.ERRORS, where=where), of(to_frame(fake.errors())), ["error_output"])
        assert {row.at("inputs") for row in kept} == left


def test_rows_are_told_apart_by_what_the_view_forgot() -> None:
    """Two machines, two lengths or two options never share a cell."""
    base = [number(0.5, coords={"family": "a"}, rows=1, cols=1), number(0.25, coords={"family": "b"}, rows=1, cols=1)]
    environment = base[0].environment | {"machine": "other"}
    assert rows(PLAIN, base) == [["a", "0.500"], ["b", "0.250"]]
    assert rows(PLAIN, [*base, *(replace(r, environment=environment, value=0.125) for r in base)]) == [
        ["xeon-2c-8g-1a2b3c", "a", "0.500"], ["xeon-2c-8g-1a2b3c", "b", "0.250"],
        ["other", "a", "0.125"], ["other", "b", "0.125"]]
    assert rows(PLAIN, [*base, replace(base[0], rows=64, cols=64, value=0.1)]) == [
        ["1", "a", "0.500"], ["1", "b", "0.250"], ["4,096", "a", "0.100"]]
    assert rows(PLAIN, [*base, replace(base[0], options={"k": 3}, value=0.1)])[0] == ["3", "a", "0.100"]


def test_only_as_many_columns_are_added_as_it_takes() -> None:
    same = [number(coords={"family": "a", "m": m}, options={"landmarks": m}, label=f"soft:{m}") for m in (16, 49)]
    both = of(to_frame(same))
    assert telling(both, ["family"]) == ["m"]
    assert telling(both, ["label"]) == []
    assert telling(both[:1], []) == []


def test_numbers_ascend_and_text_keeps_the_order_of_the_records() -> None:
    records = [number(coords={"family": name, "m": m}) for name in ("z", "a") for m in (64, 9, 144)]
    assert list(grouped(of(to_frame(records)), ["family", "m"])) == [(n, m) for n in ("z", "a") for m in (9, 64, 144)]


@pytest.mark.parametrize(("record", "cell"), [
    (number(None, status="diverged"), "diverged"), (number(None, status="oom"), "oom"),
    (number(0.43, status="diverged"), "0.430!"), (number(2.1e-7), "2.1e-7"), (number(0.0), "0"),
    (number(0.12, detail={"ci95": [0.116, 0.124]}), "0.120±0.004"), (number(1.5e-3, unit="s"), "1.50 ms"),
    (number(1.5e-3, unit="s", detail={"ci95": [1.4e-3, 1.6e-3]}), "1.50±0.10 ms"),
    (number(2e-5, detail={"ci95": [1e-5, 3e-5]}), "(2.0±1.0)e-5"), (number(17.0), "17"), (number(1.0), "1.00"),
    (number(24.5), "24.5"), (number(1e9), "1,000,000,000"), (number(2.4e-3), "0.00240"), (number(123456.7), "1.2e5"),
    (number(0.12, detail={"ci95": [None, None]}), "0.120"),
    (number(0.12, detail={"ci95": [0.12, 0.12]}), "0.120±0.000"),
    (number(1.337, detail={"ci95": [-1.1, 3.7]}), "1.3±2.4"),
    (number(0.5371, detail={"ci95": [0.43, 0.65]}), "0.54±0.11"),
    (number(0.0123, unit="s", detail={"ci95": [0.0023, 0.0223]}), "12±10 ms"),
])
def test_cells(record: Record, cell: str) -> None:
    table = reader.listed(PLAIN, [record])[0]
    assert table.rows[0][0] == cell
    assert any("diverged" in note for note in table.footnotes) == ("!" in cell)


def test_a_quantity_without_a_record_is_left_out_or_missing() -> None:
    view = replace(PLAIN, quantities=("error", "time", "never"))
    records = [number(coords={"family": "a"}), number(coords={"family": "b"}), number(2.0, "time", unit="s",
                                                                                 coords={"family": "b"})]
    assert rows(view, records) == [["a", "1.00", "n/a"], ["b", "1.00", "2.00 s"]]
    assert reader.listed(view, [number(1.0, "other")]) == []


def test_the_pareto_mark_ignores_numbers_in_doubt_and_stays_within_its_group() -> None:
    view = replace(PLAIN, by=("family", "m"), quantities=("error", "time"), pareto=("error", "time"), among=("family",))
    points = {("a", 1): (1.0, 5.0, "ok"), ("a", 2): (2.0, 4.0, "ok"), ("a", 3): (2.0, 5.0, "ok"),
              ("a", 4): (0.1, 0.1, "diverged"), ("b", 1): (9.0, 9.0, "ok")}
    records = [r for (family, m), (error, time, status) in points.items() for r in (
        number(error, coords={"family": family, "m": m}, status=status),
        number(time, "time", coords={"family": family, "m": m}))]
    table = reader.listed(view, records)[0]
    assert [row[-1] for row in table.rows] == ["*", "*", "", "", "*"]  # the fourth is in doubt
    everywhere = reader.listed(replace(view, among=()), records)[0]
    assert [row[-1] for row in everywhere.rows] == ["*", "*", "", "", ""]


def test_front() -> None:
    assert front([(1, 3), (2, 2), (3, 1), (3, 3), (1, 3)]) == [True, True, True, False, True]
    assert front([]) == []


def test_tasks_without_a_result_are_told_once() -> None:
    records = [*fake.inverse(), fake.lost(), fake.lost(task="newton, zero"), fake.lost(note="out of memory", task="x")]
    table = reader.listed(fake.SUMMARY, records)[-1]
    assert table.rows == [["newton, huge", "failed", "[1]"], ["newton, zero", "failed", "[1]"], ["x", "failed", "[2]"]]
    assert table.footnotes == ["[1] RuntimeError: broken", "[2] out of memory"]
    assert len(reader.listed(fake.SUMMARY, [fake.lost()])) == 1


def test_courses_have_a_row_of_panels_for_each_family(tmp_path: Path) -> None:
    picture = Picture(fake.COURSES, fake.inverse(), tmp_path)
    assert len(picture.named(r"panel\d+-line0")) == len(fake.FAMILIES) * len(fake.NORMS)
    assert {"spread", "smooth", "constant", "|AVA - A| / |A|", "iteration", "newton", "scaled"} <= set(picture.texts)
    assert picture.texts.count("newton") == 1  # one legend
    assert picture.texts.count("nystromformer: diverged") == 3
    steps = [x for x, _ in picture.points("panel0-line0")]
    assert steps == sorted(steps)
    first, last = picture.points("panel0-line0")[0], picture.points("panel0-line0")[-1]
    assert last[1] > first[1]  # the residual falls
    assert {picture.colour(f"panel{p}-line1") for p in range(12)} == {picture.colour("panel0-line1")}


def test_one_panel_names_its_lines_at_their_ends(tmp_path: Path) -> None:
    view = replace(fake.AGAINST_M, where={"inputs": "image"})
    picture = Picture(view, fake.errors(), tmp_path)
    assert {"soft", "performer", "best possible, gaussian", "best possible, softmax"} <= set(picture.texts)
    assert "(unsupported)" in " ".join(picture.texts)
    assert len(picture.named(r"panel0-line\d")) == len(picture.named(r"panel0-band\d")) == 3
    assert picture.texts.count("soft") == 1
    assert "16" in picture.texts


def test_the_floor_lies_below(tmp_path: Path) -> None:
    picture = Picture(fake.AGAINST_M, fake.errors(), tmp_path)
    for panel in range(3):
        floor = max(y for _, y in picture.points(f"panel{panel}-reference0"))
        for line in picture.named(rf"panel{panel}-line\d"):
            assert floor > max(y for _, y in picture.points(line))


def test_each_panel_has_its_own_floor(tmp_path: Path) -> None:
    picture = Picture(fake.AGAINST_M, fake.errors(), tmp_path)
    floors = [[y for _, y in picture.points(f"panel{panel}-reference0")] for panel in range(3)]
    assert all(len(floor) == len(fake.SIZES) for floor in floors)
    assert floors[0] < floors[1] < floors[2]  # normal inputs are the hardest: highest on the page


def test_a_reference_without_a_column_is_one_line(tmp_path: Path) -> None:
    gaussian = [r for r in fake.errors() if r.coords.get("against") == "gaussian"]
    assert "best possible" in Picture(fake.AGAINST_M, gaussian, tmp_path).texts


def test_a_gap_in_a_line_has_one_word(tmp_path: Path) -> None:
    view = Lines(name="x", title="t", quantities=("error", "never"), x="m", series="method")
    records = [number(value, coords={"method": "a", "m": m}, status="ok" if value else "oom")
               for m, value in ((1, 1.0), (2, None), (3, 1.0), (4, None))]
    picture = Picture(view, records, tmp_path)
    assert picture.texts.count("oom") == 2
    assert "never" not in picture.texts


def test_zero_and_divergence_stay_inside_the_panel(tmp_path: Path) -> None:
    view = Lines(name="x", title="Courses", quantities=("error",), trace=True, series="method", limits=(1e-9, 10.0))
    records = [number(0.0, coords={"method": "exact"}, detail={"trace": [1.0, 1e-4, 0.0, 0.0]}),
               number(1e30, coords={"method": "wild"}, detail={"trace": [1.0, 1e5, 1e20, 1e30]}),
               number(None, status="diverged", coords={"method": "lost"}, detail={"trace": [None, None]}),
               number(1e-3, coords={"method": "direct"})]
    picture = Picture(view, records, tmp_path)
    assert len(picture.points("panel0-line0")) == 4
    assert "lost (diverged)" in " ".join(picture.texts)
    assert {"exact", "wild"} <= set(picture.texts)
    assert "direct" not in picture.texts  # a method without iterations has no course
    box = next(picture.root.iter(f"{SVG}clipPath"))[0]
    bottom = float(box.get("y", "")) + float(box.get("height", ""))
    assert max(y for _, y in picture.points("panel0-line0")) <= bottom + 1


def test_heat_map_writes_each_value_and_status(tmp_path: Path) -> None:
    picture = Picture(fake.HEAT, fake.inverse(), tmp_path)
    assert picture.texts.count("unsupported") == len(fake.FAMILIES)
    assert {"7", "16", "20!", "10", "5000", "1e9", "float16", "newton", "condition", "dtype"} <= set(picture.texts)


def test_scatter_fills_the_front_and_draws_its_steps(tmp_path: Path) -> None:
    picture = Picture(replace(fake.AGAINST_TIME, where={"inputs": "image"}), fake.errors(), tmp_path)
    assert picture.named(r"panel0-front") == ["panel0-front"]
    best = 4
    assert len(picture.points("panel0-front")) == 2 * best - 1
    assert "linformer: unsupported" in picture.texts
    assert picture.texts.count("144") == 3
    assert "Pareto front (filled points)" in picture.texts


def test_dots_have_a_line_for_each_name(tmp_path: Path) -> None:
    picture = Picture(fake.CHOICES, fake.errors(), tmp_path)
    assert {"avg", "conv", "random", "first", "strided", "kmeans", "rpcholesky", "soft_norm"} <= set(picture.texts)
    assert picture.texts.count("kmeans") == 1
    assert {"normal", "structured", "image"} <= set(picture.texts)


@pytest.mark.parametrize("view", [
    fake.COURSES, fake.HEAT, fake.PARETO, fake.AGAINST_M, fake.AGAINST_TIME, fake.CHOICES])
def test_nothing_to_draw_draws_nothing(view: View, tmp_path: Path) -> None:
    quantities = ("error_v", "iterations", "seconds", "error_output", "latency", "error_choice")
    for records in ([number()], [number(None, q, status="failed", note="no") for q in quantities]):
        assert reader.figure(view, records) is None
        assert not figures.plot(to_frame(records), tmp_path / "x.png", view=view)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("view", [
    Lines(name="l", title="t", quantities=("error",), x="m", series="family"),
    Lines(name="l", title="t", quantities=("error",), x="m", series="family", log_y=False, level=0.5),
    Heatmap(name="h", title="t", quantity="error", x="m", y="family", log=True),
    Heatmap(name="h", title="t", quantity="error", x="m", y="family"),
    Scatter(name="s", title="t", x="error", y="time", series="family", point="m"),
    Scatter(name="s", title="t", x="error", y="time", series="family", log_x=False, log_y=False),
    Dots(name="d", title="t", quantity="error", y="family", log_x=True),
])
@pytest.mark.parametrize("values", [[0.0], [1e-300, 1e300], [0.5], [-1.0, 2.0], [0.0, None], [0.5, 0.5]])
def test_odd_values_are_drawn(view: View, values: list[float | None], tmp_path: Path) -> None:
    records = [r for i, value in enumerate(values) for r in (
        number(value, coords={"family": f"$a_{i}$", "m": i + 1}, status="ok" if value is not None else "oom"),
        number(1.0 + i, "time", unit="s", coords={"family": f"$a_{i}$", "m": i + 1}))]
    assert isinstance(reader.figure(view, records), Figure)
    assert figures.plot(to_frame(records), tmp_path / "x.png", view=view)


def test_too_many_panels_are_refused() -> None:
    records = [number(coords={"family": f"f{i}", "m": m}) for i in range(25) for m in (1, 2)]
    view = Lines(name="many", title="t", quantities=("error",), x="m", series="method", panels="family")
    with pytest.raises(UsageError, match=r"'many' would need 25 panels, and 24 fit.*fewer values of family"):
        reader.figure(view, records)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png or \.svg"):
        figures.plot(to_frame(fake.inverse()), tmp_path / "x.pdf", view=fake.HEAT)


def test_columns_are_fields_coordinates_and_entries_of_mappings() -> None:
    record = number(coords={"family": "a"}, options={"m": 49}, detail={"steps": 7, "trace": [1.0]}, dtype="float16",
                    rows=1, cols=1)
    row: Row = of(to_frame([record, number()]))[0]
    assert [row.at(c) for c in ("family", "dtype", "tokens", "options.m", "detail.steps", "options.none", "none.x",
                                 "label")] == ["a", "float16", 1, 49, 7, None, None, None]


@pytest.mark.parametrize(("low", "high", "ticks"), [
    (1e-7, 10, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10]), (1, 60, [1, 2, 5, 10, 20, 50]),
    (1.1e-4, 4.4e-4, [1.5e-4, 2e-4, 3e-4]), (1e-16, 1, [1e-16, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 0.01, 1]),
])
def test_logarithmic_axes_have_a_few_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert _decades(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("value", "written"), [(1e-12, "1e-12"), (0.01, "0.01"), (1000.0, "1,000"), (1e4, "1e4"),
                                                (2.5e-5, "2.5e-5"), (0, "0")])
def test_ticks_of_numbers_without_a_unit(value: float, written: str) -> None:
    assert format.axis(value, "1") == written
    assert format.axis(1e-2, "s") == "10 ms"


def test_groups_of_one_row_are_not_set_apart() -> None:
    view = replace(PLAIN, by=("family", "m"))
    records = [number(coords={"family": f, "m": m}) for f, m in (("a", 1), ("b", 1), ("c", 1), ("c", 2), ("d", 1))]
    assert reader.listed(view, records)[0].breaks == [2, 4]
    assert reader.listed(view, records[:3])[0].breaks == []


def test_a_panel_column_with_one_value_is_told_in_the_caption(tmp_path: Path) -> None:
    few = [r for r in fake.errors() if r.coords["inputs"] == "image"]
    caption = "float32, heads 8, head_dim 64, cpu, tokens 1,024, inputs image"
    assert caption in Picture(fake.AGAINST_M, few, tmp_path).texts


def test_names_of_points_do_not_cover_each_other(tmp_path: Path) -> None:
    view = Scatter(name="s", title="t", x="error", y="time", series="family", point="m")
    records = [r for m in range(900, 950) for r in (
        number(1 + m * 1e-6, coords={"family": "a", "m": m}), number(1.0, "time", coords={"family": "a", "m": m}))]
    picture = Picture(view, records, tmp_path)
    assert [text for text in picture.texts if text.startswith("9")] == ["900"]  # the one on the front


def test_columns_of_a_heat_map_are_as_wide_as_their_names() -> None:
    def width(name: str) -> float:
        records = [number(coords={"family": family, "method": "a"}) for family in (name, "b", "c")]
        figure = reader.figure(Heatmap(name="h", title="t", quantity="error", x="family", y="method"), records)
        assert isinstance(figure, Figure)
        return float(figure.get_size_inches()[0])

    assert width("a" * 20) > width("a" * 10) > width("aa") == width("a")
