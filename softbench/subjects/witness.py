"""Witnesses: what a workload must show while it is measured, so that it gets no number that it did not earn.

    plain       what a timed call gave is a plain, finite tensor of the right shape, dtype and device
    unwritten   the inputs are, bit for bit, what was put into them
    fresh       other values in the same memory give what a fresh module with the same parameters gives for them, at the
                case's own length; of a batch that is the first sample alone, as the others may have no part in it
    moved       the result changes with the inputs, and does so in all the rows that did at the length that was probed
    at once     values that were not there before take no longer than those that were, and no thread works on

All of it happens between timed blocks. The timed calls themselves run on these values, and what the last of a block
gave is what is looked at, so that a module cannot know when it is watched. A module that draws numbers or keeps a state
in training is compared in an untimed call alone, from the same seed and state. Code that replaces softbench's own
functions in this process is not held off.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softbench.machine import device
from softbench.subjects import probe
from softbench.subjects.workload import Workload, WrongResult, build, is_out_of_memory, unwritten

_SEED = 7
_PARTS = 8  # of the rows, each of which must change with the inputs
_MOST, _ALL = 3.0, 0.9  # times as long that new values may take; share of rows that counts as all of them
_SLACK, _BUSY = 2e-5, 5e-3  # seconds: beyond that; that a thread is watched for


class Witness:
    """Watches one workload, to which it holds no reference of its own.

    Attributes:
        watching: whether other values have been tried.
        drew, stateful: whether calls draw random numbers, or change buffers in training, so that they differ.
        remark: what could not be looked at, for the reader; mostly nothing.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = weakref.ref(workload)
        self.now = [tensor.detach().clone() for tensor in workload.inputs]
        self.threads = set(threading.enumerate())
        self.watching = self.drew = self.stateful = False
        self.turned = 0
        self.truths: dict[int, list[Tensor]] = {}  # of the values now, and of the others
        self.remark = ""

    @property
    def workload(self) -> Workload:
        workload = self._workload()
        assert workload is not None
        return workload

    @property
    def sample(self) -> int | None:
        """The sample that is compared; None where all of the batch are, as they depend on each other."""
        case, subject = self.workload.case, self.workload.subject
        assert subject is not None
        whole = subject.mixes_samples(case) or case.shape.batch == 1 or self.drew or self.stateful
        return None if whole else 0

    @property
    def comparable(self) -> bool:
        """True where any two calls on the same values must give the same."""
        return not self.drew and not self.stateful

    def first(self) -> float:
        """The seconds of one call on the values that are there, whose result later ones on the same must repeat."""
        workload = self.workload
        before = [buffer.clone() for buffer in workload.module.buffers()]
        with probe.Drawing(workload.device) as drawing:
            started = time.perf_counter()
            result = workload.run(workload.prepare())
            once = time.perf_counter() - started
        self.drew = drawing.drew
        self.stateful = workload.module.training and not all(map(torch.equal, before, workload.module.buffers()))
        self.truths[0] = [tensor.clone() for tensor in self._part(result)]
        return once

    def turn(self) -> None:
        """Put other values into the inputs, and the first ones back when called again.

        Raises:
            WrongResult: a fresh module's result for them has not moved.
        """
        others = probe.other_values(self.now)
        if not self.watching:
            self.watching = True
            try:
                self.truths[1] = self._fresh(others)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.remark = "its result for other values could not be compared: no memory beside it"
            else:
                self._check_moved(others)
        self.turned = 1 - self.turned
        self.now = others
        self.put_back()

    def put_back(self) -> None:
        """Put the present values into the inputs."""
        for tensor, values in zip(self.workload.inputs, self.now, strict=True):
            tensor.data.copy_(values)  # past autograd's count of versions, as a result might be kept by it

    def shift(self, number: int) -> None:
        """Put values into the inputs that were never there, until `put_back`."""
        for tensor, values in zip(self.workload.inputs, self.now, strict=True):
            tensor.data.copy_(values.roll(number, probe.rows_dim(values)))

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Let calls draw what the fresh module drew."""
        with device.forked_draws(self.workload.device):
            torch.manual_seed(_SEED)
            yield

    def glance(self, result: Any) -> list[Tensor]:
        """Copies of some rows of a result, taken before a thread or stream that still works on it can go on."""
        return [_chosen(tensor) for tensor in self._part(result)]

    def see(self, result: Any, glanced: list[Tensor] | None = None, seeded: bool = False) -> None:
        """Look at what a call gave.

        Args:
            glanced: what `glance` took right after the call; now, by default.
            seeded: whether the call drew what the fresh module drew.
        Raises:
            WrongResult: it is not what it must be.
        """
        workload, truth = self.workload, self.truths.get(self.turned)
        chosen = self.glance(result) if glanced is None else glanced
        if workload.case.mode == "forward":
            workload.check_output(result)
        else:
            workload.check_gradients(result)
        unwritten(workload.inputs, self.now)
        if truth is not None and (self.comparable or (seeded and self.turned)):
            for one, other in zip(chosen, truth, strict=True):
                self._compare(one, _chosen(other))
        self._check_threads()

    def _compare(self, one: Tensor, other: Tensor) -> None:
        allowed = probe.tolerance(self.workload.inputs[0]) * (1 if self.workload.case.mode == "forward" else 10)
        what = "output" if self.workload.case.mode == "forward" else "gradient"
        than = "that of a fresh module" if self.turned else "that of its first call"
        probe.compare(what, [one], [other], allowed, than)
        probe.compare_rows(what, one, other, allowed, than)

    def _part(self, result: Any) -> list[Tensor]:
        """Of a result, the tensors that are compared: those of the sample, or all."""
        if self.workload.case.mode == "forward":
            tensors = [result]
        elif self.sample is None:
            tensors = [tensor for tensor in result if tensor is not None]
        else:
            tensors = [tensor for tensor in result[: len(self.workload.sources)] if tensor is not None]
        tensors = [tensor.detach() for tensor in tensors if isinstance(tensor, Tensor)]
        return tensors if self.sample is None else [tensor[self.sample : self.sample + 1] for tensor in tensors]

    def _fresh(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Ask a module that nothing has called yet for its result on these values."""
        workload = self.workload
        fresh = workload.anew(values, self.sample)
        probe.take_state(fresh, workload)
        with self.seeded():
            if workload.case.mode != "forward":
                result = fresh.run(fresh.prepare())
            else:
                fresh.module.requires_grad_(False)
                with torch.enable_grad():  # unlike the timed calls, as an attention might look
                    result = fresh.call(*fresh.inputs)
        results = [result] if isinstance(result, Tensor) else list(result)
        if self.sample is not None and workload.case.mode != "forward":
            results = results[: len(workload.sources)]
        return [tensor.detach() for tensor in results if tensor is not None]

    def _check_moved(self, others: Sequence[Tensor]) -> None:
        """Raise WrongResult where rows of the result stay what they were with other values in the inputs.

        A result that depends on nothing is no attention's. One that depends on less than it does at the length that
        was probed is wrong at this one: there is nothing to compare an attention with but what it is itself.
        """
        workload = self.workload
        assert workload.subject is not None
        if workload.subject.model or not self.comparable or all(map(torch.equal, self.now, others)):
            return
        place = 0 if workload.case.mode == "forward" else len(workload.sources) - 1
        here = moved(self.truths[0][place], self.truths[1][place])
        if min(here) > 0:
            return
        if max(here) == 0 and workload.case.mode == "forward" and bool(self.truths[0][0].any()):
            raise WrongResult("its results do not change with the inputs")
        subject, case = workload.subject.probed(workload.case)
        if case.shape.tokens < workload.case.shape.tokens:
            small = build(case, subject)
            before = small.run(small.prepare())
            other = small.anew(probe.other_values(small.inputs))
            after = other.run(other.prepare())
            there = moved(*((before, after) if place == 0 else (before[place], after[place])))
            if any(now == 0 and then >= _ALL for now, then in zip(here, there, strict=True)):
                raise WrongResult(f"some of its rows do not change with the inputs at {workload.case.shape.tokens:,}"
                                  f" tokens, as they do at {case.shape.tokens:,}")

    def _check_threads(self) -> None:
        """Raise WrongResult where a thread that the calls have started is still at work."""
        started = [thread for thread in threading.enumerate() if thread not in self.threads]
        if not started:
            return
        before = [_processor_seconds(thread) for thread in started]
        time.sleep(_BUSY)
        for thread, then in zip(started, before, strict=True):
            if thread.is_alive() and _processor_seconds(thread) - then > _BUSY / 10:
                raise WrongResult("a thread that it started works on after the call has returned")


def of(workload: Any) -> Witness | None:
    """The one witness of a workload; none of what a study times that is no subject, with a result that may be wrong."""
    if not isinstance(workload, Workload) or workload.subject is None:
        return None
    witness: Witness = vars(workload).setdefault("_witness", None) or Witness(workload)
    vars(workload)["_witness"] = witness
    return witness


def examine(workload: Any) -> None:
    """All of it in a few untimed calls, for a measure that does not look for itself.

    Raises:
        WrongResult: the workload is not what it must be.
    """
    witness = of(workload)
    if witness is None or witness.watching:
        return
    witness.first()
    witness.turn()
    with witness.seeded():
        result = workload.run(workload.prepare())
    witness.see(result, seeded=True)
    witness.turn()


def slower(new: Sequence[float], old: Sequence[float]) -> bool:
    """True where calls on new values are slower than on old ones, and not by a disturbance: each of them, than all
    but one of the others."""
    return min(new) > _MOST * sorted(old)[-2 if len(old) > 1 else -1] + _SLACK


def moved(before: Tensor, after: Tensor) -> list[float]:
    """The share of rows [..., N, D] that changed at all, in each of eight stretches of N."""
    changed = (before != after).any(-1).reshape(-1, before.shape[-2]).float().mean(0)
    return [float(part.mean()) for part in changed.tensor_split(_PARTS) if part.numel()]


def _chosen(tensor: Tensor) -> Tensor:
    """Copies of the rows that are looked at one by one."""
    lines = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)
    return lines[probe.rows(lines).to(tensor.device)]


def _processor_seconds(thread: threading.Thread) -> float:
    """Processor time of a thread so far; 0 where it has ended, or the system does not tell."""
    try:
        return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
