"""Every attention keeps the contract, and the checks of it have been seen to fail.

A new file in `softbench/attention/` is picked up here with no edit.
"""

from __future__ import annotations

from pathlib import Path

import contract
import helpers
import pytest
import torch

from softbench import plugins
from softbench.case import Shape
from softbench.contracts import attention as _contract
from softbench.errors import PluginError, Unsupported, UsageError

SUBJECTS = [(name, impl) for name in helpers.SEEING_ALL for impl in plugins.facts("attention", name)["IMPLS"]
            if impl != "triton"]  # no float64, and no CPU but in the interpreter: see tests/ops/test_triton.py and gpu/


@pytest.mark.parametrize("check", contract.CHECKS)
@pytest.mark.parametrize(("name", "impl"), SUBJECTS)
def test_attention_keeps_the_contract(name: str, impl: str, check: str) -> None:
    contract.CHECKS[check](helpers.load(name), impl)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "impl"), SUBJECTS)
def test_attention_agrees_on_a_gpu(name: str, impl: str) -> None:
    contract.device(helpers.load(name), impl, "cuda")


@pytest.mark.parametrize("name", plugins.names("attention"))
def test_constants_can_be_listed_without_importing(name: str) -> None:
    facts, module = plugins.facts("attention", name), plugins.load("attention", name)
    for constant in ("FAMILY", "COMPLEXITY", "APPROXIMATES", "SHARES_QK", "LINEAR_IN_V", "IMPLS"):
        assert facts[constant] == getattr(module, constant)
    assert facts.get("CAUSAL") == getattr(module, "CAUSAL", None)
    assert facts["FAMILY"] in _contract.FAMILIES
    assert facts["COMPLEXITY"] in _contract.COMPLEXITIES
    assert facts["summary"].endswith(".")
    assert facts["APPROXIMATES"] in (None, *plugins.names("attention"))


@pytest.mark.parametrize("check", contract.CHECKS)
def test_sound_plugin_passes(tmp_path: Path, check: str) -> None:
    contract.CHECKS[check](helpers.load(helpers.write_plugin(tmp_path, helpers.SOUND)), "eager")


@pytest.mark.parametrize("defect", helpers.DEFECTS)
def test_defect_is_seen(tmp_path: Path, defect: str) -> None:
    check, sound, broken = helpers.DEFECTS[defect]
    assert sound in helpers.SOUND
    attention = helpers.load(helpers.write_plugin(tmp_path, helpers.SOUND.replace(sound, broken)))
    with pytest.raises((AssertionError, RuntimeError)):
        contract.CHECKS[check](attention, "eager")


def test_every_check_sees_some_defect() -> None:
    assert {check for check, *_ in helpers.DEFECTS.values()} == set(contract.CHECKS)


@pytest.mark.parametrize(("sound", "broken", "message"), [
    ("def cost(", "def price(", "lacks cost"),
    ("import torch\n", "import torch\nimport no_such_module\n", "no_such_module"),
    ('IMPLS = ("eager",)', 'IMPLS = "eager"', "IMPLS must be a tuple"),
    ("@dataclass(frozen=True)\n", "", "Options must be a frozen dataclass"),
    ("    pass\n", "    size: str = option('1', 'm', size=True)\n", "marks one option, a whole number"),
    ("    pass\n", "    m: int = option(1, 'm', size=True)\n    n: int = option(1, 'n', size=True)\n", "marks m, n"),
])
def test_broken_file_is_told_in_one_line(tmp_path: Path, sound: str, broken: str, message: str) -> None:
    path = helpers.write_plugin(tmp_path, helpers.SOUND.replace(sound, broken))
    with pytest.raises(PluginError, match=message) as error:
        helpers.load(path)
    assert "\n" not in str(error.value)


def test_implementation_that_does_not_exist_is_told() -> None:
    with pytest.raises(Unsupported, match="it has sdpa, math"):
        helpers.load("softmax").resolve("flash", "cpu", torch.float32)


def test_resolves_auto_to_the_first_implementation() -> None:
    assert helpers.load("softmax").resolve("auto", "cpu", torch.float32) == "sdpa"


@pytest.mark.parametrize(("q", "k", "v", "grid", "message"), [
    ((1, 4, 2), (1, 4, 2), (1, 4, 2), (2, 2), "must be"),
    ((1, 1, 4, 2), (1, 1, 4, 3), (1, 1, 4, 2), (2, 2), "disagree"),
    ((1, 1, 4, 2), (1, 1, 4, 2), (1, 1, 5, 2), (2, 2), "disagree"),
    ((1, 1, 4, 2), (1, 1, 4, 2), (1, 1, 4, 2), (2, 3), "does not hold 4 tokens"),
])
@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_inputs_that_disagree_are_told(name: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...],
                                       grid: tuple[int, int], message: str) -> None:
    module = helpers.load(name).build(Shape(1, 1, 2, 2, 2), plugins.facts("attention", name)["IMPLS"][0])
    with pytest.raises(UsageError, match=message):
        module(torch.zeros(q), torch.zeros(k), torch.zeros(v), grid=grid)


def test_accumulation_dtype() -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    assert [_contract.accumulation_dtype(kind) for kind in kinds] == [torch.float32] * 3 + [torch.float64]
