"""The outlook: what a check will measure, and how long that took where it was tried, told before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from softbench import parsing
from softbench.gate import check, programme
from softbench.gate.check import Check
from softbench.gate.programme import Step
from softbench.gate.source import Source

# Seconds on two cores with little else to do, means over all attentions: docs/regression.md.
_CASE, _MODEL, _STUDY, _RECORDED = 0.5, 4.0, 15.0, 1.5
_ROUND = 1.1  # of a case on both sides, beside the samples


@dataclass(frozen=True)
class Part:
    """Says what is measured, of how many cases, and between how many seconds that should take."""

    what: str
    cases: int
    low: float
    high: float


def of(request: Check, head: Source, base: Source | None) -> list[Part]:
    """The parts of a check against another version, or without one against stored baselines.

    Raises:
        UsageError: the scope names lengths or attentions that cannot be.
    """
    parts = []
    for source in filter(None, (head, base)) if request.exact else ():
        steps = programme.exact(request.scope, source, studies=request.studies)
        seconds = sum(_seconds(step) for step in steps)
        parts.append(Part(f"exact quantities of {source.name}", sum(map(_cases, steps)), seconds, seconds))
    if request.times:
        (step,) = programme.times(request.scope, head, 1)
        count = _cases(step)
        if base:
            each = count * (_ROUND + 4 * request.slice_ms / 1e3)
            what = f"times in {request.first} to {max(request.first, request.cap)} rounds"
            parts.append(Part(what, count, request.first * each, max(request.first, request.cap) * each))
        else:
            parts.append(Part("times, where the baseline is of this environment", count, 0.0,
                              check.RUNS * count * _RECORDED))
    return parts


def told(parts: list[Part]) -> str:
    """`2 to 9 min`."""
    return span(sum(part.low for part in parts), sum(part.high for part in parts))


def span(low: float, high: float) -> str:
    """Two durations in the unit that suits the longer, rounded: they are guesses."""
    size, unit = (60.0, "min") if high >= 90 else (1.0, "s")
    ends = list(dict.fromkeys(f"{end / size:.0f}" for end in (low, high)))
    return f"{' to '.join(ends)} {unit}"


def _cases(step: Step) -> int:
    flags = dict(zip(step.arguments[::2], step.arguments[1::2], strict=False))
    modes = len(flags.get("--mode", "").split(","))
    if "--model" in flags:
        return len(parsing.models(flags["--model"])) * modes
    if "--attn" not in flags:
        return 1
    return len(parsing.attentions(flags["--attn"])) * len(parsing.counts(flags["--tokens"], "--tokens")) * modes


def _seconds(step: Step) -> float:
    each = _MODEL if "--model" in step.arguments else _CASE if "--attn" in step.arguments else _STUDY
    return _cases(step) * each
