"""The accuracies of Long Range Arena as three sources print them, and as `softbench accuracy` reached them.

The same method moves by twenty points between implementations, so that a number here stands for one of them at most.
Percentages are to one digit behind the point, as our notes of the sources have them.
"""

from __future__ import annotations

from collections.abc import Sequence

from softbench.contracts.study import Finding
from softbench.records import Record

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")
SOURCES = {
    "authors": "README of google-research/long-range-arena, after Tay et al., ICLR 2021",
    "nystromformer": "LRA.png of mlpen/Nystromformer",
    "skyformer": "Chen et al., Skyformer, NeurIPS 2021, Table 1, means of three seeds",
}
_HERE = "here"
# Attention -> source -> per cent on TASKS, a dash where there is none. `gaussian` is called kernelized attention there.
_PRINTED = {
    "softmax": {"authors": "36.4 64.3 57.5 42.4 71.4", "nystromformer": "37.1 65.0 79.4 38.2 74.2",
                "skyformer": "38.4 62.0 80.7 40.6 65.3"},
    "nystromformer": {"nystromformer": "37.2 65.5 79.6 41.6 70.9", "skyformer": "38.5 64.8 80.5 41.3 69.5"},
    "linformer": {"authors": "35.7 53.9 52.3 38.6 76.3", "nystromformer": "37.3 55.9 79.4 37.8 67.6",
                  "skyformer": "37.5 58.9 78.2 38.0 60.9"},
    "performer": {"authors": "18.0 65.4 53.8 42.8 77.1", "nystromformer": "18.8 63.8 78.6 37.1 69.9",
                  "skyformer": "38.0 64.2 80.0 41.4 66.3"},
    "reformer": {"authors": "37.3 56.1 53.4 38.1 68.5", "nystromformer": "19.1 64.9 78.6 43.3 69.4",
                 "skyformer": "37.7 62.9 79.0 48.9 66.5"},
    "linear": {"authors": "16.1 65.9 53.1 42.3 75.3"},
    "bigbird": {"authors": "36.1 64.0 59.3 40.8 74.9"},
    "gaussian": {"skyformer": "38.8 60.2 81.8 41.3 70.7"},
    "skyformer": {"skyformer": "38.7 64.7 82.1 40.8 70.7"},
}


def published() -> list[Finding]:
    """The numbers as printed, a row for each attention and source."""
    return [Finding(quantity=task, value=float(printed) / 100, label=attention, attention=attention,
                    detail={"printed": printed}, coords=_coords(attention, source), quoted=SOURCES[source])
            for attention, sources in _PRINTED.items() for source, numbers in sources.items()
            for task, printed in zip(TASKS, numbers.split(), strict=True)]


def here(answers: Sequence[Record]) -> list[Finding]:
    """The best accuracy of each attention on each task, or that there is none."""
    findings = []
    for attention in _PRINTED:
        for task in TASKS:
            mine = [record for record in answers
                    if record.attention == attention and str(record.coords["data"]).partition(":")[0] == task]
            best = max(mine, key=lambda record: record.value or 0.0, default=None)
            coords = _coords(attention, _HERE)
            findings.append(
                Finding(quantity=task, status="not_run", label=attention, attention=attention, coords=coords)
                if best is None else
                Finding(quantity=task, value=best.value, label=attention, attention=attention, options=best.options,
                        coords=coords, detail={"learned": best.coords["data"], "ci95": best.detail.get("ci95")}))
    return findings


def is_answer(record: Record) -> bool:
    """True for an accuracy on the official files of one of its tasks."""
    name, _, settings = str(record.coords.get("data", "")).partition(":")
    return (record.measure == record.quantity == "accuracy" and record.coords.get("part") == "answer"
            and record.value is not None and name in TASKS
            and any(pair.startswith("data=") for pair in settings.split(":")))


def _coords(attention: str, origin: str) -> dict[str, str]:
    return {"table": "lra", "name": attention, "origin": origin}
