"""Cases: what a command's flags mean, and how bad ones are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from softbench import case, dtypes
from softbench.case import AttentionSpec, Case, ModelSpec, Shape
from softbench.errors import UsageError


@pytest.mark.parametrize(("text", "expected"), [
    ("196,1k,4k..64k", [196, 1024, 4096, 8192, 16384, 32768, 65536]),
    ("1", [1]), ("1m", [1 << 20]), ("2K", [2048]), (" 4 , 8 ", [4, 8]), ("0196", [196]),
    ("3..20", [3, 6, 12]), ("5..5", [5]), ("8,4..16", [8, 4, 16]), ("64m", [1 << 26]),
])
def test_counts(text: str, expected: list[int]) -> None:
    assert case.parse_counts(text, "--tokens") == expected


@pytest.mark.parametrize(("text", "message"), [
    ("64k..4k", "range '64k..4k' ends before it starts. Write it as 4k..64k"),
    ("0", "at least 1, not 0"), ("0k", "at least 1"), ("0..4", "at least 1"), ("0" * 5000, "at least 1"),
    ("-1", "'-1' is not a positive whole number"), ("1.5", "not a positive"), ("1.5k", "not a positive"),
    ("", "empty"), (",", "empty"), ("1,,2", "an item of '1,,2' is empty"), ("4,", "empty"),
    ("..", "''"), ("4..", "''"), ("..4", "''"), ("4..8..16", "8..16"), ("1e3", "1e3"), ("4kk", "4kk"), ("4 k", "4 k"),
    ("65m", "at most 67,108,864, not 65m"), ("9" * 30, "at most"), ("9" * 5000, "at most"), ("9" * 20 + "m", "at most"),
    ("many", "'many'"), ("[1, 8]", "[1"), ("0x10", "0x10"), ("²", "²"),
])
def test_bad_counts_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--tokens") as error:
        case.parse_counts(text, "--tokens")
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("56x56", [(56, 56)]), ("7x9,1x5", [(7, 9), (1, 5)]), ("3X4", [(3, 4)]), ("3×4", [(3, 4)]), ("2x2,2x2", [(2, 2)]),
])
def test_grids(text: str, expected: list[tuple[int, int]]) -> None:
    assert case.parse_grids(text) == expected


@pytest.mark.parametrize("text", ["56", "x", "3x", "0x5", "5x0", "-1x4", "3x4x5", "3.5x4", "", "2x2,", "8193x8192",
                                  "99999999x1", "9" * 5000 + "x1"])
def test_bad_grids_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="--grid"):
        case.parse_grids(text)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 16, 63, 97, 196, 1000, 3136, 8192, 65536, 65537, 1 << 26])
def test_most_square_holds_all_tokens(tokens: int) -> None:
    rows, cols = case.most_square(tokens)
    assert rows * cols == tokens
    assert rows <= cols
    assert not any(tokens % better == 0 for better in range(rows + 1, int(tokens**0.5) + 1))


def test_most_square_of_the_documented_sizes() -> None:
    assert case.most_square(196) == (14, 14)
    assert case.most_square(8192) == (64, 128)
    assert case.most_square(97) == (1, 97)


def test_attentions_with_options_and_implementations() -> None:
    specs = case.parse_attentions("soft, soft:landmarks=64:inverse=cholesky,softmax:impl=math,./a=b/mine.py:x=y=z")
    assert specs == [
        AttentionSpec("soft"), AttentionSpec("soft", {"landmarks": "64", "inverse": "cholesky"}),
        AttentionSpec("softmax", {}, "math"), AttentionSpec("./a=b/mine.py", {"x": "y=z"})]
    assert [spec.label for spec in specs] == [
        "soft", "soft:landmarks=64:inverse=cholesky", "softmax:impl=math", "mine:x=y=z"]


@pytest.mark.parametrize(("text", "message"), [
    ("", "empty"), ("soft,", "empty"), ("soft,,performer", "empty"), ("soft:", "'' in 'soft:' is not an option"),
    ("soft:landmarks", "'landmarks' in 'soft:landmarks' is not an option"), ("soft:=4", "not an option"),
    ("soft:landmarks=", "not an option"), ("soft:a=1:a=2", "'a' is given twice"), ("soft:impl=a:impl=b", "given twice"),
    ("soft landmarks=4:", "not an option"),
])
def test_bad_attentions_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--attn") as error:
        case.parse_attentions(text)
    assert message in str(error.value)


def test_path_with_a_colon_is_refused_rather_than_cut() -> None:
    with pytest.raises(UsageError, match=r"'dir/mine\.py' in '\./my:dir/mine\.py' is not an option"):
        case.parse_attentions("./my:dir/mine.py")


def test_labels_write_booleans_as_users_do() -> None:
    assert AttentionSpec("soft", {"conv": True}).label == "soft:conv=true"


def test_grid_of_cases_keeps_points_together_and_attentions_in_order() -> None:
    attentions = [AttentionSpec("softmax"), AttentionSpec("soft")]
    shapes = case.token_shapes([(2, 2), (2, 4)], batches=[1, 2], heads=[1], head_dims=[8])
    grid = case.grid_of_cases(attentions, shapes, dtypes=["float32"], modes=["forward", "backward"], seed=3,
                              inputs="image")
    assert len(grid) == 2 * 2 * 2 * 2
    assert len(set(grid)) == len(grid)
    for first, second in zip(grid[::2], grid[1::2], strict=True):
        assert first.point() == second.point()
        assert (first.spec.name, second.spec.name) == ("softmax", "soft")
    assert {c.seed for c in grid} == {3}
    assert {c.inputs for c in grid} == {"image"}
    assert len({c.point() for c in grid}) == 8


@pytest.mark.parametrize("changed", [{"dtype": "float16"}, {"device": "cuda"}, {"mode": "backward"}, {"seed": 1},
                                     {"inputs": "image"}, {"shape": Shape(1, 1, 4, 1, 8)}])
def test_point_tells_cases_apart(changed: dict[str, object]) -> None:
    usual: dict[str, object] = {"spec": AttentionSpec("soft"), "shape": Shape(1, 1, 2, 2, 8)}
    assert Case(**usual).point() != Case(**(usual | changed)).point()  # type: ignore[arg-type]
    assert Case(**usual).point() == Case(**(usual | {"spec": AttentionSpec("x")})).point()  # type: ignore[arg-type]


def test_case_in_words() -> None:
    attention = Case(AttentionSpec("soft", {"landmarks": 4}), Shape(1, 8, 64, 64, 64))
    assert str(attention) == "soft:landmarks=4, N = 4,096"
    model = Case(ModelSpec("soft-tiny"), Shape(8, 0, 224, 160, 0))
    assert str(model) == "soft-tiny, 224x160, batch 8"
    assert str(replace(model, spec=ModelSpec("soft-tiny", part="stage2"))) == "soft-tiny, 224x160, batch 8, stage2"


@pytest.mark.parametrize(("text", "expected"), [
    ("224", [(224, 224)]), ("512x384, 64", [(512, 384), (64, 64)]), ("32,32x32", [(32, 32)]), ("1k", None),
])
def test_images(text: str, expected: list[tuple[int, int]] | None) -> None:
    if expected is not None:
        assert case.parse_images(text) == expected
        return
    with pytest.raises(UsageError, match=r"--image: '1k' is not an image size\. Write a side in pixels, or height x"):
        case.parse_images(text)


@pytest.mark.parametrize("text", ["", "x", "224x", "x224", "0", "0x5", "-1", "3x4x5", "9000x9000", "abc", "224,,32"])
def test_bad_images_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="--image"):
        case.parse_images(text)


def test_image_shapes_vary_the_image_fastest() -> None:
    assert case.image_shapes([(8, 8), (8, 4)], [1, 2]) == [
        Shape(1, 0, 8, 8, 0), Shape(1, 0, 8, 4, 0), Shape(2, 0, 8, 8, 0), Shape(2, 0, 8, 4, 0)]


def test_models_are_named_as_attentions_are() -> None:
    soft, mine, peer = case.parse_models("soft-tiny:landmarks=16:impl=eager,./a/mine.py-tiny,timm:pvt_v2_b1:depth=2")
    assert (soft.name, soft.options, soft.impl, soft.timm, soft.part) == (
        "soft-tiny", {"landmarks": "16"}, "eager", "", "whole")
    assert soft.label == "soft-tiny:landmarks=16:impl=eager"
    assert mine.label == "mine-tiny"
    assert (peer.name, peer.timm, peer.options, peer.label) == (
        "timm:pvt_v2_b1", "pvt_v2_b1", {"depth": "2"}, "timm:pvt_v2_b1:depth=2")


@pytest.mark.parametrize(("text", "message"), [
    ("timm", "'timm' names no model. Write timm:NAME, as in timm:resnet18"), ("timm:", "names no model"),
    ("soft-tiny:landmarks", "is not an option. Write name:key=value, as in soft-tiny:landmarks=64"),
    ("timm:hf-hub:a/b", "'a/b' in 'timm:hf-hub:a/b' is not an option"), ("soft-tiny,", "empty"),
    ("soft-tiny:a=1:a=2", "given twice"),
])
def test_bad_models_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--model") as error:
        case.parse_models(text)
    assert message in str(error.value)


def test_choices_are_checked_and_stripped() -> None:
    assert case.check_choices(["float32", " float16", "float32 "], dtypes.NAMES, "dtype") == ["float32", "float16"]
    with pytest.raises(UsageError, match=r"No dtype named 'float23'. Did you mean 'float32'\?"):
        case.check_choices(["float23"], dtypes.NAMES, "dtype")
    with pytest.raises(UsageError, match="No dtype named ''"):
        case.check_choices([""], dtypes.NAMES, "dtype")
