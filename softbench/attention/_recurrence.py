"""A state that tokens write into and read from: S_t = diag(e^g_t) S_(t-1) + k_t u_t^T, o_t = S_t^T q_t.

q, k [B, H, N, D]; v [B, H, N, E]; S [B, H, D, E]. The decay g is natural and logarithmic, one a head [B, H, N], one a
channel [B, H, N, D], or None for none. u_t = v_t; in a delta rule, with beta [B, H, N], u_t = beta_t (v_t - S'^T k_t),
where S' = diag(e^g_t) S_(t-1): what the state, decayed, says of the key is taken out before the value is put in.

`recurrent` goes token by token, and is the oracle. `chunked` takes C tokens at a time as matrix products: with L_ij the
decay from token j to i, in a chunk that begins with state S,

    U = (I + tril(beta (K K^T * L), -1))^-1 beta (V - (K * L_i0) S),    O = tril(Q K^T * L) U + (Q * L_i0) S.

Each decay is the exponential of a sum of g's over the tokens between, never of a difference of two cumulative sums,
which has no digits left where decays are strong. It works on so many tokens at once that what it holds beyond inputs
and output does not grow with N; in training, each such segment is computed again in the backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.errors import UsageError
from softbench.ops._common import needs_grad

CHUNK = 64
IMPLS = ("chunk", "recurrent")
_AT_ONCE = 1 << 14  # tokens of all samples and heads together

Optional = Tensor | None


class Recurrence(nn.Module):
    """A causal attention by a state. Half precision is computed in float32, states too.

    Args:
        impl: one of IMPLS.
        scaled: o_t is divided by sqrt(D).
        normalise: q and k are divided by their lengths, as the models of delta rules do.
    """

    def __init__(self, impl: str, scaled: bool = True, normalise: bool = False) -> None:
        super().__init__()
        self.impl, self.scaled, self.normalise = impl, scaled, normalise

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], **inputs: Tensor) -> Tensor:
        return self._run(q, k, v, None, inputs, chunks=self.impl == "chunk")[0]

    def state(self, shape: Shape, value_dim: int = 0) -> Tensor:
        """The state before the first token, zeros [B, H, D, E]; E is D unless given."""
        return torch.zeros(shape.batch, shape.heads, shape.head_dim, value_dim or shape.head_dim)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The output [B, H, n, E] of n tokens more, and the state after them.

        Raises:
            UsageError: a state of another shape.
        """
        check_state(state, (*q.shape[:2], q.shape[3], v.shape[3]), "[B, H, D, E]")
        return self._run(q, k, v, state, inputs, chunks=self.impl == "chunk" and q.shape[2] > 1)

    def gates(self, k: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Decay and write strength, as far as there are any; k is [B, H, N, D]."""
        return inputs

    def _run(self, q: Tensor, k: Tensor, v: Tensor, state: Optional, inputs: dict[str, Tensor],
             chunks: bool) -> tuple[Tensor, Tensor]:
        acc, dtype = accumulation_dtype(q.dtype), v.dtype
        gates = {name: gate.to(acc) for name, gate in self.gates(k, inputs).items()}
        q, k, v = q.to(acc), k.to(acc), v.to(acc)
        if self.normalise:
            q, k = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
        if self.scaled:
            q = q * q.shape[-1] ** -0.5
        before = v.new_zeros(*q.shape[:2], q.shape[3], v.shape[3]) if state is None else state.to(v)
        if chunks:
            y, after = chunked(q, k, v, before, **gates, keep=state is not None)
        else:
            y, after = recurrent(q, k, v, before, **gates)
        return y.to(dtype), after


def check_state(state: object, size: tuple[int, ...], dims: str) -> None:
    """Raise UsageError unless it is a tensor of that size, which `dims` spells."""
    if not isinstance(state, Tensor) or tuple(state.shape) != size:
        actual = tuple(state.shape) if isinstance(state, Tensor) else f"a {type(state).__name__}"
        raise UsageError(f"The state must be {dims} = {size}, not {actual}.")


def recurrent(q: Tensor, k: Tensor, v: Tensor, state: Tensor, g: Optional = None,
              beta: Optional = None) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, N, E] and the last state, one token after the other."""
    rows = []
    for t in range(q.shape[2]):
        if g is not None:
            decay = g[:, :, t].exp()
            state = state * (decay[..., None] if decay.dim() == 3 else decay[..., None, None])
        u = v[:, :, t]
        if beta is not None:
            u = beta[:, :, t, None] * (u - (k[:, :, t, :, None] * state).sum(-2))
        state = state + k[:, :, t, :, None] * u[:, :, None]
        rows.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(rows, 2), state


def chunked(q: Tensor, k: Tensor, v: Tensor, state: Tensor, g: Optional = None, beta: Optional = None,
            keep: bool = True) -> tuple[Tensor, Tensor]:
    """The same by products over chunks of at most `CHUNK` tokens; without `keep`, the last state is of no use."""
    b, h, n = (int(length) for length in q.shape[:3])  # which a trace has as tensors
    size = chunk_size(n)
    chunks = -(-n // size)
    spare = chunks * size - n  # tokens without key and decay change nothing

    def cut(x: Optional, flat: bool = False) -> Optional:
        if x is None:
            return None
        return padded(x[..., None] if flat else x)

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, spare)).reshape(b * h, chunks, size, x.shape[-1])  # [G, chunks, C, D]

    q, k, v = map(padded, (q, k, v))
    parts: list[Optional] = [q, k, v, cut(g, g is not None and g.dim() == 3), cut(beta, flat=True)]
    at_once = max(1, _AT_ONCE // (max(1, b * h) * size))
    again = chunks > at_once and needs_grad(*(x for x in (q, k, v, g, beta, state) if x is not None))
    outputs, last = [], state.flatten(0, 1)
    for low in range(0, chunks, at_once):
        segment: list[Any] = [None if x is None else x[:, low:low + at_once] for x in parts]
        segment += [last, keep or low + at_once < chunks]
        if again:
            y, last = checkpoint(_segment, *segment, use_reentrant=False, preserve_rng_state=False)
        else:
            y, last = _segment(*segment)
        outputs.append(y)
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
    return y.reshape(b, h, n + spare, v.shape[-1])[:, :, :n], last.unflatten(0, (b, h))


def with_norm(fq: Tensor, fk: Tensor, v: Tensor, state: Tensor, g: Optional = None,
              keep: bool = True) -> tuple[Tensor, Tensor]:
    """f(q) sums of f(k) [v, 1]^T over the tokens up to each [B, H, N, E + 1], the norm last; and the state."""
    return chunked(fq, fk, F.pad(v, (0, 1), value=1.0), state, g, keep=keep)


def chunk_size(tokens: int) -> int:
    """The tokens of a chunk: a power of two, no more than are needed."""
    return min(CHUNK, 1 << (tokens - 1).bit_length())


def _segment(q: Tensor, k: Tensor, v: Tensor, g: Optional, beta: Optional, state: Tensor,
             keep: bool) -> tuple[Tensor, Tensor]:
    """Some chunks one after the other: [G, n, C, D] and a state [G, D, E] -> [G, n, C, E], and with `keep` the state
    after them."""
    chunks = int(q.shape[1])
    decays = None if g is None else _Decays(g)
    since, until, whole = (decays.since, decays.until, decays.whole) if decays else (None, None, None)
    keys = _times(k, until).mT[:, :chunks if keep else chunks - 1]  # [G, n or n - 1, D, C]
    if beta is None:
        (scores,), u = _scores(q[None], k, decays), v
        states = _summed(keys @ v[:, :keys.shape[1]], whole, state)
    else:
        scores, among = _scores(torch.stack([q, k]), k, decays)
        right = beta * torch.cat([v, _times(k, since)], -1)
        solved = torch.linalg.solve_triangular(beta * among.tril(-1), right, upper=False, unitriangular=True)
        values, corrections = solved.split((v.shape[-1], k.shape[-1]), -1)
        u, states = _corrected(values, corrections, keys, whole, state)
    return scores @ u + _times(q, since) @ torch.stack(states[:chunks], 1), states[-1]


class _Decays:
    """The decays within chunks, from g [G, n, C, D or 1], by sums of blocks of 1, 2, 4, ... C tokens.

    Attributes:
        since, until: e to the sum of the g's of a chunk up to a token, it included, and of those after it.
        whole: e to the sum of all of a chunk, [G, n, D or 1, 1].
        halves: for blocks of 2, 4, ... C tokens, `since` of their second halves and `until` of their first ones.
    """

    def __init__(self, g: Tensor) -> None:
        total = since = g.unsqueeze(-2)  # [G, n, blocks, tokens of a block, D]
        until = torch.zeros_like(since)
        self.halves = []
        while since.shape[-3] > 1:
            (first, second), (before, after), (one, two) = (
                x.unflatten(-3, (-1, 2)).unbind(-3) for x in (since, until, total))
            self.halves.append((second.exp(), before.exp()))
            since, until, total = torch.cat([first, second + one], -2), torch.cat([before + two, after], -2), one + two
        self.since, self.until, self.whole = (x.squeeze(-3).exp() for x in (since, until, total))
        self.whole = self.whole.mT


def _summed(added: Tensor, whole: Optional, state: Tensor) -> list[Tensor]:
    """The states [G, D, E] before the first chunk and after each, which adds [D, E] to what has decayed."""
    states = [state]
    for i in range(added.shape[1]):
        states.append(added[:, i] + _times(states[-1], None if whole is None else whole[:, i]))
    return states


def _corrected(u: Tensor, w: Tensor, keys: Tensor, whole: Optional, state: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The writes U - W S of each chunk, and the states as in `_summed`."""
    writes, states = [], [state]
    for i in range(u.shape[1]):
        writes.append(u[:, i] - w[:, i] @ states[-1])
        if i < keys.shape[1]:
            states.append(keys[:, i] @ writes[-1] + _times(states[-1], None if whole is None else whole[:, i]))
    return torch.stack(writes, 1), states


def _scores(x: Tensor, k: Tensor, decays: _Decays | None) -> Tensor:
    """sum_d x_id k_jd e^(g_(j+1) + ... + g_i)_d for j <= i, else 0: [m, G, n, C, D] -> [m, G, n, C, C]."""
    if decays is None:
        return (x @ k.mT).tril()
    if decays.since.shape[-1] == 1:
        one = torch.ones_like(decays.since)
        return x @ k.mT * _by_halves(one, one, decays)
    return _by_halves(x, k, decays)


def _by_halves(x: Tensor, k: Tensor, decays: _Decays) -> Tensor:
    """The same, of single tokens, and then of twice as many at a time: what the second half asks of the first."""
    scores = (x * k).sum(-1)[..., None, None]  # [..., blocks, 1, 1]
    for since, until in decays.halves:
        half = since.shape[-2]
        later = x.unflatten(-2, (-1, 2, half))[..., 1, :, :] * since
        there = (k.unflatten(-2, (-1, 2, half))[..., 0, :, :] * until).mT
        first, second = scores.unflatten(-3, (-1, 2)).unbind(-3)
        between = later @ there if later.shape[-1] > 1 else later * there
        scores = torch.cat([F.pad(first, (0, half)), torch.cat([between, second], -1)], -2)
    return scores.squeeze(-3)


def _times(x: Tensor, factor: Optional) -> Tensor:
    return x if factor is None else x * factor


def cost(shape: Shape, *, features: int = 0, values: int = 0, per: str = "", delta: bool = False) -> Cost:
    """The cost of `chunked`.

    Args:
        features, values: D and E, where they are not the head_dim.
        per: "" without decay, else "head" or "channel".
    """
    groups, size = shape.batch * shape.heads, chunk_size(shape.tokens)
    d, e = features or shape.head_dim, values or shape.head_dim
    chunks = -(-shape.tokens // size)
    among = float(size * (size - 1) * d) if per == "channel" else 2.0 * size * size * d
    flops = among + 2.0 * size * size * e + 2.0 * size * d * e
    if delta:
        flops += among + size * size * (d + e) + 2.0 * size * d * e
    at_once = min(chunks * groups, max(groups, _AT_ONCE // size))
    held = at_once * (size * (4 * d + 3 * e + 2 * size) + 2 * d * e)
    states = 2.0 * (chunks - 1) * size * d * e  # the last chunk's is not needed
    return Cost(flops=groups * (chunks * flops + states), elements=float(held + groups * shape.tokens * (2 * d + e)))

