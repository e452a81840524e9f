"""Subjects: what a spec of the command line names, loaded; attentions here, models in `model.py`.

q, k, v are [B, H, N, D]. An attention that ties keys to queries has two inputs, q and v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench import dtypes, inputs, options
from softbench.case import AttentionSpec, Case, Shape, Spec
from softbench.contracts import attention as attentions
from softbench.contracts.attention import Attention, Cost
from softbench.errors import Unsupported
from softbench.inputs import gates
from softbench.subjects.workload import Subject, Workload

_PROBE_TOKENS, _PROBE_ROWS = 1024, 32
_COPIES = {"forward": 1, "backward": 3, "forward_backward": 3}  # of the forward's numbers held, roughly


def load(spec: Spec, defaults: Mapping[str, dict[str, Any]] | None = None) -> Subject:
    """The subject that a spec names.

    Args:
        defaults: options of attentions by name, from bench.toml. Those inside a model are fixed by its name.
    Raises:
        UsageError: unknown name or option, value of a wrong type. PluginError: a file breaks its contract.
    """
    if isinstance(spec, AttentionSpec):
        return OneAttention(attentions.load(spec, (defaults or {}).get(spec.name)), spec)
    from softbench.subjects import model  # imports timm, which takes seconds

    return model.load(spec)


class OneAttention(Subject):
    """An attention by itself, on tokens of the case's family."""

    def __init__(self, plugin: Attention, spec: Spec | None = None) -> None:
        self.plugin = plugin
        self.attention = plugin.name
        self.options = options.to_dict(plugin.options)
        self.spec = spec or AttentionSpec(plugin.name, self.options)
        self.impls = plugin.module.IMPLS
        self.coords = {}
        self.disturbance = plugin.disturbance

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        return self.plugin.resolve(impl, device, dtype, shape)

    def note(self, case: Case) -> str:
        return self.plugin.note(case.shape)

    def expected(self, case: Case) -> Cost:
        return self.plugin.cost(case.shape)

    def closed_form(self, case: Case) -> float:
        if reason := self.plugin.formless(case.shape.causal):
            raise Unsupported(reason)
        return float(self.plugin.cost(case.shape).flops)

    def avoidable(self, case: Case) -> float:
        return self.plugin.avoidable(case.shape)

    def needed(self, case: Case) -> float:
        shape, module = case.shape, self.plugin.module
        item = max(4, dtypes.TABLE[case.dtype].bytes)
        qkv = 4 * shape.batch * shape.heads * shape.tokens * shape.head_dim
        held = self.plugin.cost(shape).elements
        if case.impl in self.impls[1:] and (module.APPROXIMATES is None or case.impl == "reference"):
            held = max(held, 2.0 * shape.batch * shape.heads * shape.tokens**2)  # cost() speaks of the first one
        return item * _COPIES[case.mode] * (held + qkv)

    def module(self, case: Case) -> nn.Module:
        return self.plugin.build(case.shape, case.impl)

    def workload(self, case: Case, module: nn.Module) -> Workload:
        shape, dtype, device = case.shape, dtypes.of(case.dtype), torch.device(case.device)
        size = (shape.batch, shape.heads, shape.tokens, shape.head_dim)
        train = case.mode != "forward"
        tensors = [torch.empty(size, device=device)] * 3 if device.type == "meta" else list(
            inputs.tokens(case.inputs, shape, case.seed))
        if getattr(self.plugin.module, "UNIT_KEYS", False):
            tensors[1] = F.normalize(tensors[1], dim=-1)
        if self.plugin.module.SHARES_QK:
            del tensors[1]
        more = gates.draw(self.plugin.gates.values(), shape, case.seed + 2)
        sums = dtypes.of(dtypes.TABLE[case.dtype].sums)  # a decay of bfloat16 would not be near to 1
        placed = tuple(t.to(device=device, dtype=kind).requires_grad_(train)
                       for group, kind in ((tensors, dtype), (more, sums)) for t in group)
        generator = torch.Generator().manual_seed(case.seed + 1)
        target = torch.randn(size, generator=generator).to(placed[0]) if train else torch.empty(0)
        return Workload(case, module, self.call(module, case), placed, size, target, subject=self)

    def call(self, module: nn.Module, case: Case) -> Callable[..., Tensor]:
        called: Callable[..., Tensor] = partial(module, grid=case.shape.grid)
        if names := list(self.plugin.gates):
            return lambda q, k, v, *more: called(q, k, v, **dict(zip(names, more, strict=True)))
        return (lambda q, v: called(q, q, v)) if self.plugin.module.SHARES_QK else called

    def probed(self, case: Case) -> tuple[Subject, Case]:
        """At most 1,024 tokens of at most two samples and two heads."""
        shape = case.shape
        rows = min(shape.rows, _PROBE_ROWS)
        small = replace(shape, batch=min(shape.batch, 2), heads=min(shape.heads, 2), rows=rows,
                        cols=min(shape.cols, _PROBE_TOKENS // rows))
        return self, replace(case, shape=small)

    def longer(self, case: Case) -> Iterator[Case]:
        """One sample and two heads of the case's own tokens, then of half as many, down to those that are probed."""
        shape = replace(case.shape, batch=1, heads=min(case.shape.heads, 2))
        fewest = self.probed(case)[1].shape.tokens
        while shape.tokens > fewest:
            if not self.plugin.misfit(shape):
                yield replace(case, shape=shape)
            wide = shape.rows < shape.cols
            shape = replace(shape, cols=shape.cols // 2) if wide else replace(shape, rows=shape.rows // 2)
