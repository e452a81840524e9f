"""Says of a measured growth, in words that can be quoted, if the O(.) that an attention's file claims holds."""

from __future__ import annotations

import math

from softbench.studies.scaling.growth import Growth

NEAR = 0.1  # an exponent this near to a claim agrees with it for all purposes
_TELLING = 0.6  # width of an interval that no longer tells N from N^1.5
_FLOOR = 0.25  # an exponent below it is an overhead that hardly grows
HOLDS, NEARLY, FASTER, SLOWER, UNDECIDED = "holds", "nearly holds", "grows faster", "grows slower so far", (
    "undecided")
NO_FASTER = "no faster"


def claimed(claim: str, tokens: float) -> float | None:
    """The exponent d ln cost / d ln N of a claim at a length: 1, 2, or 1 + 1 / ln N for N log N; None for no claim."""
    return {"N": 1.0, "N log N": 1 + 1 / math.log(max(tokens, math.e)), "N^2": 2.0}.get(claim)


def verdict(claim: str, growth: Growth, cost: str) -> str:
    """Say in words if the last exponent agrees with the claim; "" without a claim.

    A claim speaks of work. Memory may grow more slowly, so that of it is only said whether it grows faster.
    """
    expected = claimed(claim, middle(growth))
    if expected is None:
        return ""
    low, high = growth.interval
    if low > expected + NEAR:
        return FASTER
    if high < expected - NEAR:
        return NO_FASTER if cost == "memory" else SLOWER
    if high - low > _TELLING:
        return UNDECIDED
    if cost == "memory":
        return NO_FASTER
    return HOLDS if low <= expected <= high else NEARLY


def middle(growth: Growth) -> float:
    """The length in the middle, by ratio, of those that the last exponent is of."""
    return math.sqrt(growth.start * growth.lengths[1])


def measured(growth: Growth) -> str:
    """`N^1.04 [1.01, 1.07] above 4,096`; without "above" where one exponent holds for all lengths."""
    low, high = growth.interval
    above = f" above {_round(growth.start):,}" if growth.start > growth.lengths[0] else ""
    return f"N^{growth.exponent:.2f} [{low:.2f}, {high:.2f}]{above}"


def course(growth: Growth) -> str:
    """Return the regimes from the shortest length on: `overhead floor to 512, then linear`."""
    edges = [growth.lengths[0], *growth.breaks, growth.lengths[1]]
    named = [_regime(exponent, interval, math.sqrt(edges[i] * edges[i + 1]))
             for i, (exponent, interval) in enumerate(zip(growth.exponents, growth.intervals, strict=True))]
    if growth.kind == "floor":
        if growth.start == growth.lengths[0]:
            return f"{named[1]}, an overhead beside it"
        named[0] = "overhead floor"
    return ", then ".join([*(f"{name} to {_round(edge):,}" for name, edge in zip(named, growth.breaks, strict=False)),
                           named[-1]])


def sentence(claim: str, growth: Growth, cost: str) -> str:
    """`claims O(N), measured N^1.04 [1.01, 1.07] above 4,096: nearly holds`."""
    word = verdict(claim, growth, cost)
    return f"claims O({claim}), measured {measured(growth)}: {word}" if word else f"measured {measured(growth)}"


def _regime(exponent: float, interval: tuple[float, float], tokens: float) -> str:
    """The name of the nearest known growth that the interval does not exclude by more than `NEAR`, or the power."""
    if exponent < _FLOOR:
        return "overhead floor"
    names = {"linear": 1.0, "quadratic": 2.0, "N log N": 1 + 1 / math.log(max(tokens, math.e))}
    low, high = interval
    near = {name: abs(exponent - value) for name, value in names.items() if low - NEAR <= value <= high + NEAR}
    if "linear" in near and "N log N" in near:  # told apart only where the interval excludes one of them
        del near["linear" if low > 1 and low <= names["N log N"] <= high else "N log N"]
    return min(near, key=lambda name: near[name]) if near and high - low <= _TELLING else f"N^{exponent:.2f}"


def _round(tokens: float) -> int:
    """Two digits that count: a break is not known better."""
    digits = max(0, math.floor(math.log10(max(tokens, 1))) - 1)
    return int(round(tokens / 10**digits) * 10**digits)
