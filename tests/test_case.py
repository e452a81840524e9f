"""Cases: what a command's flags mean, and how bad ones are told."""

from __future__ import annotations

import pytest

from softbench import case
from softbench.case import AttentionSpec, Case, Shape
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
    grid = case.grid_of_cases(attentions, [(2, 2), (2, 4)], batches=[1, 2], heads=[1], head_dims=[8],
                              dtypes=["float32"], modes=["forward", "backward"], seed=3, inputs="image")
    assert len(grid) == 2 * 2 * 2 * 2
    assert len(set(grid)) == len(grid)
    for first, second in zip(grid[::2], grid[1::2], strict=True):
        assert first.point() == second.point()
        assert (first.attention.name, second.attention.name) == ("softmax", "soft")
    assert {c.seed for c in grid} == {3}
    assert {c.inputs for c in grid} == {"image"}
    assert len({c.point() for c in grid}) == 8


@pytest.mark.parametrize("changed", [{"dtype": "float16"}, {"device": "cuda"}, {"mode": "backward"}, {"seed": 1},
                                     {"inputs": "image"}, {"shape": Shape(1, 1, 4, 1, 8)}])
def test_point_tells_cases_apart(changed: dict[str, object]) -> None:
    usual: dict[str, object] = {"attention": AttentionSpec("soft"), "shape": Shape(1, 1, 2, 2, 8)}
    assert Case(**usual).point() != Case(**(usual | changed)).point()  # type: ignore[arg-type]
    assert Case(**usual).point() == Case(**(usual | {"attention": AttentionSpec("x")})).point()  # type: ignore[arg-type]


def test_case_in_words() -> None:
    text = str(Case(AttentionSpec("soft", {"landmarks": 4}), Shape(1, 8, 7, 9, 64), mode="backward"))
    assert text == "soft:landmarks=4 N=63 (7x9) B=1 H=8 D=64 float32 backward on cpu"


def test_choices_are_checked_and_stripped() -> None:
    assert case.check_choices(["float32", " float16", "float32 "], case.DTYPES, "dtype") == ["float32", "float16"]
    with pytest.raises(UsageError, match=r"No dtype named 'float23'. Did you mean 'float32'\?"):
        case.check_choices(["float23"], case.DTYPES, "dtype")
    with pytest.raises(UsageError, match="No dtype named ''"):
        case.check_choices([""], case.DTYPES, "dtype")
