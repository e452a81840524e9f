"""A programme: named steps that give records. A sweep makes its steps of groups of cases, a study of its tasks.

Iterating runs the steps, one after the other; `run.py` does so, keeps what each gives, and leaves out what a file holds
already. An item is what is left out or run as one: a case, or a task.
"""

from __future__ import annotations

import gc
import hashlib
import json
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Self

from softbench.errors import SoftbenchError, Unsupported, text
from softbench.machine import device
from softbench.plugins.contained import contained
from softbench.records import Reading, Record
from softbench.subjects.workload import is_out_of_memory


@dataclass(frozen=True)
class Item:
    """A case or a task, with what tells it from all others.

    Attributes:
        name: what it is, under whatever settings.
        digest: of its coordinates and of all settings that decide its numbers; "" of a record that does not say.
        concludes: it draws on the records of the others, and runs again whenever one of them does.
        needs: names of the items before it whose records it draws on; it runs again where one of them does.
    """

    name: str
    digest: str
    concludes: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """So many items that are run together."""

    name: str
    items: int
    run: Callable[[], list[Record]]


@dataclass(frozen=True)
class Programme(ABC):
    """A measure or a study, under these settings, as steps to run on this machine.

    Attributes:
        held: the records of items that a resumed run leaves out.
        on_start: called with what is running, in a few words.
        on_stuck: called from another thread where code takes no end, with rows for all that has none yet; it must end
            this process.
    """

    name: str
    module: ModuleType
    settings: Any
    device: str = field(default=device.CPU, kw_only=True)
    environment: dict[str, Any] = field(default_factory=dict, kw_only=True)
    held: list[Record] = field(default_factory=list, kw_only=True)
    on_start: Callable[[str], None] = field(default=lambda name: None, kw_only=True)
    on_stuck: Callable[[list[Record]], None] | None = field(default=None, kw_only=True)
    word: ClassVar[str]  # what its items are called

    @abstractmethod
    def items(self) -> list[Item]:
        """All items, in order."""

    @abstractmethod
    def item(self, record: Record) -> Item:
        """The item that a record is of, as far as the record says."""

    @abstractmethod
    def only(self, positions: Collection[int]) -> Self:
        """The programme with no other items than those at these positions."""

    @abstractmethod
    def steps(self, before: list[Record]) -> Iterator[Step]:
        """The steps, in order; `before` holds the records of all that are done when one of them runs."""

    @abstractmethod
    def unread(self, status: str, note: str) -> Reading:
        """The reading of an item that gave no number."""

    def __iter__(self) -> Iterator[tuple[int, list[Record]]]:
        """Run the steps; yields, as soon as one is done, of how many items it was, and their records."""
        records = list(self.held)
        for step in self.steps(records):
            self.on_start(step.name)
            rows = step.run()
            records += rows
            yield step.items, rows

    def attempt(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """The action's result, or a list of the one reading that says why there is none."""
        try:
            with contained():
                return action(*arguments)
        except Exception as error:
            return [self.unread(*verdict(error))]


def digest(*parts: Any) -> str:
    """Twelve digits for what JSON can hold: the same for 1 and 1.0, and in whatever order keys come."""
    plain = json.loads(json.dumps(parts), parse_int=float)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def verdict(error: BaseException) -> tuple[str, str]:
    """Status and note of the row that stands for what raised; frees what its frames held."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    device.release()
    reason = text(error).partition("\n")[0][:300].rstrip(".")
    if isinstance(error, Unsupported):
        return "unsupported", reason
    if isinstance(error, TimeoutError):
        return "timeout", reason
    if is_out_of_memory(error):
        return "oom", reason or "out of memory"
    return "failed", reason if isinstance(error, SoftbenchError) else f"{type(error).__name__}: {reason}"
