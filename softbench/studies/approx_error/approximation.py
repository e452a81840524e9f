"""One attention on one family of inputs: its errors over several seeds, its floor, and the m that a target needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from softbench.bench.costs import Costs, disturbance
from softbench.bench.programme import verdict
from softbench.bench.sweep import Job
from softbench.case import Shape
from softbench.contracts.study import Finding
from softbench.errors import Unsupported
from softbench.plugins.contained import contained
from softbench.processes.threads import one_thread
from softbench.studies.approx_error import errors, estimate, floor, projection, tokens, truth
from softbench.studies.approx_error.compared import Point, largest_size
from softbench.studies.approx_error.errors import HeadErrors
from softbench.studies.approx_error.summary import mean_interval
from softbench.studies.approx_error.truth import Truth
from softbench.subjects import OneAttention

EXACT_TOKENS = 16384  # up to here every row is compared
SAMPLED_ROWS = 512
LOSS_ROWS, SAMPLED_LOSS_ROWS = 2048, 128  # exact softmax holds as many rows of scores for its gradients
GRAPH_BYTES = 1 << 30
_GRADIENTS = ("error_dq", "error_dk", "error_dv")
_VISIBLE = 1e-3  # a larger residual is told
_FIRST_HELD_OUT, _HELD_OUT = 1_000_000, 4  # seeds of the samples that projections are fitted to

Head = tuple[Tensor, Tensor, Tensor]  # q, k, v [N, D] in float64; k is q where the attention shares them


@dataclass(frozen=True)
class Number:
    """One quantity of one seed; `detail` says how sure it is."""

    value: float
    detail: dict[str, float] = field(default_factory=dict)


def run(point: Point, costs: Costs | None) -> list[Finding]:
    """Everything about one point. What goes wrong becomes a row that still names the point."""
    if point.subject.part == "exact":
        findings = [point.finding("error_matrix_fro", 0.0, note="exact by definition")]
    else:
        try:
            with contained(), one_thread(point.shape.tokens <= estimate.DENSE):
                findings = _errors_of(point)
        except Exception as error:
            status, note = verdict(error)
            findings = [point.finding("error_matrix_fro", None, status=status, note=note)]
    return findings + (_cost(point, costs) if costs else [])


def search(point: Point) -> list[Finding]:
    """The smallest m whose mean error_matrix_fro is within the target: doubled until it is, then bisected.

    The error falls with m on average, not at every step, so that a smaller m outside of what was searched may do too;
    `detail` has the last m that failed, and every m that was tried.
    """
    most = largest_size(point.subject, point.shape.tokens)
    tried: dict[int, float] = {}

    def reaches(size: int) -> bool:
        with one_thread(point.shape.tokens <= estimate.DENSE):
            samples = _matrix_errors(replace(point, subject=point.subject.at(size)))
        tried[size] = mean_interval(samples)[0]
        return tried[size] <= point.settings.target_error

    try:
        failed, reached = 0, min(8, most)
        while not (enough := reaches(reached)) and reached < most:
            failed, reached = reached, min(2 * reached, most)
        while enough and reached - failed > 1:
            middle = (failed + reached) // 2
            failed, reached = (failed, middle) if reaches(middle) else (middle, reached)
    except Exception as error:
        status, note = verdict(error)
        return [point.finding("size_needed", None, status=status, note=note)]
    detail = {"tried": sorted([m, _digits(e)] for m, e in tried.items()), "interval": [failed, reached]}
    if not enough:
        note = (f"no m up to {most:,} reaches {point.settings.target_error:g};"
                f" the smallest error is {min(tried.values()):.3g}")
        return [point.finding("size_needed", None, status="unsupported", note=note, detail=detail)]
    best = replace(point, subject=replace(point.subject.at(reached), size=None))
    costs = Costs([Job(best.case, OneAttention(best.subject.attention))]) if point.settings.cost else None
    return [best.finding("size_needed", float(reached), detail=detail),
            best.finding("error_matrix_fro", tried[reached]), *(_cost(best, costs) if costs else [])]


def _cost(point: Point, costs: Costs) -> list[Finding]:
    return [point.finding(r.quantity, r.value, unit=r.unit, samples=r.samples, status=r.status, detail=r.detail,
                          note="; ".join(filter(None, (r.note, disturbance(r.detail)))), dtype=r.dtype, impl=r.impl,
                          mode=r.mode) for r in costs.of(point.case)]


def _errors_of(point: Point) -> list[Finding]:
    modules = _modules(point)
    samples = [_sample(point, module, seed) for module, seed in zip(modules, point.seeds, strict=True)]
    missing = _missing(point)
    findings = []
    for name in samples[0]:
        values = [sample[name].value for sample in samples]
        mean, interval = mean_interval(values)
        detail: dict[str, Any] = {"ci95": [_digits(x) for x in interval]} if interval else {}
        for key in samples[0][name].detail:
            detail[key] = [_digits(sample[name].detail[key]) for sample in samples]
        findings.append(_judged(point, name, mean, values, detail, projection.can_fit(modules[0])))
    return findings + [point.finding(name, None, status="unsupported", note=why) for name, why in missing.items()]


def _judged(point: Point, name: str, mean: float, values: list[float], detail: dict[str, Any],
            fitted: bool) -> Finding:
    """The mean with its note. What is not finite has none; a gradient that is infinitely far off is one of nothing."""
    bad = sum(not math.isfinite(value) for value in values)
    if bad and name in _GRADIENTS and not any(map(math.isnan, values)):
        note = f"the exact gradient is 0 for {bad} of {len(values)} seeds, and the estimated one is not"
        return point.finding(name, None, status="unsupported", samples=values, detail=detail, note=note)
    note = f"not finite for {bad} of {len(values)} seeds" if bad else _note(point, name, mean, detail, fitted)
    return point.finding(name, mean, samples=values, detail=detail, note=note)


def _missing(point: Point) -> dict[str, str]:
    """Quantities that this point cannot have, and why."""
    tokens, missing = point.shape.tokens, {}
    if tokens > floor.MOST_TOKENS:
        missing["floor_fro"] = f"all singular values are taken up to {floor.MOST_TOKENS:,} tokens"
    elif point.rank is None:
        missing["floor_fro"] = "the rank of this attention is not known"
    if tokens > EXACT_TOKENS:
        missing["error_matrix_spectral"] = f"needs every row; taken up to {EXACT_TOKENS:,} tokens"
    if (needed := _graph_bytes(point)) > GRAPH_BYTES:
        missing["error_dv"] = f"its graph would need about {needed / 2**30:.1f} GiB"
    return missing


def _note(point: Point, quantity: str, value: float, detail: dict[str, Any], fitted: bool) -> str:
    notes = []
    if (smallest := max(detail.get("resolution", [0.0]))) and 0 < value <= smallest:
        notes.append(f"a bound: floors below {smallest:.0e} are not resolved")
    if (residual := max(detail.get("residual", [0.0]))) > _VISIBLE:
        notes.append(f"to about {residual:.1%}")
    if point.shape.tokens > EXACT_TOKENS and not quantity.startswith("floor"):
        what = f"loss on {SAMPLED_LOSS_ROWS}" if quantity in _GRADIENTS else f"estimated from {SAMPLED_ROWS}"
        notes.append(f"{what} of {point.shape.tokens:,} rows a head")
    if quantity == "error_matrix_fro":
        notes.append(point.subject.attention.note(point.shape))
        if fitted:
            notes.append("projections fitted to held-out samples")
        if point.kind == "gaussian_normalised":
            notes.append("its exact matrix, and so its floor, depends on m")
    return "; ".join(filter(None, notes))


def _sample(point: Point, module: nn.Module, seed: int) -> dict[str, Number]:
    """All quantities of one seed, over all heads."""
    tokens, grid = point.shape.tokens, point.shape.grid
    exact = tokens <= EXACT_TOKENS
    generator = torch.Generator().manual_seed(seed)
    index = _some(tokens, tokens if exact else SAMPLED_ROWS, generator)
    loss = _some(tokens, LOSS_ROWS if exact else SAMPLED_LOSS_ROWS, generator)
    with_gradients = _graph_bytes(point) <= GRAPH_BYTES
    spectra = _spectra(point, seed) if tokens <= floor.MOST_TOKENS else None
    heads: list[HeadErrors] = []
    gradients: list[dict[str, tuple[float, float]]] = []
    distances, sizes = [], []
    for number, (q, k, v) in enumerate(_heads(point, seed)):
        truth = _truth_of(point, q, k)
        rows = estimate.matrix_rows(module, q, k, grid, point.rank if exact else None)
        heads.append(errors.head_errors(truth, rows, v, index, point.settings.topk))
        if exact:
            distance, *size = errors.spectral_norms(truth, rows)
            distances.append(distance)
            sizes += [(float(spectra[number][0]), 0.0)] if spectra else size
        del rows
        if with_gradients:
            cotangent = torch.randn(len(loss), v.shape[1], dtype=v.dtype, generator=generator)
            gradients.append(errors.gradient_errors(truth, module, v, grid, loss, cotangent))
    error, standard_error = errors.matrix_error(heads)
    numbers = {"error_matrix_fro": Number(error, {} if exact else {"standard_error": standard_error})}
    if spectra and point.rank is not None:
        smallest = floor.resolution(truth)
        numbers["floor_fro"] = Number(floor.frobenius(spectra, point.rank, smallest), {"resolution": smallest})
        numbers["floor_spectral"] = Number(floor.spectral(spectra, point.rank, smallest), {"resolution": smallest})
    if exact:
        ratio = _largest(distances) / _largest(sizes)
        numbers["error_matrix_spectral"] = Number(ratio, {"residual": max(r for _, r in distances + sizes)})
    rest = errors.row_quantities(heads) | (errors.gradient_quantities(gradients) if gradients else {})
    return numbers | {name: Number(value) for name, value in rest.items()}


def _matrix_errors(point: Point) -> list[float]:
    """error_matrix_fro of every seed, alone."""
    samples = []
    for module, seed in zip(_modules(point), point.seeds, strict=True):
        tokens = point.shape.tokens
        exact = tokens <= EXACT_TOKENS
        index = _some(tokens, tokens if exact else SAMPLED_ROWS, torch.Generator().manual_seed(seed))
        heads = []
        for q, k, v in _heads(point, seed):
            rows = estimate.matrix_rows(module, q, k, point.shape.grid, point.rank if exact else None)
            heads.append(errors.head_errors(_truth_of(point, q, k), rows, v, index, 1))
        samples.append(errors.matrix_error(heads)[0])
    return samples


def _modules(point: Point) -> list[nn.Module]:
    """The attention for each seed; one for all, where it is fitted and nothing in it is random."""
    first = _module(point, point.seeds[0])
    if projection.can_fit(first):
        return [first] * len(point.seeds)
    return [first, *(_module(point, seed) for seed in point.seeds[1:])]


def _module(point: Point, seed: int) -> nn.Module:
    """The attention for one head in float64, with this seed's random features and landmarks.

    Raises:
        Unsupported: its error would mean nothing, or cannot be had.
    """
    attention, grid = point.subject.attention, point.shape.grid
    _require_judgeable(point)
    if hasattr(attention.options, "seed") and "seed" not in point.subject.spec.options:
        attention = replace(attention, options=replace(attention.options, seed=seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = replace(point.shape, heads=1)
        module = attention.build(shape, attention.resolve("auto", "cpu", torch.float64)).double().eval()
    if not any(p.requires_grad for p in module.parameters()):
        return module
    if not (projection.can_fit(module) and point.kind == "softmax"):
        raise Unsupported("it has weights to be trained, and at random ones its error means nothing")
    if point.shape.tokens > projection.MOST_TOKENS:
        raise Unsupported(f"its projections are fitted up to {projection.MOST_TOKENS:,} tokens, and at random ones its"
                          " error means nothing")
    held_out = range(_FIRST_HELD_OUT, _FIRST_HELD_OUT + _HELD_OUT)
    projection.fit(module, ([(q, k) for q, k, _ in _heads(point, one)] for one in held_out), grid)
    return module


def _require_judgeable(point: Point) -> None:
    if not point.subject.attention.module.LINEAR_IN_V:
        raise Unsupported("it is not linear in v, so that it has no attention matrix")
    if not point.kind:
        raise Unsupported("it defines its own kernel and estimates no other; against=softmax compares it anyway")
    if point.kind not in truth.KINDS:
        raise Unsupported(f"it estimates '{point.kind}', whose exact matrix this study does not have")


def _heads(point: Point, seed: int) -> Iterator[Head]:
    q, k, v = tokens.tokens(point.family, point.shape, seed)
    shared = point.subject.attention.module.SHARES_QK
    if shared:
        k = q
    for head in range(point.shape.heads):
        one = q[0, head].double()
        yield one, one if shared else k[0, head].double(), v[0, head].double()


def _truth_of(point: Point, q: Tensor, k: Tensor) -> Truth:
    return truth.truth(point.kind, q, k, point.rank or len(q))


def _spectra(point: Point, seed: int) -> list[Tensor]:
    """Return the singular values of the exact matrix of each head."""
    size = point.rank if point.kind == "gaussian_normalised" else None
    return _cached_spectra(point.kind, point.subject.attention.module.SHARES_QK, point.family, point.shape, seed, size)


@functools.lru_cache(maxsize=64)
def _cached_spectra(kind: str, shared: bool, family: str, shape: Shape, seed: int, size: int | None) -> list[Tensor]:
    q, k, _ = tokens.tokens(family, shape, seed)
    heads = [(a.double(), b.double()) for a, b in zip(q[0], k[0], strict=True)]
    return [floor.spectrum(truth.truth(kind, a, a if shared else b, size or len(a))) for a, b in heads]


def _graph_bytes(point: Point) -> float:
    """About what the gradients of one head take in float64."""
    return 3 * 8 * point.subject.attention.cost(replace(point.shape, heads=1)).elements


def _some(tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Row numbers, ascending: all, or `count` of them drawn at random."""
    if count >= tokens:
        return torch.arange(tokens)
    return torch.randperm(tokens, generator=generator)[:count].sort().values


def _largest(norms: list[tuple[float, float]]) -> float:
    """The largest norm, or NaN where one is NaN."""
    values = [norm for norm, _ in norms]
    return math.nan if any(map(math.isnan, values)) else max(values)


def _digits(x: float) -> float:
    """Return six significant digits."""
    return float(f"{x:.6g}")
