"""Backbones: the pyramid of SOFT in all its sizes with any attention inside, and every timm model as a peer.

Importing this package registers the pyramids with timm, as `soft_tiny`, `soft_norm_small`, `performer_tiny` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
from torch import nn

from softbench.case import TIMM
from softbench.errors import UsageError, hint
from softbench.models import checkpoints, registry
from softbench.models.pyramid import Pyramid
from softbench.models.variants import archs, parse

__all__ = ["Pyramid", "archs", "checkpoints", "create", "parse", "registry"]

PEER = f"{TIMM}:"  # what the name of another model of timm begins with


def create(arch: str, *, img_size: int | tuple[int, int] | None = None, num_classes: int = 1000, in_chans: int = 3,
           impl: str = "auto", attn_options: dict[str, Any] | None = None, **kwargs: Any) -> nn.Module:
    """A backbone with fresh weights, images [B, in_chans, rows, cols] -> logits [B, num_classes].

    Args:
        arch: an attention and a variant (`soft-tiny`, `performer-small`, `./mine.py-tiny`), or `timm:NAME`.
        img_size: side, or rows and cols, of the images; None is the model's own.
        attn_options: of the attention inside, see `Pyramid`; a model of timm has none.
        impl: of the attention inside, in the same way.
        kwargs: of `Pyramid`, or of the timm model: `drop_path_rate`, `global_pool`, `features_only`, ...
    Raises:
        UsageError: no such arch, or an argument that it does not take.
    """
    sizes: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    arch = arch.strip()
    if arch.startswith(PEER):
        if attn_options or impl != "auto":
            raise UsageError(f"{arch} has no attention of softbench: it takes neither its options nor impl.")
        return _peer(arch.removeprefix(PEER), num_classes=num_classes, in_chans=in_chans, **sizes, **kwargs)
    attention, variant = parse(arch)
    common: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "impl": impl,
                              "attn_options": attn_options, **sizes}
    name = f"{attention}_{variant}"
    with _mistakes_told(arch):
        if timm.is_model(name) and hasattr(registry, name):
            return timm.create_model(name, **common, **kwargs)
        return Pyramid(variant, attention, **common, **kwargs)  # a file's attention


def _peer(name: str, **kwargs: Any) -> nn.Module:
    if not timm.is_model(name):
        raise UsageError(f"timm has no model named '{name}'. "
                         + hint(name, timm.list_models(), "timm.list_models() names them all.", PEER))
    with _mistakes_told(PEER + name):
        return timm.create_model(name, pretrained=False, **kwargs)


@contextmanager
def _mistakes_told(arch: str) -> Iterator[None]:
    """Turn whatever a constructor raises for arguments that it cannot use into a UsageError of one line."""
    try:
        yield
    except TypeError as error:
        raise UsageError(f"{arch} does not take these arguments: {error}.") from error
    except (ValueError, AssertionError, LookupError, OSError, RuntimeError) as error:
        words = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not re.search("pretrained|state_dict", words):
            raise  # a lack of memory, for one
        reason = f"{type(error).__name__}: {words[:200]}".strip(" .:")
        raise UsageError(f"{arch} cannot be made with these arguments ({reason}).") from error
