"""The measuring commands on whole models: tables, records, resuming, pictures, and mistakes told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softbench import config as configuration
from softbench import records
from softbench.bench import isolate, session

BRIEF = ["--image", "32", "--batch", "2", "--device", "cpu", "--threads", "1", "--rep", "2", "--warmup", "1",
         "--rounds", "1"]
BOTH = ["--model", "soft-tiny,timm:resnet18"]


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_latency_shows_images_per_second_beside_the_first_model(run):
    code, out, _ = run("latency", *BOTH, *BRIEF, "--image", "32,32x64", "--out", "x.jsonl")
    assert code == 0
    header = next(line for line in out.splitlines() if line.split()[:2] == ["image", "model"])
    assert "images/s" in header
    assert "vs soft-tiny" in header
    assert "softmax" not in out
    assert "32x64  timm:resnet18" in out
    assert "heads" not in out
    found, problems = records.read("x.jsonl")
    assert problems == []
    assert [(r.label, r.rows, r.cols) for r in found] == [
        (name, 32, cols) for cols in (32, 64) for name in ("soft-tiny", "timm:resnet18")]
    own, peer = found[:2]
    assert (own.model, own.attention, own.impl, own.batch, own.heads, own.head_dim) == (
        "soft-tiny", "soft", "eager", 2, None, None)
    assert (peer.model, peer.attention, peer.impl, peer.options) == ("timm:resnet18", None, None, {})
    assert own.coords == {"inputs": "normal", "part": "whole"}
    line = next(line for line in out.splitlines() if "32x32  soft-tiny" in line)
    assert float(line.split()[6].replace(",", "")) == pytest.approx(2 / own.value, rel=0.01)
    shown = run("show", "x.jsonl")
    assert shown[0] == 0
    assert shown[1].splitlines()[-3:] == out.splitlines()[-3:]
    assert run("plot", "x.jsonl", "--out", "x.svg")[0] == 0
    assert Path("x.svg").stat().st_size > 5000


def test_by_stage_measures_the_whole_and_each_stage(run):
    code, out, _ = run("flops", *BOTH, "--image", "32", "--by-stage", "--format", "jsonl", "--out", "x.jsonl")
    assert code == 0
    counts = {(r["model"], r["coords"]["part"], r["quantity"]): r["value"] for r in rows(out)}
    for model in ("soft-tiny", "timm:resnet18"):
        stages = [counts[model, f"stage{i}", "flops_torch"] for i in (1, 2, 3, 4)]
        assert 0.5 < sum(stages) / counts[model, "whole", "flops_torch"] < 1
        weights = [counts[model, f"stage{i}", "parameters"] for i in (1, 2, 3, 4)]
        assert sum(weights) < counts[model, "whole", "parameters"]
    assert counts["soft-tiny", "stage2", "flops_closed_form"] == pytest.approx(
        counts["soft-tiny", "stage2", "flops_torch"], rel=0.01)
    assert counts["timm:resnet18", "stage2", "flops_closed_form"] is None
    assert counts["timm:resnet18", "whole", "parameters"] == 11_689_512
    table = run("show", "x.jsonl")[1]
    assert [line.split()[1:3] for line in table.splitlines() if line.startswith("32x32")][:3] == [
        ["whole", "soft-tiny"], ["whole", "timm:resnet18"], ["stage1", "soft-tiny"]]


def test_memory_has_the_weights_beside_the_peak(run):
    code, out, _ = run("memory", "--model", "timm:resnet18", "--image", "32", "--mode", "forward_backward", "--batch",
                       "2", "--threads", "1", "--format", "jsonl")
    assert code == 0
    peak, weights = rows(out)
    assert (peak["quantity"], weights["quantity"]) == ("peak_memory", "weights")
    assert weights["value"] > 4 * 11_689_512  # and the statistics of the batch norms
    assert peak["value"] > 4 * 11_689_512  # the gradients alone


def test_resume_knows_models_their_options_and_their_stages(run):
    run("latency", "--model", "timm:resnet18", *BRIEF, "--out", "x.jsonl")
    _, _, err = run("latency", "--model", "timm:resnet18,timm:resnet18:drop_rate=0.1", *BRIEF, "--by-stage", "--out",
                    "x.jsonl", "--resume")
    assert "Resuming: 1 of 10 cases" in err
    assert "(9 new)" in err
    _, _, err = run("latency", "--model", "timm:resnet18,timm:resnet18:drop_rate=0.1", *BRIEF, "--by-stage", "--out",
                    "x.jsonl", "--resume")
    assert "Resuming: 10 of 10" in err


def test_isolate(run):
    code, out, _ = run("latency", "--model", "soft-tiny:landmarks=16", *BRIEF, "--isolate", "--timeout", "90",
                       "--format", "jsonl", "--mode", "forward_backward")
    assert code == 0
    (found,) = rows(out)
    assert (found["model"], found["options"], found["status"]) == ("soft-tiny", {"landmarks": 16}, "ok")


def test_a_stage_is_measured_in_a_child_too():
    """What the parent sends of a stage is enough for the child to find it again."""
    config = configuration.load(None, flags={"sweep": {"model": "timm:resnet18", "image": "32", "by_stage": True,
                                                       "device": "cpu"}})
    sweep = session.start(config, "flops", isolate=True)
    job = next(job for job in sweep.jobs if job.case.spec.part == "stage2")
    sent = json.loads(json.dumps(sweep.request(job)))
    (*_, parameters) = isolate._child(sent, {})
    assert (parameters.coords["part"], parameters.quantity, parameters.value) == ("stage2", "parameters", 525_568)


def test_what_timm_cannot_run_is_a_row_and_the_others_go_on(run):
    code, out, err = run("latency", "--model", "timm:inception_v3,timm:resnet18", *BRIEF)
    assert code == 5
    assert "failed" in out
    assert "Kernel size" in " ".join(out.split())
    assert "Traceback" not in out + err
    assert "timm:resnet18" in out


def test_too_large_is_a_row(run):
    code, out, _ = run("latency", "--model", "timm:resnet18", "--image", "4096", "--batch", "4096", "--device", "cpu")
    assert code == 5
    assert "oom" in out
    assert "not run: it needs about" in " ".join(out.split())


def test_dry_run_tells_what_models_should_cost(run):
    code, out, _ = run("latency", *BOTH, "--image", "64,224", "--by-stage", "--dry-run")
    assert code == 0
    assert "20 cases, not run" in out
    assert "counted on shapes alone" in out
    line = next(line for line in out.splitlines() if "224x224  whole   timm:resnet18" in line)
    assert "3.63 GFLOP" in line
    assert not Path("results").exists()


def test_a_file_of_attentions_and_models_shows_both_and_plots_either(run):
    run("latency", "--model", "timm:resnet18", *BRIEF, "--out", "x.jsonl")
    tiny = ["--tokens", "16", "--heads", "2", "--head-dim", "8"]
    run("latency", "--attn", "soft", *tiny, *BRIEF[4:], "--out", "x.jsonl")
    code, out, _ = run("show", "x.jsonl")
    assert code == 0
    assert out.count("latency: median") == 2
    assert "vs softmax" in out
    code, _, err = run("plot", "x.jsonl", "--out", "x.png")
    assert code == 2
    assert "choose some with --attn or --model" in err
    assert run("plot", "x.jsonl", "--out", "x.png", "--attn", "soft")[0] == 0
    assert run("plot", "x.jsonl", "--out", "x.png", "--model", "timm:resnet18")[0] == 0
    _, out, _ = run("show", "x.jsonl", "--model", "timm:resnet18", "--format", "jsonl")
    assert [r["label"] for r in rows(out)] == ["timm:resnet18"]
    _, out, _ = run("show", "x.jsonl", "--attn", "soft", "--format", "jsonl")
    assert [r["label"] for r in rows(out)] == ["softmax", "soft"]


def test_a_baseline_may_be_named_and_is_added(run):
    _, out, _ = run("latency", "--model", "soft-tiny", "--baseline", "timm:resnet18", "--dry-run")
    assert [line.split()[3] for line in out.splitlines() if line.startswith("1 ")] == ["timm:resnet18", "soft-tiny"]


def test_models_of_bench_toml_yield_to_attentions_named_as_a_flag(run):
    Path("bench.toml").write_text('[sweep]\nmodel = "timm:resnet18"\nimage = [64, 96]\nheads = 2\nbaseline = "none"\n')
    assert "2 cases" in run("latency", "--dry-run")[1]
    assert "softmax" not in run("latency", "--dry-run")[1]
    out = run("latency", "--attn", "soft", "--tokens", "16", "--dry-run")[1]
    assert "1 cases" in out
    assert "resnet18" not in out


def test_a_baseline_of_attentions_in_bench_toml_is_not_one_of_models(run):
    Path("bench.toml").write_text('[sweep]\nbaseline = "softmax"\ntokens = "4k"\nattn = "soft"\n')
    _, out, _ = run("latency", "--model", "timm:resnet18", "--quick", "--dry-run")
    assert "1 cases" in out
    assert "softmax" not in out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "sofft-tiny"], "No arch named 'sofft-tiny'. Did you mean 'soft-tiny'?"),
    (["--model", "timm:resnet1"], "timm has no model named 'resnet1'"),
    (["--model", "timm:"], "names no model"),
    (["--model", "soft-tiny,soft-tiny"], "--model: 'soft-tiny' is named twice"),
    (["--model", "soft-tiny:landmarks=49,soft-tiny:landmarks=049"], "are the same model"),
    (["--model", "soft-tiny", "--image", "abc"], "'abc' is not an image size"),
    (["--model", "soft-tiny", "--image", "0"], "--image must be at least 1"),
    (["--model", "soft-tiny", "--image", "2"], "smaller than a patch"),
    (["--model", "soft-tiny", "--batch", "0"], "--batch must be at least 1"),
    (["--model", "soft-tiny", "--attn", "soft"], "--attn is for attentions, and --model names whole models"),
    (["--model", "soft-tiny", "--tokens", "4k"], "--tokens is for attentions"),
    (["--model", "soft-tiny", "--grid", "4x4"], "--grid is for attentions"),
    (["--model", "soft-tiny", "--heads", "8"], "--heads is for attentions"),
    (["--model", "soft-tiny", "--head-dim", "8"], "--head-dim is for attentions"),
    (["--model", "soft-tiny", "--inputs", "image"], "--inputs is for attentions"),
    (["--model", "soft-tiny", "--set", "sweep.tokens=4k"], "--tokens is for attentions"),
    (["--image", "224"], "--image is for whole models: name some, as in --model soft-tiny"),
    (["--by-stage"], "--by-stage is for whole models"),
    (["--model", "soft-tiny", "--baseline", "softmax"], "No arch named 'softmax'"),
    (["--model", "soft-tiny", "--baseline", "soft-tiny,timm:resnet18"], "--baseline must be one model"),
    (["--model", "soft-tiny", "--impl", "cuda"], "No attention here has an implementation 'cuda'"),
    (["--model", "timm:resnet18:pretrained=true"], "weights are always fresh"),
    (["--model", "timm:twins_svt_small", "--by-stage"], "does not say what its stages are"),
])
def test_mistakes_are_one_line(run, arguments, message):
    code, out, err = run("latency", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(Path().iterdir()) == []
