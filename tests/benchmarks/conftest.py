"""Workloads that the benchmarks share, in a process set up as `softbench latency` sets itself up."""

from __future__ import annotations

import pytest

from softbench import process, workload
from softbench.attention import _contract
from softbench.case import Case, Shape, most_square, parse_attentions
from softbench.workload import Workload


@pytest.fixture(scope="session", autouse=True)
def _process():
    return process.apply(process.Process())


@pytest.fixture
def build():
    """Builds the workload of an attention as `--attn` names it, at N tokens, B = 1, H = 8, D = 64, float32."""
    def build(attn: str, tokens: int, mode: str = "forward") -> Workload:
        (spec,) = parse_attentions(attn)
        return workload.build(Case(spec, Shape(1, 8, *most_square(tokens), 64), mode=mode), _contract.load(spec))

    return build
