"""Official weights: state dicts of the official SOFT code into our names and back.

The official code (fudan-zvg/SOFT) and this package name the same tensors differently, and its stage 4 keeps queries
apart from keys and values, which are one matrix here. Nothing else changes: both directions are exact. Positions say
nothing about the shape of their grid: where they are resampled, they are taken to be of a square one.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softbench import files, plugins
from softbench.case import ModelSpec
from softbench.errors import ResultsError, UsageError
from softbench.models.pyramid import Pyramid, Stage, resampled
from softbench.models.variants import VARIANTS, parse

State = dict[str, Tensor]

# (official, ours), tried in this order on each name. {s}: stage, {t}: one of the first three, {b}: block.
_NAMES = (
    ("patch_embed{s}.", "stages.{s}.patch_embed."),
    ("pos_embed{s}", "stages.{s}.pos_embed"),
    ("block{t}.{b}.att.mha.W_q.", "stages.{t}.blocks.{b}.attn.q."),
    ("block{t}.{b}.att.mha.W_v.", "stages.{t}.blocks.{b}.attn.v."),
    ("block{t}.{b}.att.mha.ff.", "stages.{t}.blocks.{b}.attn.proj."),
    ("block{t}.{b}.att.mha.attn.Qlandmark_op.", "stages.{t}.blocks.{b}.attn.core.landmarks.conv."),
    ("block{t}.{b}.att.mha.attn.Qnorm_act.0.", "stages.{t}.blocks.{b}.attn.core.landmarks.norm."),
    ("block{t}.{b}.att.mha.attn.conv.", "stages.{t}.blocks.{b}.attn.core.conv.filters."),
    ("block{t}.{b}.att.ff1.", "stages.{t}.blocks.{b}.mlp.fc1."),
    ("block{t}.{b}.att.ff2.", "stages.{t}.blocks.{b}.mlp.fc2."),
    ("block{t}.{b}.att.norm", "stages.{t}.blocks.{b}.norm"),
    ("block4.{b}.", "stages.3.blocks.{b}."),
    ("cls_token", "stages.3.cls_token"),
)
_OFFICIAL_NUMBERS = {"s": "[1-4]", "t": "[1-3]", "b": r"\d+"}  # the official code counts stages from 1
_OUR_NUMBERS = {"s": "[0-3]", "t": "[0-2]", "b": r"\d+"}
_KEPT_IN = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training scripts keep a state dict
_WRAPPERS = ("module.", "_orig_mod.")  # what data parallel and compiled modules put in front of names
_LONGEST = 400  # letters of an arch
_COUNTER = "num_batches_tracked"  # of batch norm, which nothing reads here and old files do not have


def load_official(model: Pyramid, source: str | Path | Mapping[str, Any], *, ema: bool = True) -> Pyramid:
    """Load official weights, from a file or a state dict, into a `soft` or `soft_norm` pyramid; returns the model.

    The dict may be bare or within a training checkpoint, with or without `module.` in front of its names. Positions
    for another image size are resampled. A head for another number of classes is an error: load, then call
    `reset_classifier`.

    Args:
        ema: of a checkpoint that has both, take the averaged weights, which are those that the paper evaluates.
    Raises:
        ResultsError: the file cannot be read, is torn, or holds more than tensors (it is loaded with weights_only).
        UsageError: a tensor is missing, left over, or of another shape; the message names it.
    """
    if not isinstance(model, Pyramid):
        raise UsageError(f"Official weights are for a whole pyramid, not for a {type(model).__name__}. For features,"
                         " give them to timm.create_model(..., features_only=True, pretrained=True,"
                         " pretrained_cfg_overlay={'file': path}).")
    state = read(source) if isinstance(source, str | Path) else source
    model.load_state_dict(fitting(model, unwrapped(state, ema)))
    return model


def fitting(model: Pyramid, weights: Mapping[str, Tensor]) -> State:
    """Weights under a model's names and in its shapes. Raises UsageError where they do not fit it."""
    counters = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(_COUNTER)}
    state = counters | _fitted(to_ours(weights), model)
    if problem := _mismatch(model, state):
        raise UsageError(f"These weights do not fit this model: {problem}")
    return state


def pyramid(make: Callable[[], nn.Module], weights: Mapping[str, Tensor], path: str | Path) -> Pyramid:
    """The pyramid that `make` gives, with weights of the checkpoint at `path`.

    It is made without memory first, as the numbers in a file may ask for any amount of it.

    Raises:
        UsageError: the weights do not fit, or no such pyramid can be.
    """
    try:
        with torch.device("meta"):
            empty = make()
    except RuntimeError as error:
        reason = str(error).splitlines()[0].strip(" .")
        raise UsageError(f"{path} asks for a model that cannot be: {reason}.") from error
    assert isinstance(empty, Pyramid)
    fitting(empty, weights)
    model = make()
    assert isinstance(model, Pyramid)
    return load_official(model, weights)


def to_official(model: Pyramid) -> State:
    """The model's weights under the official names; `load_official` takes them back."""
    state: State = {}
    for name, tensor in model.state_dict().items():
        official = _official_name(name)
        if ".attn.qkv." in official:
            dim = len(tensor) // 3
            state[official.replace(".qkv.", ".q.")] = tensor[:dim]
            state[official.replace(".qkv.", ".kv.")] = tensor[dim:]
        else:
            state[official] = tensor
    return state


def to_ours(official: Mapping[str, Tensor]) -> State:
    """An official state dict under our names. Names that are not official stay as they are."""
    state = {_our_name(name): tensor for name, tensor in official.items()}
    for name in [name for name in state if re.search(r"\.attn\.q\.(weight|bias)$", name)]:
        kv = name.replace(".q.", ".kv.")
        if kv in state and state[name].dim() and state[name].shape[1:] == state[kv].shape[1:]:
            state[name.replace(".q.", ".qkv.")] = torch.cat([state.pop(name), state.pop(kv)])
    return state


def adapted(state: Mapping[str, Any], model: nn.Module) -> State:
    """timm's filter for pretrained weights: official or our own names, positions resampled to the model's grids."""
    return _fitted(to_ours(unwrapped(state, ema=True)), model)


def is_official(state: Mapping[str, Any]) -> bool:
    """True where a state dict has the official names."""
    return any(name.startswith("patch_embed1.") for name in state)


def read(path: str | Path) -> Mapping[str, Any]:
    """Read what `torch.save` wrote, on the CPU: tensors, plain containers, and the arguments of a script (`Namespace`).

    Raises:
        ResultsError: no such file, a torn one, or one that would run code.
    """
    try:
        files.check_regular(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            with torch.serialization.safe_globals([argparse.Namespace]):  # which timm keeps beside the weights
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ResultsError(f"Cannot read {path}: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or "global" in str(error).lower():  # names a class or function
            raise ResultsError(f"{path} holds more than weights, and loading it could run code: it is refused. Save its"
                               " state dict alone, with torch.save(model.state_dict(), path).") from error
        raise ResultsError(f"{path} is not a checkpoint, or is torn: get it again.") from error
    except Exception as error:  # a damaged file may raise anything
        raise ResultsError(f"{path} is not a checkpoint, or is torn: get it again.") from error
    if not isinstance(loaded, Mapping):
        raise ResultsError(f"{path} holds a {type(loaded).__name__}, not a state dict.")
    return loaded


@dataclass(frozen=True)
class Trained:
    """Holds what a checkpoint of `train-imagenet` says of itself, in text and numbers alone.

    Attributes:
        arch: as `--arch` was given; `options` are those of the attention inside.
        run: what decided the result, the recipe's keys among it.
        names: those of the classes, in the order of the outputs; None where it does not know them.
    """

    path: str
    arch: str
    options: dict[str, Any]
    run: dict[str, Any]
    names: list[str] | None = None

    def registered(self, advice: str) -> str:
        """The arch, which a data file may choose among those that are registered, never from code in files.

        Raises:
            UsageError: it is a file or does not exist; `advice` is how to name an arch oneself.
        """
        if not ModelSpec(self.arch).timm and plugins.is_path(parse(self.arch)[0]):
            raise UsageError(f"{self.path} was trained with the attention in a file, {self.arch}, and no checkpoint"
                             f" decides which code runs here: if you trust that file, {advice}.")
        return self.arch


def trained(state: Mapping[str, Any], path: str | Path) -> Trained | None:
    """Let a checkpoint say what it is of; None where it does not. `run` is empty unless it is of train-imagenet.

    Raises:
        ResultsError: it says something else than text and numbers.
    """
    run, arch, options = state.get("run"), state.get("arch"), state.get("options")
    if not isinstance(arch, str) or len(arch) > _LONGEST:
        return None
    plain = options if isinstance(options, dict) and _is_plain(options) else None
    if not isinstance(run, dict):
        return Trained(str(path), arch, plain or {}, {})
    if plain is None or not _is_plain(run) or ModelSpec(arch).display_name != run.get("arch"):
        raise ResultsError(f"{path} does not say in plain words what it is a checkpoint of: it is damaged, or not by"
                           " train-imagenet.")
    names = state.get("class_names")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Trained(str(path), arch, plain, run, names if known else None)


def _is_plain(table: dict[Any, Any]) -> bool:
    """True where all that this holds are text and finite numbers by name."""
    return all(
        isinstance(key, str) and (value is None or isinstance(value, str | int)
                                  or (isinstance(value, float) and math.isfinite(value)))
        for key, value in table.items())


def unwrapped(state: Mapping[str, Any], ema: bool = True) -> State:
    """The state dict itself, out of a training checkpoint and without `module.` in front of its names.

    Raises:
        UsageError: there is none, or it holds tensors without numbers of their own.
    """
    inside = [key for key in _KEPT_IN if isinstance(state.get(key), Mapping) and state[key]]
    if not ema:
        inside = [key for key in inside if "ema" not in key] or inside
    if inside:
        state = state[inside[0]]
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise UsageError("There are no weights in this checkpoint: it needs a state dict, alone or under one of"
                         f" {', '.join(_KEPT_IN)}.")
    if hollow := next((name for name, tensor in tensors.items() if not _is_dense(tensor)), ""):
        raise UsageError(f"{hollow} in this checkpoint is not a plain tensor with all its numbers: save the state dict"
                         " of an ordinary model.")
    while wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), ""):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _is_dense(tensor: Tensor) -> bool:
    """True where a tensor holds each of its numbers: a small file can hold one of any size that repeats a few."""
    return (tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type != "meta"
            and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size())


def _patterns(numbers: dict[str, str]) -> list[re.Pattern[str]]:
    side = 0 if numbers is _OFFICIAL_NUMBERS else 1
    return [re.compile(re.sub(r"\\{(\w)\\}", lambda m: f"(?P<{m[1]}>{numbers[m[1]]})", re.escape(pair[side])))
            for pair in _NAMES]


_OFFICIAL, _OURS = _patterns(_OFFICIAL_NUMBERS), _patterns(_OUR_NUMBERS)


def _our_name(official: str) -> str:
    return _renamed(official, _OFFICIAL, [ours for _, ours in _NAMES], -1)


def _official_name(ours: str) -> str:
    return _renamed(ours, _OURS, [official for official, _ in _NAMES], +1)


def _renamed(name: str, patterns: list[re.Pattern[str]], others: list[str], shift: int) -> str:
    for pattern, other in zip(patterns, others, strict=True):
        if match := pattern.match(name):
            numbers = {key: int(n) + shift * (key != "b") for key, n in match.groupdict().items()}
            return other.format(**numbers) + name[match.end():]
    return name


def _fitted(state: State, model: nn.Module) -> State:
    """The state with positions resampled to the model's grids, where those it has are of a square grid."""
    fitted = dict(state)
    for i, stage in enumerate(getattr(model, "stages", [])):
        name = f"stages.{i}.pos_embed"
        if isinstance(stage, Stage) and name in state and state[name].dim() == 3:
            tokens = state[name].shape[1] - int(stage.cls_token is not None)
            side = round(max(tokens, 0) ** 0.5)
            if tokens == side * side > 0 and tokens != stage.grid[0] * stage.grid[1]:
                fitted[name] = resampled(state[name], (side, side), stage.grid)
    return fitted


def _mismatch(model: Pyramid, state: State) -> str:
    """The first thing that is wrong with a state dict for a model, in words; "" where all fits."""
    ours = model.state_dict()
    missing = [name for name in ours if name not in state]
    left = [name for name in state if name not in ours]
    if missing or left:
        depths = _depths(state)
        if depths and depths != _depths(ours):
            variant = next((n for n, v in VARIANTS.items() if v.depths == depths), "no variant's")
            return (f"they have {list(depths)} blocks in the four stages ({variant}), the model"
                    f" {list(_depths(ours))}.")
        official = [_official_name(name) for name in (missing or left)]
        return (f"{'missing' if missing else 'unexpected'} {official[0]}"
                + (f" and {len(official) - 1} more" if len(official) > 1 else "") + ".")
    for name, tensor in ours.items():
        if state[name].shape != tensor.shape:
            return (f"{_official_name(name)} is {list(state[name].shape)}, the model needs"
                    f" {list(tensor.shape)}.")
        if state[name].is_floating_point() != tensor.is_floating_point():
            return f"{_official_name(name)} is {state[name].dtype}, the model needs {tensor.dtype}."
    return ""


def _depths(state: Mapping[str, Any]) -> tuple[int, ...]:
    pairs = {(int(m[1]), int(m[2])) for name in state if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))}
    return tuple(sum(stage == i for stage, _ in pairs) for i in range(4)) if pairs else ()
