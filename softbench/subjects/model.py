"""Whole models as subjects: one of softbench's own, any model of timm, or a single stage of either.

Images are [B, 3, rows, cols] of independent standard normal numbers, logits [B, classes]; weights are fresh, never
downloaded. The dtype is that of weights and activations alike, without autocast. A training step is the forward in
training mode, the cross entropy with seeded labels, and the gradients by all parameters; there is no optimizer in it.

A stage is run alone, on what it gets when the whole model sees those images. What comes before the first stage and
behind the last (stems and heads of some models) belongs to no stage.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from softbench import dtypes, models
from softbench.case import WHOLE, AttentionSpec, Case, ModelSpec, Shape
from softbench.contracts import attention as attentions
from softbench.contracts.attention import Attention, Cost, accumulation_dtype
from softbench.errors import Unsupported, UsageError
from softbench.models import cost
from softbench.models.pyramid import Pyramid
from softbench.plugins.contained import contained
from softbench.subjects.anticipated import Anticipated, anticipate
from softbench.subjects.workload import Subject, Workload

_PROBE_SIDE = 224  # which every model takes
_SET_ELSEWHERE = {"img_size": "--image sets it", "in_chans": "images have three channels",
                  "features_only": "there are no logits then", "checkpoint_path": "weights are always fresh"}


def load(spec: ModelSpec) -> Subject:
    """The model, or the stage of it, that a spec names.

    Raises:
        UsageError: unknown model or option, value of a wrong type, no stage of that name.
    """
    whole = TimmModel(spec) if spec.timm else OwnModel(spec)
    return whole if spec.part == WHOLE else whole.part(spec.part)


class Backbone(Subject):
    """A whole model; its two kinds differ in where the module comes from."""

    spec: ModelSpec
    draws = True

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = replace(spec, part=WHOLE)
        self.model = spec.display_name
        self.coords = {"part": WHOLE}

    def create(self, image: tuple[int, int], impl: str) -> nn.Module:
        """A fresh model for images of that size, on torch's current device."""
        raise NotImplementedError

    def check(self, case: Case) -> None:
        """Raise UsageError where the model's name, options and image cannot go together on any machine."""
        try:
            with contained():
                self.on_meta(case.shape.grid)
        except UsageError:
            raise
        except Exception:  # what timm raises is a row of the results
            return

    def on_meta(self, image: tuple[int, int]) -> nn.Module:
        """Return the model without numbers in it."""
        with torch.device("meta"):
            return self.create(image, "auto").eval()

    def expected(self, case: Case) -> Cost:
        per_image = anticipated(self, case.shape.grid)
        return Cost(case.shape.batch * per_image.flops, case.shape.batch * per_image.peak)

    def needed(self, case: Case) -> float:
        try:
            per_image = anticipated(self, case.shape.grid)
        except Unsupported:
            return 0.0
        item = dtypes.TABLE[case.dtype].bytes
        held = per_image.peak if case.mode == "forward" else per_image.made / 2  # about what autograd keeps
        return item * (case.shape.batch * held + (1 if case.mode == "forward" else 2) * per_image.parameters)

    def module(self, case: Case) -> nn.Module:
        return self.create(case.shape.grid, case.impl or "auto")

    def workload(self, case: Case, module: nn.Module) -> Workload:
        classes = int(getattr(module, "num_classes", 0) or 0)
        if classes < 1:
            raise Unsupported(f"{self.spec.label} has no classes: it gives no logits")
        labels = torch.randint(classes, (case.shape.batch,), generator=torch.Generator().manual_seed(case.seed + 1))
        target = labels.to(case.device) if case.mode != "forward" else torch.empty(0)
        return Workload(case, module, module, (images(case),), (case.shape.batch, classes), target, cross_entropy, self)

    def call(self, module: nn.Module, case: Case) -> Callable[..., Tensor]:
        return module

    def probed(self, case: Case) -> tuple[Subject, Case]:
        """At most two images of at most 224 x 224 pixels, of the whole model."""
        shape = case.shape
        rows, cols = (shape.rows, shape.cols) if shape.tokens <= _PROBE_SIDE**2 else (_PROBE_SIDE, _PROBE_SIDE)
        small = Shape(min(shape.batch, 2), 0, rows, cols, 0)
        return self, replace(case, spec=self.spec, shape=small)

    def mixes_samples(self, case: Case) -> bool:
        return case.mode != "forward"  # by the statistics of a BatchNorm

    def parts(self) -> list[Part]:
        """The stages, in order; none where the model does not tell them. Built at the model's own image size."""
        return [Part(self, name, path) for name, path in _stages(self.on_meta((_PROBE_SIDE, _PROBE_SIDE))).items()]

    def part(self, name: str) -> Part:
        """A stage by its name. Raises UsageError where there is none of that name."""
        for part in self.parts():
            if part.spec.part == name:
                return part
        raise UsageError(f"{self.spec.label} has no stage '{name}'.")


class OwnModel(Backbone):
    """A pyramid with an attention of softbench in its stages."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        name, _ = models.parse(spec.name)
        self.plugin: Attention = attentions.load(AttentionSpec(name, spec.options))
        self.attention, self.impls = self.plugin.name, self.plugin.module.IMPLS
        self.options = {key: getattr(self.plugin.options, key) for key in spec.options}
        self.disturbance = self.plugin.disturbance

    def create(self, image: tuple[int, int], impl: str) -> nn.Module:
        return models.create(self.spec.name, img_size=image, impl=impl, attn_options=dict(self.options))

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        return self.plugin.resolve(impl, device, dtype)

    def closed_form(self, case: Case) -> float:
        return sum(self.flops_by_stage(case).values())

    def flops_by_stage(self, case: Case) -> dict[int, float]:
        """FLOPs of each stage by formula, counted from 1; 0 is the head."""
        model = self.on_meta(case.shape.grid)
        assert isinstance(model, Pyramid)
        return cost.cost(model, case.shape.grid, case.shape.batch).by_stage()


class TimmModel(Backbone):
    """A model of timm, as a peer. Its options are arguments of its constructor."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        for key in spec.options:
            if key in _SET_ELSEWHERE or key.startswith("pretrained"):
                why = _SET_ELSEWHERE.get(key, "weights are always fresh")
                raise UsageError(f"--model: {spec.label} cannot be given '{key}': {why}.")
        self.options = {key: _literal(value) for key, value in spec.options.items()}

    def create(self, image: tuple[int, int], impl: str) -> nn.Module:
        try:
            return models.create(self.spec.name, img_size=image, **self.options)
        except UsageError as error:
            if "'img_size'" not in str(error):
                raise
        return models.create(self.spec.name, **self.options)  # it takes any image, or says in its forward which

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        if impl != "auto":
            raise Unsupported(f"{self.spec.name} has no implementation '{impl}': it is timm's own")
        return ""

    def closed_form(self, case: Case) -> float:
        raise Unsupported("models of timm have no formula")


class Part(Subject):
    """One stage of a model, run on what it gets inside the whole."""

    spec: ModelSpec
    draws = True

    def __init__(self, whole: Backbone, name: str, path: str) -> None:
        self.whole, self.path = whole, path
        self.spec = replace(whole.spec, part=name)
        self.attention, self.model, self.options, self.impls = (
            whole.attention, whole.model, whole.options, whole.impls)
        self.disturbance = whole.disturbance
        self.coords = {"part": name}

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        return self.whole.resolve(impl, device, dtype)

    def expected(self, case: Case) -> Cost:
        per_image = anticipated(self.whole, case.shape.grid)
        return Cost(case.shape.batch * per_image.by_module.get(self.path, 0.0), case.shape.batch * per_image.peak)

    def needed(self, case: Case) -> float:
        return self.whole.needed(case)  # which is run once to catch what the stage gets

    def closed_form(self, case: Case) -> float:
        if not isinstance(self.whole, OwnModel):
            return self.whole.closed_form(case)
        return self.whole.flops_by_stage(case)[1 + int(self.path.rpartition(".")[2])]

    def module(self, case: Case) -> nn.Module:
        return self.whole.module(case)

    def workload(self, case: Case, module: nn.Module) -> Workload:
        stage = module.get_submodule(self.path)
        caught = _catch(module, stage, case, self.path)
        train, generator = case.mode != "forward", torch.Generator().manual_seed(case.seed + 1)
        target = torch.randn(caught.output, generator=generator).to(caught.tensors[0]) if train else torch.empty(0)
        return Workload(case, stage, caught.call(stage), caught.tensors, caught.output, target, subject=self)

    def probed(self, case: Case) -> tuple[Subject, Case]:
        return self.whole.probed(case)  # a stage is right where the whole is

    def mixes_samples(self, case: Case) -> bool:
        return True  # what it gets need not have the samples in front


@dataclass
class _Caught:
    """Holds what a stage is called with, its tensors taken out, and the shape of what it gives."""

    tensors: tuple[Tensor, ...]
    others: list[Any]  # None where a tensor was
    structure: Any
    output: tuple[int, ...] = ()

    def call(self, stage: nn.Module) -> Callable[..., Tensor]:
        """Return the stage as a function of its tensors; of several results the first tensor."""
        def call(*tensors: Tensor) -> Tensor:
            left = iter(tensors)
            args, kwargs = tree_unflatten([next(left) if o is _TENSOR else o for o in self.others], self.structure)
            return _first(stage(*args, **kwargs))

        return call


_TENSOR = object()


def _catch(model: nn.Module, stage: nn.Module, case: Case, path: str) -> _Caught:
    """Run the whole model once on the case's images and keep what the stage gets.

    A tensor that the images alone decide has no gradient in a training step, and gets none here.

    Raises:
        Unsupported: the stage is not called exactly once, or on no tensor.
    """
    calls: list[_Caught] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, structure = tree_flatten((args, kwargs))
        tensors = tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in leaves if isinstance(t, Tensor))
        calls.append(_Caught(tensors, [_TENSOR if isinstance(o, Tensor) else o for o in leaves], structure))

    def after(_: nn.Module, args: Any, output: Any) -> None:
        calls[-1].output = tuple(_first(output).shape)

    hooks = stage.register_forward_pre_hook(before, with_kwargs=True), stage.register_forward_hook(after)
    with torch.set_grad_enabled(case.mode != "forward"):
        model(images(case))
    for hook in hooks:
        hook.remove()
    if len(calls) != 1 or not calls[0].tensors:
        raise Unsupported(f"{path} is called {len(calls)} times in a forward pass, so that it cannot be run alone")
    return calls[0]


def _first(output: Any) -> Tensor:
    return next(leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor))


def _stages(model: nn.Module) -> dict[str, str]:
    """Name -> module path of each stage, after the model's `feature_info`; blocks of one scale are called so.

    Where the modules that give features are children of one container, all its children count.
    """
    info = getattr(model, "feature_info", None) or []
    entries = list(getattr(info, "info", info))
    modules = dict(model.named_modules())
    paths = [str(e.get("module")) for e in entries]
    paths = [p for p in paths if p in modules and any(True for _ in modules[p].parameters())]
    container = paths[-1].rpartition(".")[0] if paths else ""
    paths = [p for p in paths if p.rpartition(".")[0] == container]
    if container and len(paths) > 1:
        paths = [f"{container}.{name}" for name, _ in modules[container].named_children()]
    kind = "stage" if len({e.get("reduction") for e in entries}) > 1 else "block"
    return {f"{kind}{number}": path for number, path in enumerate(paths, 1)}


@cache
def anticipated(whole: Backbone, image: tuple[int, int]) -> Anticipated:
    """Anticipate the model's cost for one image. Raises Unsupported where that cannot be told."""
    try:
        with contained():
            model = whole.on_meta(image)
    except Exception as error:
        raise Unsupported(f"its cost cannot be told in advance ({type(error).__name__})") from error
    return anticipate(model, image)


def images(case: Case) -> Tensor:
    """Return seeded images [B, 3, rows, cols] on the case's device, in its dtype."""
    size = (case.shape.batch, 3, *case.shape.grid)
    if case.device == "meta":
        return torch.empty(size, dtype=dtypes.of(case.dtype), device="meta")
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randn(size, generator=generator).to(device=case.device, dtype=dtypes.of(case.dtype))


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, None]:
    """The mean cross entropy of logits [B, classes], summed in float32 at least."""
    return F.cross_entropy(logits.to(accumulation_dtype(logits.dtype)), labels), None


def _literal(value: Any) -> Any:
    """Return the value of an option of timm: a Python literal, true or false, otherwise text."""
    words = {"true": True, "false": False, "none": None}
    if not isinstance(value, str) or value.lower() in words:
        return words[value.lower()] if isinstance(value, str) else value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
