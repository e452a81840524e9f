"""The families of matrices: what each is known to have, and the same on every call."""

from __future__ import annotations

import pytest
import torch

from softbench import inputs
from softbench.errors import Unsupported, UsageError
from softbench.studies.pinv import matrices
from softbench.studies.pinv.matrices import Sizes

SIZES = Sizes(count=24, m=49, head_dim=32, ridge=0.01)
KERNELS = ["normal:1", "normal:0.1", "gelu:0.5", "smooth:1", "smooth:0.1", "clustered:0.5", "duplicate:24", "constant",
           "image"]


@pytest.mark.parametrize("family", [*KERNELS, "condition:100"])
def test_matrices_are_symmetric_and_positive_semi_definite_and_seeded(family: str) -> None:
    a = matrices.make(family, SIZES, seed=3)
    assert a.shape == (24, 49, 49)
    assert a.dtype == torch.float64
    assert float((a - a.mT).abs().max()) < 1e-14
    values = torch.linalg.eigvalsh(a)
    assert float(values[:, 0].min()) > -1e-12 * float(values.max())
    assert torch.equal(a, matrices.make(family, SIZES, seed=3))
    assert family == "constant" or not torch.equal(a, matrices.make(family, SIZES, seed=4))


@pytest.mark.parametrize("family", KERNELS)
def test_kernels_have_ones_on_the_diagonal(family: str) -> None:
    a = matrices.make(family, SIZES, seed=0)
    assert torch.equal(a.diagonal(dim1=1, dim2=2), torch.ones(24, 49, dtype=a.dtype))
    assert float(a.min()) >= 0


@pytest.mark.parametrize(("family", "row_sum", "condition"), [
    ("normal:0.1", 39.0, 1.8e3), ("normal:0.5", 1.3, 1.2), ("gelu:0.1", 45.0, 1.7e4), ("gelu:0.5", 7.0, 9.7),
    ("smooth:0.1", 48.0, 4.9e6), ("smooth:0.5", 35.0, 6.7e3), ("smooth:1", 15.0, 220.0), ("smooth:2", 3.0, 9.2),
    ("clustered:0.1", 45.0, 1.0e7), ("clustered:0.5", 14.0, 2.4e4)])
def test_families_are_those_that_the_official_code_was_measured_on(family: str, row_sum: float,
                                                                  condition: float) -> None:
    """Medians of the largest row sum and of the condition number there, m = 49 and d = 32."""
    a = matrices.make(family, SIZES, seed=0)
    values = torch.linalg.eigvalsh(a)
    assert 0.85 < float(a.sum(-1).amax(-1).median()) / row_sum < 1.15
    assert 0.5 < float((values[:, -1] / values[:, 0]).median()) / condition < 2


def test_duplicates_have_the_rank_asked_for() -> None:
    for rank in (1, 7, 49):
        a = matrices.make(f"duplicate:{rank}", SIZES, seed=0)
        assert torch.linalg.matrix_rank(a, hermitian=True).tolist() == [rank] * 24


@pytest.mark.parametrize("condition", [2.0, 100.0, 5000.0, 1e5])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_condition_is_that_of_the_ridged_matrix(condition: float, ridge: float) -> None:
    a = matrices.make(f"condition:{condition!r}", Sizes(3, 20, 4, ridge), seed=0)
    values = torch.linalg.eigvalsh(a) + ridge
    assert torch.allclose(values[:, -1] / values[:, 0], torch.tensor(condition, dtype=a.dtype), rtol=1e-6)
    assert float(values[:, -1].min()) >= 1 - 1e-12


def test_matrices_may_be_smaller_or_of_an_odd_size() -> None:
    for size in (1, 2, 13, 36):
        for family in (*KERNELS, "condition:10"):
            assert matrices.make(family, Sizes(3, size, 4, 0.01), seed=0).shape == (3, size, size)


def test_missing_photographs_make_the_family_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> list[torch.Tensor]:
        raise UsageError("--inputs image needs scikit-learn")

    monkeypatch.setattr(inputs, "_photographs", missing)
    with pytest.raises(Unsupported, match="needs scikit-learn"):
        matrices.make("image", SIZES, seed=0)


@pytest.mark.parametrize(("family", "message"), [
    ("smoth:1", "No family of matrices named 'smoth'. Did you mean 'smooth'"),
    ("smooth:x", "'x' in 'smooth:x' must be a number"), ("normal:-1", "must be a number from 0"),
    ("normal:nan", "must be a number"), ("normal:inf", "must be a number"), ("constant:2", "takes no parameter"),
    ("image:/no/such/file.png", "cannot read"), ("condition:0.5", "at least 1"), ("", "No family"),
    ("condition:", "nothing after the colon of 'condition:'"), ("smooth:", "nothing after the colon"),
    ("image:", "nothing after the colon"), ("constant:", "nothing after the colon"),
])
def test_bad_family_is_told(family: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        matrices.check(family)
