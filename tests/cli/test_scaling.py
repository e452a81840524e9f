"""`softbench scaling`, end to end at tiny sizes: injected latencies, records, resuming, pictures, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plugin_files
import pytest

from softbench import records
from softbench.bench import trial
from softbench.bench.trial import Trial
from softbench.contracts.measure import Reading
from softbench.errors import Unsupported
from softbench.measures import latency, memory

Run = Callable[..., tuple[int, str, str]]
POINT = ("--heads", "1", "--head-dim", "4", "--device", "cpu", "--threads", "1")
COMMAND = ("scaling", "--attn", "softmax,soft:landmarks=4,performer", "--min-tokens", "16", "--max-tokens", "256",
           *POINT, "--out", "s.jsonl")
EXPONENTS = {"softmax": 2.0, "soft": 1.0, "performer": 1.5}


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Latencies c N^p with noise in place of measured ones, and peaks of 100 N B; returns the lengths timed."""
    timed: list[int] = []
    noise = np.random.default_rng(0)

    def group(workloads: Sequence[Any], settings: Any) -> list[list[Reading]]:
        timed.append(workloads[0].case.shape.tokens)
        return [[Reading("latency", "s", [float(1e-6 * w.case.shape.tokens ** EXPONENTS[w.subject.attention]
                                                * np.exp(0.02 * noise.standard_normal()))])] for w in workloads]

    def peak(built: Any, settings: Any) -> list[Reading]:
        held = {"inputs": 0, "parameters": 0, "output": 0}
        return [Reading("peak_memory", "B", [100.0 * built.case.shape.tokens], detail=held)]

    monkeypatch.setattr(latency, "measure_group", group)
    monkeypatch.setattr(memory, "measure", peak)
    return timed


def exponents(path: str = "s.jsonl") -> dict[tuple[str, str], records.Record]:
    found = records.latest(records.read(path)[0])
    return {(r.label, r.coords["cost"]): r for r in found if r.quantity == "exponent"}


def test_the_table_says_what_each_attention_claims_and_does(run: Run, injected: list[int]) -> None:
    code, out, err = run(*COMMAND)
    assert code == 0, err
    assert injected == [16, 24, 32, 48, 64, 96, 128, 192, 256]
    found = exponents()
    assert len(found) == 6
    for label, truth in (("softmax", 2.0), ("soft:landmarks=4", 1.0), ("performer", 1.5)):
        record = found[label, "latency"]
        low, high = record.detail["ci95"]
        assert low < record.value < high
        assert record.value == pytest.approx(truth, abs=0.05)
        assert record.options == next(r.options for r in found.values() if r.label == label)
    rows = {line.split()[0]: line for line in out.splitlines() if "O(N" in line and "no faster" not in line}
    assert "O(N^2)" in rows["softmax"]
    assert "holds" in rows["softmax"]
    assert "grows faster" in rows["performer"]
    assert found["softmax", "latency"].note.startswith("quadratic")
    assert "] quadratic" in out
    assert found["performer", "latency"].detail["sentence"].startswith("claims O(N), measured N^1.")
    assert found["performer", "memory"].detail["verdict"] == "no faster"
    assert "memory ends at N" in out
    assert "extrapolated" not in out
    assert run("show", "s.jsonl")[:2] == (0, out)


def test_one_attention_alone_is_named_in_every_table(run: Run, injected: list[int]) -> None:
    code, out, _ = run("scaling", "--attn", "softmax", "--min-tokens", "16", "--max-tokens", "64", *POINT,
                       "--out", "s.jsonl")
    assert code == 0
    assert sum(line.split()[:1] == ["softmax"] for line in out.splitlines()) >= 3


def test_resuming_measures_what_is_missing_and_concludes_from_all(run: Run, injected: list[int]) -> None:
    full = run(*COMMAND)[1]
    lines = Path("s.jsonl").read_text().splitlines()
    Path("s.jsonl").write_text("".join(
        line + "\n" for line in lines if json.loads(line)["coords"]["task"].startswith("N=")
        and not json.loads(line)["coords"]["task"].startswith("N=96 ")))
    del injected[:]
    code, out, err = run(*COMMAND, "--resume")
    assert code == 0
    assert injected == [96]
    assert "Resuming: 8 of 12 tasks" in err
    assert {r.detail["lengths"] for r in exponents().values()} == {9}
    assert out.splitlines()[0] == full.splitlines()[0]
    del injected[:]
    code, again, err = run(*COMMAND, "--resume")
    assert (code, injected) == (0, [])
    assert again == out
    assert "(0 new)" in err


def test_a_conclusion_is_drawn_again_when_a_length_is_measured_again(run: Run, injected: list[int]) -> None:
    run(*COMMAND)
    kept = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    for record in kept:
        if record["coords"]["task"].startswith("N=256 "):
            record |= {"status": "failed", "value": None, "samples": []}
    Path("s.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    del injected[:]
    assert run(*COMMAND, "--resume")[0] == 0
    assert injected == [256]
    assert len(records.read("s.jsonl")[0]) > len(kept) + 6


def test_extrapolated_costs_are_marked_in_table_records_and_picture(run: Run, injected: list[int]) -> None:
    code, out, err = run(*COMMAND, "--extrapolate", "1k,4k", "--plot", "p.svg")
    assert code == 0, err
    assert "Extrapolated, not measured" in out
    assert "latency (extrapolated)" in out
    found = [r for r in records.read("s.jsonl")[0] if r.tokens in (1024, 4096)]
    assert {r.quantity for r in found} == {"latency_extrapolated", "memory_extrapolated"}
    soft = next(r for r in found if r.label == "softmax" and r.tokens == 4096 and r.unit == "s")
    low, high = soft.detail["ci95"]
    assert low < 1e-6 * 4096**2 < high
    assert soft.note.startswith("extrapolated from N = 256 by N^")
    picture = Path("p-latency.svg").read_text()
    assert picture.count("-beyond") == 3
    assert "stroke-dasharray" in picture
    assert "dashed and hollow: extrapolated" in picture
    assert "softmax N^" in picture
    without = run(*COMMAND[:-1], "t.jsonl", "--plot", "q.svg")
    assert without[0] == 0
    assert "-beyond" not in Path("q-latency.svg").read_text()


def test_pictures_of_several_modes_have_a_panel_each(run: Run, injected: list[int]) -> None:
    code, _, err = run("scaling", "--attn", "soft:landmarks=4", "--min-tokens", "16", "--max-tokens", "64", *POINT,
                       "--mode", "forward,training", "--out", "s.jsonl", "--plot", "p.png", "--view", "latency,growth")
    assert code == 0, err
    assert Path("p.png").stat().st_size > 10_000  # the one picture that was named


def test_the_end_of_memory_is_predicted_and_verified_once(
        run: Run, injected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def memory_trial(case: Any, subject: Any, limit: int, timeout: float) -> Trial:
        asked.append((case.shape.tokens, limit))
        return Trial("ok", held=1.0) if 100 * case.shape.tokens <= limit else Trial("oom", "no memory")

    monkeypatch.setattr(trial, "memory", memory_trial)
    code, out, _ = run(*COMMAND, "--memory-limit", "1MiB", "--verify")
    assert code == 0
    assert len(asked) == 6
    assert {limit for _, limit in asked} == {1 << 20}
    assert max(n for n, _ in asked) == pytest.approx(1.1 * (1 << 20) / 100, rel=0.03)
    assert out.count("confirmed:") == 3
    assert "memory ends at N (predicted)" in out
    assert out.count("about 10,000") == 3
    found = [r for r in records.read("s.jsonl")[0] if r.quantity == "oom_tokens"]
    assert [r.value for r in found] == [10485.0] * 3
    assert {r.status for r in records.read("s.jsonl")[0] if r.quantity == "trial_memory"} == {"ok", "oom"}
    monkeypatch.setattr(trial, "memory", lambda *_: Trial("ok"))
    assert "refuted:" in run(*COMMAND[:-1], "t.jsonl", "--memory-limit", "1MiB", "--verify")[1]
    monkeypatch.setattr(trial, "memory", lambda *_: Trial("timeout", "no result"))
    code, out, _ = run(*COMMAND[:-1], "u.jsonl", "--memory-limit", "1MiB", "--verify")
    assert "undecided:" in out
    assert code == 5


def test_without_verify_no_child_is_started(run: Run, injected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "memory", lambda *_: pytest.fail("a trial was started"))
    assert run(*COMMAND, "--memory-limit", "1MiB")[0] == 0
    code, out, _ = run(*COMMAND[:-1], "t.jsonl", "--memory-limit", "1TiB")
    assert code == 0
    assert "beyond 67,108,864 tokens" in out


def test_too_few_usable_lengths_give_a_line_and_no_slope(
        run: Run, injected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    real = latency.measure_group

    def group(workloads: Sequence[Any], settings: Any) -> Any:
        if any(w.subject.attention == "soft" and w.case.shape.tokens > 24 for w in workloads):
            if len(workloads) == 1:
                raise MemoryError("no room")
            raise Unsupported("not together")
        return real(workloads, settings)

    monkeypatch.setattr(latency, "measure_group", group)
    monkeypatch.setattr(latency, "measure", lambda w, s: real([w], s)[0] if w.subject.attention != "soft" else 1 / 0)
    code, out, _ = run(*COMMAND, "--max-tokens", "64", "--costs", "latency")
    record = exponents()["soft:landmarks=4", "latency"]
    assert (record.value, record.status) == (None, "not_run")
    assert record.note.startswith("2 of 5 lengths gave a number, and a slope needs 3")
    assert "not run" in out
    assert code == 5  # the lengths failed


def test_what_ran_out_of_memory_is_not_run_at_longer_lengths(run: Run, injected: list[int], tmp_path: Path) -> None:
    huge = plugin_files.write(tmp_path, "too_large")
    code, out, _ = run("scaling", "--attn", f"{huge},soft:landmarks=4", "--min-tokens", "16", "--max-tokens", "64",
                       *POINT, "--out", "s.jsonl")
    assert code == 0
    found = [r for r in records.read("s.jsonl")[0] if r.label == "too_large"]
    assert {r.status for r in found} == {"oom"}
    later = [r.note for r in found if r.quantity == "latency" and r.tokens > 16]
    assert later == ["not run: memory ran out at 16 tokens"] * 4
    assert "O(N)" in out


def test_everything_failing_is_said_and_fails(run: Run, tmp_path: Path) -> None:
    wrong = plugin_files.write(tmp_path, "nan")
    code, out, _ = run("scaling", "--attn", wrong, "--min-tokens", "16", "--max-tokens", "64", "--per-doubling", "1",
                       *POINT, "--out", "s.jsonl", "--plot", "p.png")
    assert code == 5
    assert "0 of 3 lengths gave a number" in out
    assert not list(Path().glob("*.png"))


@pytest.mark.parametrize(("arguments", "message"), [
    (("--max-tokens", "16"), "A slope needs at least 3 lengths, and from 16 to 16 there are 1 (16)"),
    (("--max-tokens", "8"), "--min-tokens 16 is above --max-tokens 8. Swap them."),
    (("--max-tokens", "many"), "'many' is not a positive whole number"),
    (("--per-doubling", "3"), "per_doubling must be one of 1, 2, 4, not '3'"),
    (("--costs", "latency,size"), "No cost named 'size'"), (("--mode", "sideways"), "No mode named 'sideways'"),
    (("--dtype", "float33"), "No dtype named 'float33'. Did you mean 'float32'?"),
    (("--attn", "sofmax"), "No attention named 'sofmax'. Did you mean 'softmax'?"),
    (("--attn", "soft,soft:landmarks=49"), "are the same attention. Name it once"),
    (("--impl", "sdpb"), "No attention here has an implementation 'sdpb'"),
    (("--device", "gpu"), "No device named 'gpu'"), (("--extrapolate", "128"), "128 is within the lengths"),
    (("--extrapolate", "far"), "'far' is not a positive whole number"),
    (("--memory-limit", "much"), "--memory-limit: 'much' is not an amount of memory"),
    (("--memory-limit", "1"), "--memory-limit must be at least 1MiB, not 1. A number without a unit counts bytes."),
    (("--costs", "latency", "--verify"), "--verify needs memory among --costs"),
    (("--verify", "maybe"), "verify must be true or false"), (("--timeout", "0"), "timeout must be at least 0.1"),
    (("--view", "grows"), "No view named 'grows'. Did you mean 'growth'?"), (("--nonsense",), "No such option")])
def test_mistakes_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*COMMAND, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("s.jsonl").exists()


def test_dry_run_and_help(run: Run) -> None:
    code, out, _ = run(*COMMAND, "--dry-run")
    assert code == 0
    assert out.startswith("12 tasks, not run.")
    code_of_help = ("import sys\nfrom softbench.__main__ import main\ntry: main(['scaling', '--help'])\n"
                    "finally: print('LOADED', *sorted({'torch', 'pandas', 'scipy', 'numpy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code_of_help], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert "--extrapolate" in done.stdout


def test_real_latency_and_memory_pass_through(run: Run) -> None:
    code, _, err = run("scaling", "--attn", "soft:landmarks=4", "--min-tokens", "16", "--max-tokens", "64",
                       "--per-doubling", "1", "--rep", "1", "--rounds", "2", *POINT, "--out", "s.jsonl")
    assert code == 0, err
    found = [r for r in records.read("s.jsonl")[0] if r.quantity in ("latency", "peak_memory")]
    assert len(found) == 6
    assert all(r.samples and r.environment["threads"] == 1 for r in found)
    assert {r.impl for r in found} == {"eager"}
