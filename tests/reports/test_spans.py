"""The spans of a `Lines` view: places on the axis of x with their intervals, in the panel and look of their series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from reports import fake_records as fake
from reports import reader

from softbench.records import Record, to_frame
from softbench.records.views import Lines
from softbench.reports import figures
from softbench.reports.figures import drawing

VIEW = Lines(name="ratios", title="Ratios", x="tokens", quantities=("ratio",), series="label", panels="compared",
             log_x=True, level=1.0, span="crossover")


def record(quantity: str, value: float, tokens: int = 1, compared: str = "latency", label: str = "soft",
           **more: Any) -> Record:
    return fake.record(measure="crossover", quantity=quantity, value=value, unit="1", samples=[], rows=1, cols=tokens,
                       label=label, attention=label, coords={"compared": compared, "task": f"{compared} {label}"},
                       **more)


def line(label: str, compared: str, **span: Any) -> list[Record]:
    return [record("ratio", 4.0, 64, compared, label), record("ratio", 0.5, 1024, compared, label),
            record("crossover", 300.0, compared=compared, label=label, detail=span)]


def patches(figure: Figure, panel: int) -> dict[str, tuple[float, float]]:
    found = {}
    for patch in figure.axes[panel].patches:
        box = patch.get_window_extent().transformed(figure.axes[panel].transData.inverted())
        found[str(patch.get_gid())] = (box.x0, box.x1)
    return found


def test_each_span_is_shaded_in_its_panel() -> None:
    records = [*line("soft", "latency", ci95=[250.0, 350.0]), *line("performer", "latency", ci95=[500.0, 700.0]),
               *line("soft", "memory")]
    figure = reader.figure(VIEW, records)
    assert isinstance(figure, Figure)
    latency = patches(figure, 0)
    assert latency["panel0-span0"] == pytest.approx((250, 350), rel=1e-6)
    assert latency["panel0-span1"] == pytest.approx((500, 700), rel=1e-6)
    assert patches(figure, 1) == {}  # no interval: an answer in words, which is no place
    colours = {str(p.get_gid()): p.get_facecolor()[:3] for p in figure.axes[0].patches}
    assert colours["panel0-span0"] != colours["panel0-span1"]


def test_many_spans_lie_below_each_other() -> None:
    figure = reader.figure(VIEW, [r for i in range(4) for r in line(f"a{i}", "latency", ci95=[200.0, 400.0])])
    assert isinstance(figure, Figure)
    boxes = [patch.get_window_extent().transformed(figure.axes[0].transAxes.inverted())
             for patch in figure.axes[0].patches]
    assert [box.y1 for box in boxes] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert [box.height for box in boxes] == pytest.approx([0.25] * 4)


def test_a_dozen_lines_look_different() -> None:
    looks = drawing.styles(f"a{i}" for i in range(24))
    assert len({(look.colour, look.marker) for look in looks.values()}) == 24
    assert len({(look.colour, str(look.dash)) for look in looks.values()}) == 24


def test_the_figure_is_written(tmp_path: Path) -> None:
    frame = to_frame(line("soft", "latency", ci95=[250.0, 350.0]))
    assert figures.plot(frame, tmp_path / "x.svg", view=VIEW)
    assert "panel0-span0" in (tmp_path / "x.svg").read_text()
