"""Records that look like real runs, for tables and plots to be tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softbench.case import most_square
from softbench.records import Record

ENVIRONMENT = {"machine": "xeon-2c-8g-1a2b3c", "cpu": "Intel Xeon (fake)", "threads": 2, "malloc": "fixed",
               "denormals": "flush", "tf32": False, "torch": "2.10.0", "cuda": None, "commit": "abc"}
LENGTHS = (256, 1024, 4096, 8192, 16384)
IMPL = {"softmax": "sdpa"}


def seconds(attention: str, tokens: int) -> float:
    """Times that grow as those of the real attentions do."""
    return {"softmax": 2e-9 * tokens**2 + 1e-7 * tokens, "soft": 2e-3 + 1.1e-6 * tokens,
            "performer": 6e-4 + 3.1e-6 * tokens}.get(attention, 1e-6 * tokens)


def record(measure: str = "latency", attention: str = "softmax", tokens: int = 1024, **changed: Any) -> Record:
    """One record; anything about it can be changed by keyword."""
    rows, cols = most_square(tokens)
    value = seconds(attention, tokens)
    fields: dict[str, Any] = {
        "measure": measure, "quantity": measure, "value": value, "unit": "s", "status": "ok", "note": "",
        "samples": [value * (1 + 0.02 * step) for step in (-2, -1, 0, 1, 4)],
        "detail": {"calls_per_sample": 1, "foreign_cpu": 0.01},
        "attention": attention, "options": {}, "model": None, "impl": IMPL.get(attention, "eager"), "mode": "forward",
        "batch": 1, "heads": 8, "rows": rows, "cols": cols, "head_dim": 64, "dtype": "float32", "device": "cpu",
        "seed": 0, "coords": {"inputs": "normal"}, "label": attention, "environment": dict(ENVIRONMENT),
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Record(**(fields | changed))


def failed(status: str, **changed: Any) -> Record:
    """A record of a case that has no number."""
    return record(**({"status": status, "value": None, "samples": [], "detail": {}} | changed))


def latency(attentions: Sequence[str] = ("soft", "softmax", "performer"), lengths: Sequence[int] = LENGTHS,
            **changed: Any) -> list[Record]:
    """A run whose baseline is out of memory at the last of several lengths, with one disturbed time."""
    found = []
    for tokens in lengths:
        for attention in attentions:
            if attention == "softmax" and tokens == lengths[-1] and len(lengths) > 1:
                found.append(failed("oom", attention=attention, tokens=tokens, note="needs 8.0 GiB, 2.0 GiB is free",
                                    **changed))
            elif attention == "performer" and tokens == 4096:
                found.append(record(attention=attention, tokens=tokens, detail={"foreign_cpu": 0.123}, **changed))
            else:
                found.append(record(attention=attention, tokens=tokens, **changed))
    return found


def memory(lengths: Sequence[int] = LENGTHS) -> list[Record]:
    """Peak bytes: softmax writes its scores, the others do not."""
    per_token = {"soft": 49 * 8 * 4 * 3, "performer": 256 * 8 * 4 * 2}
    return [record("memory", attention, tokens, quantity="peak_memory", unit="B", detail={},
                   value=float(bytes_), samples=[float(bytes_)])
            for tokens in lengths for attention in ("softmax", "soft", "performer")
            for bytes_ in [2 * 8 * 4 * tokens**2 if attention == "softmax" else per_token[attention] * tokens]]


def flops(lengths: Sequence[int] = (1024, 4096)) -> list[Record]:
    """The three-way count: `soft` has no count by fvcore, and those of `performer` differ and have failed."""
    found = []
    for tokens in lengths:
        counts = {"softmax": 2048.0 * tokens**2, "soft": 3e5 * tokens, "performer": 5e5 * tokens}
        for attention, value in counts.items():
            for counter in ("closed_form", "torch", "fvcore"):
                changed: dict[str, Any] = {"quantity": f"flops_{counter}", "unit": "flop", "value": value,
                                           "samples": [value], "detail": {}}
                if attention == "soft" and counter == "fvcore":
                    changed |= {"status": "unsupported", "value": None, "samples": [],
                                "note": "fvcore: cannot see aten::linalg_inv"}
                if attention == "performer" and tokens == lengths[-1]:
                    changed |= {"status": "failed", "value": None, "note": "the counts differ by more than 1%"}
                found.append(record("flops", attention, tokens, **changed))
    return found


def generic() -> list[Record]:
    """A measure that no report knows: two quantities, in other units."""
    values = {("softmax", 256): (0.0, 1200.0), ("soft", 256): (1.5e-4, 15000.0),
              ("softmax", 1024): (0.0, 70.5), ("soft", 1024): (0.31, 8000.0)}
    found = []
    for (attention, tokens), (error, rate) in values.items():
        found.append(record("quality", attention, tokens, quantity="relative_error", unit="1", value=error,
                            samples=[error], detail={}))
        found.append(record("quality", attention, tokens, quantity="throughput", unit="image/s", value=rate,
                            samples=[rate * 0.9, rate, rate * 1.2], detail={}))
    return found


def models(measure: str = "latency", **changed: Any) -> list[Record]:
    """Whole models at two image sizes and two batches; one has no number at the largest."""
    found = []
    for batch in (1, 8):
        for rows, cols in ((224, 224), (512, 384)):
            for model, attention, value in (("soft-tiny", "soft", 2e-7), ("timm:resnet18", None, 1e-7)):
                seconds = value * batch * rows * cols
                fields: dict[str, Any] = {
                    "attention": attention, "model": model, "label": model, "impl": "eager" if attention else None,
                    "batch": batch, "heads": None, "head_dim": None, "rows": rows, "cols": cols, "value": seconds,
                    "samples": [seconds, 1.1 * seconds], "coords": {"inputs": "normal", "part": "whole"}}
                if (model, batch, rows) == ("timm:resnet18", 8, 512):
                    fields |= {"value": None, "samples": [], "status": "oom", "note": "needs 8.0 GiB", "detail": {}}
                found.append(record(measure, **(fields | changed)))
    return found
