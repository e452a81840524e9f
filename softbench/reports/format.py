"""Numbers for people: SI values become short text, and this is the only place that names "ms", "GiB" or "GMAC".

Three significant digits; whole digits are never rounded away (1,023 KiB stays 1,023 KiB). Only the errors of a study,
which reach from 1 down to 1e-16, are ever written with a power of ten.
A unit changes where the rounded number would reach the next one: 999.6 us is written 1.00 ms.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

MISSING = "n/a"
_TINY = 1e-12

# Unit of a record -> (size, name) of the units it is written in, smallest first.
_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1.0, "s")),
    "B": ((1.0, "B"), (2.0**10, "KiB"), (2.0**20, "MiB"), (2.0**30, "GiB"), (2.0**40, "TiB")),
    "flop": ((1.0, "FLOP"), (1e3, "kFLOP"), (1e6, "MFLOP"), (1e9, "GFLOP"), (1e12, "TFLOP"), (1e15, "PFLOP")),
    "1": ((1.0, ""),),
    "B/s": ((1.0, "B/s"), (1e6, "MB/s"), (1e9, "GB/s"), (1e12, "TB/s")),
    "flop/s": ((1.0, "FLOP/s"), (1e6, "MFLOP/s"), (1e9, "GFLOP/s"), (1e12, "TFLOP/s")),
}

# A number at the start of a cell: its first part, an interval or a second end, a power of ten, and a word behind it.
_WRITTEN = re.compile(r"""(?P<number>[<>]?\(?(?P<first>-?\d[\d,]*(?:\.\d+)?)(?:(?:±|\.\.)-?\d[\d,]*(?:\.\d+)?)?\)?
                          (?:e(?P<power>-?\d+))?!?)[ ]?(?P<unit>[A-Za-z%/]*)""", re.VERBOSE)
_SIZES = {name: size for scales in _SCALES.values() for size, name in scales} | {
    "x": 1.0, "%": 0.01, "MB": 1e6, "GB": 1e9, "image/s": 1.0, "sample/s": 1.0}


def missing(value: Any) -> bool:
    """True where there is no number or text: None, NaN, an infinity, or pandas' NA."""
    if isinstance(value, int | float):
        return not math.isfinite(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def number(value: float | None) -> str:
    """At least three significant digits: 0.0123, 1.50, 12.0, 1,234."""
    if value is None or missing(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(value) < _TINY:
        return f"<{_TINY:.12f}" if value > 0 else f">-{_TINY:.12f}"
    return f"{value:,.{_decimals(value)}f}"


def quantity(value: float | None, unit: str) -> str:
    """A value of a record's unit with the unit that suits its size: 1.23 ms, 4.00 GiB, 68.7 GFLOP."""
    if value is None or missing(value):
        return MISSING
    size, name = _scale(value, unit)
    return f"{number(value / size)} {name}".rstrip()


def span(low: float | None, high: float | None, unit: str) -> str:
    """Two values in the unit of the larger: 1.20..1.31 ms."""
    if low is None or high is None or missing(low) or missing(high):
        return MISSING
    size, name = _scale(max(abs(low), abs(high)), unit)
    return f"{number(low / size)}..{number(high / size)} {name}".rstrip()


def tick(value: float, unit: str) -> str:
    """A round value beside an axis, without trailing zeros: 10 ms, 2.5 GiB."""
    return rounded(quantity(value, unit))


def rounded(written: str) -> str:
    """A number with its unit, without trailing zeros: 2.50 GiB -> 2.5 GiB."""
    text, _, name = written.partition(" ")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {name}".rstrip()


def measured(value: float | None, unit: str) -> str:
    """As `quantity`, with a power of ten where a plain number without a unit hides its size: 0.0123, 2.1e-7."""
    if value is None or missing(value) or unit != "1" or _is_plain(value):
        return quantity(value, unit)
    return _power(value, 1)


def estimate(value: float, half: float, unit: str) -> str:
    """A value and half of its interval, which has at most two digits that count: 0.12±0.04, (2.1±0.3)e-7."""
    if unit == "1" and not _is_plain(value):
        digits, _, exponent = _power(value, 1).partition("e")
        return f"({digits}±{half / 10.0 ** int(exponent):.1f})e{exponent}"
    size, name = _scale(value, unit)
    decimals = len(number(value / size).partition(".")[2])
    if half > 0:
        decimals = max(0, min(decimals, _decimals(half / size) - 1))
    return f"{value / size:,.{decimals}f}±{half / size:,.{decimals}f} {name}".rstrip()


def whole(values: Iterable[float | None]) -> bool:
    """True where these are counts, such as numbers of iterations, or medians of counts; missing ones do not matter."""
    present = [value for value in values if value is not None]
    return any(value > 1 for value in present) and all(float(2 * value).is_integer() for value in present)


def tally(value: float) -> str:
    """A count or a median of counts: 20, 24.5."""
    return f"{value:,.1f}".removesuffix(".0")


def coordinate(value: float) -> str:
    """A number that names a point: 49, 0.01, 1e6."""
    mantissa, e, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def axis(value: float, unit: str) -> str:
    """A round value beside an axis that may span many powers of ten: 1, 0.01, 1e-12, 10 ms."""
    if unit != "1" or value == 0 or 1e-3 <= abs(value) < 1e4:
        return tick(value, unit)
    mantissa, _, exponent = _power(value, 1).partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent}"


def gmac(flop: float | None) -> str:
    """Thousands of millions of multiply-adds, at 2 FLOP each; the unit stands in the column's header."""
    return MISSING if flop is None or missing(flop) else number(flop / 2e9)


def gmac_digits(flop: float) -> str:
    """As `gmac`, to a million multiply-adds: 1.877, 10.956."""
    return f"{flop / 2e9:,.3f}"


def percent(share: float) -> str:
    """A part of one in per cent, to two digits behind the point, as accuracies are compared: 79.30."""
    return f"{100 * share:.2f}"


def decimal_bytes(size: float) -> str:
    """A size in decimal units, as papers print memory: 123 MB, 15.8 GB."""
    scale, name = (1e9, "GB") if size >= 999.5e6 else (1e6, "MB")
    return f"{number(size / scale)} {name}"


def ratio(value: float | None) -> str:
    """1.84x"""
    return MISSING if value is None or missing(value) else f"{number(value)}x"


def share(value: float | None) -> str:
    """A part of one in per cent: 12 %, 0.4 %."""
    if value is None or missing(value):
        return MISSING
    percent = 100 * value
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else f"{percent:.1f} %"


def count(value: int | float | None) -> str:
    """A whole number with separators: 16,384."""
    return MISSING if value is None or missing(value) else f"{int(value):,}"


def tokens(value: int | float) -> str:
    """A token count beside an axis: 16k where k = 1,024 divides it, 3,136 elsewhere."""
    whole = int(value)
    return f"{whole // 1024:,}k" if whole and whole % 1024 == 0 else f"{whole:,}"


def text(value: Any) -> str:
    """Any value as one line of printable text; numbers lose a trailing .0 that pandas gave them."""
    if missing(value):
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    printable = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in str(value))
    return re.sub(r"\s+", " ", printable).strip()


def split(cell: str) -> tuple[str, str, float | None]:
    """Split a cell into its text without the unit, the unit, and its first number in SI units.

    It reads back what the functions here write: "1.15 ms" -> ("1.15", "ms", 0.00115); "539..567 us" -> 539e-6;
    "(2.1±0.3)e-7" -> 2.1e-7; "12.0x [1]" -> (the whole cell, "", 12.0). Of a cell that begins with no number, None.
    """
    match = _WRITTEN.match(cell)
    if not match:
        return cell, "", None
    value = float(match["first"].replace(",", "") + "e" + (match["power"] or "0"))
    unit = match["unit"]
    if unit not in _SIZES:
        return cell, "", value
    rest = cell[match.end():]
    return (cell, "", value * _SIZES[unit]) if rest else (match["number"], unit, value * _SIZES[unit])


def about(value: float) -> str:
    """`about 5,200,000`: two digits that count, for what is not known better."""
    return f"about {count(float(f'{value:.1e}'))}"


# How a quantity is written where a view says more than its unit does; the header names the unit.
FORMS: dict[str, Callable[[float], str]] = {"gmac": gmac_digits, "percent": percent, "count": count,
                                             "bytes": decimal_bytes, "about": about}


def pieces(cell: str) -> list[str]:
    """The parts between which a cell may be broken: behind punctuation or a space, but not within 4,096."""
    return re.findall(r"(?:[^:=,\s-]|(?<=\d),(?=\d))*(?:(?!(?<=\d),(?=\d))[:=,\s-])*", cell)


def wrap(cell: str, width: int) -> list[str]:
    """Pieces of at most `width`, broken behind punctuation or a space where there is one."""
    if len(cell) <= width:
        return [cell]
    lines = [""]
    for piece in pieces(cell):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]


def _is_plain(value: float) -> bool:
    return value == 0 or 1e-3 <= abs(value) < 1e5


def _power(value: float, decimals: int) -> str:
    mantissa, _, exponent = f"{value:.{decimals}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    """The largest unit of which the rounded value is at least one; for zero, the unit itself."""
    scales = _SCALES.get(unit, ((1.0, unit),))
    if value == 0:
        return next(scale for scale in scales if scale[0] == 1.0)
    chosen = scales[0]
    for smaller, larger in pairwise(scales):
        rounded = float(number(abs(value) / smaller[0]).lstrip("<").replace(",", ""))
        if rounded * smaller[0] < larger[0] * (1 - 1e-12):
            break
        chosen = larger
    return chosen


def _decimals(value: float) -> int:
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits > 0 and float(f"{abs(value):.{digits}f}") >= 10.0 ** (3 - digits):
        digits -= 1  # 9.996 rounds up to 10.0, which has one decimal fewer
    return max(digits, 0)
