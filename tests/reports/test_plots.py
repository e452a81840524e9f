"""Figures: what is drawn, read back from the SVG; how they are written; what is refused."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from reports import fake_records as fake

from softbench.errors import ResultsError, UsageError
from softbench.records import Record, to_frame
from softbench.reports.figures import drawing, plot

SVG = "{http://www.w3.org/2000/svg}"


class Picture:
    """An SVG figure, with its texts and the drawing commands of its lines and bands."""

    def __init__(self, records: list[Record], folder: Path) -> None:
        path = folder / "figure.svg"
        assert plot(to_frame(records), path)
        self.root = ET.parse(path).getroot()
        self.texts = [node.text or "" for node in self.root.iter(f"{SVG}text")]
        self.ids = [node.get("id", "") for node in self.root.iter(f"{SVG}g")]

    def named(self, pattern: str) -> list[str]:
        return [name for name in self.ids if re.fullmatch(pattern, name)]

    def points(self, name: str) -> list[tuple[float, float]]:
        """Vertices of a line on the page; y grows downwards."""
        group = next(g for g in self.root.iter(f"{SVG}g") if g.get("id") == name)
        path = next(group.iter(f"{SVG}path")).get("d", "")
        return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]

    def colour(self, name: str) -> str:
        group = next(g for g in self.root.iter(f"{SVG}g") if g.get("id") == name)
        return re.findall(r"stroke: (#\w+)", next(group.iter(f"{SVG}path")).get("style", ""))[0]


def test_latency_has_lines_bands_speed_ups_and_names(tmp_path: Path) -> None:
    picture = Picture(fake.latency(), tmp_path)
    assert len(picture.named(r"panel0-line\d")) == 3
    assert len(picture.named(r"panel0-band\d")) == 3
    assert len(picture.named(r"panel1-line\d")) == 3
    assert picture.named(r"panel1-band\d") == []
    for name in ("softmax", "soft", "performer"):
        assert picture.texts.count(name) == 2
    assert "speed-up over softmax (above 1x is faster)" in picture.texts
    assert {"256", "1k", "4k", "8k", "16k", "10 ms", "100 ms", "1x", "10x"} <= set(picture.texts)
    assert "forward, float32, batch 1, heads 8, head_dim 64, cpu, seed 0, inputs normal" in picture.texts
    assert any("Intel Xeon (fake)" in text for text in picture.texts)


def test_disturbed_times_are_said_to_be_doubtful(tmp_path: Path) -> None:
    wanted = "Doubtful: during 1 of 14 measurements other processes used more than 5 % of the CPU."
    assert wanted in Picture(fake.latency(), tmp_path).texts
    assert not any("Doubtful" in text for text in Picture(fake.memory(), tmp_path).texts)


def test_the_baseline_is_level_and_faster_is_higher(tmp_path: Path) -> None:
    picture = Picture(fake.latency(), tmp_path)
    softmax, soft = picture.points("panel1-line0"), picture.points("panel1-line1")
    assert len({y for _, y in softmax}) == 1
    assert soft[0][1] > softmax[0][1]  # slower at 256 tokens: lower on the page
    assert soft[-1][1] < softmax[-1][1]


def test_a_band_lies_around_its_line(tmp_path: Path) -> None:
    records = [fake.record(tokens=n, value=n * 1e-5, samples=[n * 0.5e-5, n * 1e-5, n * 2e-5]) for n in (256, 1024)]
    picture = Picture(records, tmp_path)
    group = next(g for g in picture.root.iter(f"{SVG}g") if g.get("id") == "panel0-band0")
    shape, use = next(group.iter(f"{SVG}path")), next(group.iter(f"{SVG}use"))
    ys = [float(use.get("y", "")) + float(y) for y in re.findall(r"[ML] \S+ (\S+)", shape.get("d", ""))]
    clip = next(r for r in picture.root.iter(f"{SVG}clipPath"))[0]
    assert float(clip.get("y", "")) < min(ys)
    assert max(ys) < float(clip.get("y", "")) + float(clip.get("height", ""))
    (_, first), (_, last) = picture.points("panel0-line0")
    assert min(ys) < last < first < max(ys)


def test_a_point_without_a_number_is_a_word_and_ends_its_line(tmp_path: Path) -> None:
    picture = Picture(fake.latency(), tmp_path)
    assert picture.texts.count("oom") == 1
    assert len(picture.points("panel0-line0")) == 4
    assert len(picture.points("panel0-line1")) == 5


def test_gaps_and_starts_without_a_number_have_one_word_each(tmp_path: Path) -> None:
    records = [fake.failed("unsupported", tokens=256), fake.failed("unsupported", tokens=512), fake.record(tokens=1024),
               fake.failed("failed", tokens=2048), fake.record(tokens=4096), fake.failed("oom", tokens=8192),
               fake.failed("oom", tokens=16384)]
    picture = Picture(records, tmp_path)
    assert [picture.texts.count(word) for word in ("unsupported", "failed", "oom")] == [1, 1, 1]


def test_a_subject_without_any_number_is_still_named(tmp_path: Path) -> None:
    picture = Picture([*fake.latency(), *(fake.failed("timeout", attention="hydra", tokens=n) for n in (256, 1024))],
                      tmp_path)
    assert "hydra (timeout)" in picture.texts


def test_a_subject_keeps_its_colour(tmp_path: Path) -> None:
    both = [record for dtype in ("float32", "bfloat16") for record in fake.latency(dtype=dtype)]
    missing = [r for r in both if not (r.attention == "soft" and r.dtype == "bfloat16")]
    picture = Picture(missing, tmp_path)
    performer = {picture.colour("panel0-line2"), picture.colour("panel1-line2"), picture.colour("panel2-line1")}
    assert len(performer) == 1
    assert performer != {picture.colour("panel0-line1")}


def test_subjects_differ_in_more_than_colour() -> None:
    assert len(set(drawing.MARKERS)) >= len(set(drawing.COLOURS)) == len(drawing.COLOURS)
    assert len(drawing.DASHES) == 4


def test_memory_and_flops_have_their_units(tmp_path: Path) -> None:
    assert {"4 MiB", "1 GiB", "16 GiB"} <= set(Picture(fake.memory(), tmp_path).texts)
    assert {"1 GFLOP", "10 GFLOP"} <= set(Picture(fake.flops(), tmp_path).texts)


def test_one_length_gives_bars_with_numbers(tmp_path: Path) -> None:
    picture = Picture([*fake.latency(lengths=(1024,)), fake.failed("oom", attention="gaussian")], tmp_path)
    assert {"2.20 ms", "3.13 ms   0.704x vs softmax", "oom", "soft"} <= set(picture.texts)
    assert picture.named(r"panel\d-line\d") == []


def test_memory_of_one_length(tmp_path: Path) -> None:
    texts = Picture(fake.memory((1024,)), tmp_path).texts
    assert {"64.0 MiB", "4.59 MiB   0.0718x of softmax"} <= set(texts)


def test_a_single_record_is_drawn(tmp_path: Path) -> None:
    assert "2.20 ms" in Picture([fake.record()], tmp_path).texts


def test_generic_measures_have_a_panel_for_each_quantity(tmp_path: Path) -> None:
    picture = Picture(fake.generic(), tmp_path)
    assert {"relative error", "throughput", "quality"} <= set(picture.texts)
    assert len(picture.named(r"panel[01]-line\d")) == 4


def test_combinations_are_small_multiples_until_there_are_too_many(tmp_path: Path) -> None:
    records = [r for d in ("float32", "bfloat16", "float16") for m in ("forward", "backward")
               for r in fake.latency(("softmax", "soft"), (256, 1024, 4096), dtype=d, mode=m)]
    picture = Picture(records, tmp_path)
    assert len(picture.named(r"panel\d+-line0")) == 12
    assert "backward, float16, median, and the middle half of the samples" in picture.texts
    more = records + [fake.record(tokens=n, dtype="float64") for n in (256, 1024)]
    with pytest.raises(UsageError, match=r"7 panels, and 6 fit.*fewer values of mode or dtype"):
        plot(to_frame(more), tmp_path / "x.png")


HOSTILE = ["$x_{1}^2$", "a_b\\frac", "<svg> & \"q\"", "$", "%s {0}", "_hidden", "nul\x00esc\x1b",
           "\u4e2d\u6587", "x" * 60]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_hostile_labels_break_nothing(tmp_path: Path, suffix: str) -> None:
    records = [fake.record(attention="soft", tokens=n, label=label, coords={"in$puts_": "<$&"})
               for label in HOSTILE for n in (256, 1024)]
    path = tmp_path / f"hostile{suffix}"
    plot(to_frame(records), path)
    if suffix == ".svg":
        texts = [node.text for node in ET.parse(path).getroot().iter(f"{SVG}text")]
        assert {"$x_{1}^2$", "<svg> & \"q\"", "$", "_hidden", "nul esc", "\u4e2d\u6587"} <= set(texts)


def test_labels_do_not_overlap() -> None:
    placed = drawing.apart([0.5, 0.5, 0.51, 0.9, 1.0], [0.1, 0.2, 0.1, 0.1, 0.1])
    edges = [(p - h / 2, p + h / 2) for p, h in zip(placed, [0.1, 0.2, 0.1, 0.1, 0.1], strict=True)]
    assert all(below[1] <= above[0] + 1e-9 for below, above in pairwise(edges))
    assert edges[0][0] >= -1e-9
    assert edges[-1][1] <= 1 + 1e-9
    assert drawing.apart([0.2, 0.8], [0.1, 0.1]) == pytest.approx([0.2, 0.8])


def test_png_is_a_png_and_svg_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.png", "a.svg", "b.SVG"):
        plot(to_frame(fake.memory()), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.SVG").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg", "b.SVG"]


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "plot.svgz", ".png"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png or \.svg"):
        plot(to_frame(fake.memory()), tmp_path / name)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "plot.png", tmp_path / "folder.png"):
        with pytest.raises(ResultsError, match="Cannot write") as caught:
            plot(to_frame(fake.memory()), path)
        assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_failed_drawing_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = tmp_path / "plot.png"
    path.write_bytes(b"old")

    def full(self: Figure, target: Path, **_: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        plot(to_frame(fake.memory()), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    plot(to_frame([fake.record()]), tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").is_file()


def test_the_measure_must_be_chosen_where_there_are_several(tmp_path: Path) -> None:
    frame = to_frame(fake.latency() + fake.memory())
    with pytest.raises(UsageError, match=r"several measures \(latency, memory\)"):
        plot(frame, tmp_path / "x.png")


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    assert not plot(to_frame([fake.failed("oom"), fake.failed("oom", tokens=64)]), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
