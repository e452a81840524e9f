"""Causal forms: row i is as the first i tokens have it, and whoever has no such form says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import helpers
import pytest
import torch

import softbench
from softbench import plugins, records
from softbench.case import Case, Shape
from softbench.contracts.attention import FORMS
from softbench.errors import PluginError, Unsupported, UsageError
from softbench.subjects import OneAttention, probe, workload

FACTS = {name: plugins.facts("attention", name) for name in plugins.names("attention")}
EITHER = [name for name, facts in FACTS.items() if facts["CAUSAL"] == "either"]
SHAPE = Shape(2, 2, 1, 23, 8, causal=True)


def test_every_attention_says_its_form() -> None:
    assert {facts["CAUSAL"] for facts in FACTS.values()} <= set(FORMS)
    assert EITHER == ["linear", "performer", "softmax", "window"]


@pytest.mark.parametrize("name", [name for name in EITHER if name != "window"])  # which slides, and is no grid's
@pytest.mark.parametrize("kind", ["iid", "structured"])
def test_a_row_is_as_the_tokens_up_to_it_have_it(name: str, kind: str) -> None:
    attention = helpers.load(name)
    q, k, v = helpers.inputs(SHAPE, kind, value_dim=5)
    for impl in attention.module.IMPLS:
        y = helpers.build(attention, SHAPE, impl)(q, k, v, grid=SHAPE.grid)
        for n in (1, 2, 11, 23):
            short = replace(SHAPE, cols=n, causal=False)
            truth = helpers.build(attention, short, impl)(q[:, :, :n], k[:, :, :n], v[:, :, :n], grid=short.grid)
            assert helpers.relative(y[:, :, n - 1], truth[:, :, -1]) < 1e-9, f"{impl}, row {n}"


@pytest.mark.parametrize("name", EITHER)
def test_no_row_depends_on_a_later_token(name: str) -> None:
    attention = helpers.load(name)
    q, k, v = (t.requires_grad_() for t in helpers.inputs(SHAPE))
    for impl in attention.module.IMPLS:
        y = helpers.build(attention, SHAPE, impl)(q, k, v, grid=SHAPE.grid)
        for gradient in torch.autograd.grad(y[:, :, :12].square().sum(), (q, k, v)):
            assert gradient[:, :, 1:12].any(-1).all()  # the first query has one key to choose from
            assert not gradient[:, :, 12:].any()


@pytest.mark.parametrize("name", EITHER)
@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_causal_workloads_are_right(name: str, mode: str) -> None:
    subject = OneAttention(helpers.load(name))
    case = Case(subject.spec, Shape(2, 2, 5, 7, 8, causal=True), mode=mode)
    probe.probe(replace(case, impl="auto"), subject)


def test_what_has_no_such_form_says_so() -> None:
    with pytest.raises(Unsupported, match="soft has no causal form: `softbench list --causal`"):
        softbench.create("soft", causal=True)
    subject = OneAttention(helpers.load("soft"))
    with pytest.raises(Unsupported, match="no causal form"):
        workload.build(Case(subject.spec, SHAPE), subject)
    with pytest.raises(Unsupported, match="no causal form"):
        subject.closed_form(Case(subject.spec, SHAPE))


@pytest.mark.parametrize(("line", "message"), [
    ('CAUSAL = "sometimes"', "CAUSAL must be one of never, either, always"),
    ('INPUTS = {"g": "head"}', "INPUTS must map names"),
    ('INPUTS = {"g": ("token", None, 0.0)}', "INPUTS must map names"),
])
def test_files_that_say_it_wrongly_are_told(tmp_path: Path, line: str, message: str) -> None:
    source = helpers.SOUND.replace("LINEAR_IN_V = True\n", f"LINEAR_IN_V = True\n{line}\n")
    with pytest.raises(PluginError, match=message):
        helpers.load(helpers.write_plugin(tmp_path, source))


GATED = helpers.SOUND.replace("LINEAR_IN_V = True\n", 'LINEAR_IN_V = True\nCAUSAL = "always"\nINPUTS = {"g": ("head", '
                              'None, 0.0), "b": ("channel", 0.0, 1.0)}\n').replace(
    "def forward(self, q, k, v, grid):", "def forward(self, q, k, v, grid, g, b):").replace(
    "y = q @ (k.mT @ v) / size", "y = (q @ (k * b).mT * g.exp()[..., None]).tril() @ v").replace(
    "shape.tokens * shape.head_dim**2", "shape.tokens**2 * shape.head_dim")


def test_gates_of_a_file_are_drawn_and_checked(tmp_path: Path) -> None:
    path = helpers.write_plugin(tmp_path, GATED)
    q, k, v = helpers.inputs(SHAPE)
    g, b = torch.full((2, 2, 23), -0.5, dtype=torch.float64), torch.rand(2, 2, 23, 8).double()
    attention = softbench.create(path, causal=True)
    assert attention(q, k, v, g=g, b=b).shape == v.shape
    for wrong, message in (
            ({"g": g}, r"needs b beside q, k, v: a tensor \[B, H, N, D\], one a channel, at least 0 at most 1"),
            ({"g": g, "b": b, "c": b}, "has no input 'c': it takes g, b"),
            ({"g": g[..., :-1], "b": b}, r"g must be \(2, 2, 23\)"), ({"g": -g, "b": b}, "at most 0; here it goes"),
            ({"g": g * torch.nan, "b": b}, "at most 0"), ({"g": g, "b": b.long()}, "floating-point"), ({}, "needs g")):
        with pytest.raises(UsageError, match=message) as error:
            attention(q, k, v, **wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(Unsupported, match="broken is causal alone"):
        softbench.create(path)
    subject = OneAttention(helpers.load(path))
    for dtype in ("float32", "bfloat16"):
        built = workload.build(Case(subject.spec, SHAPE, dtype=dtype, mode="forward_backward"), subject)
        built.check()
        assert [tuple(t.shape) for t in built.inputs[3:]] == [(2, 2, 23), (2, 2, 23, 8)]
        assert {t.dtype for t in built.inputs[3:]} == {torch.float32}
        probe.probe(built.case, subject)


def test_records_say_that_they_are_causal(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    sweep = {"tokens": "64", "heads": 1, "head_dim": 8}
    frame = softbench.measure("flops", "softmax,soft", causal=True, out=out, **sweep)
    assert set(frame["causal"]) == {True}
    rows = frame[frame["attention"] == "soft"]
    assert set(rows["status"]) == {"unsupported"}
    assert "no causal form" in rows["note"].iloc[0]
    softbench.measure("flops", "softmax", out=out, **sweep)
    whole, problems = records.read(out)
    assert not problems
    assert {record.causal for record in whole} == {True, None}
    assert len({record.identity() for record in whole}) == len(whole)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line.get("causal") for line in lines} == {True, None}
    with pytest.raises(ValueError, match="causal is int"):
        records.from_json(json.dumps(lines[0] | {"causal": 1}))
