"""The study pinv: its tasks, their observations, and what becomes of matrices that cannot be inverted."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from softbench import options
from softbench.bench import study
from softbench.contracts.study import load
from softbench.errors import UsageError
from softbench.records import Record
from softbench.records.views import Lines, Rows
from softbench.studies import pinv
from softbench.studies.pinv import matrices, parts
from softbench.studies.pinv.courses import QUANTITIES, Course

SMALL = {"size": "9", "count": "3", "head_dim": "4", "rep": "1", "matrices": "smooth:0.5,duplicate:4",
         "conditions": "10,5000", "methods": "newton,scaled_newton,hyperpower,cholesky", "steps": "5,20",
         "max_iterations": "30"}


@pytest.fixture(autouse=True)
def _fresh_matrices() -> None:
    parts._matrices_of.cache_clear()


def settings(**changes: str) -> pinv.Settings:
    return options.parse(pinv.Settings, SMALL | changes, "pinv")


def records(**changes: str) -> list[Record]:
    asked = settings(**changes)
    return [record for _, given in study.Study("pinv", load("pinv"), asked, pinv.tasks(asked)) for record in given]


def only(found: list[Record], **wanted: object) -> Record:
    """The one record with that quantity and these coordinates."""
    quantity = wanted.pop("quantity")
    hits = [r for r in found if r.quantity == quantity and wanted.items() <= r.coords.items()]
    assert len(hits) == 1, (quantity, wanted, len(hits))
    return hits[0]


def test_loads_without_torch() -> None:
    code = "import sys; from softbench.studies import pinv; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_have_unique_names_that_change_with_the_settings() -> None:
    names = {task.name for task in pinv.tasks(settings())}
    assert len(names) == len(pinv.tasks(settings()))
    assert len(pinv.tasks(pinv.Settings())) < 200
    for change in ({"size": "8"}, {"count": "4"}, {"head_dim": "5"}, {"seed": "1"}, {"iterations": "19"},
                   {"max_iterations": "31"}, {"tolerance": "0.01"}, {"ridge": "0.02"}, {"dtype": "float64"},
                   {"matrices": "smooth:0.4"}):
        changed = {task.name for task in pinv.tasks(settings(**change)) if task.name.startswith("inverse")}
        assert not changed & names, change
    for part, change in (("speed", {"steps": "6"}), ("speed", {"rep": "2"}), ("cost", {"rep": "2"}),
                         ("condition", {"conditions": "11"})):
        changed = {task.name for task in pinv.tasks(settings(**change)) if task.name.startswith(part)}
        assert changed
        assert not changed & names, change


def test_parts_can_be_chosen() -> None:
    assert {task.name.split()[0] for task in pinv.tasks(settings(parts="leak,cost"))} == {"leak", "cost"}


def test_quick_settings_are_settings() -> None:
    assert set(pinv.QUICK) < {f.name for f in fields(pinv.Settings)}
    assert len(pinv.tasks(options.parse(pinv.Settings, pinv.QUICK, "pinv"))) < 100


def test_all_parts_give_the_quantities_that_the_views_show() -> None:
    found = records(dtype="float64")  # float32 converges on some CPUs only
    assert not [r for r in found if r.status == "failed"]
    seen = {r.quantity for r in found}
    for view in pinv.VIEWS:
        shown = ([*view.quantities] if isinstance(view, Rows | Lines) else [view.quantity] if hasattr(view, "quantity")
                 else [view.x, view.y])
        assert set(shown) <= seen, view.name
        wanted = {column.removeprefix("detail."): value for column, value in view.where.items()}
        kept = {r.quantity for r in found if all(
            (r.coords | r.detail).get(column) in (value if isinstance(value, tuple) else (value,))
            for column, value in wanted.items())}
        assert set(shown) <= kept, view.name
    for record in found:
        assert len(record.to_json()) < 20_000


def test_an_observation_sums_up_its_matrices_and_keeps_the_course() -> None:
    found = records(parts="inverse", ridge="0.01")
    for quantity in QUANTITIES:
        record = only(found, quantity=quantity, family="smooth:0.5", method="newton")
        assert record.value == pytest.approx(sorted(record.samples)[1], rel=1e-5)
        assert len(record.detail["trace"]) == 31
        assert record.detail["trace"][20] == pytest.approx(record.value, rel=1e-5)
        assert record.dtype == "float32"
        assert (record.batch, record.tokens, record.head_dim) == (3, 9, 4)
        assert "trace" not in only(found, quantity=quantity, family="smooth:0.5", method="cholesky").detail


def test_needed_steps_are_where_the_course_crosses_the_tolerance() -> None:
    found = records(parts="inverse", ridge="0.01", count="1", matrices="smooth:1", dtype="float64")
    for method in ("newton", "scaled_newton"):
        steps = only(found, quantity="needed_steps", method=method).value
        trace = only(found, quantity="residual", method=method).detail["trace"]
        assert steps is not None
        assert trace[int(steps)] <= 1e-3 < trace[int(steps) - 1]


def test_methods_are_judged_by_the_larger_side_of_their_residual() -> None:
    """In float32 the steps make I - P V small on a singular kernel of 49 landmarks and leave I - V P."""
    found = records(parts="inverse,speed", ridge="0.01", matrices="constant", size="49", head_dim="32",
                    methods="newton_ci,cholesky")
    sides = {name: only(found, quantity=name, method="newton_ci", family="constant").value
             for name in ("residual_ipv", "residual_ivp")}
    judged = next(r for r in found if r.quantity == "residual" and r.coords["method"] == "newton_ci")
    assert sides["residual_ipv"] < 1e-3 < sides["residual_ivp"] == judged.value
    assert judged.status == "diverged"
    assert only(found, quantity="residual_ipv", method="newton_ci").status == "ok"
    assert only(found, quantity="share_unconverged", method="newton_ci").value == 1
    assert only(found, quantity="needed_steps", method="newton_ci").status == "diverged"
    one_side = only(found, quantity="needed_steps_ipv", method="newton_ci")
    assert one_side.value == pytest.approx(15, abs=1)
    times = [r for r in found if r.quantity == "time_to_tolerance"]
    assert [r.coords["method"] for r in times] == ["cholesky"]
    assert one_side.value in {r.coords["steps"] for r in found if r.quantity == "time"}


def test_steps_count_from_where_the_residual_stays_within_the_tolerance() -> None:
    seen = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.1, 0.0], [1.0, 0.1, 0.1, 0.0], [0.1, 0.0, 1.0, 0.0]])
    course = Course({"residual": seen, "residual_ipv": seen}, direct=False)
    assert course.needed(0.5).tolist() == [3.0, 2.0, math.inf, 0.0]
    late = torch.tensor([[math.nan], [0.0], [math.nan]])
    assert Course({"residual": late}, direct=False).needed(0.5).tolist() == [math.inf]


def test_what_has_not_converged_is_flagged_and_keeps_its_value() -> None:
    found = records(parts="inverse", ridge="0.01", iterations="5")
    newton = only(found, quantity="residual", family="smooth:0.5", method="newton")
    assert newton.status == "diverged"
    assert newton.value is not None
    assert newton.value > 0.1
    assert only(found, quantity="share_unconverged", family="smooth:0.5", method="newton").value == 1
    exact = only(found, quantity="residual", family="smooth:0.5", method="cholesky")
    assert exact.status == "ok"
    assert only(found, quantity="share_unconverged", family="smooth:0.5", method="cholesky").value == 0


def test_steps_that_never_suffice_have_no_number_but_a_reason() -> None:
    found = records(parts="inverse", ridge="0.01", iterations="5", max_iterations="5")
    record = only(found, quantity="needed_steps", family="smooth:0.5", method="newton")
    assert (record.value, record.status) == (None, "diverged")
    assert "does not come within 0.001 to stay in 5 steps" in record.note


def test_singular_matrices_have_a_pseudo_inverse_and_no_inverse() -> None:
    found = records(parts="inverse", ridge="0", dtype="float64", methods="newton,cholesky,eigh", max_iterations="60",
                    iterations="60", matrices="duplicate:4")
    assert not [r for r in found if r.quantity in ("error_inverse", "gradient_error")]
    exact = only(found, quantity="error_pinv", method="eigh")
    assert exact.value is not None
    assert exact.value < 1e-9
    assert only(found, quantity="residual", method="eigh").status == "ok"


@pytest.mark.parametrize(("family", "poison"), [("normal:1", math.nan), ("normal:1", math.inf), ("normal:1e200", None),
                                                ("normal:0", None), ("duplicate:1", None), ("constant", None)])
def test_hostile_matrices_give_rows_and_no_crash(family: str, poison: float | None,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    make = matrices.make

    def poisoned(family: str, sizes: matrices.Sizes, seed: int) -> Tensor:
        a = make(family, sizes, seed)
        if poison is not None:
            a[:, 0, 1] = poison
        return a

    monkeypatch.setattr(matrices, "make", poisoned)
    every = ",".join(("newton,newton_ci,hyperpower,nystromformer,scaled_newton,cholesky,eigh",
                      "newton_batch,nystromformer_batch"))
    found = records(matrices=family, methods=every, parts="inverse,speed,leak")
    assert not [r for r in found if r.status == "failed"], [r.note for r in found if r.status == "failed"]
    residuals = [r for r in found if r.quantity == "residual" and r.detail["part"] == "inverse"]
    assert len(residuals) == 18
    if family == "normal:1e200":  # landmarks so far from each other that their kernel is the identity
        assert all(r.value is not None and r.value < 1e-6 for r in residuals if r.status == "ok")
        assert any(r.status == "ok" for r in residuals)
    if poison is not None:
        assert all(r.value is None for r in residuals)
        assert {r.status for r in residuals} == {"diverged", "unsupported"}
        broken = only(found, quantity="share_not_finite", ridge=0.01, method="newton")
        assert broken.value == 1


def test_one_broken_matrix_is_left_out_of_the_samples_and_counts_as_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    make = matrices.make

    def poisoned(family: str, sizes: matrices.Sizes, seed: int) -> Tensor:
        a = make(family, sizes, seed)
        a[1] = math.nan
        return a

    monkeypatch.setattr(matrices, "make", poisoned)
    found = records(matrices="smooth:0.5", methods="newton", parts="inverse", ridge="0.01")
    for quantity in ("residual_ipv", "gradient_error"):
        record = only(found, quantity=quantity)
        assert len(record.samples) == 2
        assert record.detail["samples_not_finite"] == 1
        assert record.value == pytest.approx(max(record.samples), rel=1e-5)
    assert only(found, quantity="share_not_finite").value == pytest.approx(1 / 3)


def test_a_course_ends_where_it_has_diverged() -> None:
    found = records(matrices="duplicate:4", methods="newton_ci", parts="inverse", ridge="0", max_iterations="60")
    trace = only(found, quantity="error_pinv").detail["trace"]
    assert len(trace) == 61
    assert trace[-1] is None
    assert max(entry for entry in trace if entry is not None) <= 1e4


def test_half_precision_has_no_factorisation_and_says_so() -> None:
    found = records(parts="inverse", ridge="0.01", dtype="bfloat16", matrices="smooth:0.5")
    exact = only(found, quantity="residual", method="cholesky")
    assert (exact.value, exact.status) == (None, "unsupported")
    assert "bfloat16" in exact.note
    assert only(found, quantity="residual_ipv", method="newton").value is not None


def test_cost_compares_ways_in_the_same_arithmetic() -> None:
    """The op computes half precision in float32, and so do its steps: what they keep is the same in bytes."""
    kept = {}
    for dtype in ("float32", "bfloat16"):
        found = records(parts="cost", dtype=dtype, methods="newton,scaled_newton", matrices="smooth:1")
        assert not [r for r in found if r.value is None]
        kept[dtype] = only(found, quantity="saved_unrolled", method="newton").value
    assert kept["bfloat16"] == pytest.approx(kept["float32"], rel=0.05)
    assert only(found, quantity="time_implicit", method="scaled_newton").coords["steps"] == 9  # 10 at m = 49


def test_ridges_are_bounded_by_the_method_that_takes_most() -> None:
    found = records(parts="inverse,speed,cost", ridge="0.5", matrices="smooth:0.5")
    assert only(found, quantity="residual", method="newton").status == "unsupported"
    assert "at most 0.05" in only(found, quantity="residual", method="newton").note
    assert only(found, quantity="needed_steps", method="scaled_newton").value is not None
    assert {r.coords["method"] for r in found if r.quantity == "time"} == {"scaled_newton", "cholesky"}


def test_one_thread_computes_and_all_of_them_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        course_of, measure = parts.course_of, parts.times.measure
        monkeypatch.setattr(parts, "course_of",
                            lambda *a: seen.append(("course", torch.get_num_threads())) or course_of(*a))
        monkeypatch.setattr(parts.times, "measure",
                            lambda *a: seen.append(("times", torch.get_num_threads())) or measure(*a))
        records(parts="inverse,condition,speed,cost", matrices="smooth:1", methods="newton")
        assert set(seen) == {("course", 1), ("times", 2)}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_batch_starts_leak_and_the_others_do_not() -> None:
    found = records(parts="leak")
    for method, leaks in (("newton", False), ("nystromformer", False), ("newton_batch", True),
                          ("nystromformer_batch", True)):
        change = only(found, quantity="change", method=method, mates="constant").value
        assert change is not None
        assert change > 0.05 if leaks else change < 1e-6


@pytest.mark.quiet
def test_times_are_of_the_steps_that_they_name() -> None:
    found = records(parts="speed", matrices="smooth:0.5", methods="newton,scaled_newton,cholesky", dtype="float64",
                    steps="1,30", rep="4", size="64", count="8", head_dim="8")
    short, long = (only(found, quantity="time", method="newton", steps=n).value for n in (1, 30))
    assert short is not None
    assert long is not None
    assert long > 2 * short
    whole = [r for r in found if r.quantity == "time_to_tolerance"]
    assert {r.coords["method"] for r in whole} == {"newton", "scaled_newton", "cholesky"}
    for record in whole:
        assert record.unit == "s"
        assert record.value in [r.value for r in found if r.quantity == "time"
                                and r.coords["method"] == record.coords["method"]]


def test_missing_photographs_leave_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> list[torch.Tensor]:
        raise UsageError("--inputs image needs scikit-learn")

    monkeypatch.setattr("softbench.inputs._photographs", missing)
    found = records(matrices="image,smooth:0.5", parts="inverse,leak", methods="newton")
    assert {r.status for r in found if "image" in r.coords["task"].split()[1]} >= {"unsupported"}
    assert only(found, quantity="change", method="newton", mates="constant").value is not None


@pytest.mark.parametrize(("changes", "message"), [
    ({"methods": "newtn"}, "No method named 'newtn'. Did you mean 'newton'"),
    ({"methods": ""}, "No method named ''"), ({"matrices": "smoth"}, "Did you mean 'smooth'"),
    ({"ridge": "-1"}, "ridge: '-1' must be a number from 0 to 1e"),
    ({"ridge": "0.5", "methods": "newton"}, "from 0 to 0.05"),
    ({"ridge": "inf"}, "from 0 to 1e"),
    ({"ridge": "a"}, "'a' must be a number"), ({"dtype": "int8"}, "No dtype named 'int8'"),
    ({"conditions": "0.5"}, "conditions: '0.5' must be a number from 1"), ({"parts": "speeed"}, "Did you mean 'speed'"),
    ({"steps": "0"}, "steps must be at least 1, not 0"), ({"steps": "2.7"}, "'2.7' is not a positive whole number"),
    ({"condition_dtypes": "float8"}, "No dtype named"),
    ({"iterations": "40"}, r"iterations \(40\) must be at most max_iterations \(30\)"),
    ({"size": "0"}, "size must be at least 1"), ({"size": "100000"}, "size must be at most 2048"),
    ({"count": "0"}, "count must be at least 1"), ({"tolerance": "nan"}, "finite number"),
])
def test_bad_setting_is_told(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pinv.tasks(settings(**changes))
