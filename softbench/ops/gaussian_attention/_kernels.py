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

All this has the error of the squared norms. Where a token that the program owns has a norm above `reach` even so, as
one of a few groups or a very long one, the program takes all distances, and gradients by them, from differences of the
tokens as they are in memory, one dim after the other. That is a second loop, FAR, which is empty in other programs and
leaves their loop as it is. A far token of the other side needs no such care: it is near to none that is not far.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

FEW: tl.constexpr = tl.constexpr(16)  # tokens that a FAR loop streams at a time, as its registers are few


@triton.jit
def attend_streaming_keys(x, k, v, y, x_b, x_h, x_n, x_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_e, y_s, y_b, y_h, y_n,
                          heads, queries, keys, splits, share, rate, reach, D: tl.constexpr, E: tl.constexpr,
                          BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
                          half: tl.constexpr, PRECISION: tl.constexpr):
    """y_i = sum_j s_ij v_j over the keys of one split; a program owns BLOCK_N queries."""
    block, split, b, h = _place(tl.cdiv(queries, BLOCK_N), splits, heads)
    x, k, v = x + b * x_b + h * x_h, k + b * k_b + h * k_h, v + b * v_b + h * v_h
    own = block * BLOCK_N
    x_tile = _tile(x, own, queries, x_n, x_d, D, BLOCK_N, BLOCK_D)
    centre = _centre(x_tile, own, queries, BLOCK_N, half)
    x_tile = _operand(x_tile, centre, half, PRECISION)
    x_norm = _norm(x_tile, rate)
    sums = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    far, first, last = _far(x_norm, own, queries, reach), split * share, tl.minimum(keys, (split + 1) * share)
    STEPS: tl.constexpr = (BLOCK_M, FEW)
    for FAR in tl.static_range(2):
        for start in range(first, tl.where(far == FAR, last, first), STEPS[FAR]):
            v_tile = _tile(v, start, last, v_n, v_e, E, STEPS[FAR], BLOCK_E)
            if FAR:
                scores = _far_scores(x, x_n, x_d, own, queries, k, k_n, k_d, start, last, rate, D, BLOCK_N, STEPS[FAR])
            else:
                k_tile = _operand(_tile(k, start, last, k_n, k_d, D, STEPS[FAR], BLOCK_D), centre, half, PRECISION)
                scores = _scores(x_tile, x_norm, k_tile, _norm(k_tile, rate), rate, half, PRECISION)
            sums = _add_scaled_product(sums, scores, v_tile, half, PRECISION)  # scores [BLOCK_N, STEPS[FAR]]
    y += tl.cast(split, tl.int64) * y_s + b * y_b + h * y_h
    _store(y, sums, own, queries, y_n, E, BLOCK_N, BLOCK_E)


@triton.jit
def attend_streaming_queries(x, k, v, y, x_b, x_h, x_n, x_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_e, y_b, y_h, y_n,
                             heads, queries, keys, share, rate, reach, D: tl.constexpr, E: tl.constexpr,
                             BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
                             half: tl.constexpr, PRECISION: tl.constexpr):
    """The same where BLOCK_M holds all keys: a program owns them, and streams `share` queries past."""
    part, _, b, h = _place(tl.cdiv(queries, share), 1, heads)
    x, k, v, y = x + b * x_b + h * x_h, k + b * k_b + h * k_h, v + b * v_b + h * v_h, y + b * y_b + h * y_h
    own = tl.cast(0, tl.int32)
    k_tile = _tile(k, own, keys, k_n, k_d, D, BLOCK_M, BLOCK_D)
    v_tile = _tile(v, own, keys, v_n, v_e, E, BLOCK_M, BLOCK_E)
    centre = _centre(k_tile, own, keys, BLOCK_M, half)
    k_tile = _operand(k_tile, centre, half, PRECISION)
    k_norm = _norm(k_tile, rate)
    far, first, last = _far(k_norm, own, keys, reach), part * share, tl.minimum(queries, (part + 1) * share)
    STEPS: tl.constexpr = (BLOCK_N, FEW)
    for FAR in tl.static_range(2):
        for start in range(first, tl.where(far == FAR, last, first), STEPS[FAR]):
            if FAR:
                scores = _far_scores(x, x_n, x_d, start, last, k, k_n, k_d, own, keys, rate, D, STEPS[FAR], BLOCK_M)
            else:
                x_tile = _operand(_tile(x, start, last, x_n, x_d, D, STEPS[FAR], BLOCK_D), centre, half, PRECISION)
                scores = _scores(x_tile, _norm(x_tile, rate), k_tile, k_norm, rate, half, PRECISION)
            sums = tl.zeros([STEPS[FAR], BLOCK_E], tl.float32)
            sums = _add_scaled_product(sums, scores, v_tile, half, PRECISION)  # scores [STEPS[FAR], BLOCK_M]
            _store(y, sums, start, last, y_n, E, STEPS[FAR], BLOCK_E)


@triton.jit
def differentiate(x, k, p, q, dx, x_b, x_h, x_n, x_d, k_b, k_h, k_n, k_d, p_b, p_h, p_n, p_e, q_b, q_h, q_n, q_e,
                  dx_s, dx_b, dx_h, dx_n, heads, queries, keys, splits, share, rate, reach, scale,
                  D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, half: tl.constexpr, PRECISION: tl.constexpr):
    """dx_i = scale sum_j w_ij (k_j - x_i), w_ij = s_ij (p_i . q_j), over the keys of one split.

    A program owns BLOCK_N tokens x with their p, and streams k with their q. The sum of w_ij is that of the rounded
    numbers which are multiplied by k_j, so that tokens alike have no gradient.
    """
    block, split, b, h = _place(tl.cdiv(queries, BLOCK_N), splits, heads)
    x, k, p, q = x + b * x_b + h * x_h, k + b * k_b + h * k_h, p + b * p_b + h * p_h, q + b * q_b + h * q_h
    own = block * BLOCK_N
    x_tile = _tile(x, own, queries, x_n, x_d, D, BLOCK_N, BLOCK_D)
    p_tile = _tile(p, own, queries, p_n, p_e, E, BLOCK_N, BLOCK_E)
    centre = _centre(x_tile, own, queries, BLOCK_N, half)
    x_tile = _operand(x_tile, centre, half, PRECISION)
    x_norm = _norm(x_tile, rate)
    sums, total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32), tl.zeros([BLOCK_N], tl.float32)
    far, first, last = _far(x_norm, own, queries, reach), split * share, tl.minimum(keys, (split + 1) * share)
    STEPS: tl.constexpr = (BLOCK_M, FEW)
    for FAR in tl.static_range(2):
        for start in range(first, tl.where(far == FAR, last, first), STEPS[FAR]):
            q_tile = _tile(q, start, last, q_n, q_e, E, STEPS[FAR], BLOCK_E)
            w = tl.zeros([BLOCK_N, STEPS[FAR]], tl.float32)
            w = _add_scaled_product(w, p_tile, tl.trans(q_tile), half, PRECISION)
            if FAR:
                w *= _far_scores(x, x_n, x_d, own, queries, k, k_n, k_d, start, last, rate, D, BLOCK_N, STEPS[FAR])
                sums = _add_weighted_differences(sums, w, x, x_n, x_d, own, queries, k, k_n, k_d, start, last,
                                                 D, BLOCK_D)
            else:
                k_tile = _operand(_tile(k, start, last, k_n, k_d, D, STEPS[FAR], BLOCK_D), centre, half, PRECISION)
                w *= _scores(x_tile, x_norm, k_tile, _norm(k_tile, rate), rate, half, PRECISION)
                w = _factor(w, half, PRECISION)
                total += tl.sum(w, 1)
                sums = _add_scaled_product(sums, w, k_tile, half, PRECISION)
    sums = (sums - total[:, None] * x_tile.to(tl.float32)) * scale
    dx += tl.cast(split, tl.int64) * dx_s + b * dx_b + h * dx_h
    _store(dx, sums, own, queries, dx_n, D, BLOCK_N, BLOCK_D)


@triton.jit
def differentiate_through_landmarks(x, v, dy, landmarks, w, dg, dx, dv, dl, x_b, x_h, x_n, x_d, v_b, v_h, v_n, v_e,
                                    dy_b, dy_h, dy_n, dy_e, dx_b, dx_h, dx_n, dv_b, dv_h, dv_n, heads, tokens, count,
                                    share, rate, reach, scale, D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr,
                                    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
                                    half: tl.constexpr, PRECISION: tl.constexpr):
    """Gradients of y = P^T w, w = M g, g = P v by tokens, values and landmarks, in one pass over the tokens.

    With W_ji = P_ji (dy_i . w_j + v_i . dg_j):
        dx_i = scale sum_j W_ji (l_j - x_i),    dv_i = sum_j P_ji dg_j,    dl_j = scale sum_i W_ji (x_i - l_j).
    BLOCK_M holds all landmarks, which are the rows of every left factor: these stay in shared memory, as right factors
    would not. landmarks, w and dg are contiguous, and so are the parts of dl, one for each program.
    """
    part, _, b, h = _place(tl.cdiv(tokens, share), 1, heads)
    group, own = b * heads + h, tl.cast(0, tl.int32)
    x, v, dy = x + b * x_b + h * x_h, v + b * v_b + h * v_h, dy + b * dy_b + h * dy_h
    dx, dv, landmarks = dx + b * dx_b + h * dx_h, dv + b * dv_b + h * dv_h, landmarks + group * count * D
    l_tile = _tile(landmarks, own, count, D, 1, D, BLOCK_M, BLOCK_D)
    w_tile = _tile(w + group * count * E, own, count, E, 1, E, BLOCK_M, BLOCK_E)
    dg_tile = _tile(dg + group * count * E, own, count, E, 1, E, BLOCK_M, BLOCK_E)
    centre = _centre(l_tile, own, count, BLOCK_M, half)
    l_tile = _operand(l_tile, centre, half, PRECISION)
    l_norm = _norm(l_tile, rate)
    sums, total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32), tl.zeros([BLOCK_M], tl.float32)
    far, first, last = _far(l_norm, own, count, reach), part * share, tl.minimum(tokens, (part + 1) * share)
    STEPS: tl.constexpr = (BLOCK_N, FEW)
    for FAR in tl.static_range(2):
        for start in range(first, tl.where(far == FAR, last, first), STEPS[FAR]):
            v_tile = _tile(v, start, last, v_n, v_e, E, STEPS[FAR], BLOCK_E)
            dy_tile = _tile(dy, start, last, dy_n, dy_e, E, STEPS[FAR], BLOCK_E)
            weights = tl.zeros([BLOCK_M, STEPS[FAR]], tl.float32)
            weights = _add_scaled_product(weights, w_tile, tl.trans(dy_tile), half, PRECISION)
            weights = _add_scaled_product(weights, dg_tile, tl.trans(v_tile), half, PRECISION)
            if FAR:
                scores = _far_scores(landmarks, D, 1, own, count, x, x_n, x_d, start, last, rate,
                                     D, BLOCK_M, STEPS[FAR])
                weights *= scores
                sums = _add_weighted_differences(sums, weights, landmarks, D, 1, own, count, x, x_n, x_d, start, last,
                                                 D, BLOCK_D)
                by_token = tl.zeros([STEPS[FAR], BLOCK_D], tl.float32)
                by_token = _add_weighted_differences(by_token, tl.trans(weights), x, x_n, x_d, start, last,
                                                     landmarks, D, 1, own, count, D, BLOCK_D)
            else:
                x_tile = _operand(_tile(x, start, last, x_n, x_d, D, STEPS[FAR], BLOCK_D), centre, half, PRECISION)
                scores = _scores(l_tile, l_norm, x_tile, _norm(x_tile, rate), rate, half, PRECISION)
                weights = _factor(weights * scores, half, PRECISION)
                by_token = tl.zeros([BLOCK_D, STEPS[FAR]], tl.float32)
                by_token = tl.trans(_add_scaled_product(by_token, tl.trans(l_tile), weights, half, PRECISION))
                by_token -= tl.sum(weights, 0)[:, None] * x_tile.to(tl.float32)
                total += tl.sum(weights, 1)
                sums = _add_scaled_product(sums, weights, x_tile, half, PRECISION)
            _store(dx, by_token * scale, start, last, dx_n, D, STEPS[FAR], BLOCK_D)
            by_value = tl.zeros([BLOCK_E, STEPS[FAR]], tl.float32)
            by_value = tl.trans(_add_scaled_product(by_value, tl.trans(dg_tile), scores, half, PRECISION))
            _store(dv, by_value, start, last, dv_n, E, STEPS[FAR], BLOCK_E)
    sums = (sums - total[:, None] * l_tile) * scale
    dl += (part * tl.num_programs(0) // tl.cdiv(tokens, share) + group) * count * D
    _store(dl, sums, own, count, D, D, BLOCK_M, BLOCK_D)


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
    """Write what `_tile` reads, where the numbers of a token lie side by side."""
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
def _far(norm, start, last, reach):
    """True where one of the tokens start, start + 1, ... up to last has a norm above reach."""
    valid = tl.arange(0, norm.shape[0]) < last - start
    return tl.max(tl.where(valid, norm, 0.0), 0) > reach


@triton.jit
def _far_scores(a, a_n, a_d, a_start, a_last, b, b_n, b_d, b_start, b_last, rate, D: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The scores of tokens a and b from differences, [ROWS, COLUMNS]: slow, and right for tokens of any length."""
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for d in range(D):
        difference = (_column(b + d * b_d, b_start, b_last, b_n, COLUMNS)[None, :]
                      - _column(a + d * a_d, a_start, a_last, a_n, ROWS)[:, None])
        squares += difference * difference
    return tl.exp2(squares * (-0.5 * rate))


@triton.jit
def _add_weighted_differences(sums, w, a, a_n, a_d, a_start, a_last, b, b_n, b_d, b_start, b_last, D: tl.constexpr,
                          BLOCK_D: tl.constexpr):
    """sums_i + sum_j w_ij (b_j - a_i), [rows of w, BLOCK_D]."""
    for d in range(D):
        difference = (_column(b + d * b_d, b_start, b_last, b_n, w.shape[1])[None, :]
                      - _column(a + d * a_d, a_start, a_last, a_n, w.shape[0])[:, None])
        sums += tl.where(tl.arange(0, BLOCK_D)[None, :] == d, tl.sum(w * difference, 1)[:, None], 0.0)
    return sums


@triton.jit
def _column(tokens, start, last, stride_n, ROWS: tl.constexpr):
    """One number of each of the rows that `_tile` reads, [ROWS], as float32."""
    row = tl.arange(0, ROWS)
    tokens += tl.cast(start, tl.int64) * stride_n
    return tl.load(tokens + row * stride_n, mask=row < last - start, other=0.0).to(tl.float32)


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
