"""The processes of a job: who they are, what they agree on, and how all of them end when one fails.

torchrun starts them and names them in the environment; without it there is one, and everything here does nothing.
Gradients travel over NCCL, or over gloo between CPUs. What is agreed on once a step (signals, losses, counts) are a few
numbers over gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from softbench.errors import ResultsError, SoftbenchError
from softbench.machine.cores import usable_cores
from softbench.machine.device import is_gpu, take_own

_LOST = ("closed by peer", "Connection reset", "timed out", "Socket", "NCCL", "gloo", "process group")


@dataclass(frozen=True)
class Group:
    """The processes of this job as one of them sees them.

    Attributes:
        rank, world: the number of this process, and how many there are.
        device: where this process computes.
        control: the gloo group for agreements; None where there is one process.
    """

    rank: int
    world: int
    device: torch.device
    control: Any = None

    @property
    def leads(self) -> bool:
        """True of the one process that writes."""
        return self.rank == 0

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """The sums of these numbers over all processes, in float64."""
        if self.world == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return [float(number) for number in total.tolist()]

    def gathered(self, item: Any) -> list[Any]:
        """The items that processes have, in the order of ranks."""
        if self.world == 1:
            return [item]
        items: list[Any] = [None] * self.world
        dist.all_gather_object(items, item, group=self.control)
        return items

    def shared(self, item: Any) -> Any:
        """The item of the leading process."""
        if self.world == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items, src=0, group=self.control)
        return items[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Fail on all processes where one fails within this block; the first of them says why.

        Raises:
            SoftbenchError: what went wrong here. SystemExit: it went wrong elsewhere, or there first.
        """
        failure: SoftbenchError | None = None
        try:
            yield
        except SoftbenchError as error:
            failure = error
        codes = self.gathered(None if failure is None else failure.exit_code)
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if not failed:
            return
        if failure is not None and self.rank == failed[0]:
            raise failure
        raise SystemExit(codes[failed[0]])


@contextmanager
def processes(name: str) -> Iterator[Group]:
    """The group of this job, for as long as the block lasts.

    Raises:
        ResultsError: another process was lost.
    """
    world, number, gpu = world_size(), rank(), is_gpu(name)
    if world == 1:
        yield Group(0, 1, torch.device(name))
        return
    device = take_own(name, _whole("LOCAL_RANK", 0))
    store, *_ = next(rendezvous("env://"))
    # After a restart torchrun's store may still hold the addresses of processes that are gone.
    attempt = f"attempt-{_whole('TORCHELASTIC_RESTART_COUNT', 0)}"
    fresh = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if gpu else "gloo", store=fresh, rank=number, world_size=world)
    try:
        control = dist.new_group(backend="gloo") if gpu else dist.group.WORLD
        yield Group(number, world, device, control)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ConnectionError) as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST):
            raise ResultsError(f"Process {number} of {world} lost touch with another one, which has ended or hangs."
                               " Start the same command again: it goes on from the last checkpoint.") from error
        raise
    finally:
        dist.destroy_process_group()


def threads_each() -> int:
    """CPU threads for one process, where several share this machine."""
    return max(1, usable_cores() // _whole("LOCAL_WORLD_SIZE", 1))


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    return _whole("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among those that torchrun has started; 0 without it."""
    return _whole("RANK", 0)


def is_leader() -> bool:
    """True of the first process, before the group exists."""
    return rank() == 0


def _whole(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default
