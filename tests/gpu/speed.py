"""Speed of SOFT's Triton kernels on this GPU, as one table: `python tests/gpu/speed.py [FILE]`, which `make gpu` runs.

Every ratio is of medians of calls that were interleaved, between CUDA events, after the L2 cache was overwritten. The
floor of a row is max(bytes / bandwidth, FLOP / rate), by a copy and a matrix product measured here, and by the bytes
and FLOP that no call can avoid, as `softbench latency` counts them (softbench/measures/latency/work.py). With FILE,
each row of the table is kept there as a record with its environment.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from softbench import parsing, records, subjects
from softbench.case import Case, Shape, most_square
from softbench.config import Process
from softbench.machine import environment
from softbench.measures.latency.work import unavoidable
from softbench.ops.gaussian_attention import gaussian_kernel
from softbench.ops.pseudo_inverse import pseudo_inverse, residual
from softbench.processes import setup
from softbench.records import About, Point, Reading
from softbench.subjects import workload

ROUNDS = 30
FLASH = "SDPA (flash)"
Call = Callable[[], object]


def seconds(*calls: Call) -> list[float]:
    """The median time of each, in rounds that take one sample of all."""
    flush = torch.empty(2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device="cuda")
    samples: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS + 3):
        for call, kept in zip(calls, samples, strict=True):
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            if turn >= 3:
                kept.append(start.elapsed_time(end) / 1e3)
    return [statistics.median(kept) for kept in samples]


def ceilings() -> tuple[float, float]:
    """Bytes per second of a copy, read and written, and bfloat16 FLOP per second of a matrix product."""
    source = torch.randn(1 << 28, device="cuda")
    target, a = torch.empty_like(source), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copying, multiplying = seconds(lambda: target.copy_(source), lambda: a @ a)
    return 2 * source.numel() * 4 / copying, 2 * 8192**3 / multiplying


def attention(attn: str, groups: int, tokens: int, head_dim: int, mode: str, device: str = "cuda") -> workload.Workload:
    (spec,) = parsing.attentions(attn)
    case = Case(spec, Shape(groups // 8, 8, *most_square(tokens), head_dim), dtype="bfloat16", device=device, mode=mode,
                impl=spec.impl or "auto")
    return workload.build(case, subjects.load(spec))


class Table:
    """The rows, printed as they come; in `file`, if there is one, as records."""

    def __init__(self, file: str | None, device: str = "cuda") -> None:
        self.file, self.device = file, device
        self.environment: dict[str, Any] = environment.take(setup.apply(Process()), device) if file else {}

    def told(self, what: str, reached: float, target: float, detail: str) -> None:
        verdict = "ok   " if reached >= target else "BELOW"
        print(f"{verdict} {what:58s} {reached:8.2f}  target {target:g}  {detail}", flush=True)
        if self.file:
            records.append(self.file, [records.make(
                "gpu_speed", Reading("ratio", samples=[reached], note=detail, detail={"target": target}),
                About(attention="soft", impl="triton", label="soft"),
                Point(dtype="bfloat16", device=self.device, coords={"claim": what}),
                records.origin(self.environment))])


def share_of_the_floor(table: Table, bandwidth: float, rate: float) -> None:
    for mode, target in (("forward", 0.6), ("forward_backward", 0.4)):
        for head_dim in (32, 64):
            for tokens in (12544, 16384):
                built = attention("soft:impl=triton", 512, tokens, head_dim, mode)
                (spent,) = seconds(lambda built=built: built.run(None))
                work = unavoidable(built)
                floor = max(work["bytes"] / bandwidth, work["flops"] / rate)
                table.told(f"share of the floor, {mode}, B*H 512, D {head_dim}, N {tokens}", floor / spent, target,
                           f"{spent * 1e6:.0f} us")
                del built


def beside_others(table: Table) -> None:
    for head_dim in (32, 64):
        for tokens, target in ((2048, 1), (4096, 1), (16384, 20)):
            ours = attention("soft:impl=triton", 64, tokens, head_dim, "forward")
            plain = attention("soft:impl=eager", 64, tokens, head_dim, "forward")
            q, v = ours.inputs[0], ours.inputs[-1]
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                mine, eager, exact = seconds(lambda o=ours: o.run(None), lambda o=plain: o.run(None),
                                             lambda q=q, v=v: F.scaled_dot_product_attention(q, q, v))
            at = f"B*H 64, D {head_dim}, N {tokens}"
            table.told(f"times faster than {FLASH}, {at}", exact / mine, target, f"{mine * 1e6:.0f} us")
            table.told(f"times faster than eager, {at}", eager / mine, 8, f"{eager * 1e6:.0f} us")


def inverses(table: Table) -> None:
    a = gaussian_kernel(torch.randn(80, 8, 49, 32, device="cuda") * 32**-0.25)
    for method in ("cholesky", "scaled_newton", "newton"):
        mine, plain = seconds(*(partial(pseudo_inverse, a, method=method, ridge=0.01, impl=impl)
                                for impl in ("triton", "eager")))
        v = pseudo_inverse(a, method=method, ridge=0.01, impl="triton")
        worst = float(residual(a.double(), v.double(), 0.01).max())
        table.told(f"400 us over the time of 640 inverses, {method}", 400e-6 / mine, 1,
                   f"{mine * 1e6:.0f} us, eager {plain * 1e6:.0f} us, residual {worst:.1e}")


def main(file: str | None = None) -> None:
    torch.manual_seed(0)
    table = Table(file)
    bandwidth, rate = ceilings()
    print(f"{torch.cuda.get_device_name()}: copy {bandwidth / 1e12:.2f} TB/s, bfloat16 {rate / 1e12:.0f} TFLOP/s")
    with torch.no_grad():
        inverses(table)
        beside_others(table)
    share_of_the_floor(table, bandwidth, rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
