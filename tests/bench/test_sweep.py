"""Sweeps: what goes wrong becomes a row, and the sweep goes on."""

from __future__ import annotations

import importlib
import signal
import time
import weakref
from dataclasses import replace
from pathlib import Path

import plugin_files
import pytest
import torch

from softbench import config
from softbench.bench import session, sweep
from softbench.contracts.measure import Reading
from softbench.errors import UsageError
from softbench.measures import latency
from softbench.records import STATUSES
from softbench.subjects import probe, workload

BRIEF = {"rep": "4", "warmup": "1", "rounds": "3"}


def records_of(attn: str, measure: str = "latency", timeout: float | None = None, check_convergence: bool = False,
               **keys):
    settings = {measure: BRIEF if measure == "latency" else {}}
    flags = settings | {"sweep": {"attn": attn, "tokens": "16", "heads": "2", "head_dim": "8", "device": "cpu", **keys}}
    made = session.start(config.load(None, flags=flags), measure, timeout=timeout,
                         check_convergence=check_convergence)
    return [record for _, group in made for record in group]


@pytest.mark.parametrize(("name", "status", "note"), [
    ("nan", "failed", "not finite"),
    ("wrong_shape", "failed", "[1, 2, 1, 8] float32; it must be [1, 2, 16, 8] float32"),
    ("raises", "failed", "ZeroDivisionError: division by zero"),
    ("out_of_memory", "oom", ""),
    ("exits", "failed", "SystemExit: 3"),
    ("unsupported", "unsupported", "no such kernel here"),
    ("too_large", "oom", "not run: it needs about"),
])
def test_failures_are_rows(tmp_path, name, status, note):
    bad, good = plugin_files.write(tmp_path, name), plugin_files.write(tmp_path, "mean")
    rows = {r.attention: r for r in records_of(f"{bad},{good}")}
    assert [*rows] == ["softmax", name, "mean"]
    assert rows[name].status == status
    assert rows[name].status in STATUSES
    assert note in rows[name].note
    assert rows[name].value is None
    assert rows[name].samples == []
    assert rows["softmax"].status == rows["mean"].status == "ok"
    assert rows["mean"].value > 0


def test_half_wrong_result_shows_no_speed(tmp_path):
    """In float32 this file gives 1.5 times its own float64 result; the probe must see it."""
    bad = plugin_files.write(tmp_path, "half_wrong")
    row = records_of(bad, baseline="none")[0]
    assert (row.status, row.value) == ("failed", None)
    assert "50.0% away from 'eager' in float64" in row.note
    assert records_of(bad, baseline="none", dtype="float64")[0].status == "ok"


@pytest.mark.parametrize(("name", "note"), [
    ("interrupts", "KeyboardInterrupt"), ("gives_up", "GeneratorExit: enough"), ("own_kind", "Quit: of my own"),
    ("speechless", "Mute: no text, as its __str__ raised ZeroDivisionError"),
    ("worse_than_speechless", "Mute: no text, as its __str__ raised TypeError")])
def test_whatever_a_plugin_raises_is_a_row(tmp_path, name, note):
    bad, good = plugin_files.write(tmp_path, name), plugin_files.write(tmp_path, "mean")
    rows = {r.attention: r for r in records_of(f"{bad},{good}", baseline="none")}
    assert (rows[name].status, rows[name].note) == ("failed", note)
    assert rows["mean"].status == "ok"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_the_sweep_even_where_a_plugin_swallows_it(tmp_path):
    pressed = plugin_files.write(tmp_path, "presses_ctrl_c")
    swallowing = tmp_path / "swallowing.py"
    text = Path(pressed).read_text()
    swallowing.write_text(text.replace("        return __import__('os').kill(__import__('os').getpid(), 2) or ",
                                       "        try:\n            __import__('os').kill(__import__('os').getpid(), 2)\n"
                                       "        except BaseException:\n            pass\n        return "))
    assert "except BaseException" in swallowing.read_text()
    for path in (pressed, swallowing):
        with pytest.raises(KeyboardInterrupt):
            records_of(str(path))


@pytest.mark.parametrize("name", ["swallows_once", "resets_the_alarm", "takes_the_handler", "blocks_signals"])
def test_a_timeout_holds_against_code_that_resists(tmp_path, name):
    bad, good = plugin_files.write(tmp_path, name), plugin_files.write(tmp_path, "mean")
    started = time.perf_counter()
    rows = {r.attention: r for r in records_of(f"{bad},{good}", baseline="none", timeout=1.0)}
    assert (rows[name].status, rows[name].note) == ("timeout", "no result within 1 s")
    assert [*rows] == [name, "mean"]
    assert time.perf_counter() - started < 60
    signal.pthread_sigmask(signal.SIG_UNBLOCK, range(1, 32))


@pytest.mark.quiet
def test_timeout_is_a_row_and_ends_early(tmp_path):
    slow = plugin_files.write(tmp_path, "slow")  # 1.5 s a call above 1,024 tokens
    importlib.import_module("torch._dynamo")  # before the time runs, as the next test says
    started = time.perf_counter()
    (row,) = records_of(slow, timeout=0.8, baseline="none", tokens="2k", heads="1")
    assert time.perf_counter() - started < 5
    assert (row.status, row.note) == ("timeout", "no result within 0.8 s")
    soft, row = records_of(slow, timeout=4, baseline="soft", tokens="2k", heads="1")
    assert soft.status == "ok"
    assert row.status == "timeout"
    assert "too long to repeat within 4 s" in row.note


def test_torch_is_imported_whole_before_the_time_runs(monkeypatch):
    """A timeout within torch's own imports would leave halves of modules, on which the cases after it fail."""
    order = []
    monkeypatch.setattr(sweep, "import_module", order.append)
    monkeypatch.setattr(sweep, "deadline", lambda *given: order.append("time"))
    sweep.Sweep("latency", latency, latency.Settings(), [], timeout=1.0)._deadline()
    assert order == ["torch._dynamo", "time"]


def test_explicit_impl_runs_or_says_why_not():
    rows = {r.attention: r for r in records_of("performer", impl="math")}
    assert (rows["softmax"].status, rows["softmax"].impl) == ("ok", "math")
    assert (rows["performer"].status, rows["performer"].impl) == ("unsupported", "math")
    assert "no implementation 'math'; it has eager" in rows["performer"].note


def test_auto_is_never_recorded():
    assert {r.impl for r in records_of("soft,performer")} <= {"sdpa", "eager"}


def test_records_carry_the_whole_point():
    row = records_of("soft:landmarks=4", baseline="none", mode="forward_backward", dtype="float64", seed=3)[0]
    assert (row.measure, row.quantity, row.unit, row.status) == ("latency", "latency", "s", "ok")
    assert (row.attention, row.label, row.options["landmarks"]) == ("soft", "soft:landmarks=4", 4)
    assert (row.batch, row.heads, row.rows, row.cols, row.head_dim) == (1, 2, 4, 4, 8)
    assert (row.mode, row.dtype, row.device, row.seed) == ("forward_backward", "float64", "cpu", 3)
    assert row.coords == {"inputs": "normal"}
    assert row.environment["threads"] == torch.get_num_threads()
    assert row.environment["malloc"] in ("fixed", "unavailable")


def test_identity_tells_quantities_apart_and_subject_does_not():
    first, second = records_of("soft,performer", baseline="none")
    made = session.start(config.load(None, flags={"sweep": {
        "attn": "soft,performer", "baseline": "none", "tokens": "16", "heads": "2", "head_dim": "8",
        "device": "cpu"}, "latency": BRIEF}), "latency")
    assert made.item(first) != made.item(second)
    assert made.item(first) == made.item(replace(first, quantity="another"))
    assert made.items() == [made.item(first), made.item(second)]
    assert made.item(first).digest != replace(made, settings=latency.Settings()).items()[0].digest


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
])
def test_out_of_memory_is_recognised(error):
    assert workload.is_out_of_memory(error)


def test_other_errors_are_not_out_of_memory():
    assert not workload.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not workload.is_out_of_memory(ValueError("out of memory"))


def test_an_attention_may_name_its_implementation():
    rows = records_of("softmax:impl=math,soft", baseline="softmax")
    assert [(r.label, r.impl) for r in rows] == [("softmax", "sdpa"), ("softmax:impl=math", "math"), ("soft", "eager")]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_measure_that_gives_no_finite_number_is_a_row(number):
    flags = {"sweep": {"attn": "soft", "baseline": "none", "tokens": "16"}}
    made = session.start(config.load(None, flags=flags), "latency")
    record = sweep.make_record("latency", made.jobs[0], Reading("latency", "s", [number, 1.0, number]), {})
    assert (record.status, record.value, record.samples) == ("diverged", None, [1.0])
    assert record.detail["samples_not_finite"] == 2
    record.to_json()


def test_a_time_far_below_the_floor_is_not_a_speed(monkeypatch):
    monkeypatch.setattr(sweep.ceilings, "load", lambda *_: sweep.ceilings.Ceilings(1e9, {"float32": 1e9}))
    flags = {"sweep": {"attn": "soft", "baseline": "none", "tokens": "16"}}
    (job,) = session.start(config.load(None, flags=flags), "latency").jobs
    for seconds, status in ((0.1, "ok"), (1e-4, "failed")):
        reading = Reading("latency", "s", [seconds], detail={"work": {"bytes": 1e7, "flops": 1.0}})
        record = sweep.make_record("latency", job, reading, {"machine": "m"})
        assert (record.status, bool(record.value), bool(record.samples)) == (status, *2 * (status == "ok",))
    assert "the time is 1.0% of the least that this machine needs" in record.note


def test_two_labels_of_one_attention_are_refused():
    with pytest.raises(UsageError, match="'soft' and 'soft:landmarks=49' are the same attention"):
        records_of("soft,soft:landmarks=49")


def test_unconverged_inverse_is_marked_and_its_number_kept():
    """Twenty steps of the paper's Newton do not invert the kernel of a constant image; a factorisation does."""
    rows = {r.label: r for r in records_of("soft:inverse=newton,soft:inverse=cholesky", check_convergence=True,
                                           tokens="256", inputs="constant")}
    newton, cholesky = rows["soft:inverse=newton"], rows["soft:inverse=cholesky"]
    assert newton.status == "diverged"
    assert newton.value > 0
    assert "inverse not converged: residual" in newton.note
    assert "newton" in newton.note
    assert cholesky.status == rows["softmax"].status == "ok"
    rows = records_of("soft:inverse=newton", tokens="256", inputs="constant")
    assert {r.status for r in rows} == {"ok"}  # not asked for


def test_wrong_gradient_shows_no_speed(tmp_path):
    """In float32 this file has the right output and twice the right gradient."""
    bad = plugin_files.write(tmp_path, "wrong_gradient")
    assert records_of(bad, baseline="none")[0].status == "ok"
    row = records_of(bad, baseline="none", mode="forward_backward")[0]
    assert row.status == "failed"
    assert "the gradient is 100.0% away" in row.note


def test_what_float16_cannot_hold_is_not_an_error():
    """Far-apart keys give Gaussian scores below the smallest float16; zero rows are then the right answer."""
    keys = {"dtype": "float16", "inputs": "peaky", "head_dim": "64", "tokens": "256"}
    assert {r.status for r in records_of("soft,gaussian", **keys)} == {"ok"}


@pytest.mark.quiet
def test_timeout_bounds_the_measuring_too():
    flags = {"latency": {"rep": "60000"}, "sweep": {"attn": "soft", "baseline": "none", "tokens": "1k", "heads": "1",
                                                   "device": "cpu"}}
    started = time.perf_counter()
    ((_, (row,)),) = session.start(config.load(None, flags=flags), "latency", timeout=2)
    assert time.perf_counter() - started < 12
    assert row.status == "timeout"


def test_only_the_fast_implementation_is_predicted_by_its_cost():
    rows = records_of("softmax:impl=math", baseline="softmax", tokens="64k", heads="64", timeout=0.01)
    assert [(r.label, r.status) for r in rows][1] == ("softmax:impl=math", "oom")
    assert "not run: it needs about" in rows[1].note


def test_what_does_not_fit_beside_the_others_is_measured_alone(monkeypatch):
    """A memory that holds one workload: the second fits only once the first, and all that held it, is gone."""
    alive: weakref.WeakSet = weakref.WeakSet()
    build = workload.build

    def in_small_memory(*arguments):
        if len(alive):
            raise MemoryError
        made = build(*arguments)
        alive.add(made.module)
        return made

    monkeypatch.setattr(workload, "build", in_small_memory)
    monkeypatch.setattr(probe, "probe", lambda *arguments: None)
    assert [(r.label, r.status) for r in records_of("soft,performer", baseline="none")] == [
        ("soft", "ok"), ("performer", "ok")]


def test_what_was_measured_alone_has_a_row_when_the_one_after_it_takes_no_end(monkeypatch):
    flags = {"sweep": {"attn": "soft,performer", "baseline": "none", "tokens": "16", "device": "cpu"}}
    rows = []
    made = replace(session.lay_out(config.load(None, flags=flags), "latency", timeout=1.0), on_stuck=rows.extend)

    def alone(self, job):
        if job.case.spec.label == "performer":
            self._give_up([job.case])
        return [Reading("latency", unit="s", value=1.0)]

    monkeypatch.setattr(sweep.Sweep, "attempt", lambda self, action, *given:
                        object.__new__(workload.Workload) if action.__name__ == "prepare"
                        else [Reading("", status="oom")])
    monkeypatch.setattr(sweep.Sweep, "_run_alone", alone)
    made._run_group(made.jobs)
    assert [(row.label, row.status) for row in rows] == [("soft", "not_run"), ("performer", "timeout")]
