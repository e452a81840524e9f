"""The rule's error rates on simulated machines: quiet, drifting, beside a noisy neighbour, and with unequal processes.

A simulated round runs base and head in ABBA order, with several samples in each of the four places; what it gives is
the difference of the log medians, as the real gate takes it. Seeds are fixed, so the rates are facts, not chances.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from softbench.compare import rule

Array = NDArray[np.float64]
SAMPLES, CASES, MARGIN = 5, 30, rule.margin(0.02)


class Machine:
    """Log times of a case whose head is `change` times slower, with the noise of a kind of machine."""

    def __init__(self, kind: str, seed: int, changes: Array) -> None:
        self.kind, self.changes, self.random = kind, changes, np.random.default_rng(seed)
        self.clock = 0

    def __call__(self, cases: list[int], rounds: int) -> list[list[float]]:
        return [list(self._rounds(self.changes[i], rounds)) for i in cases]

    def _rounds(self, change: float, rounds: int) -> Array:
        places = 4 * SAMPLES
        log = 0.01 * self.random.standard_normal((rounds, places))  # [R, 4 n]
        if self.kind == "drift":  # 1 % a round, and a machine that slowly wanders on top of it
            moment = np.arange(rounds * places).reshape(rounds, places) / places
            log += 0.01 * moment + 0.003 * np.cumsum(self.random.standard_normal(rounds * places)).reshape(log.shape)
        if self.kind == "neighbour":  # bursts that last about a round's quarter, a third of the time, 30 % slower
            bursts = np.repeat(self.random.random((rounds, 4)) < 0.33, SAMPLES, axis=1)
            log += bursts * np.abs(0.3 * self.random.standard_normal((rounds, 1)))
        if self.kind == "processes":  # every process has its own luck, which all of its samples share
            luck = 0.01 * self.random.standard_normal((rounds, 2))
            log += luck[:, [0] * SAMPLES + [1] * 2 * SAMPLES + [0] * SAMPLES]
        base = np.concatenate([log[:, :SAMPLES], log[:, -SAMPLES:]], axis=1)
        head = log[:, SAMPLES:-SAMPLES] + np.log1p(change)
        return np.asarray(np.median(head, axis=1) - np.median(base, axis=1))


def verdicts(kind: str, change: float, trials: int, slowed: int = CASES) -> list[list[str]]:
    """The verdicts of all cases of each trial, of which the first `slowed` cases are slower."""
    changes = np.where(np.arange(CASES) < slowed, change, 0.0)
    return [[case.verdict for case in rule.settle(Machine(kind, seed, changes), lambda i: MARGIN, CASES)]
            for seed in range(trials)]


def share(found: list[list[str]], verdict: str, cases: slice = slice(None)) -> float:
    flat = [v for trial in found for v in trial[cases]]
    return flat.count(verdict) / len(flat)


KINDS = ("quiet", "drift", "neighbour", "processes")


@pytest.mark.parametrize("kind", KINDS)
def test_identical_code_is_hardly_ever_called_slower(kind: str) -> None:
    found = verdicts(kind, 0.0, trials=30)  # 900 comparisons
    assert share(found, rule.SLOWER) <= 0.01
    assert share(found, rule.FASTER) <= 0.01
    if kind != "neighbour":
        assert share(found, rule.SAME) >= 0.9


@pytest.mark.parametrize(("kind", "least"), [("quiet", 0.99), ("drift", 0.99), ("processes", 0.99), ("neighbour", 0.5)])
def test_ten_per_cent_slower_is_found(kind: str, least: float) -> None:
    found = verdicts(kind, 0.10, trials=10)
    assert share(found, rule.SLOWER) >= least
    assert share(found, rule.FASTER) == 0.0
    assert share(found, rule.SAME) == 0.0


@pytest.mark.parametrize(("kind", "least"), [("quiet", 0.9), ("drift", 0.9), ("processes", 0.7)])
def test_five_per_cent_slower_is_found(kind: str, least: float) -> None:
    assert share(verdicts(kind, 0.05, trials=10), rule.SLOWER) >= least


def test_one_slow_case_among_thirty_is_found_and_the_others_are_left_alone() -> None:
    found = verdicts("quiet", 0.08, trials=20, slowed=1)
    assert share(found, rule.SLOWER, slice(0, 1)) >= 0.95
    assert share(found, rule.SLOWER, slice(1, None)) <= 0.005


def test_the_share_of_wrong_alarms_keeps_to_q_even_at_the_margin() -> None:
    """Cases whose true change is the margin itself are the hardest null; here every third, beside real slow ones."""
    wrong, all_alarms = 0, 0
    for seed in range(30):
        changes = np.where(np.arange(CASES) % 3 == 0, 0.02, 0.10)
        trial = rule.settle(Machine("quiet", seed, changes), lambda i: MARGIN, CASES)
        alarms = [i for i, case in enumerate(trial) if case.verdict == rule.SLOWER]
        wrong += sum(i % 3 == 0 for i in alarms)
        all_alarms += len(alarms)
    assert wrong / all_alarms <= rule.FALSE_DISCOVERIES


def test_the_page_shows_the_trials_of_a_real_machine() -> None:
    """The other table of docs/regression.md and what is said below it, from the rows of every comparison."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "regression.md").read_text()
    lines = (root / "results" / "gate-trials.csv").read_text().splitlines()
    found = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    shown = re.findall(r"^\| ((?:identical|\d+ % slower)[^|]*?) \| (\d+) \|(.*)\|$", page, re.M)
    assert sorted(trial for trial, *_ in shown) == sorted({row["trial"] for row in found})
    for trial, count, cells in shown:
        rows = [row for row in found if row["trial"] == trial]
        counts = Counter(row["verdict"] for row in rows)
        assert len(rows) == int(count)
        assert [cell.strip() for cell in cells.split("|")] == [
            *(f"{counts[verdict] / len(rows):.1%}".replace("%", " %") for verdict in (
                rule.SLOWER, rule.FASTER, rule.SAME, rule.INCONCLUSIVE)),
            f"{max(float(row['seconds_a_case']) for row in rows):.1f}"]
    quiet = [row for row in found if row["trial"] == "identical"]
    short, others = ([row["verdict"] for row in quiet if (float(row["seconds"]) < 1e-3) == below]
                     for below in (True, False))
    assert (f"{short.count(rule.INCONCLUSIVE)} of the {len(short)} comparisons of calls below 1 ms, and"
            f" {others.count(rule.INCONCLUSIVE)} of the {len(others)} others") in " ".join(page.split())


def test_the_page_shows_these_rates() -> None:
    """The table of docs/regression.md, recomputed."""
    page = (Path(__file__).parents[2] / "docs" / "regression.md").read_text()
    rows = re.findall(r"^\| (quiet|drift|neighbour|processes) \|(.*)\|$", page, re.M)
    assert [kind for kind, _ in rows] == list(KINDS)
    for kind, cells in rows:
        shown = [float(cell.strip(" %")) / 100 for cell in cells.split("|")[-4:]]
        found = [share(verdicts(kind, change, trials=10), rule.SLOWER) for change in (0.0, 0.02, 0.05, 0.10)]
        assert shown == pytest.approx(found, abs=0.006)


def test_a_fixed_limit_on_one_pair_of_runs_would_cry_wolf() -> None:
    """The rule that this one replaces: one run a side, 5 % limit. It shows what the simulated neighbour is worth."""
    machine = Machine("neighbour", 0, np.zeros(1))
    single = np.array(machine([0], 2000)[0])
    assert np.mean(single > np.log(1.05)) > 0.1
