"""Which records are compared with which, what is exact, what is refused, and what an adversary's records come to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from compare import fake_runs as runs
from compare.fake_runs import side, timed
from reports import fake_records as fake

from softbench.compare import verdicts
from softbench.compare.verdicts import Comparison, Row, Terms
from softbench.records import Record
from softbench.reports.tables import comparison
from softbench.stats import median

TERMS = Terms()


def compare(base: list[Record], head: list[Record], terms: Terms = TERMS,
            labels: tuple[str, str] = ("", "")) -> Comparison:
    return verdicts.compare(side(*base, label=labels[0]), side(*head, label=labels[1]), terms)


def only(base: Record, head: Record, terms: Terms = TERMS) -> Row:
    (row,) = compare([base], [head], terms).rows
    return row


def env(**changed: Any) -> dict[str, Any]:
    return fake.ENVIRONMENT | changed


@pytest.mark.parametrize(("factor", "verdict"), [
    (1.0, "same"), (1.2, "slower"), (0.8, "faster"), (1.05, "inconclusive")])
def test_the_four_verdicts_on_times(factor: float, verdict: str) -> None:
    row = only(timed(seed=1), timed(1e-3 * factor, seed=2))
    assert row.verdict == verdict
    assert row.ratio == pytest.approx(factor, rel=0.02)
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.ratio < row.high
    assert (row.units, row.margin) == ("5 rounds", pytest.approx(0.05))


@pytest.mark.parametrize("unit", ["image/s", "sample/s"])
def test_a_rate_that_falls_is_slower(unit: str) -> None:
    def rate(value: float, seed: int) -> Record:
        return timed(value, seed=seed, unit=unit, quantity="throughput")

    row = only(rate(1000, 1), rate(700, 2))
    assert row.verdict == "slower"
    assert row.ratio == pytest.approx(0.7, rel=0.02)
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.ratio < row.high < 0.75
    assert only(rate(700, 1), rate(1000, 2)).verdict == "faster"


def test_samples_of_a_round_are_not_taken_for_independent_units() -> None:
    """Five rounds of a thousand samples are five units: the interval is as wide as with four samples each."""
    few, many = (only(timed(seed=1, each=each, noise=0.05), timed(seed=2, each=each, noise=0.05)) for each in (4, 1000))
    for row in (few, many):
        assert row.units == "5 rounds"
        assert row.verdict == "inconclusive"
    assert many.high is not None
    assert many.low is not None
    assert math.log(many.high / many.low) > 0.08


def test_rounds_that_were_run_in_turn_are_paired() -> None:
    """A drift that both sides share is no difference between them; without the mark they are two separate runs."""
    drift, group = (0.0, 0.1, 0.2, 0.3, 0.4), {"group": "ab12"}
    base = timed(seed=1, noise=0.002, slope=drift, attention="soft", detail=group)
    head = timed(seed=2, noise=0.002, slope=drift, attention="performer", detail=group)
    (row,) = compare([base], [head], labels=("soft", "performer")).rows
    assert (row.verdict, row.units) == ("same", "5 pairs")
    other = timed(seed=2, noise=0.002, slope=drift, attention="performer", detail={"group": "cd34"})
    (row,) = compare([base], [other], labels=("soft", "performer")).rows
    assert (row.verdict, row.units) == ("inconclusive", "5 rounds")


def test_several_runs_a_side_are_the_units() -> None:
    base = [timed(1e-3 * (1 + 0.01 * i), seed=i) for i in range(4)]
    head = [timed(1.3e-3 * (1 + 0.01 * i), seed=9 + i) for i in range(3)]
    (row,) = compare(base, head).rows
    assert (row.verdict, row.units) == ("slower", "3 runs")
    (row,) = compare(base, head[:1]).rows
    assert (row.verdict, row.units) == ("slower", "1 run")


def test_runs_of_two_subjects_that_were_timed_together_are_paired() -> None:
    """What one run differs from the next by is then no difference between the subjects."""
    scatter = (1.0, 1.3, 0.8, 1.1)
    base = [timed(1e-3 * f, seed=i, noise=0.001, detail={"group": f"g{i}"}) for i, f in enumerate(scatter)]
    head = [timed(1.1e-3 * f, seed=9 + i, noise=0.001, detail={"group": f"g{i}"}) for i, f in enumerate(scatter)]
    (row,) = compare(base, head).rows
    assert (row.verdict, row.units) == ("slower", "4 paired runs")
    (row,) = compare(base, head[::-1]).rows
    assert (row.verdict, row.units) == ("inconclusive", "4 runs")
    (row,) = compare(base, head[:3]).rows
    assert row.units == "3 runs"


def test_of_runs_made_by_different_code_only_the_last_ones_count() -> None:
    old = [timed(9e-3, seed=i, environment=env(commit="old")) for i in range(3)]
    new = [timed(1e-3, seed=5 + i, environment=env(commit="new")) for i in range(2)]
    (row,) = compare(old + new, [timed(1e-3, seed=8), timed(1e-3, seed=9)]).rows
    assert row.ratio == pytest.approx(1.0, rel=0.02)
    assert row.units == "2 runs"


def test_runs_in_several_environments_are_cases_of_their_own() -> None:
    one, two = env(threads=1), env(threads=2)
    found = compare([timed(1e-3, environment=one), timed(5e-4, seed=1, environment=two)],
                    [timed(1e-3, seed=2, environment=one), timed(8e-4, seed=3, environment=two)])
    assert [(r.record.environment["threads"], r.verdict) for r in found.rows] == [(2, "slower"), (1, "same")]


@pytest.mark.parametrize(("key", "value"), [("machine", "epyc"), ("threads", 64), ("torch", "2.99"), ("cuda", "13"),
                                            ("malloc", "default"), ("denormals", "keep"), ("tf32", True),
                                            ("cpu_capability", "AVX2")])
def test_times_of_another_environment_are_not_compared(key: str, value: Any) -> None:
    base, head = timed(seed=1), timed(9e-3, seed=2, environment=env(**{key: value}))
    row = only(base, head)
    assert row.verdict == "not comparable"
    assert row.note == f"{key} {fake.ENVIRONMENT.get(key)}, now {value}"
    assert (row.ratio, row.low) == (None, None)
    assert only(base, head, Terms(across=(key,))).verdict == "slower"


def test_the_driver_matters_to_a_gpu_only() -> None:
    other = env(driver="555.1", triton="9")
    assert only(timed(), timed(seed=1, environment=other)).verdict == "same"
    assert only(timed(device="cuda"), timed(seed=1, device="cuda", environment=other)).note == \
        "driver None, now 555.1; triton None, now 9"


def test_another_commit_is_what_is_compared() -> None:
    assert only(timed(), timed(2e-3, seed=1, environment=env(commit="def", dirty=True))).verdict == "slower"


def test_options_that_changed_under_one_name_are_not_compared_and_new_ones_are_no_matter() -> None:
    base = timed(attention="soft", options={"landmarks": 49})
    row = only(base, timed(9e-3, attention="soft", options={"landmarks": 64}))
    assert (row.verdict, row.note) == ("not comparable", "option landmarks 49, now 64")
    assert only(base, timed(seed=1, attention="soft", options={"landmarks": 49, "conv": 0})).verdict == "same"


def test_another_implementation_under_one_name_is_compared_and_said() -> None:
    row = only(timed(impl="eager"), timed(5e-4, seed=1, impl="triton"))
    assert (row.verdict, row.note) == ("faster", "impl eager, now triton")


def test_two_implementations_side_by_side_are_two_cases() -> None:
    base = [timed(1e-3, impl="math"), timed(2e-3, impl="sdpa")]
    head = [timed(2e-3, seed=1, impl="sdpa"), timed(1e-3, seed=2, impl="math")]
    assert [row.verdict for row in compare(base, head).rows] == ["same", "same"]


def exact(value: float, unit: str = "B", **changed: Any) -> Record:
    return fake.record("memory", quantity="x", unit=unit, value=value, samples=[value], detail={}, **changed)


def seeded(value: float, **changed: Any) -> Record:
    return fake.record("approx_error", quantity="error_output", unit="1", value=value, samples=[value], detail={},
                       **changed)


@pytest.mark.parametrize("unit", ["B", "flop"])
def test_bytes_and_operations_are_exact(unit: str) -> None:
    assert only(exact(1000.0, unit), exact(1000.0, unit)).verdict == "same"
    assert only(exact(1000.0, unit), exact(1001.0, unit)).verdict == "worse"
    assert only(exact(1000.0, unit), exact(1050.0, unit)).verdict == "worse"
    assert only(exact(1000.0, unit), exact(999.0, unit)).verdict == "better"
    assert only(exact(0.0, unit), exact(1.0, unit)).verdict == "worse"


def test_operations_are_the_same_on_any_machine_and_bytes_need_the_same_torch() -> None:
    elsewhere = env(machine="epyc", torch="2.99", threads=64)
    assert only(exact(1.0, "flop"), exact(2.0, "flop", environment=elsewhere)).verdict == "worse"
    assert only(exact(1.0), exact(2.0, environment=elsewhere)).note == "torch 2.10.0, now 2.99; threads 2, now 64"
    assert only(exact(1.0), exact(2.0, environment=env(machine="epyc"))).verdict == "worse"


@pytest.mark.parametrize(("base", "head", "verdict"), [
    (0.1, 0.1009, "same"), (0.1, 0.102, "changed"), (0.1, 0.05, "changed"), (1e-9, 3e-7, "same"),
    (1e-9, 3e-6, "changed"), (0.0, 0.0, "same"), (-0.5, 0.5, "changed"), (20.0, 20.0, "same"),
    (1e6, 1e6 + 1, "changed"), (0.0, 1e-7, "same")])
def test_seeded_results_agree_within_the_tolerance_and_counts_are_equal(base: float, head: float, verdict: str) -> None:
    assert only(seeded(base), seeded(head)).verdict == verdict


def test_fewer_operators_are_better_and_need_the_same_torch() -> None:
    def calls(value: float, **changed: Any) -> Record:
        return fake.record("operators", quantity="operators", unit="1", value=value, samples=[value], **changed)

    assert only(calls(80.0), calls(81.0)).verdict == "worse"
    assert only(calls(80.0), calls(79.0)).verdict == "better"
    assert only(calls(80.0), calls(79.0, environment=env(torch="2.99"))).note == "torch 2.10.0, now 2.99"


def test_rounding_of_float64_is_smaller() -> None:
    assert only(seeded(1e-15, dtype="float64"), seeded(3e-15, dtype="float64")).verdict == "same"
    assert only(seeded(1e-15, dtype="float64"), seeded(1e-9, dtype="float64")).verdict == "changed"


def test_a_case_that_broke_comes_before_any_time() -> None:
    for status in ("oom", "failed", "timeout", "unsupported", "diverged"):
        found = compare([timed(), timed(seed=1, tokens=16)], [fake.failed(status, note="why"), timed(9e-3, tokens=16)])
        assert [row.verdict for row in found.rows] == ["broken", "slower"]
        assert found.rows[0].note == f"{status}: why"
        assert found.exit_code() == verdicts.SOME_FAILED


def test_a_case_that_ran_on_neither_side_is_no_failure_and_no_comparison() -> None:
    row = only(fake.failed("oom"), fake.failed("oom"))
    assert (row.verdict, row.note) == ("not comparable", "oom on both sides")
    assert only(fake.failed("oom"), timed()).verdict == "mended"


@pytest.mark.parametrize(("status", "verdict"), [("unsupported", "same"), ("oom", "same"), ("failed", "not comparable"),
                                                 ("timeout", "not comparable"), ("diverged", "same")])
def test_exact_numbers_that_are_nowhere_are_never_a_success(status: str, verdict: str) -> None:
    missing = fake.failed(status, measure="flops", unit="flop")
    found = compare([missing], [missing])
    assert [row.verdict for row in found.rows] == [verdict]
    assert found.exit_code() == verdicts.SOME_FAILED
    assert compare([missing, exact(1.0)], [missing, exact(1.0)]).exit_code() == verdicts.FINE


def answer(measure: str = "crossover", value: float | None = 900.0, unit: str = "1", **changed: Any) -> Record:
    return fake.record(**({"measure": measure, "quantity": measure, "value": value, "unit": unit, "samples": [],
                           "detail": {}} | changed))


@pytest.mark.parametrize("record", [
    answer(), answer("scaling", 1.9, quantity="exponent"), answer("scaling", 1e9, "B", quantity="memory_limit"),
    answer("fit", quantity="largest_tokens"), answer("doctor", 0.01, quantity="noise_floor"),
    answer("reproduce", 2.5, quantity="over_softmax"), answer("roofline", 1e10, "B/s"),
    answer("roofline", 1e11, "flop/s")])
def test_what_follows_from_times_is_not_compared_as_if_it_were_exact(record: Record) -> None:
    other = replace(record, value=1.3 * float(record.value or 0.0))
    for base, head in ((record, other), (record, replace(record, value=None, status="inconclusive"))):
        row = only(base, head)
        assert (row.verdict, row.note) == ("not comparable", "it follows from measured times or free memory: compare "
                                           "the latency and memory records instead")
    assert only(record, replace(record, value=None, status="failed")).verdict == "broken"
    assert [row.verdict for row in compare([record], [exact(1.0)]).rows] == ["not comparable", "new"]


def test_a_number_that_nobody_here_knows_may_hold_noise_and_is_judged_by_its_unit_alone() -> None:
    unknown, undeclared = answer("theirs", quantity="length"), answer("memory", quantity="length")
    for record in (unknown, undeclared):
        row = only(record, replace(record, value=901.0))
        assert (row.verdict, row.note) == ("not comparable", "whether noise is in it, nobody here says:"
                                           f" {record.measure} is not installed, or does not list length in its"
                                           " QUANTITIES")
    assert only(answer("theirs", 1.0, "flop"), answer("theirs", 2.0, "flop")).verdict == "worse"
    assert only(timed(measure="theirs"), timed(1.2e-3, seed=1, measure="theirs")).verdict == "slower"
    loss = answer("train", 0.5, quantity="loss")  # of no plugin, but of a verb
    assert only(loss, replace(loss, value=0.6)).verdict == "changed"


def test_costs_that_studies_measure_are_compared_as_any_others() -> None:
    assert only(timed(measure="scaling"), timed(1.2e-3, seed=1, measure="scaling")).verdict == "slower"
    held = answer("scaling", 1000.0, "B", quantity="peak_memory")
    assert only(held, replace(held, value=1050.0)).verdict == "worse"


def test_a_study_that_could_not_decide_is_inconclusive_and_not_broken() -> None:
    base = seeded(1.0)
    unclear = fake.failed("inconclusive", measure="approx_error", quantity="error_output", unit="1")
    assert (only(base, unclear).verdict, only(base, unclear).note) == (
        "inconclusive", "its own run was inconclusive on the head")
    assert only(unclear, base).note == "its own run was inconclusive on the base"
    assert only(unclear, unclear).note == "its own run was inconclusive on both sides"
    assert compare([unclear], [unclear]).exit_code() == verdicts.SOME_FAILED
    assert compare([unclear], [base]).exit_code() == verdicts.SOME_FAILED
    assert compare([exact(1.0), unclear], [exact(1.0), unclear]).exit_code(True) == verdicts.UNDECIDED


def test_cases_in_only_one_file() -> None:
    found = compare([timed(tokens=16), timed(tokens=64)], [timed(tokens=64, seed=1), timed(tokens=1024)])
    assert [(r.verdict, r.record.rows * r.record.cols) for r in found.rows] == [
        ("missing", 16), ("new", 1024), ("same", 64)]
    assert found.exit_code() == verdicts.SOME_FAILED
    allowed = compare([timed(tokens=16), timed(tokens=64)], [timed(tokens=64, seed=1)], Terms(allow_missing=True))
    assert [r.verdict for r in allowed.rows] == ["not comparable", "same"]
    assert allowed.exit_code() == verdicts.FINE


def test_nothing_in_common_is_never_a_success() -> None:
    assert compare([timed(tokens=16)], [timed(tokens=64)], Terms(allow_missing=True)).exit_code() == 5
    assert compare([timed()], [timed(environment=env(threads=9))]).exit_code() == 5
    assert compare([], []).exit_code() == 5


def test_exit_codes_in_their_order() -> None:
    def code(*pairs: tuple[Record, Record], strict: bool = False) -> int:
        base, head = zip(*pairs, strict=True)
        return compare(list(base), list(head)).exit_code(strict)

    same = (timed(tokens=16), timed(tokens=16, seed=1))
    slower = (timed(tokens=64), timed(9e-3, tokens=64))
    unclear = (timed(tokens=256, noise=0.1), timed(tokens=256, noise=0.1, seed=1))
    broken = (timed(tokens=1024), fake.failed("oom", tokens=1024))
    fatter = (exact(1.0), exact(2.0))
    assert code(same) == 0
    assert code(same, slower) == code(same, fatter) == code(slower, unclear, strict=True) == 3
    assert code(same, unclear) == 0
    assert code(same, unclear, strict=True) == 4
    assert code(same, slower, unclear, broken, strict=True) == 5


def test_the_noise_floor_widens_the_margin_of_its_machine_only() -> None:
    base, head = timed(seed=1), timed(1.2e-3, seed=2)
    here = str(fake.ENVIRONMENT["machine"])
    assert only(base, head, Terms(run_noise={"another": 0.5}, noise={here: 0.5})).verdict == "slower"
    row = only(base, head, Terms(run_noise={here: 0.2}))
    assert (row.verdict, row.margin) == ("same", pytest.approx(0.4))
    together = [replace(r, detail=r.detail | {"group": "g"}) for r in (base, head)]
    assert only(*together, Terms(noise={here: 0.2})).verdict == "same"
    assert only(*together, Terms(run_noise={here: 0.2})).verdict == "slower"


def test_a_change_below_the_absolute_floor_is_the_same() -> None:
    assert only(timed(3e-6, seed=1), timed(3.3e-6, seed=2)).verdict == "same"
    assert only(timed(3e-6, seed=1), timed(3.3e-6, seed=2), Terms(floor=0.0)).verdict == "slower"


# The adversary's records: what a broken or hostile writer could put into a valid file.

def test_unequal_sample_counts() -> None:
    uneven = timed(seed=1, rounds=3, each=1)
    row = only(timed(seed=2, rounds=7, each=30), uneven)
    assert (row.verdict, row.units) == ("same", "3 rounds")


@pytest.mark.parametrize("detail", [{}, {"samples_per_round": None}, {"samples_per_round": [3, 4]},
                                    {"samples_per_round": [-1, 21]}, {"samples_per_round": "20"},
                                    {"samples_per_round": []}, {"samples_per_round": [20.0]}])
def test_samples_whose_rounds_are_unknown_are_one_round(detail: dict[str, Any]) -> None:
    head = fake.record(value=9e-3, samples=[9e-3] * 20, detail=detail)
    row = only(fake.record(value=1e-3, samples=[1e-3] * 20, detail={}), head)
    assert row.verdict == "inconclusive"
    assert row.units == "1 round"
    assert row.note == "one round on each side says nothing about noise: record more"
    assert row.ratio == pytest.approx(9.0)


def test_one_sample_and_no_sample() -> None:
    assert only(timed(rounds=1, each=1), timed(9e-3, rounds=1, each=1)).verdict == "inconclusive"
    assert only(fake.record(value=1e-3, samples=[]), fake.record(value=9e-3, samples=[])).verdict == "inconclusive"


def test_zero_variance_and_all_ties() -> None:
    flat = timed(noise=0.0)
    assert only(flat, timed(noise=0.0)).verdict == "same"
    assert only(flat, timed(1.2e-3, noise=0.0)).verdict == "slower"
    assert only(flat, timed(1.049e-3, noise=0.0)).verdict == "same"


@pytest.mark.parametrize("value", [0.0, -1e-3, 1e-300, 1e300])
@pytest.mark.parametrize("where", ["value", "samples"])
def test_numbers_that_cannot_be_times_are_refused(value: float, where: str) -> None:
    broken = fake.record(value=value if where == "value" else 1e-3, samples=[value if where == "samples" else 1e-3])
    row = only(broken, timed())
    assert (row.verdict, row.note) == ("not comparable", f"the base holds {value:g} s: it cannot be")
    assert only(timed(), broken).note == f"the head holds {value:g} s: it cannot be"


def test_an_interval_beyond_all_numbers_is_none_at_all() -> None:
    base, head = timed(1e-11, noise=0.0, rounds=1), timed(1e11, noise=0.0, rounds=1)
    assert only(base, head).high == math.inf
    wild = replace(head, samples=[1e-11, 1e11], detail={"samples_per_round": [1, 1]})
    assert only(base, wild).verdict == "inconclusive"


def test_another_unit_under_one_name() -> None:
    assert only(exact(1.0, "B"), exact(1.0, "flop")).note == "unit B, now flop"


def test_a_missing_value_with_a_status() -> None:
    assert only(timed(), fake.record(value=None, status="not_run", samples=[])).verdict == "broken"


def test_every_verdict_is_sorted_by_how_serious_it_is() -> None:
    base, head = runs.both()
    found = compare(base, head)
    ranks = [verdicts.ORDER.index(row.verdict) for row in found.rows]
    assert ranks == sorted(ranks)
    assert set(found.counts) == set(verdicts.ORDER)
    assert sum(found.counts.values()) == len(found.rows)


def test_the_geometric_mean_is_over_what_was_compared() -> None:
    base = [timed(tokens=16, noise=0.0), timed(tokens=64, noise=0.0), timed(tokens=256), exact(1.0)]
    head = [timed(2e-3, tokens=16, noise=0.0), timed(5e-4, tokens=64, noise=0.0), fake.failed("oom", tokens=256),
            exact(9.0)]
    found = compare(base, head)
    assert found.mean_ratio("latency", "latency") == pytest.approx(1.0)
    assert found.mean_ratio("memory", "x") is None


def test_the_times_beside_a_ratio_are_those_it_is_of() -> None:
    """The median of all samples may rise where most rounds fall; what is printed must not contradict itself."""
    base = [[1.0, 1.0, 1.0], [1.0, 5.0, 5.0], [1.0, 5.0, 5.0]]  # median of all 1.0, of rounds 1, 5, 5
    head = [[1.1, 1.1, 1.1], [1.1, 4.0, 4.0], [1.1, 4.0, 4.0]]  # median of all 1.1, of rounds 1.1, 4, 4
    sides = []
    for rounds in (base, head):
        samples = [sample * 1e-3 for one in rounds for sample in one]
        sides.append(replace(timed(1e-3), samples=samples, value=median(samples),
                             detail={"samples_per_round": [3, 3, 3]}))
    row = only(*sides)
    assert sides[0].value == 1e-3
    assert sides[1].value == 1.1e-3
    assert row.ratio == pytest.approx((1.1 * 4 * 4 / 25) ** (1 / 3))
    assert row.values == pytest.approx((1e-3 * 25 ** (1 / 3), 1e-3 * 17.6 ** (1 / 3)))
    (flat,) = comparison.flat(verdicts.Comparison([row]))
    assert flat["head"] / flat["base"] == pytest.approx(flat["ratio"], rel=1e-5)


def test_rows_of_both_forms_say_which_is_causal() -> None:
    whole, causal = timed(seed=1), timed(seed=2, causal=True)
    tables = {forms: comparison.tables(compare(rows, rows), side(*rows), side(*rows), TERMS)[0]
              for forms, rows in (("both", [whole, causal]), ("one", [causal]), ("other", [whole]))}
    place = [column.header for column in tables["both"].columns].index("causal")
    assert sorted(row[place] for row in tables["both"].rows) == ["-", "true"]
    assert not any("causal" in caption for name in ("both", "other") for caption in tables[name].captions)
    assert any("causal" in caption for caption in tables["one"].captions)


def test_of_several_runs_the_times_are_over_all_of_them() -> None:
    base, head = ([timed(s, noise=0.0) for s in seconds] for seconds in ([1e-3, 1.2e-3, 3e-3], [2e-3, 2.2e-3, 1e-3]))
    (row,) = compare(base, head).rows
    assert row.times is not None
    assert row.times[1] / row.times[0] == pytest.approx(row.ratio)
    assert row.times[0] == pytest.approx((1 * 1.2 * 3) ** (1 / 3) * 1e-3)
