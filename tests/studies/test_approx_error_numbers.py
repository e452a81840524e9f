"""The numbers of approx-error: tiles against dense formulas, closed-form cases, and the floor."""

from __future__ import annotations

import math

import helpers
import pytest
import torch
from torch import Tensor

from softbench import inputs
from softbench.case import Shape
from softbench.studies.approx_error import (
    errors as _errors,
)
from softbench.studies.approx_error import (
    estimate as _estimate,
)
from softbench.studies.approx_error import (
    floor as _floor,
)
from softbench.studies.approx_error import (
    projection,
)
from softbench.studies.approx_error import (
    truth as _truth,
)
from softbench.studies.approx_error.truth import Truth

SHAPE = Shape(1, 1, 9, 11, 8)
TOKENS = 99
EVERY = torch.arange(TOKENS)


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows a tile, and no dense short cut."""
    monkeypatch.setattr(_truth, "TILE", 7 * TOKENS)
    monkeypatch.setattr(_estimate, "DENSE", 1)
    monkeypatch.setattr(_errors, "DENSE", 1)


def head(family: str = "structured", seed: int = 0, shape: Shape = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x[0, 0].double() for x in inputs.tokens(family, shape, seed))
    return q, k, v


def dense(kind: str, q: Tensor, k: Tensor, size: int = 0) -> Tensor:
    """The exact matrix by its formula."""
    if kind == "softmax":
        return (q @ k.T / q.shape[1] ** 0.5).softmax(1)
    s = (-(q[:, None] - k[None]).square().sum(2) / (2 * q.shape[1] ** 0.5)).exp()
    if kind == "gaussian":
        return s
    sums = 1 + (s.sum(1) - 1) * (size - 1) / (len(k) - 1)
    return s / (sums[:, None] * sums[None]).sqrt()


def module(name: str, shape: Shape = SHAPE, **options: object) -> torch.nn.Module:
    return helpers.build(helpers.load(name, **options), shape)


def error_of(name: str, kind: str, tokens: tuple[Tensor, Tensor, Tensor], size: int, shape: Shape = SHAPE,
             **options: object) -> float:
    q, k, v = tokens
    truth = _truth.truth(kind, q, k, size)
    rows = _estimate.matrix_rows(module(name, shape, **options), q, k, shape.grid, size)
    return _errors.matrix_error([_errors.head_errors(truth, rows, v, torch.arange(len(q)), 3)])[0]


@pytest.mark.parametrize("kind", _truth.KINDS)
def test_rows_and_outputs_are_those_of_the_formula(kind: str) -> None:
    q, k, v = head()
    k = q if kind == "gaussian_normalised" else k
    truth, matrix = _truth.truth(kind, q, k, 30), dense(kind, q, k, 30)
    index = torch.tensor([3, 0, 98])
    assert helpers.relative(truth.rows(index), matrix[index]) < 1e-13
    assert helpers.relative(truth.output(q, k, v, index), (matrix @ v)[index]) < 1e-13
    assert helpers.relative(truth.single().rows(index), matrix[index]) < 1e-5
    assert truth.rows(index).dtype == torch.float64
    assert truth.single().rows(index).dtype == torch.float32


def test_normalised_sums_lie_between_one_and_m() -> None:
    same = torch.ones(20, 4, dtype=torch.float64)
    assert torch.allclose(_truth.truth("gaussian_normalised", same, same, 5).rows(torch.arange(20)),
                          torch.full((20, 20), 0.2, dtype=torch.float64))
    apart = 100 * torch.eye(20, dtype=torch.float64)
    assert torch.allclose(_truth.truth("gaussian_normalised", apart, apart, 5).rows(torch.arange(20)),
                          torch.eye(20, dtype=torch.float64))


def test_huge_tokens_are_still_alike_to_themselves() -> None:
    q = 1e18 * head()[0]
    assert torch.equal(_truth.truth("gaussian", q, q, 0).rows(EVERY).diagonal(), torch.ones(99, dtype=torch.float64))


@pytest.mark.parametrize(("name", "options", "rank"), [
    ("soft", {"landmarks": 20}, 20), ("soft_norm", {"landmarks": 20}, 20), ("performer", {"features": 30}, 30),
    ("nystromformer", {"landmarks": 16}, 16), ("softmax", {}, None), ("gaussian", {}, None),
    ("soft", {"landmarks": 20, "conv": 3}, 20),
])
def test_rows_of_a_module_are_those_of_its_matrix(tiny_tiles: None, name: str, options: dict[str, object],
                                                  rank: int | None) -> None:
    q, k, _ = head()
    k = q if helpers.load(name).module.SHARES_QK else k
    built = module(name, **options)
    matrix = _estimate.apply(built, q, k, torch.eye(TOKENS, dtype=q.dtype), SHAPE.grid)
    rows = _estimate.matrix_rows(built, q, k, SHAPE.grid, rank)
    index = torch.tensor([5, 1, 77])
    assert isinstance(rows, _estimate._LowRank) == (rank is not None and "conv" not in options)
    assert helpers.relative(rows(index), matrix[index]) < 1e-10
    assert helpers.relative(_estimate.single(rows)(index), matrix[index]) < 1e-5


@pytest.mark.parametrize(("name", "kind"), [("soft", "gaussian"), ("soft_norm", "gaussian_normalised"),
                                            ("performer", "softmax"), ("nystromformer", "softmax")])
def test_tiled_quantities_are_the_dense_ones(tiny_tiles: None, name: str, kind: str) -> None:
    q, k, v = head()
    k = q if helpers.load(name).module.SHARES_QK else k
    built = module(name)
    exact = dense(kind, q, k, 20)
    estimate = _estimate.apply(built, q, k, torch.eye(TOKENS, dtype=q.dtype), SHAPE.grid)
    truth = _truth.truth(kind, q, k, 20)
    rows = _estimate.matrix_rows(built, q, k, SHAPE.grid, 20)
    found = _errors.head_errors(truth, rows, v, EVERY, 5)
    rest = _errors.row_quantities([found])
    wanted = estimate - exact
    assert _errors.matrix_error([found])[0] == pytest.approx(float(wanted.norm() / exact.norm()), rel=1e-9)
    assert rest["error_output"] == pytest.approx(float((wanted @ v).norm() / (exact @ v).norm()), rel=1e-9)
    assert rest["worst_row"] == pytest.approx(float((wanted.norm(dim=1) / exact.norm(dim=1)).max()), rel=1e-9)
    assert rest["row_sum_error"] == pytest.approx(
        float((wanted.sum(1).abs() / exact.sum(1)).mean()), rel=1e-9, abs=1e-12)
    shared = [len(set(a.topk(5).indices.tolist()) & set(b.topk(5).indices.tolist())) / 5
              for a, b in zip(exact, estimate, strict=True)]
    assert rest["topk_overlap"] == pytest.approx(sum(shared) / TOKENS)
    (norm, residual), *_ = _errors.largest_singular_values(
        lambda index: (rows(index) - truth.rows(index),), TOKENS, tolerance=1e-8, passes=30)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(wanted, 2)), rel=1e-9)
    assert residual < 1e-8


def test_spectral_norms_above_the_dense_limit(tiny_tiles: None) -> None:
    q, _, _ = head()
    truth = _truth.truth("gaussian", q, q, 0)
    rows = _estimate.matrix_rows(module("soft", landmarks=20), q, q, SHAPE.grid, 20)
    wanted = [rows(EVERY) - truth.rows(EVERY), truth.rows(EVERY)]
    for (norm, residual), matrix in zip(_errors.spectral_norms(truth, rows), wanted, strict=True):
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        assert exact * (1 - 2 * residual - 1e-5) <= norm <= exact * (1 + 1e-5)


def test_rows_compared_by_their_largest_entries_are_spread_and_none_is_left_unset(tiny_tiles: None,
                                                                                  monkeypatch: pytest.MonkeyPatch
                                                                                  ) -> None:
    monkeypatch.setattr(_errors, "OVERLAP_ROWS", 10)
    q, _, v = head()
    truth = _truth.truth("gaussian", q, q, 0)
    rows = _estimate.matrix_rows(module("soft", landmarks=20), q, q, SHAPE.grid, 20)
    shared = [len(set(a.topk(4).indices.tolist()) & set(b.topk(4).indices.tolist())) / 4
              for a, b in zip(truth.rows(EVERY), rows(EVERY), strict=True)]
    assert _errors.head_errors(truth, rows, v, EVERY[:10], 4).overlap.tolist() == shared[:10]
    assert _errors.head_errors(truth, rows, v, EVERY, 4).overlap.tolist() == shared[::10]
    assert len(set(shared[::10])) > 2


def test_gradient_errors_are_those_of_dense_autograd() -> None:
    q, k, v = head()
    index, built = torch.tensor([2, 50, 51, 90]), module("nystromformer")
    cotangent = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = _errors.gradient_errors(_truth.truth("softmax", q, k, 0), built, v, SHAPE.grid, index, cotangent)
    for position, name in enumerate(("dq", "dk", "dv")):
        sides = []
        for output in (lambda q, k, v: dense("softmax", q, k) @ v,
                       lambda q, k, v: _estimate.call(built, q, k, v, SHAPE.grid)):
            leaves = [t.clone().requires_grad_() for t in (q, k, v)]
            sides.append(torch.autograd.grad((output(*leaves)[index] * cotangent).sum(), leaves)[position])
        relative = _errors.gradient_quantities([found])[f"error_{name}"]
        assert relative == pytest.approx(helpers.relative(sides[1], sides[0]), rel=1e-9)


def test_gradient_of_nothing_but_rounding_is_zero() -> None:
    """Softmax of alike keys does not depend on the queries, in float64 but for rounding."""
    q, k, v = head("constant")
    cotangent = torch.randn(TOKENS, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = _truth.truth("softmax", q, k, 0)
    found = _errors.gradient_errors(truth, module("performer"), v, SHAPE.grid, EVERY, cotangent)
    assert found["dq"] == (0.0, 0.0)
    assert found["dv"][1] > 1
    assert _errors.gradient_quantities([found])["error_dq"] == 0
    q, k, v = head("normal")
    found = _errors.gradient_errors(truth, module("nystromformer"), v, SHAPE.grid, EVERY, cotangent * 1e-20)
    assert found["dv"][1] > 0  # small is not nothing


def test_gradient_by_a_shared_token_counts_both_its_roles() -> None:
    q, _, v = head()
    ones = torch.ones(TOKENS, 8, dtype=torch.float64)
    truth = _truth.truth("gaussian", q, q, 0)
    found = _errors.gradient_errors(truth, module("gaussian"), v, SHAPE.grid, EVERY, ones)
    assert set(found) == {"dq", "dv"}
    assert found["dq"][0] < 1e-24 * found["dq"][1]
    leaf = q.clone().requires_grad_()
    (exact,) = torch.autograd.grad((dense("gaussian", leaf, leaf) @ v).sum(), leaf)
    assert found["dq"][1] == pytest.approx(float(exact.square().sum()))


# Closed forms


@pytest.mark.parametrize(("family", "ridge", "bound"), [
    ("structured", 0, 1e-12), ("normal", 0, 1e-12), ("structured:2", 1e-9, 1e-5), ("image", 1e-9, 1e-5),
    ("lowrank:3", 1e-9, 1e-5)])
def test_every_token_a_landmark_gives_no_error(family: str, ridge: float, bound: float) -> None:
    q, _, v = head(family)
    error = error_of("soft", "gaussian", (q, q, v), TOKENS, landmarks=TOKENS, ridge=ridge, inverse="cholesky")
    assert error < bound


def test_every_token_a_landmark_with_equal_sums_gives_no_error_after_normalising() -> None:
    angle = torch.arange(TOKENS, dtype=torch.float64) * 2 * math.pi / TOKENS
    q = 6 * torch.stack([angle.cos(), angle.sin()] + [0 * angle] * 6, 1)
    tokens = q, q, head()[2]
    assert error_of("soft_norm", "gaussian_normalised", tokens, TOKENS, landmarks=TOKENS, ridge=1e-9,
                    inverse="cholesky") < 1e-5


@pytest.mark.parametrize("sampling", ["kmeans", "rpcholesky"])
def test_as_many_landmarks_as_different_tokens_give_no_error(sampling: str) -> None:
    centres = 3 * torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = centres[torch.arange(TOKENS) % 6]
    error = error_of("soft", "gaussian", (q, q, head()[2]), 6, landmarks=6, sampling=sampling, ridge=1e-12,
                     inverse="cholesky")
    assert error < 1e-6
    spread = error_of("soft", "gaussian", (q, q, head()[2]), 5, landmarks=5, sampling=sampling, ridge=1e-12,
                      inverse="cholesky")
    assert spread > 0.1


def test_error_falls_with_nested_landmarks() -> None:
    q, _, v = head("image")
    errors = [error_of("soft", "gaussian", (q, q, v), m, landmarks=m, sampling="first", ridge=1e-12,
                       inverse="cholesky") for m in (1, 2, 5, 10, 20, 40, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 3 * errors[-1]


def test_exact_attention_has_no_error() -> None:
    q, k, v = head()
    assert error_of("softmax", "softmax", (q, k, v), TOKENS) < 1e-14


# The floor


@pytest.mark.parametrize("kind", _truth.KINDS)
def test_floor_is_the_truncated_decomposition(kind: str) -> None:
    q, k, _ = head("image")
    k = q if kind == "gaussian_normalised" else k
    matrix = dense(kind, q, k, 12)
    u, s, vt = torch.linalg.svd(matrix)
    spectra = [_floor.spectrum(_truth.truth(kind, q, k, 12))]
    for rank in (1, 5, 20):
        best = (u[:, :rank] * s[:rank]) @ vt[:rank]
        assert _floor.frobenius(spectra, rank) == pytest.approx(float((matrix - best).norm() / matrix.norm()), abs=1e-6)
        assert _floor.spectral(spectra, rank) == pytest.approx(float(s[rank] / s[0]), abs=1e-6)
    assert _floor.frobenius(spectra, TOKENS) == _floor.spectral(spectra, TOKENS) == 0


def test_floor_below_its_resolution_is_the_resolution() -> None:
    spectra = [torch.tensor([1.0, 1e-3, 1e-9, 0.0], dtype=torch.float64)]
    for floor in (_floor.frobenius, _floor.spectral):
        assert floor(spectra, 1, 1e-6) == pytest.approx(1e-3)
        assert floor(spectra, 2, 1e-6) == floor(spectra, 3, 1e-6) == 1e-6
        assert floor(spectra, 4, 1e-6) == 0
        assert math.isnan(floor([torch.full((4,), math.nan)], 1, 1e-6))
    q, k, _ = head("lowrank:2")
    assert _floor.resolution(_truth.truth("softmax", q, k, 0)) == 1e-6
    assert _floor.resolution(_truth.truth("gaussian", q, q, 0)) == 1e-14


def test_floor_of_several_heads_is_that_of_the_block_diagonal_matrix() -> None:
    parts = [torch.tensor([3.0, 1.0, 0.5]), torch.tensor([2.0, 2.0, 0.0])]
    assert _floor.frobenius(parts, 1) == pytest.approx(((1 + 0.25 + 4) / (9 + 1 + 0.25 + 4 + 4)) ** 0.5)
    assert _floor.spectral(parts, 1) == pytest.approx(2 / 3)


@pytest.mark.parametrize("family", ["structured", "image", "lowrank:2", "clustered:5", "outliers", "constant", "peaky"])
@pytest.mark.parametrize(("name", "kind", "option", "sampling"), [
    ("soft", "gaussian", "landmarks", "avg"), ("soft", "gaussian", "landmarks", "kmeans"),
    ("soft", "gaussian", "landmarks", "rpcholesky"), ("soft", "gaussian", "landmarks", "random"),
    ("soft_norm", "gaussian_normalised", "landmarks", "avg"), ("performer", "softmax", "features", ""),
    ("nystromformer", "softmax", "landmarks", "")])
def test_floor_is_never_beaten(family: str, name: str, kind: str, option: str, sampling: str) -> None:
    q, k, v = head(family)
    k = q if name.startswith("soft") else k
    extra = {"sampling": sampling} if sampling else {}
    for m in (1, 4, 16, 40):
        floor = _floor.frobenius([_floor.spectrum(_truth.truth(kind, q, k, m))], m)
        assert error_of(name, kind, (q, k, v), m, **{option: m}, **extra) >= floor - 1e-6


def test_fitted_projection_is_not_better_than_the_floor_and_beats_random_weights() -> None:
    q, k, v = head("image")
    samples = [[head("image", seed)[:2]] for seed in range(100, 104)]
    built = module("linformer", projected=12)
    truth = _truth.truth("softmax", q, k, 0)

    def error() -> float:
        rows = _estimate.matrix_rows(built, q, k, SHAPE.grid, 12)
        return _errors.matrix_error([_errors.head_errors(truth, rows, v, EVERY, 3)])[0]

    random = error()
    projection.fit(built, samples, SHAPE.grid)
    assert _floor.frobenius([_floor.spectrum(truth)], 12) < error() < min(0.9, random)


def test_projection_is_not_fitted_to_noise() -> None:
    """Many windows and few samples: the plain least-squares fit is worse on new tokens than nothing at all."""
    q, k, v = head("normal")
    built = module("linformer", projected=80)
    projection.fit(built, [[head("normal", seed)[:2]] for seed in range(100, 103)], SHAPE.grid)
    rows = _estimate.matrix_rows(built, q, k, SHAPE.grid, 80)
    found = _errors.head_errors(_truth.truth("softmax", q, k, 0), rows, v, EVERY, 3)
    assert _errors.matrix_error([found])[0] < 0.8


def test_projection_reads_out_what_can_be_read_out_exactly() -> None:
    """One token a window and as many windows as tokens: softmax(q k^T) F^T = S for F = I."""
    shape = Shape(1, 1, 3, 4, 8)
    samples = [[head("structured", seed, shape)[:2]] for seed in range(100, 104)]
    built = module("linformer", shape, projected=12)
    projection.fit(built, samples, shape.grid)
    q, k, v = head("structured", 0, shape)
    rows = _estimate.matrix_rows(built, q, k, shape.grid, 12)
    assert _errors.matrix_error([_errors.head_errors(_truth.truth("softmax", q, k, 0), rows, v, torch.arange(12),
                                                     3)])[0] < 1e-6


# What goes wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_come_out_as_such(bad: float) -> None:
    q, k, v = head()
    q[3] = bad
    truth: Truth = _truth.truth("softmax", q, k, 0)
    rows = _estimate.matrix_rows(module("nystromformer"), q, k, SHAPE.grid, 16)
    found = [_errors.head_errors(truth, rows, v, EVERY, 3)]
    assert not math.isfinite(_errors.matrix_error(found)[0])
    assert not math.isfinite(_errors.row_quantities(found)["worst_row"])
    assert math.isnan(_errors.spectral_norms(truth, rows)[0][0])
    assert _floor.spectrum(truth).isnan().all()


def test_ratios_of_nothing() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    assert _errors.Squares(zero, zero).relative == 0
    assert _errors.Squares(zero, zero).worst == 0
    assert _errors.Squares(one, zero).relative == math.inf


def test_standard_error_is_what_repeated_draws_show() -> None:
    q, _, v = head("image")
    truth = _truth.truth("gaussian", q, q, 0)
    rows = _estimate.matrix_rows(module("soft", landmarks=6, sampling="first"), q, q, SHAPE.grid, 6)
    draws = []
    for seed in range(200):
        index = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(seed))[:20]
        draws.append(_errors.matrix_error([_errors.head_errors(truth, rows, v, index, 3)]))
    values, claimed = zip(*draws, strict=True)
    seen = float(torch.tensor(values).std())
    without_replacement = (1 - 20 / TOKENS) ** 0.5
    assert sum(claimed) / len(claimed) * without_replacement == pytest.approx(seen, rel=0.25)
