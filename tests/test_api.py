"""The Python interface: what the README shows works as written, and misuse is told in one line."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import plugin_files
import pytest
import torch
from torch import Tensor, nn

import softbench
from softbench import plugins
from softbench.case import Shape
from softbench.errors import PluginError, Unsupported, UsageError

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"tokens": "16,64", "heads": 2, "head_dim": 8, "device": "cpu"}
BRIEF = {"rep": 2, "warmup": 1, "rounds": 1}


@pytest.fixture(autouse=True)
def _untouched_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No bench.toml takes part, and what `measure` sets in this process is set back."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def qkv(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    return q, k, v


@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_create_gives_a_module_that_attends(name: str) -> None:
    q, k, v = qkv(2, 3, 12, 8)
    if not plugins.facts("attention", name).get("SAME_DIM"):
        v = v[..., :5]
    attention = softbench.create(name)
    assert isinstance(attention, nn.Module)
    y = attention(q.requires_grad_(), k, v)
    assert y.shape == v.shape
    assert torch.isfinite(y).all()
    y.sum().backward()
    assert q.grad is not None


def test_softmax_is_torchs_for_both_implementations() -> None:
    q, k, v = qkv(1, 2, 10, 4)
    truth = nn.functional.scaled_dot_product_attention(q, k, v)
    for impl in ("auto", "math", "sdpa"):
        assert torch.allclose(softbench.create("softmax", impl=impl)(q, k, v), truth, atol=1e-6)


def test_options_reach_the_attention() -> None:
    q, k, v = qkv(1, 2, 64, 8)
    few, many = (softbench.create("soft", landmarks=m)(q, k, v) for m in (4, "16"))
    assert not torch.allclose(few, many)
    assert "soft" in repr(softbench.create("soft", landmarks=4))
    assert "landmarks=4" in repr(softbench.create("soft", landmarks=4))


def test_grid_is_as_square_as_it_can_be_unless_given() -> None:
    q, k, v = qkv(1, 1, 24, 4)
    attention = softbench.create("soft", landmarks=4)
    assert torch.equal(attention(q, k, v), attention(q, k, v, grid=(4, 6)))
    assert not torch.allclose(attention(q, k, v), attention(q, k, v, grid=(2, 12)))


def test_another_length_is_taken_or_refused_in_words() -> None:
    attention = softbench.create("softmax")
    for tokens in (8, 12, 1):
        assert attention(*qkv(1, 2, tokens, 4)).shape == (1, 2, tokens, 4)
    linformer = softbench.create("linformer")
    linformer(*qkv(1, 2, 8, 4))
    with pytest.raises(UsageError, match="built for 8 tokens, not 12"):
        linformer(*qkv(1, 2, 12, 4))


def test_parameters_come_with_the_first_call_or_with_prepare() -> None:
    attention = softbench.create("linformer", projected=3)
    assert list(attention.parameters()) == []
    q, k, v = qkv(1, 2, 8, 4, dtype=torch.float64)
    torch.manual_seed(0)
    first = attention(q, k, v)
    assert {tuple(p.shape) for p in attention.parameters()} == {(8, 3)}
    assert {p.dtype for p in attention.parameters()} == {torch.float64}
    assert torch.equal(attention(q, k, v), first)
    torch.manual_seed(0)
    prepared = softbench.create("linformer", projected=3).eval()
    prepared.prepare(Shape(1, 2, 2, 4, 4), like=q)
    assert prepared.core is not None
    assert not prepared.core.training
    before = [p.data_ptr() for p in prepared.parameters()]
    assert torch.equal(prepared(q, k, v), first)
    assert [p.data_ptr() for p in prepared.parameters()] == before


def test_state_moves_between_two_of_a_kind() -> None:
    q, k, v = qkv(1, 2, 8, 4)
    one, other = softbench.create("linformer"), softbench.create("linformer")
    for attention in (one, other):
        attention.prepare(Shape(1, 2, 2, 4, 4), like=q)
    assert not torch.allclose(one(q, k, v), other(q, k, v))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(q, k, v), other(q, k, v))


@pytest.mark.parametrize("strict", [True, False])
def test_state_for_what_is_not_built_yet_is_told(strict: bool) -> None:
    full = torch.nn.ModuleDict({"mix": softbench.create("luna")})
    full["mix"](*qkv(1, 2, 8, 4))
    empty = torch.nn.ModuleDict({"mix": softbench.create("luna")})
    with pytest.raises(UsageError, match=r"call prepare\(shape, like=q\) before load_state_dict"):
        empty.load_state_dict(full.state_dict(), strict=strict)
    softbench.create("linear").load_state_dict({})


@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_no_samples_give_an_output_of_none(name: str) -> None:
    assert softbench.create(name)(*qkv(0, 2, 8, 4)).shape == (0, 2, 8, 4)


def test_weights_elsewhere_are_told() -> None:
    attention = softbench.create("luna")
    attention(*qkv(1, 2, 8, 4))
    with pytest.raises(UsageError, match=r"weights of this luna are on meta, and q, k, v on cpu: move one"):
        attention.to("meta")(*qkv(1, 2, 8, 4))


def test_copies_are_independent() -> None:
    q, k, v = qkv(1, 2, 8, 4)
    attention = softbench.create("linformer")
    early = copy.deepcopy(attention)
    first = attention(q, k, v)
    late = copy.deepcopy(attention)
    with torch.no_grad():
        next(attention.parameters()).zero_()
    assert torch.equal(late(q, k, v), first)
    assert not torch.equal(attention(q, k, v), first)
    assert early.core is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_half_precision_out(dtype: torch.dtype) -> None:
    for name in ("softmax", "soft", "linformer"):
        y = softbench.create(name)(*qkv(1, 2, 12, 8, dtype=dtype))
        assert y.dtype == dtype
        assert torch.isfinite(y).all()


@pytest.mark.parametrize(("shapes", "message"), [
    (((4,), (4,), (4,)), "must be"), (((), (), ()), "must be"), (((2, 4, 8), (2, 4, 8), (2, 4, 8)), "must be"),
    (((1, 1, 4, 2), (1, 1, 4, 2), (1, 4, 2)), "must be"), (((1, 1, 4, 2), (1, 1, 5, 2), (1, 1, 4, 2)), "disagree"),
    (((1, 1, 4, 2), (1, 1, 4, 2), (1, 2, 4, 2)), "disagree"), (((1, 1, 0, 2),) * 3, "at least one token"),
])
def test_wrong_shapes_are_told(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        softbench.create("softmax")(*(torch.zeros(shape) for shape in shapes))


def test_wrong_grids_and_dtypes_are_told() -> None:
    q, k, v = qkv(1, 1, 6, 2)
    for grid in ((2, 2), (0, 6), (6, 0)):
        with pytest.raises(UsageError, match="does not hold 6 tokens"):
            softbench.create("softmax")(q, k, v, grid=grid)
    with pytest.raises(UsageError, match="floating-point"):
        softbench.create("softmax")(q.long(), k.long(), v.long())


def test_bad_requests_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No attention named 'sofmax'. Did you mean 'softmax'\?"):
        softbench.create("sofmax")
    with pytest.raises(UsageError, match=r"attention 'soft' named 'landmark'. Did you mean 'landmarks'\?"):
        softbench.create("soft", landmark=4)
    with pytest.raises(UsageError, match=r"landmarks must be a whole number, not '4.5'"):
        softbench.create("soft", landmarks=4.5)
    with pytest.raises(PluginError, match="No attention file"):
        softbench.create(str(tmp_path / "nowhere.py"))
    with pytest.raises(Unsupported, match="no implementation 'flash'; it has sdpa, math"):
        softbench.create("softmax", impl="flash")(*qkv(1, 1, 4, 2))


def test_file_is_an_attention(tmp_path: Path) -> None:
    q, k, v = qkv(1, 2, 6, 4)
    y = softbench.create(plugin_files.write(tmp_path, "mean"), scale=2)(q, k, v)
    assert torch.allclose(y, 2 * v.mean(2, keepdim=True).expand_as(v))


def test_measure_gives_a_frame_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = softbench.measure("latency", "soft:landmarks=4,performer", settings=BRIEF, **SMALL)
    assert frame[["label", "tokens"]].to_numpy().tolist() == [
        [label, n] for n in (16, 64) for label in ("softmax", "soft:landmarks=4", "performer")]
    assert (frame["value"] > 0).all()
    assert (frame["status"] == "ok").all()
    assert frame["heads"].unique().tolist() == [2]
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_measure_takes_lists_and_follows_bench_toml(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(
        '[sweep]\nheads = 3\ngrid = "2x3"\nbaseline = "none"\n[attention.soft]\nlandmarks = 2\n')
    small: dict[str, Any] = {"head_dim": 4, "device": "cpu"}
    frame = softbench.measure("flops", "soft", batch=[1, 2], **small)
    points = frame[["batch", "heads", "rows", "cols"]].drop_duplicates()
    assert points.to_numpy().tolist() == [[1, 3, 2, 3], [2, 3, 2, 3]]
    assert [options["landmarks"] for options in frame["options"]] == [2] * len(frame)
    assert softbench.measure("flops", "soft", tokens=16, **small)["tokens"].unique().tolist() == [16]


@pytest.mark.parametrize(("call", "message"), [
    ({"name": "latncy", "attn": "soft"}, r"No measure named 'latncy'. Did you mean 'latency'\?"),
    ({"name": "flops", "attn": "sofft"}, r"No attention named 'sofft'. Did you mean 'soft'\?"),
    ({"name": "flops", "attn": ""}, "empty"), ({"name": "flops", "attn": "soft,soft"}, "named twice"),
    ({"name": "flops", "attn": "soft", "token": 4}, r"No option of \[sweep\] named 'token'. Did you mean 'tokens'\?"),
    ({"name": "flops", "attn": "soft", "tokens": 0}, "at least 1"),
    ({"name": "flops", "attn": "soft", "tokens": -4}, "'-4'"),
    ({"name": "flops", "attn": "soft", "tokens": 1.5}, "1.5"),
    ({"name": "flops", "attn": "soft", "tokens": None}, "None"),
    ({"name": "flops", "attn": "soft", "tokens": 4, "grid": "2x2"}, "Give one"),
    ({"name": "flops", "attn": "soft", "dtype": "float23"}, r"Did you mean 'float32'\?"),
    ({"name": "flops", "attn": "soft", "device": "gpu"}, "No device named 'gpu'"),
    ({"name": "flops", "attn": "soft", "impl": "flash"}, "implementation 'flash'"),
    ({"name": "flops", "attn": "soft", "seed": -1}, "seed must be at least 0"),
    ({"name": "latency", "attn": "soft", "settings": {"reps": 3}}, r"\[latency\] named 'reps'. Did you mean 'rep'\?"),
    ({"name": "latency", "attn": "soft", "settings": {"rep": "fast"}}, "rep must be a finite number"),
])
def test_bad_measurements_are_told_before_anything_runs(call: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        softbench.measure(**{"device": "cpu", "heads": 1, "head_dim": 4, **call})


def test_public_names_load_their_modules_only_when_used() -> None:
    code = ("import sys, softbench\n"
            "loaded = lambda: sorted({'torch', 'pandas', 'numpy'} & set(sys.modules))\n"
            "print(loaded(), sorted(softbench.__all__), set(softbench.__all__) <= set(dir(softbench)))\n"
            "softbench.load; print(loaded())\nsoftbench.create; print('torch' in loaded())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == ["[] ['create', 'load', 'measure', 'study'] True", "[]", "True"]
    with pytest.raises(AttributeError, match="'softbench' has no attribute 'creat'"):
        softbench.creat  # noqa: B018


def test_measure_keeps_resumes_and_says_so(tmp_path: Path) -> None:
    out, said = tmp_path / "x.jsonl", list[str]()
    asked: dict[str, Any] = {"settings": BRIEF, "out": out, "resume": True, "say": said.append, **SMALL}
    assert len(softbench.measure("latency", "soft", **asked)) == 4
    frame = softbench.measure("latency", "soft,performer", **asked)
    assert said == [f"Nothing to resume: {out} does not exist yet.", f"Resuming: 4 of 6 cases are in {out}."]
    assert frame["label"].tolist() == ["softmax", "soft", "performer"] * 2
    assert len(softbench.load(out)) == 6


def test_measure_takes_what_the_command_takes() -> None:
    frame = softbench.measure("flops", "soft", process={"threads": 1}, quick=True, timeout="1m", heads=1, device="cpu")
    assert frame["tokens"].unique().tolist() == [256, 1024, 4096]
    assert frame["env.threads"].unique().tolist() == [1]
    for wrong, message in (({"timeout": "soon"}, "'soon' is not a time"), ({"memory_limit": "2 GiB"}, "add --isolate"),
                           ({"process": {"thread": 1}}, "'thread'"), ({"resume": True}, "needs the file to continue")):
        with pytest.raises(UsageError, match=message):
            softbench.measure("flops", "soft", tokens=16, device="cpu", **wrong)


def test_study_gives_a_frame_keeps_and_resumes(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"attn": "soft", "sizes": [4, 9], "samplings": "none", "inputs": "structured", "tokens": 16,
                             "head_dim": 8, "cost": False}
    out, said = tmp_path / "x.jsonl", list[str]()
    first = softbench.study("approx-error", **asked, seeds=1, out=str(out))
    assert first[first["quantity"] == "error_matrix_fro"]["size"].tolist() == [4, 9]
    again = softbench.study("approx_error", **asked, seeds=1, out=out, resume=True, say=said.append)
    assert again["value"].tolist() == first["value"].tolist()
    assert said == [f"Resuming: 2 of 2 tasks are in {out}."]
    with pytest.raises(UsageError, match=r"\[approx_error\] named 'sizs'. Did you mean 'sizes'"):
        softbench.study("approx-error", sizs=1)
    with pytest.raises(UsageError, match=r"No study named 'aprox_error'. Did you mean 'approx_error'"):
        softbench.study("aprox-error")
