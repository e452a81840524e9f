"""Workloads that the benchmarks share, in a process set up as `softbench latency` sets itself up."""

from __future__ import annotations

import pytest

from softbench import parsing, subjects
from softbench.case import Case, Shape, most_square
from softbench.config import Process
from softbench.processes import setup
from softbench.subjects import workload
from softbench.subjects.workload import Workload


@pytest.fixture(scope="session", autouse=True)
def _process():
    return setup.apply(Process())


_RATIOS: list[str] = []


@pytest.fixture
def tell(benchmark):
    """Adds a line to what is printed when all benchmarks are done, and a number to the benchmark's own record."""
    def tell(what: str, number: float, detail: str = "") -> None:
        benchmark.extra_info[what] = round(number, 4)
        _RATIOS.append(f"{what}: {number:.2f}{detail}")

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _RATIOS:
        terminalreporter.section("ratios")
        for line in _RATIOS:
            terminalreporter.line(line)


@pytest.fixture
def build():
    """Builds the workload of an attention as `--attn` names it, at N tokens, B = 1, H = 8, D = 64, float32."""
    def build(attn: str, tokens: int, mode: str = "forward") -> Workload:
        (spec,) = parsing.attentions(attn)
        return workload.build(Case(spec, Shape(1, 8, *most_square(tokens), 64), mode=mode), subjects.load(spec))

    return build
