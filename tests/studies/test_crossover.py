"""Where one attention overtakes another: the search and its interval on costs whose crossing is known."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats
from studies.fake_costs import Cost, Fake, crossing, out_of_memory, power, search

from softbench.compare import rule
from softbench.studies._over_n.grids import Grids
from softbench.studies.crossover.answer import Answer, conclude
from softbench.studies.crossover.location import fieller, locate, over_processes
from softbench.studies.crossover.search import AHEAD, ATTENTION, BASELINE, BEHIND, UNDECIDED, Bracket, Probe, Stopped

LINEAR, SQUARE = power(1e-6, 1), power(1e-9, 2)  # they cross at 1,000
WAVY: Cost = lambda n: 2 + math.sin(1.1 * math.log2(n))  # noqa: E731


def answer(meter: Fake, **more: float) -> Answer:
    return conclude(search(meter, **more), "softmax")  # type: ignore[arg-type]


@pytest.mark.parametrize("exponents", [(1, 2), (1, 1.5), (1.5, 2), (0, 1)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_the_crossing_of_two_powers_is_found_within_five_per_cent(exponents: tuple[float, float],
                                                                  noise: float) -> None:
    truth = 777.0
    ours, theirs = power(1e-6, exponents[0]), power(1e-6 * truth ** (exponents[0] - exponents[1]), exponents[1])
    found = answer(Fake(ours, theirs, noise))
    assert found.kind == "crossing"
    assert found.tokens == pytest.approx(truth, rel=0.05)
    assert found.interval is not None
    low, high = found.interval
    assert low <= found.tokens <= high
    assert found.words == f"{found.tokens:,.0f} [{low:,.0f}, {high:,.0f}]"


@pytest.mark.parametrize(("attention", "baseline", "noise", "luck"), [
    (LINEAR, SQUARE, 0.05, 0.0), (LINEAR, SQUARE, 0.02, 0.02),
    (power(1e-6, 1, 1e-3), power(1e-9, 2, 5e-5), 0.05, 0.03),
    (power(1e-6, 1, 1e-3), power(1e-9, 2, 5e-5), 0.01, 0.0)], ids=["rounds", "luck", "curved with luck", "curved"])
def test_the_interval_holds_the_crossing_about_95_times_in_100(attention: Cost, baseline: Cost, noise: float,
                                                               luck: float) -> None:
    """`luck` is what all rounds of a probe share: rounds alone would promise too much."""
    truth, trials = crossing(attention, baseline), 250
    found = [answer(Fake(attention, baseline, noise, luck, seed=seed)) for seed in range(trials)]
    intervals = [one.interval for one in found if one.interval]
    assert len(intervals) == trials
    inside = sum(low <= truth <= high for low, high in intervals) / trials
    assert inside >= 0.93
    widths = sorted(math.log(high / low) for low, high in intervals)
    assert 0.01 < widths[trials // 2] < 0.2  # an interval of everything would hold it too


@pytest.mark.parametrize(("attention", "baseline"), [
    (LINEAR, SQUARE), (power(1e-6, 1, 1e-3), power(1e-9, 2, 5e-5))], ids=["powers", "curved"])
@pytest.mark.parametrize(("noise", "luck"), [(0.05, 0.0), (0.02, 0.02)])
def test_what_a_process_keeps_for_its_life_is_in_the_interval(attention: Cost, baseline: Cost, noise: float,
                                                              luck: float) -> None:
    """Luck of 3 % that all probes of a process share: one process knows nothing of it, five hold the truth."""
    truth, trials, held = crossing(attention, baseline), 120, {}
    for processes in (1, 3, 5):
        found = [answer(Fake(attention, baseline, noise, luck, 0.03, seed), processes=processes)
                 for seed in range(trials)]
        intervals = [one.interval for one in found if one.interval]
        assert len(intervals) == trials
        held[processes] = sum(low <= truth <= high for low, high in intervals) / trials
    assert held[1] < 0.7
    assert held[3] >= 0.92
    assert held[5] >= 0.92
    widths = sorted(math.log(high / low) for low, high in intervals)
    assert widths[trials // 2] < 0.1  # of five processes


def test_the_probes_of_the_line_are_measured_in_every_process() -> None:
    meter = Fake(LINEAR, SQUARE, 0.02)
    found = search(meter, processes=3)
    (bracket,) = found.brackets
    lengths = {p.tokens for p in found.around(bracket)}
    assert len(lengths) >= 7
    assert [set(line) for line in found.again] == [lengths, lengths]
    assert {len(rounds) for line in found.again for rounds in line.values()} == {4}
    assert meter.processes == 3
    assert [c.processes for c in conclude(found, "softmax").crossings] == [3]
    assert answer(Fake(LINEAR, SQUARE, exact=True), processes=3).crossings[0].processes == 1


@pytest.mark.parametrize(("status", "ended", "said"), [
    ("oom", False, "in 2 of 4 processes: oom, no memory"),
    ("timeout", True, "in 2 of 4 processes: the budget was over"),
    ("timeout", False, "in 2 of 4 processes: timeout, no memory")])
def test_a_process_that_gives_nothing_is_told(monkeypatch: pytest.MonkeyPatch, status: str, ended: bool,
                                              said: str) -> None:
    meter, real, left = Fake(LINEAR, SQUARE, 0.02), Fake.again, [9.0]

    def again(self: Fake, *arguments: Any) -> list[list[float]]:
        if self.processes == 2:
            left[0] = 0.0 if ended else 9.0
            raise Stopped(ATTENTION, status, "no memory")
        return real(self, *arguments)

    monkeypatch.setattr(Fake, "again", again)
    found = search(meter, left=lambda: left[0], processes=4)
    assert found.ended is ended
    told = conclude(found, "softmax")
    assert (told.kind, told.note, told.crossings[0].processes) == ("crossing", said, 2)


def test_crossings_near_each_other_share_the_further_processes() -> None:
    """Narrowing the first puts probes around the second, which all processes must have measured too."""
    ours: Cost = lambda n: math.exp(0.8 * math.log(n / 200) * math.log(n / 330))  # noqa: E731
    found = search(Fake(ours, lambda n: 1.0, 0.02), processes=5)
    assert len(found.brackets) == 2
    told = conclude(found, "softmax")
    assert told.kind == "several"
    assert [(c.rising, c.processes) for c in told.crossings] == [(False, 5), (True, 5)]
    assert [c.tokens for c in told.crossings] == [pytest.approx(200, rel=0.05), pytest.approx(330, rel=0.05)]


def test_a_budget_that_is_over_before_any_further_process_says_so() -> None:
    full = Fake(LINEAR, SQUARE, 0.02)
    search(full)
    meter = Fake(LINEAR, SQUARE, 0.02)
    told = conclude(search(meter, left=lambda: 9.0 if len(meter.asked) < len(full.asked) - 2 else 0.0, processes=4),
                    "softmax")
    assert "in 1 of 4 processes: the budget was over" in told.note
    assert told.crossings[0].processes == 1


def test_an_interval_that_reaches_beyond_all_numbers_ends_with_the_lengths() -> None:
    """Two processes whose mean slope is just significant."""
    tokens = (600, 800, 900, 1100, 1400)
    xs = [math.log(n) for n in tokens]
    centre, apart = statistics.fmean(xs), math.sqrt((1 - 1e-5) / float(stats.t.ppf(0.975, 1)) ** 2)
    lines = [{n: [0.1 - slope * (x - centre)] for n, x in zip(tokens, xs, strict=True)}
             for slope in (1 - apart, 1 + apart)]
    probes = [Probe((1, n), AHEAD, lines[0][n], rule.paired(lines[0][n])) for n in tokens]
    found = locate(Bracket(900, 1100), probes, Grids(64, 16384), exact=False, again=lines[1:])
    assert found.fitted == 5
    assert 64 < found.low < found.tokens < found.high == pytest.approx(16384)


def test_the_budget_ends_before_the_next_process() -> None:
    full = Fake(LINEAR, SQUARE, 0.02)
    search(full)
    meter = Fake(LINEAR, SQUARE, 0.02)
    found = search(meter, left=lambda: 1e9 if len(meter.asked) < len(full.asked) + 1 else 0.0, processes=4)
    assert found.ended
    assert conclude(found, "softmax").note == "in 2 of 4 processes: the budget was over"


def test_an_exact_cost_gives_neighbouring_grids() -> None:
    found = answer(Fake(LINEAR, power(1e-9 / 1.0035, 2), exact=True), resolution=0.0)
    assert found.interval is not None
    low, high = found.interval
    assert low < 1003.5 < high
    grids = Grids(64, 16384)
    assert grids.nearest(math.sqrt(low * high), above=low, below=high) is None


def test_always_and_never() -> None:
    for noise in (0.0, 0.05):
        always = answer(Fake(power(1, 1), power(2, 1), noise))
        assert (always.kind, always.words, always.tokens) == ("always", "always", 64)
        never = answer(Fake(power(2, 1), power(1, 1), noise))
        assert (never.kind, never.words, never.tokens) == ("never", "never up to 16,384", 16384)


def test_an_attention_that_falls_behind_is_said_to_win_only_below() -> None:
    found = answer(Fake(SQUARE, LINEAR, 0.02))
    assert found.kind == "until"
    assert found.words.startswith("only up to ")
    assert found.tokens == pytest.approx(1000, rel=0.05)


def test_a_baseline_that_runs_out_of_memory_first_is_overtaken_there() -> None:
    meter = Fake(power(2, 1), power(1, 1), 0.02, fails=out_of_memory(BASELINE, 3000))
    found = answer(meter)
    assert found.kind == "baseline_oom"
    assert 3000 < (found.tokens or 0) <= 3000 * 1.1
    assert found.words == f"softmax out of memory first, at {found.tokens:,}"
    assert max(meter.asked) == 4096  # nothing longer is tried


def test_a_crossing_before_the_baseline_runs_out_of_memory_is_found() -> None:
    found = answer(Fake(LINEAR, SQUARE, 0.02, fails=out_of_memory(BASELINE, 1500)))
    assert found.kind == "crossing"
    assert found.tokens == pytest.approx(1000, rel=0.05)
    assert "softmax out of memory at" in found.note


def test_an_attention_that_runs_out_of_memory_is_judged_up_to_there() -> None:
    found = answer(Fake(power(2, 1), power(1, 1), fails=out_of_memory(ATTENTION, 3000)))
    assert (found.kind, found.words) == ("never", "never up to 1,024")
    assert "it out of memory at 4,096" in found.note
    nowhere = answer(Fake(LINEAR, SQUARE, fails=lambda tokens: (ATTENTION, "unsupported")))
    assert (nowhere.kind, nowhere.status, nowhere.tokens) == ("unsupported", "unsupported", None)
    assert nowhere.note == "as the test wants it"


def test_several_crossings_are_all_told() -> None:
    found = answer(Fake(WAVY, lambda n: 2.0, 0.01), points=12)
    assert found.kind == "several"
    assert found.words.startswith("several: from ")
    assert ", up to " in found.words
    truths = [2 ** (k * math.pi / 1.1) for k in (3, 4)]  # within 64 to 16,384, where the sine is 0
    assert [c.tokens for c in found.crossings] == [pytest.approx(t, rel=0.05) for t in truths]
    assert [c.rising for c in found.crossings] == [False, True]
    assert all(c.fitted >= 7 for c in found.crossings)


def test_a_length_that_says_the_opposite_of_a_single_crossing_is_told() -> None:
    """A window whose side divides a length may win there long before it wins elsewhere."""
    plain = answer(Fake(LINEAR, SQUARE, 0.01))
    assert plain.kind == "crossing"
    assert plain.note == ""
    meter = Fake(LINEAR, SQUARE, 0.01)
    search(meter)
    lucky = min(tokens for tokens in meter.asked if 600 < tokens < 900)
    found = answer(Fake(lambda n: LINEAR(n) / (2 if n == lucky else 1), SQUARE, 0.01))
    assert (found.kind, found.note) == ("crossing", f"costs less at {lucky:,} all the same")


def test_exactly_equal_costs_are_told() -> None:
    found = answer(Fake(lambda n: max(LINEAR(n), SQUARE(n)), SQUARE, exact=True))
    assert found.kind == "at_least"
    assert "exactly as much at " in found.note
    assert "16,384" in found.note


def test_equal_costs_are_inconclusive() -> None:
    found = answer(Fake(SQUARE, SQUARE, 0.02))
    assert (found.kind, found.status, found.tokens) == ("inconclusive", "inconclusive", None)
    assert "cannot be told apart from 64 to 16,384 tokens" in found.note


def test_a_sign_that_is_undecided_at_an_end_bounds_the_crossing() -> None:
    low = answer(Fake(lambda n: 1.0, lambda n: 1.0 if n < 100 else 2.0, 0.005))
    assert low.kind == "at_most"
    assert 100 <= (low.tokens or 0) <= 116
    assert low.words == f"at most {low.tokens:,}"
    high = answer(Fake(lambda n: 2.0 if n < 9000 else 1.0, lambda n: 1.0, 0.005))
    assert high.kind == "at_least"
    assert 9000 / 1.16 <= (high.tokens or 0) <= 9000


def test_noise_does_not_stop_the_search_but_widens_the_interval() -> None:
    quiet, loud = (answer(Fake(LINEAR, SQUARE, noise, seed=3)).interval for noise in (0.01, 0.3))
    assert quiet is not None
    assert loud is not None
    assert loud[1] / loud[0] > 1 + 5 * (quiet[1] / quiet[0] - 1)


def test_rounds_stop_as_soon_as_the_sign_is_decided() -> None:
    found = search(Fake(LINEAR, SQUARE, 0.02), first=4, cap=16)
    counts = {tokens: len(probe.differences) for tokens, probe in found.probes.items()}
    assert counts[64] == counts[16384] == 4
    assert set(counts.values()) <= {4, 8, 16}
    assert all(p.sign in (AHEAD, BEHIND) or len(p.differences) > 4 for p in found.ordered)
    tie = search(Fake(SQUARE, SQUARE, 0.001), margin=math.log(1.02))
    assert {len(p.differences) for p in tie.ordered} == {4}  # within the margin: more rounds are not worth it


def test_a_sign_is_rarely_wrong_beside_a_small_difference() -> None:
    wrong = 0
    for seed in range(400):
        probe = search(Fake(power(1.001, 1), power(1, 1), 0.02, seed=seed), low=64, high=70, points=2).probes[64]
        wrong += probe.sign == AHEAD
    assert wrong <= 400 * 0.04


class _Clock:
    """Time that passes with every look at it."""

    def __init__(self, looks: int) -> None:
        self.looks = itertools.count(looks, -1)

    def __call__(self) -> float:
        return float(next(self.looks))


def test_a_budget_ends_the_search_with_the_bracket_so_far() -> None:
    full = search(Fake(LINEAR, SQUARE, 0.02))
    widths = []
    for looks in (30, 40, 50):
        cut = search(Fake(LINEAR, SQUARE, 0.02), left=_Clock(looks))
        assert cut.ended
        assert len(cut.probes) < len(full.probes)
        found = conclude(cut, "softmax")
        assert "the budget ended the search" in found.note
        assert found.interval is not None
        assert found.interval[0] < 1000 < found.interval[1]
        widths.append(found.interval[1] / found.interval[0])
    assert widths[0] > widths[-1]
    early = conclude(search(Fake(LINEAR, SQUARE, 0.02), left=_Clock(3)), "softmax")
    assert (early.kind, early.words) == ("at_least", "above 64")  # one length is no "never"
    nothing = conclude(search(Fake(LINEAR, SQUARE), left=lambda: 0.0), "softmax")
    assert (nothing.status, nothing.tokens) == ("not_run", None)


def test_a_probe_that_the_budget_cut_short_ends_the_search() -> None:
    for looks in range(1, 90):
        found = search(Fake(SQUARE, SQUARE, 0.2), low=64, high=72, left=_Clock(looks), points=2)
        assert found.ended == (len(found.probes) < 2 or any(len(p.differences) < 16 for p in found.ordered))


def test_a_call_that_takes_too_long_is_the_budget_s_end() -> None:
    slow: Callable[[int], tuple[str, str] | None] = lambda n: (BASELINE, "timeout") if n > 300 else None  # noqa: E731
    cut = search(Fake(LINEAR, SQUARE, fails=slow))
    assert cut.ended
    assert conclude(cut, "softmax").words == "above 256"


def test_fieller_s_interval_is_the_textbook_one() -> None:
    """With equal counts and no lack of fit: zeros of (a + b u)^2 = t^2 s^2 (1 / n + u^2 / S), solved by hand."""
    rounds = [[1.1, 0.9], [0.1, -0.1], [-0.9, -1.1]]
    found = fieller([0.0, 1.0, 2.0], rounds)
    assert found is not None
    zero, low, high = found
    t, s2 = 3.182446, 0.02
    assert zero == pytest.approx(1.0)
    half = math.sqrt(t**2 * s2 / 6 / (1 - t**2 * s2 / 4))
    assert (low, high) == (pytest.approx(1 - half, rel=1e-5), pytest.approx(1 + half, rel=1e-5))
    assert fieller([0.0, 1.0], [[1.0, -1.0], [0.5, -0.6]]) is None  # the slope may be 0
    assert fieller([0.0], [[1.0, 2.0]]) is None


def test_the_interval_over_processes_is_a_t_test_of_their_lines() -> None:
    """At each end of the interval, a t test of what the lines of the processes say there is just significant."""
    xs = [0.0, 1.0, 2.0, 3.0]
    lines = [(1.5, -1.0), (1.2, -0.9), (1.7, -1.05), (1.4, -1.1)]
    found = over_processes(xs, [[level + slope * x for x in xs] for level, slope in lines])
    assert found is not None
    zero, *ends = found
    assert zero == pytest.approx(statistics.fmean(a for a, _ in lines) / -statistics.fmean(b for _, b in lines))
    for end in ends:
        assert stats.ttest_1samp([a + b * end for a, b in lines], 0.0).pvalue == pytest.approx(0.05)
    assert over_processes(xs, [[1 - x for x in xs], [x - 1 for x in xs], [0.5 - x for x in xs]]) is None


def test_lack_of_fit_widens_the_interval() -> None:
    xs = [float(x) for x in range(7)]
    straight = fieller(xs, [[3 - x + e for e in (0.01, -0.01)] for x in xs])
    bumpy = fieller(xs, [[3 - x + 0.2 * (-1) ** int(x) + e for e in (0.01, -0.01)] for x in xs])
    assert straight is not None
    assert bumpy is not None
    assert bumpy[2] - bumpy[1] > 5 * (straight[2] - straight[1])


def test_grids_are_near_squares_on_which_both_run() -> None:
    grids = Grids(64, 16384)
    assert grids.spread(5) == [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)]
    for tokens in (65, 101, 1009, 9973):
        rows, cols = grids.nearest(tokens) or (0, 0)
        assert rows <= cols <= 2 * rows
        assert rows * cols == pytest.approx(tokens, rel=0.02)
    assert grids.nearest(100, above=99, below=101) == (10, 10)
    assert grids.nearest(101, above=100, below=102) is None  # a prime
    sevens = Grids(64, 16384, lambda grid: "" if grid[0] % 7 == 0 == grid[1] % 7 else "no multiple of 7")
    assert sevens.nearest(64) == (7, 14)
    assert all(rows % 7 == 0 == cols % 7 for rows, cols in sevens.spread(6))
    assert Grids(64, 16384, lambda grid: "never").spread(5) == []
    long = Grids(1024, 1 << 26).spread(6)
    assert (long[0], long[-1]) == ((32, 32), (8192, 8192))


def test_no_grid_that_suits_both_is_said() -> None:
    from softbench.studies.crossover.search import Search, Terms

    nowhere = Search(Fake(LINEAR, SQUARE), Grids(64, 128, lambda grid: "no"), Terms(), lambda: 1.0).run()
    found = conclude(nowhere, "softmax")
    assert (found.status, found.note) == ("unsupported", "no grid from 64 to 128 tokens suits both attentions")


@pytest.mark.parametrize("rising", [False, True])
def test_the_bracket_only_ever_closes(rising: bool) -> None:
    found = search(Fake(SQUARE, LINEAR, 0.02) if rising else Fake(LINEAR, SQUARE, 0.02))
    (bracket,) = found.brackets
    assert bracket.rising == rising
    assert len(bracket.course) > 3
    for (low, high), (then_low, then_high) in itertools.pairwise(bracket.course):
        assert low <= then_low < then_high <= high
    assert found.probes[bracket.low or 0].sign == (AHEAD if rising else BEHIND)
    assert found.probes[bracket.high or 0].sign == (BEHIND if rising else AHEAD)
    assert UNDECIDED not in (found.probes[t].sign for t in (64, 256, 4096, 16384))
