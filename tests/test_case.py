"""Cases: what is measured, as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from softbench import case
from softbench.case import AttentionSpec, Case, ModelSpec, Shape


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


def test_image_shapes_vary_the_image_fastest() -> None:
    assert case.image_shapes([(8, 8), (8, 4)], [1, 2]) == [
        Shape(1, 0, 8, 8, 0), Shape(1, 0, 8, 4, 0), Shape(2, 0, 8, 8, 0), Shape(2, 0, 8, 4, 0)]
