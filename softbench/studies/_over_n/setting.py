"""Studies of costs over N share this: the attentions and points that their settings name, checked, as cases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from softbench import parsing
from softbench.bench import session, sweep
from softbench.bench.sweep import Job
from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts import attention as attentions
from softbench.contracts.study import Finding
from softbench.errors import UsageError
from softbench.machine import device
from softbench.records import About, Point, Reading, Record
from softbench.studies._over_n.settings import CostsOverN
from softbench.subjects import OneAttention

INPUTS = "normal"


@dataclass(frozen=True)
class Setting:
    """Attentions in their order, pairs of mode and dtype, and a device that exists."""

    subjects: list[OneAttention]
    points: list[tuple[str, str]]
    device: str
    settings: CostsOverN

    def shape(self, batch: int, grid: tuple[int, int] = (1, 1)) -> Shape:
        """Sizes of a call on a grid of tokens."""
        s = self.settings
        return Shape(batch, s.heads, *grid, s.head_dim, s.causal)

    def case(self, subject: OneAttention, point: tuple[str, str], shape: Shape) -> Case:
        """Make the case that is run of an attention at a point."""
        assert isinstance(subject.spec, AttentionSpec)
        mode, dtype = point
        return Case(subject.spec, shape, dtype=dtype, device=self.device, mode=mode, inputs=INPUTS,
                    impl=subject.spec.impl or self.settings.impl, seed=self.settings.seed)

    def finding(self, subject: OneAttention, point: tuple[str, str], shape: Shape, *, there: bool = True,
                coords: Mapping[str, Any] | None = None, **number: Any) -> Finding:
        """One number of an attention at a point and a shape, or at none of its lengths where it is not `there`."""
        place = sweep.place(Job(self.case(subject, point, shape), subject))
        nowhere: dict[str, Any] = {} if there else {"rows": None, "cols": None}
        return Finding(**place | nowhere | {"coords": place["coords"] | dict(coords or {})} | number)

    def at(self, point: tuple[str, str], *subjects: OneAttention) -> dict[str, Any]:
        """A point and attentions, as a task's coordinates."""
        return {"point": point, "attentions": [(subject.spec.label, subject.options) for subject in subjects]}

    def name(self, point: tuple[str, str]) -> str:
        """Name a point and what is the same at all points."""
        s = self.settings
        return (f"{point[0]} {point[1]}{' causal' * s.causal} H={s.heads} D={s.head_dim} {self.device} impl={s.impl}"
                f" seed={s.seed}")


def check(settings: CostsOverN) -> Setting:
    """The setting that is asked for.

    Raises:
        UsageError: an unknown name or a bad value. PluginError: a file that breaks the contract.
    """
    subjects = [OneAttention(attentions.load(spec), spec) for spec in parsing.attentions(settings.attn)]
    for subject in subjects:
        impl = subject.spec.impl or settings.impl
        if impl != "auto" and impl not in (valid := sorted({name for one in subjects for name in one.impls})):
            raise UsageError(f"No attention here has an implementation '{impl}'. Valid: auto, {', '.join(valid)}.")
    session.check_distinct(subjects, settings.impl)
    points = itertools.product(parsing.modes(settings.mode), parsing.dtypes(settings.dtype))
    return Setting(subjects, list(points), device.find(settings.device), settings)


def finding(record: Record, detail: dict[str, object]) -> Finding:
    """A measure's record as a number of the study, with more in its detail."""
    return Finding(**{f.name: getattr(record, f.name) for part in (Reading, About, Point) for f in fields(part)}
                   | {"detail": record.detail | detail})


def records_at(rows: Sequence[Record], label: str, point: tuple[str, str]) -> list[Record]:
    """The records of one attention, as the command named it, at one point."""
    return [record for record in rows if record.label == label and (record.mode, record.dtype) == point]
