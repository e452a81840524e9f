"""The measuring commands, end to end: what goes to stdout, what to the file, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import plugin_files
import pytest

from softbench import plugins, records
from softbench.processes import setup

ROOT = Path(__file__).parents[2]
SMALL = ["--tokens", "16,64", "--heads", "2", "--head-dim", "8", "--device", "cpu"]
BRIEF = [*SMALL, "--rep", "2", "--warmup", "1", "--rounds", "1"]


def test_latency_prints_a_table_and_keeps_records(run):
    code, out, err = run("latency", "--attn", "soft,performer", *BRIEF, "--out", "x.jsonl")
    assert code == 0
    assert "\x1b" not in out + err
    order = [line.split()[1] for line in out.splitlines() if line.lstrip()[:2] in ("16", "64")]
    assert order == ["softmax", "soft", "performer"] * 2
    assert "Records: x.jsonl (6 new)" in err
    found, problems = records.read("x.jsonl")
    assert problems == []
    assert [(r.label, r.tokens) for r in found] == [
        (a, n) for n in (16, 64) for a in ("softmax", "soft", "performer")]
    assert all(r.status == "ok" and r.samples and r.unit == "s" for r in found)
    assert found[0].environment["command"].startswith("softbench latency --attn soft,performer")


def test_default_output_is_a_new_file_in_results(run):
    assert run("latency", "--attn", "soft", *BRIEF)[0] == 0
    assert [p.name.startswith("latency-") for p in Path("results").iterdir()] == [True]


@pytest.mark.parametrize("measure", ["latency", "memory", "flops"])
def test_each_measure_runs_in_every_format(run, measure):
    extra = ["--rep", "2", "--warmup", "1"] if measure == "latency" else []
    arguments = [measure, "--attn", "soft", *SMALL, *extra]
    table = run(*arguments, "--out", "a.jsonl")
    assert table[0] == 0
    assert "softmax" in table[1]
    code, out, _ = run(*arguments, "--format", "jsonl")
    assert code == 0
    assert {json.loads(line)["label"] for line in out.splitlines()} == {"softmax", "soft"}
    code, out, _ = run(*arguments, "--format", "csv")
    assert code == 0
    assert out.splitlines()[0].startswith("measure,")
    code, out, _ = run(*arguments, "--format", "md")
    assert code == 0
    assert "| ---:" in out or "|---:" in out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_is_written(run, suffix):
    code, _, err = run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl", "--plot", f"x.{suffix}")
    assert code == 0
    assert f"Plot: x.{suffix}" in err
    assert Path(f"x.{suffix}").stat().st_size > 5000
    assert run("plot", "x.jsonl", "--out", f"y.{suffix}")[0] == 0
    assert Path(f"y.{suffix}").exists()


def test_resume_measures_only_what_is_missing(run):
    run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl")
    code, out, err = run("latency", "--attn", "soft,performer", *BRIEF, "--out", "x.jsonl", "--resume")
    assert code == 0
    assert "Resuming: 4 of 6 cases are in x.jsonl." in err
    assert "(2 new)" in err
    assert [r.label for r in records.read("x.jsonl")[0]].count("softmax") == 2
    assert out.count("performer") == out.count("softmax ") == 2 or "performer" in out
    again = run("latency", "--attn", "soft,performer", *BRIEF, "--out", "x.jsonl", "--resume")
    assert again[0] == 0
    assert "Resuming: 6 of 6" in again[2]
    assert "(0 new)" in again[2]
    assert again[1] == out


def test_resume_does_not_trust_another_environment(run):
    run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl", "--threads", "1")
    code, _, err = run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl", "--threads", "2", "--resume")
    assert code == 0
    assert "threads 1, here 2" in err
    assert "Resuming: 0 of 4" in err


def test_resume_tells_options_apart_and_repeats_failures(run, tmp_path):
    bad = plugin_files.write(tmp_path, "nan")
    assert run("latency", "--attn", f"soft,{bad}", *BRIEF, "--out", "x.jsonl")[0] == 5
    _, _, err = run("latency", "--attn", f"soft:landmarks=4,{bad}", *BRIEF, "--out", "x.jsonl", "--resume")
    assert "Resuming: 2 of 6" in err  # the baseline alone


def test_resume_measures_a_file_that_changed_again(run, tmp_path):
    mine, beside = Path(plugin_files.write(tmp_path, "mean")), tmp_path / "beside.py"
    (tmp_path / "elsewhere").mkdir()
    beside.write_text("FACTOR = 1\n")
    text = mine.read_text().replace("import torch\n", "import torch\nfrom beside import FACTOR\n", 1)
    mine.write_text(text)
    (tmp_path / "elsewhere/mean.py").write_text(text.replace("from beside import FACTOR\n", ""))

    def resumed(path=mine):
        code, _, err = run("latency", "--attn", f"{path},soft", *BRIEF, "--out", "x.jsonl", "--resume")
        assert code == 0
        return re.search(r"Resuming: (\d)", err)[1] if "Resuming" in err else "none", "files have changed" in err

    assert resumed() == ("none", False)
    assert resumed() == ("6", False)
    mine.write_text(text.replace("self.scale * v", "self.scale * 1.0 * v"))
    assert resumed() == ("4", True)
    assert resumed() == ("6", True)
    beside.write_text("FACTOR = 2\n")  # what the file imports from its folder is code of the same attention
    assert resumed() == ("4", True)
    assert resumed(tmp_path / "elsewhere/mean.py") == ("4", True)
    assert resumed() == ("6", True)  # its own records are there still


def test_records_of_an_older_softbench_are_resumed_for_its_own_attentions_alone(run, tmp_path):
    mine = plugin_files.write(tmp_path, "mean")
    command = ("latency", "--attn", f"{mine},soft", *BRIEF, "--out", "x.jsonl")
    run(*command)
    old = [replace(r, environment={k: v for k, v in r.environment.items() if k not in ("plugins", "code")})
           for r in records.read("x.jsonl")[0]]
    Path("x.jsonl").write_text("".join(record.to_json() + "\n" for record in old))
    assert "Resuming: 4 of 6" in run(*command, "--resume")[2]


def test_some_failed_is_exit_5_and_the_others_are_kept(run, tmp_path):
    bad = plugin_files.write(tmp_path, "raises")
    code, out, err = run("latency", "--attn", f"{bad},soft", *BRIEF, "--out", "x.jsonl")
    assert code == 5
    assert "ZeroDivisionError" in out
    assert "failed" in err
    assert [r.status for r in records.read("x.jsonl")[0]] == ["ok", "failed", "ok"] * 2


def test_out_of_memory_is_a_row_and_not_a_failure(run, tmp_path):
    bad = plugin_files.write(tmp_path, "too_large")
    code, out, _ = run("memory", "--attn", bad, *SMALL)
    assert code == 0
    assert "oom" in out


def test_a_new_file_is_an_attention(run, tmp_path):
    mine = plugin_files.write(tmp_path, "mean")
    for verb in ("latency", "memory", "flops"):
        code, out, _ = run(verb, "--attn", f"{mine}:scale=2", *SMALL)
        assert code == 0, verb
        assert "mean:scale=2" in out


def test_dry_run_measures_nothing(run, monkeypatch):
    monkeypatch.setattr(setup, "apply", lambda process: pytest.fail("the process was set up"))
    code, out, _ = run("latency", "--attn", "soft", "--tokens", "64k", "--dry-run")
    assert code == 0
    assert "2 cases, not run" in out
    assert "65,536" in out
    assert "TFLOP" in out
    assert not Path("results").exists()


def test_quick_yields_to_explicit_flags(run):
    _, out, _ = run("latency", "--quick", "--dry-run")
    assert "9 cases" in out
    _, out, _ = run("latency", "--quick", "--tokens", "64", "--dry-run")
    assert "3 cases" in out
    _, out, _ = run("latency", "--quick", "--grid", "7x9", "--dry-run")
    assert "7x9" in out


def test_isolate(run):
    code, out, _ = run("latency", "--attn", "soft", *BRIEF, "--tokens", "16", "--isolate", "--memory-limit", "1GiB")
    assert code == 0
    assert "soft" in out


def test_configuration_file_set_and_flags(run):
    Path("bench.toml").write_text('[sweep]\nattn = "soft"\ntokens = [16, 64]\nheads = 2\nhead_dim = 8\n'
                                  "[attention.soft]\nlandmarks = 4\n[latency]\nrep = 2.0\nwarmup = 1.0\nrounds = 1\n")
    code, out, _ = run("latency", "--format", "jsonl", "--device", "cpu")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["options"]["landmarks"] for r in rows if r["attention"] == "soft"] == [4, 4]
    assert {r["heads"] for r in rows} == {2}
    _, out, _ = run("latency", "--format", "jsonl", "--device", "cpu", "--set", "attention.soft.landmarks=9",
                    "--attn", "soft,soft:landmarks=1", "--tokens", "16")
    assert [json.loads(line)["options"].get("landmarks") for line in out.splitlines()][1:] == [9, 1]


@pytest.mark.parametrize(("arguments", "message"), [
    (["latency", "--attn", "sofmax"], "No attention named 'sofmax'. Did you mean 'softmax'?"),
    (["latency", "--attn", "soft:landmark=3"], "Did you mean 'landmarks'?"),
    (["latency", "--attn", "soft:landmarks=three"], "landmarks must be a whole number, not 'three'"),
    (["latency", "--attn", "soft:landmarks=0"], "landmarks must be at least 1"),
    (["latency", "--attn", "soft:landmarks"], "is not an option. Write name:key=value"),
    (["latency", "--attn", "soft,,performer"], "is empty"),
    (["latency", "--attn", "soft,soft"], "'soft' is named twice"),
    (["latency", "--attn", "./missing.py"], "No attention file './missing.py'"),
    (["latency", "--tokens", "0"], "at least 1"),
    (["latency", "--tokens", "-5"], "not a positive whole number"),
    (["latency", "--tokens", "1e9"], "not a positive whole number"),
    (["latency", "--tokens", "999999999999"], "must be at most"),
    (["latency", "--tokens", "4k..1k"], "ends before it starts"),
    (["latency", "--grid", "7"], "is not a grid"),
    (["latency", "--batch", "0"], "--batch must be at least 1"),
    (["latency", "--heads", "x"], "--heads"),
    (["latency", "--head-dim", "99999999999"], "--head-dim must be at most"),
    (["latency", "--dtype", "float23"], "No dtype named 'float23'. Did you mean"),
    (["latency", "--device", "gpu"], "No device named 'gpu'"),
    (["latency", "--impl", "cuda"], "No attention here has an implementation 'cuda'"),
    (["latency", "--mode", "forwards"], "No mode named 'forwards'. Did you mean 'forward'?"),
    (["latency", "--inputs", "imagine"], "No inputs named 'imagine'"),
    (["latency", "--inputs", "image:./nowhere"], "nowhere"),
    (["latency", "--seed", "-1"], "seed must be at least 0"),
    (["latency", "--rep", "0"], "rep must be at least 1"),
    (["latency", "--rep", "nan"], "rep must be a finite number"),
    (["latency", "--baseline", "soft,performer"], "--baseline must be one attention"),
    (["latency", "--set", "latency.repp=3"], "Did you mean 'rep'?"),
    (["latency", "--set", "latencyrep"], "is not section.key=value"),
    (["latency", "--set", "letency.rep=3"], "Did you mean 'latency'?"),
    (["latency", "--config", "missing.toml"], "Cannot read missing.toml"),
    (["latency", "--memory-limit", "1GiB"], "add --isolate"),
    (["latency", "--isolate", "--memory-limit", "lots"], "is not an amount of memory"),
    (["latency", "--timeout", "0"], "--timeout"),
    (["latency", "--timeout", "nan"], "'nan' is not a time"),
    (["latency", "--resume"], "--resume needs the file to continue"),
    (["latency", "--plot", "x.pdf"], "must end in .png or .svg"),
    (["latency", "--format", "xml"], "'xml' is not one of"),
    (["latency", "--tokns", "5"], "--tokens"),
    (["latencyy"], "No command 'latencyy'. Did you mean 'latency'?"),
    (["show"], "FILES"),
    (["show", "missing.jsonl"], "No result file 'missing.jsonl'"),
    (["plot", "missing.jsonl", "--out", "x.png"], "No result file 'missing.jsonl'"),
    (["plot", "missing.jsonl", "--out", "x.gif"], "must end in .png or .svg"),
])
def test_mistakes_are_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == (1 if "No result file" in message else 2)
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("Error: ")
    assert message in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("content", "message"), [
    ("def broken(:", "Cannot import attention 'bad': SyntaxError"),
    ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("x = 1", "Attention 'bad' lacks APPROXIMATES, SHARES_QK"),
])
def test_broken_plugin_is_one_line(run, content, message):
    Path("bad.py").write_text(content)
    code, out, err = run("latency", "--attn", "./bad.py")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message.replace("'bad'", "'./bad.py'") in err


def test_unwritable_output_is_known_before_measuring(run):
    Path("file").write_text("")
    started = time.perf_counter()
    code, _, err = run("latency", "--attn", "soft", "--tokens", "16k", "--out", "file/x.jsonl")
    assert code == 1
    assert "Cannot write file/x.jsonl" in err
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"), (b"\x00\xff\x80", "not JSON"), (b"{}\n", "without a schema"),
    (b"hello\nworld\n", "not JSON"),
])
def test_bad_result_files_are_one_line(run, content, message):
    Path("x.jsonl").write_bytes(content)
    code, _, err = run("show", "x.jsonl")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_show_reads_past_a_torn_line(run):
    run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl")
    path = Path("x.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    code, out, err = run("show", "x.jsonl")
    assert code == 0
    assert "torn" in err
    assert out.count("soft ") == 1
    code, _, err = run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl", "--resume")
    assert code == 0
    assert "Resuming: 3 of 4" in err
    assert len(records.read("x.jsonl")[0]) == 4


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(process, tmp_path):
    child = process("latency", "--attn", "soft", "--tokens", "16,64,1k,2k", "--rep", "2000", "--warmup", "0", "--out",
                    "x.jsonl", cwd=tmp_path)
    path = tmp_path / "x.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # what is seen in the file may not be flushed yet
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "8 cases are done and kept in x.jsonl" in err
    assert "Continue with: softbench latency --attn soft" in err
    assert err.rstrip().endswith("--out x.jsonl --resume")
    found, problems = records.read(path)
    assert problems == []
    assert len(found) in (2, 4, 6)


def test_output_into_a_closed_pipe_ends_quietly(process, tmp_path):
    with process("list", cwd=tmp_path) as child:
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait() in (0, 1)


def test_output_to_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
        done = subprocess.run([sys.executable, "-m", "softbench", "list"], stdout=full, stderr=subprocess.PIPE,
                              text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Cannot write the output: No space left on device")
    assert done.stderr.count("\n") == 1


def test_list_and_env(run):
    code, out, _ = run("list")
    assert code == 0
    names = "softmax gaussian soft soft_norm linformer performer nystromformer latency memory flops normal image"
    for name in names.split():
        assert f"\n{name} " in out
    code, out, _ = run("env", "--format", "jsonl")
    assert code == 0
    assert json.loads(out)["machine"]


def test_a_broken_package_does_not_spoil_the_list(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[softbench.attention]\nlost = no_such_module\n"
                                           "[softbench.measures]\ngone = no_such_module\n")
    plugins._entry_points.cache_clear()
    try:
        code, out, _ = run("list")
        assert code == 0
        assert "\nlost " in out
        assert "cannot be used" in out
        code, out, _ = run("--help")
        assert code == 0
        assert "gone" in out
        code, _, err = run("gone")
        assert code == 2
        assert err.count("\n") == 1
    finally:
        plugins._entry_points.cache_clear()


def test_a_plot_that_cannot_be_drawn_loses_nothing(run):
    code, out, err = run("latency", "--attn", "soft", *BRIEF, "--tokens", "16", "--batch", "1,2,3,4,5,6,7", "--out",
                         "x.jsonl", "--plot", "x.png")
    assert code == 1
    assert out.count("soft ") == 7
    assert "Warning: no plot. latency would need 7 panels" in err
    assert len(records.read("x.jsonl")[0]) == 14


def test_resume_measures_again_with_other_settings(run):
    run("latency", "--attn", "soft", *BRIEF, "--out", "x.jsonl")
    code, _, err = run("latency", "--attn", "soft", *BRIEF[:-2], "--rounds", "2", "--out", "x.jsonl", "--resume")
    assert code == 0
    assert "made with other settings" in err
    assert "(4 new)" in err


def test_resume_under_a_memory_limit(process, tmp_path):
    arguments = ["latency", "--attn", "soft", *BRIEF, "--tokens", "16", "--isolate", "--memory-limit", "1GiB", "--out",
                 "x.jsonl"]
    for more in ([], ["--resume"]):  # processes of their own, as the parent's environment is compared with the child's
        with process(*arguments, *more, cwd=tmp_path) as child:
            _, err = child.communicate(timeout=120)
        assert child.returncode == 0
    assert "Resuming: 2 of 2" in err


@pytest.mark.parametrize(("cost", "message"), [
    ("1 / 0", "cost() raised ZeroDivisionError: division by zero"), ("3.0", "cost() must return a Cost, not a float")])
def test_a_broken_cost_is_told(run, tmp_path, cost, message):
    path = Path(plugin_files.write(tmp_path, "mean"))
    path.write_text(path.read_text().partition("def cost")[0] + f"def cost(shape, options):\n    return {cost}\n")
    code, out, err = run("latency", "--attn", str(path), *BRIEF)
    assert code == 5
    assert message in out
    code, out, err = run("latency", "--attn", str(path), *BRIEF, "--dry-run")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_show_selects(run):
    run("latency", "--attn", "soft,performer", *BRIEF, "--dtype", "float32,float64", "--out", "x.jsonl")
    _, out, _ = run("show", "x.jsonl", "--attn", "soft", "--where", "dtype=float64", "--where", "tokens=16",
                    "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["label"], r["dtype"], r["rows"]) for r in rows] == [("softmax", "float64", 4), ("soft", "float64", 4)]
    code, _, err = run("show", "x.jsonl", "--where", "dtpe=float64")
    assert code == 2
    assert "No column named 'dtpe'. Did you mean 'dtype'?" in err
    assert run("show", "x.jsonl", "--where", "dtype")[0] == 2


def test_flags_are_frozen():
    """The command line is an interface: a flag that goes or changes its name must be a decision."""
    from softbench.cli import cli

    verbs = {name: cli.get_command(None, name) for name in cli.list_commands(None)}
    sweep = {"attn", "model", "baseline", "tokens", "grid", "image", "by-stage", "batch", "heads", "head-dim", "dtype",
             "mode", "device", "impl", "inputs", "seed", "threads", "malloc", "denormals", "tf32", "set", "config",
             "out", "plot", "format", "quick", "resume", "dry-run", "isolate", "memory-limit", "timeout",
             "check-convergence", "causal"}
    flags = {name: {o.removeprefix("--") for p in verb.params for o in p.opts if o.startswith("--")}
             for name, verb in verbs.items()}
    assert flags["latency"] == sweep | {"rep", "warmup", "rounds", "block"}
    assert flags["memory"] >= sweep
    assert flags["flops"] >= sweep
    assert flags["show"] == {"measure", "attn", "model", "where", "baseline", "view", "format"}
    assert flags["plot"] == {"measure", "attn", "model", "where", "baseline", "view", "out"}
    assert flags["env"] == flags["info"] == {"format"}
    assert flags["list"] == {"family", "linear", "linear-in-v", "causal", "defaults", "format"}


def test_repository_configuration_is_the_default(run, monkeypatch):
    """Running in the checkout and running elsewhere measure the same."""
    elsewhere = run("latency", "--dry-run")[1]
    monkeypatch.chdir(ROOT)
    assert run("latency", "--dry-run")[1] == elsewhere


ONE = ["--tokens", "16", "--heads", "2", "--head-dim", "8", "--device", "cpu"]
LOUD = ("print('IMPORT'); os.write(1, b'RAW IMPORT'); atexit.register(lambda: os.write(1, b'RAW END'))\n"
        "atexit.register(print, 'END')\n")
SHOUT = ("        print('FORWARD'); sys.__stdout__.write('DUNDER'); ctypes.CDLL(None).printf(b'C CODE')\n"
         "        threading.Thread(target=print, args=('THREAD',)).start()\n        return ")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("more", [[], ["--isolate"]])
def test_what_a_plugin_prints_is_no_output_of_the_command(process, tmp_path, form, more):
    path = Path(plugin_files.write(tmp_path, "mean"))
    text = path.read_text().replace("from torch import nn\n", "import atexit, ctypes, os, sys, threading\n"
                                    f"from torch import nn\n{LOUD}", 1)
    cost = "def cost(*given):\n    print('COST')\n    return _cost(*given)\n\n\ndef _cost("
    path.write_text(text.replace("        return ", SHOUT, 1).replace("def cost(", cost))
    child = process("latency", "--attn", str(path), "--baseline", "none", *BRIEF, "--format", form, *more)
    out, err = child.communicate()
    assert child.returncode == 0, err
    lines = out.splitlines()
    if form == "jsonl":
        assert [json.loads(line)["label"] for line in lines] == ["mean", "mean"]
    else:
        assert [line.partition(",")[0] for line in lines] == ["measure", "latency", "latency"]
    if not more:
        said = ("IMPORT", "RAW IMPORT", "FORWARD", "DUNDER", "C CODE", "THREAD", "COST", "RAW END", "\nEND")
        assert [word for word in said if word not in err] == []


@pytest.mark.parametrize("name", ["swallows", "in_c_code"])
def test_code_that_takes_no_end_ends_the_run_in_order(process, tmp_path, name):
    """What was measured is kept and told, and what was not says so."""
    bad, good = plugin_files.write(tmp_path, name), plugin_files.write(tmp_path, "mean")
    child = process("memory", "--attn", f"{good},{bad},soft", "--baseline", "none", *ONE, "--timeout", "2", "--out",
                    "x.jsonl", "--format", "jsonl")
    out, err = child.communicate()
    assert child.returncode == 5
    assert f"Stopped: {name} took no end after --timeout." in err
    told = {row["label"]: row for row in map(json.loads, out.splitlines())}
    assert told["mean"]["status"] in ("ok", "timeout")  # the latter on a busy machine
    assert (told[name]["status"], told["soft"]["status"]) == ("timeout", "not_run")
    assert "add --isolate" in told["soft"]["note"]
    assert {r.label: r.status for r in records.read("x.jsonl")[0]} == {
        label: row["status"] for label, row in told.items()}
    again = process("memory", "--attn", f"{good},soft", "--baseline", "none", *ONE, "--out", "x.jsonl", "--resume")
    assert "Resuming: 1 of 2" in again.communicate()[1]


def test_a_thread_left_running_does_not_keep_the_command_alive(process, tmp_path):
    path = Path(plugin_files.write(tmp_path, "mean"))
    thread = "        import threading, time\n        threading.Thread(target=time.sleep, args=(600,)).start()\n"
    path.write_text(path.read_text().replace("        return ", f"{thread}        return ", 1))
    started = time.perf_counter()
    child = process("memory", "--attn", str(path), "--baseline", "none", *ONE)
    out, err = child.communicate()
    assert (child.returncode, "mean" in out) == (0, True), err
    assert time.perf_counter() - started < 300


def test_children_of_an_isolated_run_end_with_it(process, tmp_path):
    spawning = Path(plugin_files.write(tmp_path, "spawns"))
    spawning.write_text(spawning.read_text().replace("SECONDS", "300"))
    child = process("memory", "--attn", str(spawning), "--baseline", "none", *ONE, "--isolate")
    pids = Path(f"{spawning}.pids")
    while not (pids.exists() and pids.read_text()) and child.poll() is None:
        time.sleep(0.1)
    child.kill()
    child.communicate()
    (grandchild,) = pids.read_text().split()
    end = time.monotonic() + 30
    while Path(f"/proc/{grandchild}/stat").exists() and time.monotonic() < end:
        if Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.1)
    assert time.monotonic() < end
