"""Inputs, distances and deliberately broken plugins that several test files share."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from softbench import plugins
from softbench.case import AttentionSpec, Shape
from softbench.contracts import attention as _contract
from softbench.contracts.attention import Attention

Inputs = tuple[Tensor, Tensor, Tensor]


# The attentions that run without being causal; tests/attention/test_recurrent.py is for the others.
SEEING_ALL = [name for name in plugins.names("attention") if plugins.facts("attention", name).get("CAUSAL") != "always"]


def relative(result: Tensor, truth: Tensor) -> float:
    """||result - truth||_F / ||truth||_F, in float64."""
    result, truth = result.detach().double(), truth.detach().double()
    return float((result - truth).norm() / truth.norm())


def inputs(shape: Shape, kind: str = "iid", *, scale: float = 1.0, value_dim: int | None = None, seed: int = 0,
           dtype: torch.dtype = torch.float64) -> Inputs:
    """q, k [B, H, N, D] and v [B, H, N, E].

    `iid` is independent normal numbers. In `structured`, consecutive tokens share one of a few centres, and q and k the
    centres; independent inputs alone hide most faults, because all attention is then on nothing or on everything.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    b, h, n, d = shape.batch, shape.heads, shape.tokens, shape.head_dim
    q, k = normal(b, h, n, d), normal(b, h, n, d)
    if kind == "structured":
        segment = torch.arange(n) * min(n, 7) // n
        centres = normal(b, h, 7, d)[:, :, segment]
        q, k = centres + 0.5 * q, centres + 0.5 * k
    v = normal(b, h, n, value_dim or d)
    return (q * scale).to(dtype), (k * scale).to(dtype), v.to(dtype)


def gradients(output: Tensor, leaves: list[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients of a random projection of the output; zeros for leaves that it does not depend on."""
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    found = torch.autograd.grad(output, leaves, cotangent, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def load(name: str, **options: object) -> Attention:
    """An attention plugin by name or path, with options."""
    return _contract.load(AttentionSpec(name, dict(options)))


def build(attention: Attention, shape: Shape, impl: str | None = None, seed: int = 0) -> torch.nn.Module:
    """A seeded module in float64, as `impl` or the first implementation that a CPU can run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attention.build(shape, impl or attention.resolve("auto", "cpu", torch.float64)).double()


SOUND = '''
"""Linear attention q (k^T v) / |k|^2: a sound plugin, to be broken."""

from dataclasses import dataclass

import torch
from torch import nn

from softbench.contracts.attention import Cost, accumulation_dtype, check_inputs
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
IMPLS = ("eager",)


@dataclass(frozen=True)
class Options:
    pass


class Linear(nn.Module):
    def forward(self, q, k, v, grid):
        check_inputs(q, k, v, grid)
        acc, kind = accumulation_dtype(q.dtype), v.dtype
        q, k, v = q.to(acc), k.to(acc), v.to(acc)
        size = k.square().sum((2, 3), keepdim=True)
        y = q @ (k.mT @ v) / size
        return y.to(kind)


def build(shape, options, impl):
    return Linear()


def cost(shape, options):
    return Cost(flops=4.0 * shape.batch * shape.heads * shape.tokens * shape.head_dim**2, elements=shape.head_dim**2)
'''

# What is wrong -> (the check that must see it, what to replace in SOUND, by what).
DEFECTS = {
    "drops the last token": ("shapes", "return y.to(kind)", "return y.to(kind)[:, :, :-1]"),
    "returns another dtype": ("shapes", "return y.to(kind)", "return y.float()"),
    "ignores the dim of v": ("shapes", "return y.to(kind)", "return y.to(kind)[..., :q.shape[-1]]"),
    "sums in half precision": ("precision", "accumulation_dtype(q.dtype)", "q.dtype"),
    "overflows on large norms": ("precision", "y = q", "y = (40 * k).exp().sum() * 0 + q"),
    "normalises over the batch": ("batch_invariance", "sum((2, 3), keepdim=True)", "sum()"),
    "centres over the batch": ("batch_invariance", "y = q", "q = q - q.mean(0).detach()\n        y = q"),
    "loses a gradient": ("gradients", "y = q @", "y = q.detach() @"),
    "loses part of a gradient": ("gradients", "sum((2, 3), keepdim=True)", "sum((2, 3), keepdim=True).detach()"),
    "loses a second derivative": ("further_derivatives", "size = k.square().sum((2, 3), keepdim=True)",
                                  "size = k.square().sum((2, 3), keepdim=True)\n        size = size.detach() + "
                                  "2 * ((k - k.detach()) * k.detach()).sum((2, 3), keepdim=True)"),
    "reads uninitialised memory": ("poisoned_memory", "/ size", "/ size + 0 * torch.empty_like(v)"),
    "assumes contiguous inputs": ("layouts", "check_inputs(q, k, v, grid)", "q = q.view(-1).view(k.shape)"),
    "writes into its inputs": ("layouts", "check_inputs(q, k, v, grid)", "q.data.mul_(2)"),
    "fails without samples": ("empty_batch", "y = q @", "q = q.view(len(q), -1).view(q.shape)\n        y = q @"),
    "takes the heads of its build for those of the call": ("wrong_inputs", "return Linear()", "module = Linear()\n    "
        "module.register_forward_hook(lambda module, inputs, y: y * shape.heads)\n    return module"),
    "is not linear in v": ("linearity", "k.mT @ v", "k.mT @ v.relu()"),
    "uses k though it says not": ("shared_keys", "SHARES_QK = False", "SHARES_QK = True"),
    "ignores k though it says not": ("shared_keys", "check_inputs(q, k, v, grid)", "k = q"),
    "draws numbers in the call": ("determinism", "/ size", "/ size * torch.rand(())"),
    "disturbs the random state": ("determinism", "/ size", "/ size + 0 * torch.rand(())"),
    "leaves an option unexplained": ("options", "    pass\n", "    size: int = 3\n"),
    "does not say which option is m": ("size", "    pass\n", "    size: int = 3\n\n\ndef rank(shape, options):\n    "
                                       "return options.size\n"),
    "forgets what it drew": ("state", "return Linear()", "module, drawn = Linear(), torch.rand(())\n    "
        "module.register_forward_hook(lambda module, inputs, y: y * drawn)\n    return module"),
    "costs half": ("cost", "flops=4.0", "flops=2.0"),
    "forgets the heads in its cost": ("cost", "* shape.heads", ""),
}


def write_plugin(folder: Path, source: str, name: str = "broken") -> str:
    """Save the source as a plugin file and give its path, as `--attn` takes it."""
    path = folder / f"{name}.py"
    path.write_text(source)
    return str(path)


def quiet_import(name: str) -> ModuleType:
    """Import a package whose own import warns (old ones that our tests compare with)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def assert_agrees(ours: Callable[..., Tensor], other: Callable[..., Tensor], tensors: Sequence[Tensor],
                  bound: float = 1e-9) -> None:
    """Two functions of the same tensors have the same value and the same gradients, relatively."""
    results = []
    for call in (ours, other):
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        y = call(*leaves)
        results.append([y, *gradients(y, leaves)])
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        error = relative(a, b)
        assert error <= bound, f"{f'gradient {i - 1}' if i else 'value'}: {error:.2g} away"


# Defects of the measure and the study in data/third_party: (the check that must see it, what to replace, by what).
MEASURE_DEFECTS = {
    "does not say what it is": ("described", '"""Entries: how many numbers one call takes in, and how full its queries '
                                             'are."""', '""""""'),
    "leaves an option unexplained": ("described", '"factor of the fullness"', '""'),
    "imports torch at the top": ("light", "from typing import Any\n", "from typing import Any\n\nimport torch\n"),
    "gives a quantity that it does not list": ("declared", 'Reading("fullness"', 'Reading("emptiness"'),
    "gives another unit than it lists": ("declared", 'Reading("fullness", "1"', 'Reading("fullness", "B"'),
    "never gives its headline": ("declared", 'Reading("entries", "1"', 'Reading("fullness", "1"'),
    "calls exact what has noise": ("as_said", "v.numel())]", "v.numel()) + __import__('time').perf_counter()]"),
    "prints": ("silent", "    q, k, v", "    print('measuring')\n    q, k, v"),
    "leaves a file": ("silent", "    q, k, v", "    open('left', 'w').close()\n    q, k, v"),
    "draws a quantity that it does not list": ("views", 'quantities=("entries",)', 'quantities=("exits",)'),
    "has a mode of its own": ("modes", "@dataclass", 'MODES = ("sideways",)\n\n\n@dataclass'),
}
STUDY_DEFECTS = {
    "does not say what it is": ("described", '"""Long-enough: from how many tokens on a call is worth its start, as far'
                                             ' as a clock can tell."""', '"""Study."""'),
    "imports torch at the top": ("light", "from functools import partial\n", "from functools import partial\n\nimport "
                                                                             "torch\n"),
    "gives a quantity that it does not list": ("declared", 'quantity="steps"', 'quantity="stairs"'),
    "calls a time what is none": ("as_said", "[2e-3, 2.1e-3]", "[-2e-3, -2.1e-3]"),
    "calls seeded what has noise": ("as_said", '"1", "derived", "less"),  # a length, which follows from times\n',
                                    '"1", "seeded", "less"),\n'),
    "prints": ("silent", "    about: Any", "    print('studying')\n    about: Any"),
    "is quick by a setting that it has not": ("quick", '{"ways"', '{"roads"'),
    "names two tasks alike": ("tasks", "Task(way,", 'Task("way",'),
    "names a task by the hour": ("tasks", "Task(way,", "Task(f\"{way} {__import__('time').perf_counter()}\","),
    "lets a setting choose that it has not": ("tasks", '("ways",)', '("roads",)'),
    "shows a quantity that it does not list": ("views", '"start", "steps")', '"start", "stairs")'),
    "has no table": ("views", "@dataclass", "VIEWS = VIEWS[1:]\n\n\n@dataclass"),
}
# Without noise as it is, so that calling it seeded can be seen.
NOISY = ('700.0 if way == "warm" else 900.0', '700.0 + __import__("time").perf_counter_ns() % 1_000_003')


SOUND_TASK = '''"""Sound: which token stands in the middle? A sound task, to be broken.

Rule: tokens are drawn with equal probability, and the label is the sum of the first two, modulo their number.
Chance: 1 / 8.
Source: softbench.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch

from softbench.contracts.task import Samples, Sizes
from softbench.options import option
from softbench.tasks import _splits

TITLE = "Sound"
SOURCE = "softbench"
INPUT = "tokens"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK = {"train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    vocab: int = option(8, "different tokens")


def open(settings, split):
    tokens, labels = _splits.drawn(settings, split, lambda rng, count: draw(settings, rng, count))
    return Samples(tokens, labels, settings.vocab, vocab=settings.vocab)


def draw(settings, rng, count):
    tokens = rng.integers(0, settings.vocab, (count, 12))
    return tokens, (tokens[:, 0] + tokens[:, 1]) % settings.vocab


def chance(settings):
    return 0.125
'''

# What is wrong -> (the check that must see it, what to replace in SOUND_TASK, by what).
TASK_DEFECTS = {
    "does not say its rule": ("described", "Rule: tokens", "Tokens"),
    "leaves a setting unexplained": ("described", '"different tokens"', '""'),
    "has a title that is no literal": ("described", '"Sound"', '"Sound".upper()'),
    "gives fewer samples": ("sizes", "return Samples(tokens, labels,", "return Samples(tokens[1:], labels[1:],"),
    "draws from numpy's generator": ("seeded", "rng.integers(0, settings", "np.random.randint(0, settings"),
    "draws from torch's generator": ("seeded", "tokens = rng", "torch.rand(1)\n    tokens = rng"),
    "draws from Python's generator": ("seeded", "tokens = rng", "rng.random(random.randrange(9))\n    tokens = rng"),
    "seeds a global generator": ("seeded", "tokens = rng", "np.random.seed(0)\n    tokens = rng"),
    "ignores its seed": ("seeded", "drawn(settings, split", "drawn(Settings(settings.train, settings.val,"
                                   " settings.test), split"),
    "follows the hour": ("seeded", "tokens = rng", "rng.random(__import__('time').time_ns() % 999)\n    tokens = rng"),
    "tests on what is learned from": ("apart", "drawn(settings, split", "drawn(settings, 'test' if split == 'val' else"
                                               " split"),
    "scores other samples where it learns from more": ("steady", "tokens = rng", "rng.random(settings.train)\n    "
                                                                  "tokens = rng"),
    "has labels out of range": ("sound", "% settings.vocab", "% (settings.vocab + 1)"),
    "has labels that never occur": ("sound", "% settings.vocab", "% 3"),
    "prints": ("silent", "tokens, labels =", "print('drawing')\n    tokens, labels ="),
    "leaves a file": ("silent", "tokens, labels =", "__import__('pathlib').Path('left').touch()\n    tokens, labels ="),
    "hands out one array to all": ("silent", "def open", "@__import__('functools').cache\ndef open"),
    "has the label at the end": ("not_trivial", "tokens[:, 0] + tokens[:, 1]", "tokens[:, -1]"),
    "has one label mostly": ("not_trivial", "(tokens[:, 0] + tokens[:, 1])", "(tokens[:, 0] // 5 * tokens[:, 1] // 5)"),
    "has labels that a count of tokens gives": ("not_trivial", "(tokens[:, 0] + tokens[:, 1]) % settings.vocab",
                                                "2 * ((tokens == 0).sum(1) > (tokens == 1).sum(1))"),
    "promises less than it gives away": ("not_trivial", "return 0.125", "return 1.0"),
}
