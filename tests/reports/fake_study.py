"""Records that look like those of real studies, and views to show them in."""

from __future__ import annotations

from typing import Any

from reports import fake_records

from softbench.records import Record
from softbench.records.views import Dots, Heatmap, Lines, Rows, Scatter

METHODS = {"newton": 2.0, "scaled": 3.5, "nystromformer": 1.6, "cholesky": 60.0}
FAMILIES = {"spread": 10.0, "smooth": 3e4, "photographs": 5e3, "constant": 1e9}
NORMS = ("residual_ava", "residual_iav", "error_v")
SIZES = (16, 49, 64, 144)

SUMMARY = Rows(name="summary", title="How far each inverse is from the true one after 20 iterations.",
               by=("family", "method"), quantities=(*NORMS, "iterations", "seconds"), pareto=("error_v", "seconds"),
               among=("family",), where={"dtype": "float32"},
               words={"residual_ava": "AVA-A", "residual_iav": "I-AV", "error_v": "V-inv", "seconds": "time"},
               note="Norms are relative to that of A.")
COURSES = Lines(name="residuals", title="Residuals of each iteration", quantities=NORMS, trace=True, series="method",
                panels="family", level=1e-3, limits=(1e-12, 1e3), where={"dtype": "float32"},
                words={"residual_ava": "|AVA - A| / |A|", "residual_iav": "|I - AV| / sqrt(m)",
                       "error_v": "|V - inv| / |inv|"})
HEAT = Heatmap(name="iterations", title="Iterations until |I - AV| is below 0.001", quantity="iterations",
               x="condition", y="dtype", panels="method", log=True)
PARETO = Scatter(name="pareto", title="Error against time", x="seconds", y="error_v", series="method", panels="family",
                 where={"dtype": "float32"}, words={"seconds": "time", "error_v": "error of the inverse"})

ERRORS = Rows(name="errors", title="Relative errors of each attention.", by=("inputs", "attention", "m"),
              quantities=("error_output", "error_matrix", "floor", "latency", "memory"),
              pareto=("error_output", "latency"), among=("inputs",),
              words={"error_output": "output", "error_matrix": "matrix", "latency": "time"})
AGAINST_M = Lines(name="error_by_m", title="Error of the output against the number of landmarks or features",
                  quantities=("error_output",), x="m", series="attention", panels="inputs", log_x=True,
                  reference="floor", reference_by="against", words={"m": "landmarks or features m",
                                                                    "floor": "best possible"})
AGAINST_TIME = Scatter(name="error_by_time", title="Error against time; numbers are m", x="latency", y="error_output",
                       series="attention", point="m", panels="inputs")
CHOICES = Dots(name="choices", title="Error by the choice of landmarks", quantity="error_choice", y="sampling",
               series="attention", panels="inputs", log_x=True)


def observation(measure: str, quantity: str, value: float | None, *, unit: str = "1", **changed: Any) -> Record:
    """A record as a study makes it: one number that names its task among the coordinates."""
    coords = {"task": "a task"} | changed.pop("coords", {})
    fields: dict[str, Any] = {
        "quantity": quantity, "value": value, "unit": unit, "samples": [], "detail": {}, "coords": coords,
        "dtype": "float64"} | dict.fromkeys(("attention", "label", "impl", "heads", "rows", "cols", "head_dim"))
    return fake_records.record(measure, **(fields | changed))


def inverse() -> list[Record]:
    """A study of matrix inverses: courses of iterations, one that diverges, one that never runs in half precision."""
    found = []
    for family, condition in FAMILIES.items():
        for dtype, eps in (("float32", 1e-7), ("float16", 1e-3)):
            for method, speed in METHODS.items():
                about: dict[str, Any] = {"dtype": dtype, "coords": {
                    "family": family, "method": method, "condition": condition, "task": f"{method}, {family}, {dtype}"}}
                if (dtype, method) == ("float16", "cholesky"):
                    found.append(observation("pinv", "iterations", None, status="unsupported",
                                             note="no Cholesky in half precision", **about))
                    continue
                for number, norm in enumerate(NORMS):
                    trace: list[float | None] = [
                        max(eps, 1 - 0.1 ** (number + 1) if speed**i < condition else 0.3 ** (2 ** min(
                            i - _needed(speed, condition), 6))) / 10**(2 - number) for i in range(21)]
                    if (family, method) == ("constant", "nystromformer"):
                        trace = [10.0 ** (i - 2) if i < 12 else None for i in range(21)]
                    last = trace[-1]
                    found.append(observation("pinv", norm, last, status="diverged" if last is None else "ok",
                                             detail={"trace": trace}, **about))
                needed = _needed(speed, condition)
                doubt = {"status": "diverged", "note": "not converged in 20 iterations"} if needed > 20 else {}
                found.append(observation("pinv", "iterations", float(min(needed, 20)), **doubt, **about))
                found.append(observation("pinv", "seconds", 2e-5 * (1 + min(needed, 20)) if speed < 9 else 1.6e-4,
                                         unit="s", **about))
    return found


def _needed(speed: float, condition: float) -> int:
    return next(i for i in range(99) if speed**i >= condition) + 3


def errors() -> list[Record]:
    """A study of approximations: means with intervals, floors, one attention that has no number."""
    found = []
    for family, hard in (("normal", 0.9), ("structured", 0.3), ("image", 0.15)):
        for attention, factor in (("soft", 1.6), ("performer", 2.2), ("nystromformer", 1.3), ("linformer", 0.0)):
            against = "gaussian" if attention == "soft" else "softmax"
            for m in SIZES:
                about: dict[str, Any] = {"attention": attention, "label": attention, "dtype": "float32", "rows": 32,
                                         "cols": 32, "heads": 8, "head_dim": 64, "options": {"size": m}, "coords": {
                                             "inputs": family, "m": m, "against": against,
                                             "task": f"{attention} {family} {m}"}}
                floor = hard * 0.5 * (16 / m) ** 0.7 * (1.2 if against == "softmax" else 1.0)
                if attention == "linformer":
                    found.append(observation("approx_error", "error_output", None, status="unsupported",
                                             note="its projection is learned; random weights mean nothing", **about))
                    continue
                for quantity, scale in (("error_output", 1.0), ("error_matrix", 1.4)):
                    value = floor * factor * scale
                    interval = [value * 0.93, value * 1.07]
                    found.append(observation("approx_error", quantity, value, samples=interval,
                                             detail={"ci95": interval}, **about))
                found.append(observation("approx_error", "floor", floor, **about))
                found.append(observation("approx_error", "latency", 1e-3 * factor * m**0.5, unit="s", **about))
                found.append(observation("approx_error", "memory", 32768.0 * m * factor, unit="B", **about))
        for number, sampling in enumerate(("avg", "conv", "random", "first", "strided", "kmeans", "rpcholesky")):
            for attention in ("soft", "soft_norm"):
                value = hard * (0.6 - 0.07 * number) * (1.2 if attention == "soft" else 1.0)
                found.append(observation(
                    "approx_error", "error_choice", value, attention=attention, label=attention,
                    detail={"ci95": [value * 0.9, value * 1.1]}, coords={"inputs": family, "sampling": sampling}))
    return found


def lost(measure: str = "pinv", task: str = "newton, huge", note: str = "RuntimeError: broken") -> Record:
    """A task that gave no result."""
    return observation(measure, "error_v", None, status="failed", note=note, detail={"whole_task": True},
                       coords={"task": task})
