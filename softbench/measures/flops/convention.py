"""Matrix products, convolutions and factorisations count as FLOP, two per multiply-add; nothing else does.

Elementwise arithmetic, exponentials, reductions, normalisation, pooling, sorting, copies and views count as zero, as
they do in torch's counter. Every operator must be known to be either: one that is in neither list here, nor counted
by the counter itself, is an error, never a silent zero.

Formulas for operators that a counter lacks take the shapes of the operator's positional arguments (None for what is
not a tensor) and of its first output. Leading terms for [..., m, m] matrices: Golub and Van Loan, Matrix Computations,
4th edition, sections 3.1 (triangular systems), 3.2 (LU), 4.2 (Cholesky), 8.3 (symmetric eigenvalues, with vectors), and
LAPACK Working Note 41 (inverses).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch

Sizes = Sequence[int]
Formula = Callable[[Sequence["Sizes | None"], Sizes], float]


def is_free(name: str) -> bool:
    """True where the operator `aten::name`, in any overload, is arithmetic or data movement that counts as zero."""
    plain = name.rstrip("_")  # in place or not
    if plain in _FREE:
        return True
    packets = [getattr(torch.ops.aten, n) for n in {name, plain} if hasattr(torch.ops.aten, n)]
    overloads = [getattr(packet, overload) for packet in packets for overload in packet.overloads()]
    return any(o.is_view or torch.Tag.pointwise in o.tags for o in overloads)


def _size(shapes: Sequence[Sizes | None], argument: int) -> Sizes:
    shape = shapes[argument]
    assert shape is not None
    return shape


def _product(left: int) -> Formula:
    """A matrix or vector product whose left factor is that argument: its last axis is summed over."""
    return lambda inputs, output: 2.0 * prod(output) * _size(inputs, left)[-1]


def _attention(inputs: Sequence[Sizes | None], output: Sizes) -> float:
    """q [..., N, D], k [..., M, D] -> [..., N, E]: two products with N x M scores; a mask saves nothing."""
    *_, keys, head_dim = _size(inputs, 1)
    return 2.0 * prod(output[:-1]) * keys * (head_dim + output[-1])


def _convolution(inputs: Sequence[Sizes | None], output: Sizes) -> float:
    """Weight [out, in / groups, kernel...]: one product of in / groups * kernel for each output."""
    return 2.0 * prod(output) * prod(_size(inputs, 1)[1:])


def _cubic(factor: float, argument: int = 0) -> Formula:
    """factor * m^3 for each [m, m] matrix."""
    return lambda inputs, _: factor * prod(_size(inputs, argument)) * _size(inputs, argument)[-1]


def _substitution(times: int, triangle: int) -> Formula:
    """`times` triangular systems of size m for each of the output's columns: m^2 each."""
    return lambda inputs, output: float(times) * prod(output) * _size(inputs, triangle)[-1]


def _solve(inputs: Sequence[Sizes | None], output: Sizes) -> float:
    """LU of A [..., m, m], then two substitutions for each right-hand side."""
    return _cubic(2 / 3)(inputs, output) + _substitution(2, 0)(inputs, output)


FORMULAS: dict[str, Formula] = {
    "dot": lambda inputs, _: 2.0 * prod(_size(inputs, 0)),
    "vdot": lambda inputs, _: 2.0 * prod(_size(inputs, 0)),
    "mv": _product(0),
    "addmv": _product(1),
    "addmv_": _product(1),
    "addmm_": _product(1),
    "baddbmm": _product(1),
    "baddbmm_": _product(1),
    "cdist": _product(0),  # as by |x|^2 + |y|^2 - 2 x.y, however it is computed
    "_cdist_forward": _product(0),
    "_euclidean_dist": _product(0),
    "_convolution_mode": _convolution,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "linalg_cholesky": _cubic(1 / 3),
    "linalg_cholesky_ex": _cubic(1 / 3),
    "cholesky_inverse": _cubic(2 / 3),
    "cholesky_solve": _substitution(2, 1),
    "linalg_solve_triangular": _substitution(1, 0),
    "linalg_inv": _cubic(2),
    "linalg_inv_ex": _cubic(2),
    "inverse": _cubic(2),
    "linalg_lu_factor": _cubic(2 / 3),
    "linalg_lu_factor_ex": _cubic(2 / 3),
    "linalg_eigh": _cubic(9),
    "_linalg_eigh": _cubic(9),
    "linalg_solve": _solve,
    "linalg_solve_ex": _solve,
    "_linalg_solve_ex": _solve,
}

# Operators that are neither views nor tagged as pointwise by torch; the in-place form of each is meant too.
_FREE_BY_KIND = {
    "normalisation": """
        _softmax softmax _safe_softmax _log_softmax log_softmax logsumexp native_layer_norm layer_norm rms_norm
        _fused_rms_norm native_group_norm group_norm native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training batch_norm instance_norm dropout native_dropout""",
    "reduction": """
        sum nansum mean nanmean prod amax amin max min aminmax argmax argmin any all var std var_mean std_mean norm
        linalg_norm linalg_vector_norm linalg_matrix_norm count_nonzero median cumsum cumprod cummax cummin
        logcumsumexp""",
    "pooling and interpolation": """
        adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d
        avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices adaptive_max_pool2d
        upsample_nearest1d upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
        grid_sampler grid_sampler_2d""",
    "creation": """
        empty empty_like empty_strided empty_permuted new_empty new_empty_strided new_zeros new_ones new_full zeros
        zeros_like ones ones_like full full_like scalar_tensor arange linspace eye tril triu tril_indices triu_indices
        rand randn rand_like randn_like randint randperm uniform normal bernoulli""",
    "copying": """
        clone copy _to_copy to lift_fresh lift_fresh_copy fill zero cat concat stack hstack vstack repeat
        repeat_interleave roll flip rot90 _unsafe_view _reshape_copy im2col col2im pad constant_pad_nd
        reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d diag diag_embed meshgrid""",
    "indexing": """
        index _unsafe_index index_select index_put _index_put_impl index_add index_copy index_fill gather scatter
        scatter_add scatter_reduce take take_along_dim embedding where nonzero one_hot sort argsort topk kthvalue
        searchsorted bucketize""",
    "activation": "hardswish hardsigmoid hardtanh relu6",
    "other": """
        outer _local_scalar_dense item is_nonzero size numel dim _linalg_check_errors _assert_async
        _assert_tensor_metadata""",
}
_FREE = frozenset(name for names in _FREE_BY_KIND.values() for name in names.split())
