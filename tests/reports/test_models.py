"""Whole models in tables and plots: images instead of tokens, images a second, a baseline of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from reports import fake_records as fake
from reports import reader

from softbench.contracts import quantities
from softbench.errors import UsageError
from softbench.records import Record, to_frame
from softbench.records.views import Curves
from softbench.reports import figures, tables
from softbench.reports.figures import curves

GOLDEN = Path(__file__).parent / "golden"


def draw(records: list[Record], baseline: str = "") -> str:
    return tables.plain(reader.table(records, baseline))


def counts(batch: int) -> list[Record]:
    quantities = {"flops_closed_form": 4e9, "flops_torch": 4e9, "flops_fvcore": 4e9, "parameters": 13_069_056.0}
    return [record for quantity, value in quantities.items() for record in fake.models(
        "flops", quantity=quantity, unit="1" if quantity == "parameters" else "flop", value=value, samples=[value],
        status="ok", note="", batch=batch, rows=224, cols=224)[:1]]


def test_whole_table() -> None:
    assert draw(fake.models()) == (GOLDEN / "models.txt").read_text(encoding="utf-8")


def test_gmac_are_of_one_image_and_parameters_are_no_count_of_operations() -> None:
    text = draw(counts(batch=4))
    row = next(line for line in text.splitlines() if line.startswith("224x224"))
    assert "13,069,056" in row
    assert " 0.500 " in row
    assert row.split()[-1] == "ok"


def test_the_baseline_is_the_first_model_unless_another_is_named() -> None:
    assert "vs soft-tiny" in draw(fake.models())
    assert "vs timm:resnet18" in draw(fake.models(), "timm:resnet18")
    assert "vs " not in draw(fake.models(), "none")


def test_attentions_and_models_have_tables_of_their_own() -> None:
    frame = to_frame([*fake.latency(), *fake.models()])
    first, second = tables.tables(frame)
    assert tables.plain(first) == draw(fake.latency())
    assert tables.plain(second) == draw(fake.models())
    with pytest.raises(UsageError, match="both attentions and whole models"):
        figures.plot(frame, "x.png")


def test_stages_stand_below_the_whole_of_each_image() -> None:
    records = [fake.models(coords={"inputs": "normal", "part": part})[i] for part in ("whole", "stage1")
               for i in range(4)]
    parts = [line.split()[:3] for line in draw(records).splitlines() if line[:7] in ("224x224", "512x384")]
    assert parts == [[image, part, model] for image in ("224x224", "512x384") for part in ("whole", "stage1")
                     for model in ("soft-tiny", "timm:resnet18")]


@pytest.mark.parametrize(("measure", "words"), [("latency", "Images per second"), ("memory", "Peak memory")])
def test_plots_name_images(tmp_path: Path, measure: str, words: str) -> None:
    unit = {"latency": "s", "memory": "B"}[measure]
    records = fake.models(measure, unit=unit)
    assert figures.plot(to_frame(records), tmp_path / "x.svg")
    figure = reader.figure(quantities.views(measure)[1], records)
    assert figure is not None
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["224x224", "512x384"]
    assert figure.axes[0].get_xlabel() == "image, by its number of pixels"
    assert words in figure.texts[0].get_text()


def test_lines_of_latency_are_images_a_second() -> None:
    panel = curves._panels(Curves(name="curves", title=""), reader.sheet(fake.models()), bars=False)[0]
    assert panel.unit == "image/s"
    point = panel.lines["soft-tiny"][0]
    assert point.y == pytest.approx(1 / (2e-7 * 224 * 224))
    assert point.low <= point.y <= point.high or point.low < point.high
