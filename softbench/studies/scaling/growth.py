"""How a cost grows with N, with intervals: a continuous line of up to three pieces in log-log, or a floor and a power.

With x = ln N and z = ln cost, the candidates are

    pieces   z = b + s_1 x + sum_k (s_k+1 - s_k) max(0, x - t_k)     0, 1 or 2 breaks t_k, at least 4 lengths a piece
    floor    cost = a + c N^p                                        an overhead that does not grow, and a power

each by least squares in z, that is, in relative errors. The one with the smallest n ln(RSS / n) + q ln n is kept
(Schwarz's criterion); q counts the parameters, a break three times: its place, its change of slope, and that the place
was searched for. RSS / n has a floor of 1e-6: what bends a line by a thousandth is not looked for.

The interval of the last exponent is Student's t on the linearised regression, the places of breaks among its
parameters (Muggeo, Statistics in Medicine 22, 2003, section 2.2). That the residuals of the lengths are independent and
about normal is assumed; how a length's own samples scatter is not used, as what differs between lengths is more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

FEWEST = 3  # lengths
_PER_PIECE = 4
_PLACES = 8  # that are tried for a break between two lengths
_RESOLUTION = 1e-6  # of RSS / n
_LEAST_BEND = 0.15  # change of slope that counts as a break
_REACHED = 2 / 3  # share of the power in a + c N^p at the largest N, below which p would be a guess
_BEGUN = 0.1  # share of the floor at the smallest N, below which there is none to speak of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """A fitted curve: `kind` is "pieces" or "floor".

    Attributes:
        breaks: lengths at which the exponent changes; of a floor, where it is as large as the power.
        exponents: of the pieces in order; of a floor, 0 and the power's.
        intervals: 95 % intervals of the exponents.
        scatter: standard deviation of the relative residuals.
        lengths: the smallest and the largest N of the fit, and count: how many there were.
    """

    kind: str
    breaks: tuple[float, ...]
    exponents: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    scatter: float
    lengths: tuple[float, float]
    count: int
    _parameters: Array
    _covariance: Array
    _t: float

    @property
    def exponent(self) -> float:
        """Of the last piece."""
        return self.exponents[-1]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the last exponent."""
        return self.intervals[-1]

    @property
    def start(self) -> float:
        """The length from which on the last exponent holds; the shortest one, where that is all of them."""
        return max(self.lengths[0], *self.breaks) if self.breaks else self.lengths[0]

    def cost(self, tokens: float) -> float:
        """The fitted cost at a length, within the measured ones or beyond."""
        return float(np.exp(_SHAPES[self.kind](np.log([tokens]), self._parameters)[0][0]))

    def cost_interval(self, tokens: float) -> tuple[float, float]:
        """95 % interval of the fitted cost there; beyond the lengths measured it supposes that the growth goes on."""
        z, slopes = _SHAPES[self.kind](np.log([tokens]), self._parameters)
        half = self._t * math.sqrt(max(0.0, float((slopes @ self._covariance @ slopes.T)[0, 0])))
        return math.exp(z[0] - half), math.exp(z[0] + half)


def fit(tokens: Sequence[float], costs: Sequence[float]) -> Growth:
    """The growth of positive costs over ascending lengths.

    Raises:
        ValueError: fewer than 3 lengths, or a cost that is not positive.
    """
    if len(tokens) < FEWEST or min(costs) <= 0:
        raise ValueError(f"a slope needs {FEWEST} lengths of positive cost")
    x, z = np.log(np.asarray(tokens, float)), np.log(np.asarray(costs, float))
    fits = [_pieces(x, z, breaks) for breaks in range(3) if len(x) >= _PER_PIECE * (breaks + 1) or not breaks]
    fits += [_floor(x, z)] if len(x) > _PER_PIECE else []
    _, kind, parameters = min((one for one in fits if one is not None), key=lambda one: one[0])
    return _growth(kind, parameters, x, z)


_Candidate = tuple[float, str, Array]  # criterion, kind, parameters


def _criterion(residuals: Array, penalised: int) -> float:
    n = len(residuals)
    return n * math.log(float(residuals @ residuals) / n + _RESOLUTION) + penalised * math.log(n)


def _growth(kind: str, parameters: Array, x: Array, z: Array) -> Growth:
    fitted, slopes = _SHAPES[kind](x, parameters)
    freedom = len(x) - len(parameters)
    residuals = z - fitted
    variance = float(residuals @ residuals) / max(1, freedom)
    covariance = variance * np.linalg.pinv(slopes.T @ slopes)
    t = float(stdtrit(max(1, freedom), 0.975))
    if kind == "floor":
        overhead, constant, power = parameters
        breaks = [(overhead - constant) / power]
        weights = [np.zeros(3), np.array([0.0, 0.0, 1.0])]
    else:
        breaks = list(parameters[3::2])
        weights = [np.array([float(i == 1 or (i >= 2 and i % 2 == 0 and i < 2 + 2 * piece))
                             for i in range(len(parameters))]) for piece in range(len(breaks) + 1)]
    exponents = [float(w @ parameters) for w in weights]
    halves = [t * math.sqrt(max(0.0, float(w @ covariance @ w))) for w in weights]
    return Growth(kind, tuple(float(np.exp(b)) for b in breaks), tuple(exponents),
                  tuple((e - h, e + h) for e, h in zip(exponents, halves, strict=True)), math.sqrt(variance),
                  (float(np.exp(x[0])), float(np.exp(x[-1]))), len(x), parameters, covariance, t)


def _line(x: Array, parameters: Array) -> tuple[Array, Array]:
    """Values of (b, s_1, change_1, t_1, change_2, t_2) at x, and their derivatives by the parameters."""
    columns = [np.ones_like(x), x]
    for change, place in zip(parameters[2::2], parameters[3::2], strict=True):
        columns += [np.maximum(0.0, x - place), -change * (x > place)]
    slopes = np.stack(columns, 1)  # [n, parameters]
    linear = [0, 1, *range(2, len(parameters), 2)]
    return slopes[:, linear] @ parameters[linear], slopes


def _overhead(x: Array, parameters: Array) -> tuple[Array, Array]:
    """Return values of ln(e^overhead + e^(constant + power x)), and their derivatives."""
    overhead, constant, power = parameters
    z = np.logaddexp(overhead, constant + power * x)
    share = np.exp(constant + power * x - z)
    return z, np.stack([1 - share, share, share * x], 1)


_SHAPES = {"pieces": _line, "floor": _overhead}


def _pieces(x: Array, z: Array, breaks: int) -> _Candidate | None:
    """Return the best line with so many breaks; None where one of them hardly bends it."""
    if not breaks:
        slope, constant = np.polyfit(x - x.mean(), z, 1)
        parameters = np.array([constant - slope * x.mean(), slope])
    else:
        places = _search(x, z, breaks)
        linear = _solve(x, z, places[None])[0][0]
        parameters = np.array([*linear[:2], *itertools.chain(*zip(linear[2:], places, strict=True))])
        if np.abs(linear[2:]).min() < _LEAST_BEND:
            return None
    return _criterion(z - _line(x, parameters)[0], 2 + 3 * breaks), "pieces", parameters


def _search(x: Array, z: Array, breaks: int) -> Array:
    """Return the places of the breaks, by trying all on a grid, and then on a finer one around the best."""
    gaps = [x[i] + (x[i + 1] - x[i]) * (np.arange(_PLACES) + 0.5) / _PLACES for i in range(len(x) - 1)]
    ends = [(chosen, np.diff([0, *(i + 1 for i in chosen), len(x)]))
            for chosen in itertools.combinations(range(len(x) - 1), breaks)]
    tried = [combination for chosen, sizes in ends if sizes.min() >= _PER_PIECE
             for combination in itertools.product(*(gaps[i] for i in chosen))]
    places = np.array(tried)  # [tried, breaks]
    best = places[_solve(x, z, places)[1].argmin()]
    around = np.linspace(-1, 1, 2 * _PLACES + 1) * float(np.diff(x).max()) / _PLACES / 2
    finer = best + np.array(list(itertools.product(around, repeat=breaks)))
    return finer[_solve(x, z, finer)[1].argmin()]


def _solve(x: Array, z: Array, places: Array) -> tuple[Array, Array]:
    """Least squares for each row of places: coefficients [tried, 2 + breaks] and sums of squares [tried]."""
    middle = x.mean()
    bends = np.maximum(0.0, x[None, :, None] - places[:, None, :])  # [tried, n, breaks]
    same = np.broadcast_to(np.stack([np.ones_like(x), x - middle], 1), (len(places), len(x), 2))
    design = np.concatenate([same, bends], 2)
    coefficients = np.linalg.solve(design.mT @ design, (design.mT @ z)[..., None])[..., 0]
    residuals = z - np.einsum("tnp,tp->tn", design, coefficients)
    coefficients[:, 0] -= coefficients[:, 1] * middle
    return coefficients, (residuals**2).sum(1)


def _floor(x: Array, z: Array) -> _Candidate | None:
    """The best overhead below a power, by Gauss-Newton steps from the best of a grid; None where it is not one."""
    powers, shares = np.linspace(0.3, 3.0, 28), np.linspace(-6.0, 6.0, 25)  # ln of floor over power at the middle
    middle = x.mean()
    shapes = np.logaddexp(shares[:, None, None], powers[None, :, None] * (x - middle))  # [shares, powers, n]
    constants = (z - shapes).mean(2, keepdims=True)
    row, column = np.unravel_index(((z - shapes - constants) ** 2).sum(2).argmin(), shapes.shape[:2])
    constant, power = float(constants[row, column, 0]), float(powers[column])
    parameters = np.array([constant + shares[row], constant - power * middle, power])
    least = np.inf
    for _ in range(50):
        fitted, slopes = _overhead(x, parameters)
        squares = float(((z - fitted) ** 2).sum())
        if not squares < least * (1 - 1e-10):
            break
        least, kept = squares, parameters
        parameters = parameters + np.linalg.lstsq(slopes, z - fitted, rcond=None)[0]
    parameters = kept
    shares_of_power = _overhead(x, parameters)[1][:, 1]
    if shares_of_power[0] > 1 - _BEGUN or shares_of_power[-1] < _REACHED or parameters[2] < _LEAST_BEND:
        return None
    return _criterion(z - _overhead(x, parameters)[0], 3), "floor", parameters
