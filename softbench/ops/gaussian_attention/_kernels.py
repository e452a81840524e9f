"""The Triton kernels of Gaussian attention: scores live in registers, one tile at a time, and are never written.

Legend: a program owns a tile of queries or of keys and streams the other side past it. N queries, M keys, D and E the
dims of tokens and values, padded to powers of two; `rate` is scale * log2(e), as scores are powers of two here.

Precision. Sums are float32 always. Distances are |x|^2 + |k|^2 - 2 x.k with all three from the same rounded numbers:

- float32 on both sides: both are first moved by the mean of the tokens that the program owns, as a common offset would
  cost digits. Under "tf32" tokens are rounded to TF32 before their norms are taken, not only by the multiplier.
- half precision: products of half numbers are exact in float32, so there is nothing to move. What the offset costs
  is 2^-23 of the squared norm.
- float32 beside half: the float32 operand is split into two half numbers, and their products are added. So are scores
  and other factors computed here, which a single half number would round. float16 operands are scaled to at
  most 2 first, by row or column, as its range is short.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_streaming_keys(x, k, v, y, x_b, x_h, x_n, x_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_e, y_s, y_b, y_h, y_n,
                          heads, queries, keys, splits, share, rate, D: tl.constexpr, E: tl.constexpr,
                          BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
                          half: tl.constexpr, PRECISION: tl.constexpr):
    """y_i = sum_j s_ij v_j over the keys of one split; a program owns BLOCK_N queries."""
    block, split, b, h = _place(tl.cdiv(queries, BLOCK_N), splits, heads)
    x_tile = _tile(x + b * x_b + h * x_h, block * BLOCK_N, queries, x_n, x_d, D, BLOCK_N, BLOCK_D)
    centre = _centre(x_tile, block * BLOCK_N, queries, BLOCK_N, half)
    x_tile = _operand(x_tile, centre, half, PRECISION)
    x_norm = _norm(x_tile, rate)
    sums = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    last = tl.minimum(keys, (split + 1) * share)
    for start in range(split * share, last, BLOCK_M):
        k_tile = _tile(k + b * k_b + h * k_h, start, last, k_n, k_d, D, BLOCK_M, BLOCK_D)
        v_tile = _tile(v + b * v_b + h * v_h, start, last, v_n, v_e, E, BLOCK_M, BLOCK_E)
        k_tile = _operand(k_tile, centre, half, PRECISION)
        k_norm = _norm(k_tile, rate)
        scores = _scores(x_tile, x_norm, k_tile, k_norm, rate, half, PRECISION)  # [BLOCK_N, BLOCK_M]
        sums = _add_scaled_product(sums, scores, v_tile, half, PRECISION)
    y += tl.cast(split, tl.int64) * y_s + b * y_b + h * y_h
    _store(y, sums, block * BLOCK_N, queries, y_n, E, BLOCK_N, BLOCK_E)


@triton.jit
def attend_streaming_queries(x, k, v, y, x_b, x_h, x_n, x_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_e, y_b, y_h, y_n,
                             heads, queries, keys, share, rate, D: tl.constexpr, E: tl.constexpr,
                             BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
                             half: tl.constexpr, PRECISION: tl.constexpr):
    """The same where BLOCK_M holds all keys: a program owns them, and streams `share` queries past."""
    part, _, b, h = _place(tl.cdiv(queries, share), 1, heads)
    first = tl.cast(0, tl.int32)
    k_tile = _tile(k + b * k_b + h * k_h, first, keys, k_n, k_d, D, BLOCK_M, BLOCK_D)
    v_tile = _tile(v + b * v_b + h * v_h, first, keys, v_n, v_e, E, BLOCK_M, BLOCK_E)
    centre = _centre(k_tile, first, keys, BLOCK_M, half)
    k_tile = _operand(k_tile, centre, half, PRECISION)
    k_norm = _norm(k_tile, rate)
    last = tl.minimum(queries, (part + 1) * share)
    for start in range(part * share, last, BLOCK_N):
        x_tile = _tile(x + b * x_b + h * x_h, start, last, x_n, x_d, D, BLOCK_N, BLOCK_D)
        x_tile = _operand(x_tile, centre, half, PRECISION)
        scores = _scores(x_tile, _norm(x_tile, rate), k_tile, k_norm, rate, half, PRECISION)  # [BLOCK_N, BLOCK_M]
        sums = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
        sums = _add_scaled_product(sums, scores, v_tile, half, PRECISION)
        _store(y + b * y_b + h * y_h, sums, start, last, y_n, E, BLOCK_N, BLOCK_E)


@triton.jit
def differentiate(x, k, p, q, dx, x_b, x_h, x_n, x_d, k_b, k_h, k_n, k_d, p_b, p_h, p_n, p_e, q_b, q_h, q_n, q_e,
                  dx_s, dx_b, dx_h, dx_n, heads, queries, keys, splits, share, rate, scale,
                  D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, half: tl.constexpr, PRECISION: tl.constexpr):
    """dx_i = scale sum_j w_ij (k_j - x_i), w_ij = s_ij (p_i . q_j), over the keys of one split.

    A program owns BLOCK_N tokens x with their p, and streams k with their q. The sum of w_ij is that of the rounded
    numbers which are multiplied by k_j, so that tokens alike have no gradient.
    """
    block, split, b, h = _place(tl.cdiv(queries, BLOCK_N), splits, heads)
    x_tile = _tile(x + b * x_b + h * x_h, block * BLOCK_N, queries, x_n, x_d, D, BLOCK_N, BLOCK_D)
    p_tile = _tile(p + b * p_b + h * p_h, block * BLOCK_N, queries, p_n, p_e, E, BLOCK_N, BLOCK_E)
    centre = _centre(x_tile, block * BLOCK_N, queries, BLOCK_N, half)
    x_tile = _operand(x_tile, centre, half, PRECISION)
    x_norm = _norm(x_tile, rate)
    sums, total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32), tl.zeros([BLOCK_N], tl.float32)
    last = tl.minimum(keys, (split + 1) * share)
    for start in range(split * share, last, BLOCK_M):
        k_tile = _tile(k + b * k_b + h * k_h, start, last, k_n, k_d, D, BLOCK_M, BLOCK_D)
        q_tile = _tile(q + b * q_b + h * q_h, start, last, q_n, q_e, E, BLOCK_M, BLOCK_E)
        k_tile = _operand(k_tile, centre, half, PRECISION)
        k_norm = _norm(k_tile, rate)
        w = _add_scaled_product(tl.zeros([BLOCK_N, BLOCK_M], tl.float32), p_tile, tl.trans(q_tile), half, PRECISION)
        w *= _scores(x_tile, x_norm, k_tile, k_norm, rate, half, PRECISION)  # [BLOCK_N, BLOCK_M]
        w = _factor(w, half, PRECISION)
        total += tl.sum(w, 1)
        sums = _add_scaled_product(sums, w, k_tile, half, PRECISION)
    sums = (sums - total[:, None] * x_tile.to(tl.float32)) * scale
    dx += tl.cast(split, tl.int64) * dx_s + b * dx_b + h * dx_h
    _store(dx, sums, block * BLOCK_N, queries, dx_n, D, BLOCK_N, BLOCK_D)


@triton.jit
def differentiate_through_landmarks(x, v, dy, landmarks, w, dg, dx, dv, dl, x_b, x_h, x_n, x_d, v_b, v_h, v_n, v_e,
                                    dy_b, dy_h, dy_n, dy_e, dx_b, dx_h, dx_n, dv_b, dv_h, dv_n, heads, tokens, count,
                                    share, rate, scale, D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr,
                                    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
                                    half: tl.constexpr, PRECISION: tl.constexpr):
    """Gradients of y = P^T w, w = M g, g = P v by tokens, values and landmarks, in one pass over the tokens.

    With W_ji = P_ji (dy_i . w_j + v_i . dg_j):
        dx_i = scale sum_j W_ji (l_j - x_i),    dv_i = sum_j P_ji dg_j,    dl_j = scale sum_i W_ji (x_i - l_j).
    BLOCK_M holds all landmarks, which are the rows of every left factor: these stay in shared memory, as right factors
    would not. landmarks, w and dg are contiguous, and so are the parts of dl, one for each program.
    """
    part, _, b, h = _place(tl.cdiv(tokens, share), 1, heads)
    group, first = b * heads + h, tl.cast(0, tl.int32)
    l_tile = _tile(landmarks + group * count * D, first, count, D, 1, D, BLOCK_M, BLOCK_D)
    w_tile = _tile(w + group * count * E, first, count, E, 1, E, BLOCK_M, BLOCK_E)
    dg_tile = _tile(dg + group * count * E, first, count, E, 1, E, BLOCK_M, BLOCK_E)
    centre = _centre(l_tile, first, count, BLOCK_M, half)
    l_tile = _operand(l_tile, centre, half, PRECISION)
    l_norm = _norm(l_tile, rate)
    sums, total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32), tl.zeros([BLOCK_M], tl.float32)
    last = tl.minimum(tokens, (part + 1) * share)
    for start in range(part * share, last, BLOCK_N):
        x_tile = _tile(x + b * x_b + h * x_h, start, last, x_n, x_d, D, BLOCK_N, BLOCK_D)
        v_tile = _tile(v + b * v_b + h * v_h, start, last, v_n, v_e, E, BLOCK_N, BLOCK_E)
        dy_tile = _tile(dy + b * dy_b + h * dy_h, start, last, dy_n, dy_e, E, BLOCK_N, BLOCK_E)
        x_tile = _operand(x_tile, centre, half, PRECISION)
        weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        weights = _add_scaled_product(weights, w_tile, tl.trans(dy_tile), half, PRECISION)
        weights = _add_scaled_product(weights, dg_tile, tl.trans(v_tile), half, PRECISION)
        scores = _scores(l_tile, l_norm, x_tile, _norm(x_tile, rate), rate, half, PRECISION)  # [BLOCK_M, BLOCK_N]
        weights = _factor(weights * scores, half, PRECISION)
        by_value = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
        by_value = tl.trans(_add_scaled_product(by_value, tl.trans(dg_tile), scores, half, PRECISION))
        _store(dv + b * dv_b + h * dv_h, by_value, start, last, dv_n, E, BLOCK_N, BLOCK_E)
        by_token = tl.zeros([BLOCK_D, BLOCK_N], tl.float32)
        by_token = tl.trans(_add_scaled_product(by_token, tl.trans(l_tile), weights, half, PRECISION))
        by_token = (by_token - tl.sum(weights, 0)[:, None] * x_tile.to(tl.float32)) * scale
        _store(dx + b * dx_b + h * dx_h, by_token, start, last, dx_n, D, BLOCK_N, BLOCK_D)
        total += tl.sum(weights, 1)
        sums = _add_scaled_product(sums, weights, x_tile, half, PRECISION)
    sums = (sums - total[:, None] * l_tile) * scale
    dl += (part * tl.num_programs(0) // tl.cdiv(tokens, share) + group) * count * D
    _store(dl, sums, first, count, D, D, BLOCK_M, BLOCK_D)


@triton.jit
def _place(blocks, splits, heads):
    """This program's block of tokens, its split of the other side, its batch and its head; blocks vary fastest."""
    program = tl.program_id(0)
    group = program // (blocks * splits)
    return (program % blocks, program // blocks % splits, (group // heads).to(tl.int64), (group % heads).to(tl.int64))


@triton.jit
def _tile(tokens, start, last, stride_n, stride_d, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows start, start + 1, ... of tokens [last, WIDTH]; zeros beyond both, so that missing values add nothing."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    valid = row < last - start
    if WIDTH < COLUMNS:
        valid = valid & (column < WIDTH)
    tokens += tl.cast(start, tl.int64) * stride_n
    return tl.load(tokens + row * stride_n + column * stride_d, mask=valid, other=0.0)


@triton.jit
def _store(tokens, tile, start, last, stride_n, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """What `_tile` reads, written, where the numbers of a token lie side by side."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    valid = row < last - start
    if WIDTH < COLUMNS:
        valid = valid & (column < WIDTH)
    tokens += tl.cast(start, tl.int64) * stride_n
    tl.store(tokens + row * stride_n + column, tile.to(tokens.dtype.element_ty), mask=valid)


@triton.jit
def _centre(tile, start, last, ROWS: tl.constexpr, half: tl.constexpr):
    """The mean token of the tile, [1, columns], or zeros where half numbers are multiplied."""
    if half == tl.float32:
        return (tl.sum(tile, 0) / tl.minimum(last - start, ROWS))[None, :]
    return tl.zeros([1, tile.shape[1]], tl.float32)


@triton.jit
def _operand(tile, centre, half: tl.constexpr, PRECISION: tl.constexpr):
    """Tokens as `_add_product` multiplies them without further rounding."""
    if half == tl.float32:
        tile = tile - centre
        if PRECISION == "tf32":
            tile = _tf32(tile)
    elif tile.dtype == tl.float32:
        high, low = _parts(tile, half)
        tile = high.to(tl.float32) + low.to(tl.float32)
    return tile


@triton.jit
def _factor(tile, half: tl.constexpr, PRECISION: tl.constexpr):
    """A float32 left factor, of any size, as `_add_scaled_product` multiplies it without further rounding."""
    if half == tl.float16:
        row = _power_of_two(tl.max(tl.abs(tile), 1))[:, None]
        high, low = _parts(tile / row, half)
        tile = (high.to(tl.float32) + low.to(tl.float32)) * row
    elif half == tl.bfloat16:
        high, low = _parts(tile, half)
        tile = high.to(tl.float32) + low.to(tl.float32)
    elif PRECISION == "tf32":
        tile = _tf32(tile)
    return tile


@triton.jit
def _norm(tile, rate):
    """Half the squared norm of each row times rate, [rows]."""
    tile = tile.to(tl.float32)
    return tl.sum(tile * tile, 1) * (0.5 * rate)


@triton.jit
def _scores(x, x_norm, k, k_norm, rate, half: tl.constexpr, PRECISION: tl.constexpr):
    """2^(rate x.k - norms), clamped at 1, because rounding may make a distance negative; NaN stays NaN."""
    products = _add_product(tl.zeros([x.shape[0], k.shape[0]], tl.float32), x, tl.trans(k), half, PRECISION)
    exponents = products * rate - (x_norm[:, None] + k_norm[None, :])
    return tl.exp2(tl.minimum(exponents, 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def _add_scaled_product(sums, a, b, half: tl.constexpr, PRECISION: tl.constexpr):
    """sums + a b for numbers of any size: float32 operands that will be float16 are scaled by powers of two."""
    if half == tl.float16:
        product = tl.zeros([a.shape[0], b.shape[1]], tl.float32)
        row, column = tl.full([a.shape[0]], 1.0, tl.float32), tl.full([b.shape[1]], 1.0, tl.float32)
        if a.dtype == tl.float32:
            row = _power_of_two(tl.max(tl.abs(a), 1))
            a = a / row[:, None]
        if b.dtype == tl.float32:
            column = _power_of_two(tl.max(tl.abs(b), 0))
            b = b / column[None, :]
        product = _add_product(product, a, b, half, PRECISION)
        return sums + product * row[:, None] * column[None, :]
    return _add_product(sums, a, b, half, PRECISION)


@triton.jit
def _add_product(sums, a, b, half: tl.constexpr, PRECISION: tl.constexpr):
    """sums + a b; where `half` is a half type, float32 operands are split; two low parts are not multiplied."""
    if half == tl.float32 or (a.dtype == half and b.dtype == half):
        return tl.dot(a, b, sums, input_precision=PRECISION)
    if b.dtype == half:
        high, low = _parts(a, half)
        return tl.dot(high, b, tl.dot(low, b, sums))
    high, low = _parts(b, half)
    if a.dtype == half:
        return tl.dot(a, high, tl.dot(a, low, sums))
    a_high, a_low = _parts(a, half)
    return tl.dot(a_high, high, tl.dot(a_low, high, tl.dot(a_high, low, sums)))


@triton.jit
def _parts(tile, half: tl.constexpr):
    """A float32 tile as the sum of two half tiles."""
    high = tile.to(half)
    return high, (tile - high.to(tl.float32)).to(half)


@triton.jit
def _tf32(tile):
    """float32 rounded to the 10 bits of mantissa that TF32 keeps."""
    return ((tile.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)


@triton.jit
def _power_of_two(size):
    """The largest power of two up to each size, at least 2^-100."""
    return (tl.maximum(size, 1e-30).to(tl.uint32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
