"""approx-error compares attentions at every m, and choices of landmarks; here are the points where it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from softbench import options
from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts import attention as attentions
from softbench.contracts.attention import Attention
from softbench.contracts.study import Finding
from softbench.dtypes import FLOAT64
from softbench.errors import UsageError
from softbench.studies.approx_error.tokens import identity

if TYPE_CHECKING:
    from softbench.studies.approx_error.settings import Settings

_SAMPLES = "soft"  # an attention that knows all choices of landmarks
_FEATURES = 16  # times N: random features need not be fewer than tokens to come nearer, at a cost beyond the exact one


@dataclass(frozen=True)
class Subject:
    """An attention with its m. `part` says why it is looked at: size, landmarks, target or exact.

    `spec` is the attention as the command named it, without the m that a sweep adds.
    """

    part: str
    spec: AttentionSpec
    attention: Attention
    size: int | None
    sampling: str = ""

    @property
    def size_option(self) -> str | None:
        """The option that m is, or None for an attention without one."""
        return self.attention.size_option

    def at(self, size: int) -> Subject:
        """Return the same attention with another m."""
        assert self.size_option is not None
        return replace(self, size=size, attention=attentions.load(_with(self.spec, self.size_option, size)))


@dataclass(frozen=True)
class Point:
    """A subject on inputs of one family and shape."""

    subject: Subject
    family: str
    shape: Shape
    settings: Settings = field(repr=False)

    @property
    def name(self) -> str:
        subject, settings, shape = self.subject, self.settings, self.shape
        size = f" m={subject.size}" if subject.size is not None else ""
        target = f" target={settings.target_error:g}" if subject.part == "target" else ""
        return (f"{subject.part} {subject.spec.label}{size} {identity(self.family)}"
                f" N={shape.rows}x{shape.cols} H={shape.heads} D={shape.head_dim}"
                f" seeds={settings.seed}+{settings.seeds} top={settings.topk}"
                f" against={settings.against}{target}{' cost' if settings.cost else ''}")

    @property
    def at(self) -> dict[str, Any]:
        """Its name does not say this in full."""
        target = {"target": self.settings.target_error} if self.subject.part == "target" else {}
        return {"options": options.to_dict(self.subject.attention.options)} | target

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    @property
    def case(self) -> Case:
        """Latency and memory are taken of this case. The family changes neither, so that one case serves all."""
        plain = options.to_dict(self.subject.attention.options)
        return Case(AttentionSpec(self.subject.spec.name, plain), self.shape, seed=self.settings.seed)

    @property
    def kind(self) -> str:
        """The exact attention that the subject is compared with; "" where it estimates none."""
        module = self.subject.attention.module
        if self.subject.part == "exact":
            return self.subject.attention.name
        if self.settings.against != "own":
            return self.settings.against
        normalised = module.APPROXIMATES == "gaussian" and getattr(module, "NORMALISED", False)
        return "gaussian_normalised" if normalised else module.APPROXIMATES or ""

    @property
    def rank(self) -> int | None:
        """The largest rank that the estimate can have, where that is known."""
        attention, size = self.subject.attention, self.subject.size
        if hasattr(attention.module, "rank"):
            size = int(attention.module.rank(self.shape, attention.options))
        return None if size is None else min(size, self.shape.tokens)

    def finding(self, quantity: str, value: float | None, **more: Any) -> Finding:
        """Return one number of this point."""
        subject, shape = self.subject, self.shape
        coords: dict[str, Any] = {"part": subject.part, "inputs": self.family, "against": self.kind}
        if subject.size is not None:
            coords["size"] = subject.size
        if subject.sampling:
            coords["sampling"] = subject.sampling
        usual: dict[str, Any] = {"seed": self.settings.seed, "dtype": FLOAT64, "mode": "forward"}
        return Finding(
            quantity=quantity, value=value, attention=subject.attention.name, label=subject.spec.label,
            options=options.to_dict(subject.attention.options), batch=shape.batch, heads=shape.heads, rows=shape.rows,
            cols=shape.cols, head_dim=shape.head_dim, coords=coords, **usual | more)


def swept(specs: Sequence[AttentionSpec], sizes: Sequence[int]) -> list[Subject]:
    """Every attention at every m; once, where its m is given with it or it has none."""
    subjects = []
    for spec in specs:
        one = Subject("size", spec, attentions.load(spec), None)
        option = one.size_option
        if option is None or option in spec.options:
            subjects.append(replace(one, size=getattr(one.attention.options, option) if option else None))
        else:
            subjects += [one.at(size) for size in sizes]
    return subjects


def sampled(specs: Sequence[AttentionSpec], size: int, samplings: str) -> list[Subject]:
    """The first attention that can choose its landmarks, by each of the choices named; none for "none".

    Raises:
        UsageError: an unknown choice, whether or not an attention takes it.
    """
    if samplings.strip() == "none":
        return []
    names = list(dict.fromkeys(name.strip() for name in samplings.split(",")))
    for name in names:
        attentions.load(AttentionSpec(_SAMPLES, {"sampling": name}))
    for spec in specs:
        if "sampling" in _names(attentions.load(spec)) and "sampling" not in spec.options:
            chosen = [_with(spec, "sampling", name) for name in names]
            return [Subject("landmarks", one, attentions.load(one), None, name).at(size)
                    for one, name in zip(chosen, names, strict=True)]
    return []


def exact(subjects: Sequence[Subject]) -> list[Subject]:
    """The exact attentions that these estimate, for what they cost."""
    names = dict.fromkeys(s.attention.module.APPROXIMATES for s in subjects)
    specs = [AttentionSpec(name) for name in names if name]
    return [Subject("exact", spec, attentions.load(spec), None) for spec in specs]


def searched(specs: Sequence[AttentionSpec]) -> list[Subject]:
    """Every attention that has an m to be searched.

    Raises:
        UsageError: the m of one is given with it.
    """
    subjects = []
    for spec in specs:
        one = Subject("target", spec, attentions.load(spec), None)
        if one.size_option in spec.options:
            raise UsageError(f"target_error searches the m of '{spec.label}': leave {one.size_option} out.")
        if one.size_option is not None:
            subjects.append(one)
    return subjects


def largest_size(subject: Subject, tokens: int) -> int:
    """The largest m that is worth a try: what the options allow, and N, or 16 N of random features."""
    field = next(f for f in fields(subject.attention.options) if f.name == subject.size_option)
    high = field.metadata.get("high")
    features = getattr(subject.attention.module, "FAMILY", "") == "feature map"
    return min(tokens * (_FEATURES if features else 1), 1 << 30 if high is None else int(high))


def _names(attention: Attention) -> list[str]:
    return [f.name for f in fields(attention.options)]


def _with(spec: AttentionSpec, option: str, value: Any) -> AttentionSpec:
    return replace(spec, options={**spec.options, option: value})
