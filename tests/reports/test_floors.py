"""Floors in tables and the roofline plot, from records alone."""

from __future__ import annotations

from typing import Any

from reports import reader
from reports.fake_records import latency, record

from softbench.measures.latency import VIEWS
from softbench.reports import tables

WORK = {"bytes": 2e6, "flops": 4e7}


def limited(attention: str, tokens: int, value: float, floor: float) -> Any:
    limit = {"floor": floor, "share": floor / value, "bound": "bytes", "bandwidth": 2e9, "flop_rate": 3e11}
    return record("latency", attention, tokens, value=value, detail={"work": WORK, "limit": limit})


def test_a_floor_and_the_share_reached_stand_beside_each_time() -> None:
    records = [limited("softmax", 1024, 4e-3, 1e-3), record("latency", "soft", 1024)]
    header, _, first, second = tables.plain(reader.table(records)).splitlines()[-4:]
    assert [header.split()[i] for i in (-4, -3, -2, -1)] == ["floor", "of", "limit", "samples"]
    assert first.split()[-5:] == ["1.00", "ms", "25", "%", "5"]
    assert second.split()[-3:] == ["n/a", "n/a", "5"]


def test_without_ceilings_the_table_is_as_it_was() -> None:
    assert "floor" not in tables.plain(reader.table(latency()))


def test_roofline_places_calls_by_their_work() -> None:
    found = [limited("softmax", 1024, 4e-3, 1e-3), limited("softmax", 4096, 8e-3, 1e-3),
             limited("soft", 1024, 2e-3, 1e-3), record("latency", "performer", 1024)]
    figure = reader.figure(VIEWS[-1], found)
    (axes,) = figure.axes
    lines = {line.get_gid(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines["panel0-line0"] == [[20.0, 4e7 / 4e-3], [20.0, 4e7 / 8e-3]]
    assert lines["panel0-line1"] == [[20.0, 4e7 / 2e-3]]
    assert [rate for _, rate in lines["panel0-ceiling"][1:]] == [3e11, 3e11]
    assert lines["panel0-ceiling"][1][0] == 150.0  # where the slope of the bandwidth meets the rate
    assert "panel0-line2" not in lines
    assert reader.figure(VIEWS[-1], found[3:]) is None
