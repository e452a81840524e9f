"""The store: the baselines and noise floors of machines, one file each, written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softbench import records
from softbench.records import Record

BASELINES, NOISE = Path("results/baseline"), Path("results/doctor")
FLOOR, RUNS, ROUNDS = "noise_floor", "run_noise", "round_noise"  # quantities of the measure "doctor"


def write(folder: Path, rows: Sequence[Record]) -> Path:
    """Put the records in place of what the folder holds for their machine; the file's name is the machine's.

    Raises:
        ResultsError: the folder cannot be written; what was there is kept.
    """
    path = folder / f"{rows[0].environment['machine']}.jsonl"
    records.write_whole(path, "".join(record.to_json() + "\n" for record in rows))
    return path


def noise(folder: Path = NOISE) -> tuple[dict[str, float], dict[str, float]]:
    """By machine: the noise floor of pairs, and the noise from run to run. Empty where the doctor never looked."""
    levels: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for path in sorted(folder.glob("*.jsonl")):
        for record in records.read(path)[0]:
            for place, quantity in enumerate((FLOOR, RUNS)):
                if record.quantity == quantity and record.value is not None:
                    levels[place][str(record.environment.get("machine"))] = record.value
    return levels
