"""The tasks of the study pinv: what is computed for each of its parts, as findings."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softbench import dtypes
from softbench.bench.costs import disturbance
from softbench.case import most_square
from softbench.contracts.measure import Reading
from softbench.contracts.study import Finding
from softbench.errors import Unsupported, UsageError
from softbench.ops import pseudo_inverse as op
from softbench.processes.threads import one_thread
from softbench.studies.pinv import gradients, matrices, times
from softbench.studies.pinv.courses import Course, Truth
from softbench.studies.pinv.courses import run as course_of
from softbench.studies.pinv.matrices import Sizes

if TYPE_CHECKING:
    from softbench.studies.pinv.settings import Settings

_FEW = 4  # matrices, where each costs many calls
_GONE = 1e4  # a course is not followed above: it has diverged, and would flatten all others in a plot


@dataclass
class _Subject:
    """Findings of one subject: what they share, and how values of single matrices become one number."""

    settings: Settings
    dtype: str
    coords: dict[str, Any]
    detail: dict[str, Any]
    count: int = 0  # 0: as the settings say

    def summary(self, quantity: str, values: Tensor, *, status: str = "ok", trace: Tensor | None = None) -> Finding:
        """The median of single matrices [G]; `trace` is [steps + 1, G], cut off where it has diverged.

        What is no number counts as infinite.
        """
        samples = _worst(values).tolist()
        detail = self.detail
        if trace is not None:
            detail = detail | {"trace": [_rounded(median(row)) for row in _worst(trace).tolist()]}
        return self.finding(quantity, median(samples), samples=[_digits(s) for s in samples], status=status,
                            detail=detail)

    def share(self, quantity: str, which: Tensor) -> Finding:
        """The part of the matrices for which it is so."""
        return self.finding(quantity, float(which.double().mean()))

    def finding(self, quantity: str, value: float | None, **fields: Any) -> Finding:
        rows, cols = most_square(self.settings.size)
        return Finding(quantity=quantity, value=value, batch=self.count or self.settings.count, rows=rows,
                           cols=cols, head_dim=self.settings.head_dim, dtype=self.dtype, seed=self.settings.seed,
                           coords=self.coords, **({"detail": self.detail} | fields))


@one_thread()
def inverse(settings: Settings, family: str, ridge: float, dtype: str, method: str) -> list[Finding]:
    """How near one method comes to the inverse, and how right its gradient is there."""
    subject = _Subject(settings, dtype, {"family": family, "ridge": ridge, "method": method},
                       {"part": "inverse", "ridged": ridge > 0})
    truth = _truth(settings, family, ridge, settings.count)
    kind = dtypes.of(dtype)
    try:
        course = course_of(truth, method, kind, settings.max_iterations)
    except (Unsupported, UsageError) as error:  # the latter: a ridge that the method cannot take
        return [subject.finding("residual", None, status="unsupported", note=str(error))]
    subject.detail["iterative"] = not course.direct
    invertible = truth.inverse.isfinite().all(-1).all(-1)  # [G]
    reached, last = course.after(settings.iterations), course.after(settings.max_iterations)
    final = last["residual"].nan_to_num(math.inf)
    failing = ~(reached["residual"] <= settings.tolerance) & (invertible | ~truth.a.isfinite().all(-1).all(-1))
    findings = []
    for name, values in reached.items():
        if name == "error_inverse" and not invertible.any():
            continue
        doubtful = name == "residual" and bool(failing.double().mean() >= 0.5)
        findings.append(subject.summary(name, values, trace=None if course.direct else course.distances[name],
                                        status="diverged" if doubtful else "ok"))
    findings += [subject.share("share_unconverged", failing), subject.share("share_diverged", ~(final <= 1)),
                 subject.share("share_not_finite", ~final.isfinite())]
    if not course.direct:
        findings += _needed(subject, course, settings)
    if ridge:
        compared = gradients.compare(truth, method, kind, settings.iterations, settings.seed + 1)
        findings += [subject.summary(name, values) for name, values in compared.items()]
    return findings


@one_thread()
def conditions(settings: Settings, numbers: Sequence[float], ridge: float, dtype: str,
               method: str) -> list[Finding]:
    """The steps that one method needs at each condition number."""
    findings = []
    for condition in numbers:
        truth = _truth(settings, f"condition:{condition!r}", ridge, min(settings.count, _FEW))
        subject = _Subject(settings, dtype, {"condition": condition, "ridge": ridge, "method": method},
                           {"part": "condition"}, len(truth.a))
        findings += _needed(subject, course_of(truth, method, dtypes.of(dtype), settings.max_iterations), settings)
    return findings


def speed(settings: Settings, family: str, ridge: float, dtype: str, methods: Sequence[str],
          points: Sequence[int]) -> list[Finding]:
    """Times of one call after so many steps beside the residual then, all methods interleaved.

    Besides the points, the steps are timed at which I - P V is within the tolerance, and the larger residual is.
    """
    with one_thread():
        truth, timed = _to_time(settings, family, ridge, dtype, methods, points)
    readings = times.measure(truth.a.to(dtypes.of(dtype)), ridge, [call for call, *_ in timed], settings.rep)
    findings = []
    for (call, residual, last), reading in zip(timed, readings, strict=True):
        coords = {"family": family, "ridge": ridge, "method": call.method}
        point = _Subject(settings, dtype, coords | {"steps": call.steps}, {"part": "speed"})
        findings += [_timed(point, "time", reading), point.summary("residual", residual)]
        if last:
            whole = _Subject(settings, dtype, coords, {"part": "inverse", "ridged": ridge > 0})
            findings.append(_timed(whole, "time_to_tolerance", reading))
    return findings


def _to_time(settings: Settings, family: str, ridge: float, dtype: str, methods: Sequence[str],
             points: Sequence[int]) -> tuple[Truth, list[tuple[times.Call, Tensor, bool]]]:
    """The matrices, and each call with its residuals and whether it is the one to the tolerance.

    Raises:
        Unsupported: no method can be had.
    """
    truth, kind = _truth(settings, family, ridge, settings.count), dtypes.of(dtype)
    refused: Unsupported | None = None
    timed: list[tuple[times.Call, Tensor, bool]] = []
    for method in methods:
        try:
            course = course_of(truth, method, kind, settings.max_iterations)
        except Unsupported as error:
            refused = error
            continue
        if course.direct:
            residual = course.after(0)["residual"]
            timed.append((times.Call(method, 0), residual, bool(residual.median() <= settings.tolerance)))
            continue
        enough, one_side = (_steps(course, settings, quantity) for quantity in ("residual", "residual_ipv"))
        for steps in sorted({p for p in (*points, enough, one_side) if 0 <= p <= settings.max_iterations}):
            timed.append((times.Call(method, steps, way="in_dtype"), course.after(steps)["residual"], steps == enough))
    if not timed and refused is not None:
        raise refused
    return truth, timed


def cost(settings: Settings, family: str, ridge: float, dtype: str, methods: Sequence[str]) -> list[Finding]:
    """Times and saved bytes of forward and backward at the usual number of steps, as the op computes them: half
    precision in float32."""
    a = _truth(settings, family, ridge, settings.count).a.to(dtypes.of(dtype))
    calls: dict[str, times.Call] = {}
    for method in methods:
        entry, steps = op.METHODS[method], op.usual_steps(method, settings.size, ridge)
        calls[f"forward {method}"] = times.Call(method, steps)
        if entry.implicit:
            calls[f"implicit {method}"] = times.Call(method, steps, "forward_backward")
        if entry.products:
            calls[f"unrolled {method}"] = times.Call(method, steps, "forward_backward", way="unrolled")
    findings = []
    for (name, call), reading in zip(calls.items(), times.measure(a, ridge, list(calls.values()), settings.rep),
                                     strict=True):
        way = name.partition(" ")[0]
        coords = {"family": family, "ridge": ridge, "method": call.method, "steps": call.steps}
        subject = _Subject(settings, dtype, coords, {"part": "cost"})
        findings.append(_timed(subject, f"time_{way}", reading))
        if way != "forward":
            kept = gradients.saved_bytes(a, call.method, call.steps, ridge, call.way)
            findings.append(subject.finding(f"saved_{way}", float(kept), unit="B"))
    return findings


@one_thread()
def leak(settings: Settings, families: Sequence[str], dtype: str) -> list[Finding]:
    """The largest relative change of a matrix's inverse when others join its batch, per method and kind of others."""
    kind, findings = dtypes.of(dtype), []
    stacks = []
    for family in families:
        with contextlib.suppress(Unsupported):  # the photographs are missing, as the part `inverse` says
            stacks.append(_truth(settings, family, 0.0, min(settings.count, _FEW)).a.to(kind))
    for method in ("newton", "newton_batch", "nystromformer", "nystromformer_batch"):
        for mates in ("constant", "normal:1"):
            others = _truth(settings, mates, 0.0, min(settings.count, _FEW)).a.to(kind)
            changes = torch.stack([_change(a, others, method) for stack in stacks for a in stack])
            subject = _Subject(settings, dtype, {"method": method, "mates": mates}, {"part": "leak"}, 1)
            findings.append(subject.finding("change", float(changes.max()),
                                            samples=[_digits(change) for change in changes.tolist()]))
    return findings


def _change(a: Tensor, others: Tensor, method: str) -> Tensor:
    """Relative to the larger of the two inverses, so that an inverse of 0 is not divided by; infinite for NaN."""
    alone = op.pseudo_inverse(a, method=method)
    joined = op.pseudo_inverse(torch.cat([a[None], others]), method=method)[0]
    larger = torch.maximum(alone.norm(), joined.norm())
    return _worst((joined - alone).norm() / larger.clamp_min(torch.finfo(larger.dtype).tiny))


def _needed(subject: _Subject, course: Course, settings: Settings) -> list[Finding]:
    """Return the steps needed by the larger residual, and by I - P V alone."""
    findings = []
    for name, judged, words in (("needed_steps", "residual", "the larger of I-PV and I-VP"),
                                ("needed_steps_ipv", "residual_ipv", "I-PV")):
        needed = subject.summary(name, course.needed(settings.tolerance, judged))
        if needed.value is not None and not math.isfinite(needed.value):
            needed = replace(needed, value=None, status="diverged", note=(
                f"{words} does not come within {settings.tolerance:g} to stay in {settings.max_iterations} steps"))
        findings.append(needed)
    return findings


def _steps(course: Course, settings: Settings, quantity: str) -> int:
    """The median of the steps needed, rounded up; -1 where there is none."""
    needed = median(course.needed(settings.tolerance, quantity).tolist())
    return math.ceil(needed) if math.isfinite(needed) else -1


def _timed(subject: _Subject, quantity: str, reading: Reading) -> Finding:
    return subject.finding(quantity, reading.summary, unit=reading.unit, samples=reading.samples,
                           status=reading.status, detail=subject.detail | reading.detail,
                           note=disturbance(reading.detail))


@functools.lru_cache(maxsize=8)
def _matrices_of(family: str, sizes: Sizes, seed: int) -> Truth:
    return Truth.of(matrices.make(family, sizes, seed), sizes.ridge)


def _truth(settings: Settings, family: str, ridge: float, count: int) -> Truth:
    return _matrices_of(family, Sizes(count, settings.size, settings.head_dim, ridge), settings.seed)


def _worst(values: Tensor) -> Tensor:
    """Infinity for what is no number."""
    return values.double().nan_to_num(math.inf, math.inf, math.inf)


def _digits(number: float) -> float:
    return float(f"{number:.6g}")


def _rounded(number: float) -> float | None:
    return _digits(number) if number <= _GONE else None
