"""Takes the peak of a call: a GPU counts it; on a CPU the profiler reports every allocation."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from softbench.contracts.measure import Reading
from softbench.errors import SoftbenchError, Unsupported
from softbench.machine import device
from softbench.subjects.workload import Workload


@dataclass(frozen=True)
class Pass:
    """Holds what one measured call did: its peak, and the bytes still held once its result is dropped."""

    peak: int
    kept: int


class InconsistentTrace(SoftbenchError):
    """The profiler's memory events do not add up, so no peak can be read from them."""


def measure(workload: Workload, count: int) -> list[Reading]:
    """The peak of each pass, summarised by the largest.

    Raises:
        Unsupported: neither a CPU nor a CUDA device. InconsistentTrace: the allocator's events do not add up.
    """
    where = workload.device
    if device.kind(where) not in device.KINDS:
        raise Unsupported(f"memory is measured on cpu and cuda, not on {where.type}")
    passes = []
    for _ in range(1 + count):
        gc.collect()  # garbage in cycles would count as alive before, and be freed in the middle of the call
        passes.append(_on_gpu(workload.prepare, workload.run, where) if device.is_gpu(where)
                      else _on_cpu(workload.prepare, workload.run))
    del passes[0]  # it made what is made once; a pass like the others, so that the profiler knows what it left
    peaks, kept = [p.peak for p in passes], max(p.kept for p in passes)
    notes = []
    if min(peaks) < max(peaks):
        notes.append(f"the passes differ ({min(peaks):,} to {max(peaks):,} B); the largest is given")
    if kept > 0:
        notes.append(f"{kept:,} B stay allocated after the call")
    weights = _bytes([*workload.module.parameters(), *workload.module.buffers()])
    inputs = _bytes(workload.inputs)
    output = prod(workload.output) * workload.inputs[0].element_size()
    detail = {"inputs": inputs, "parameters": weights, "output": output,
              "kept": kept, "peak_over_inputs": max(peaks) / inputs}
    peak = Reading("peak_memory", "B", [float(p) for p in peaks], value=float(max(peaks)), note="; ".join(notes),
                   detail=detail)
    whole_model = workload.subject is not None and workload.subject.model
    return [peak, Reading("weights", "B", [float(weights)])] if whole_model else [peak]


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _on_gpu(prepare: Callable[[], Any], run: Callable[[Any], Any], where: torch.device) -> Pass:
    state = prepare()
    device.synchronize(where)
    device.reset_peak(where)
    before = device.allocated(where)
    result = run(state)
    device.synchronize(where)
    peak = device.peak(where) - before
    del result
    return Pass(peak, device.allocated(where) - before)


def _on_cpu(prepare: Callable[[], Any], run: Callable[[Any], Any]) -> Pass:
    """One call between the allocation and the release of a marker of one byte, under the profiler.

    `prepare` is profiled too: the release of a block is reported rightly only if its allocation was.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when the first profile starts: keeps its log off stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        state = prepare()
        marker = torch.empty(1, dtype=torch.uint8)
        address = marker.data_ptr()
        result = run(state)
        del result
        del marker
    del state
    with tempfile.TemporaryDirectory(prefix="softbench-") as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    return read_events(events, address)


def read_events(events: list[dict[str, Any]], marker: int) -> Pass:
    """Return the peak between the events of the marker, a block of one byte at that address, in a Chrome trace.

    The allocator writes its running total into every event, under its lock. The total must move by exactly the bytes
    of each event; where it does not, an event was lost or is out of order.

    Raises:
        InconsistentTrace: the marker is missing, or the totals do not follow from the events.
    """
    memory = sorted((e for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == 0),
                    key=lambda e: float(e["ts"]))
    rows = [(int(e["args"]["Addr"]), int(e["args"]["Bytes"]), int(e["args"]["Total Allocated"])) for e in memory]
    starts = [i for i, (address, size, _) in enumerate(rows) if address == marker and size == 1]
    stops = [i for i, (address, size, _) in enumerate(rows) if address == marker and size == -1]
    if not starts or not stops or starts[-1] > stops[-1]:
        raise InconsistentTrace(f"torch.profiler did not report the marker among {len(rows)} memory events;"
                                " is another profiler active?")
    rows = rows[starts[-1] : stops[-1]]
    base = previous = rows[0][2]
    for _, size, total in rows[1:]:
        if previous + size != total:
            raise InconsistentTrace(f"torch.profiler's memory events do not add up: {previous:,} B and an event of"
                                    f" {size:,} B cannot give {total:,} B")
        previous = total
    return Pass(max(total for *_, total in rows) - base, previous - base)
