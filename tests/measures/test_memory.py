"""The measure `memory`: exact peaks of operations whose peak is known by hand, and a trace that does not add up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import helpers
import pytest
import torch
from fake_cuda import install
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts.measure import Reading
from softbench.errors import Unsupported
from softbench.measures import memory
from softbench.measures.memory import Settings
from softbench.measures.memory.passes import InconsistentTrace, Pass, _on_gpu, read_events
from softbench.subjects import OneAttention, workload
from softbench.subjects.workload import Workload

SHAPE = Shape(batch=1, heads=2, rows=9, cols=7, head_dim=5)
ONE = 1 * 2 * 63 * 5 * 4  # bytes of q, k or v
SCORES = 1 * 2 * 63 * 63 * 4


class Call(nn.Module):
    """An attention made of one function of q, k and v."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return self.function(q, k, v)


def work(function: Callable[[Tensor, Tensor, Tensor], Any], mode: str = "forward",
         dtype: torch.dtype = torch.float32, device: str = "cpu") -> Workload:
    size = (SHAPE.batch, SHAPE.heads, SHAPE.tokens, SHAPE.head_dim)
    q, k, v = (torch.ones(size, dtype=dtype, device=device, requires_grad=mode != "forward") for _ in range(3))
    case = Case(AttentionSpec("call"), SHAPE, mode=mode)
    call = Call(function)
    return Workload(case, call, call, (q, k, v), size, torch.ones_like(q))


def measure(function: Callable[[Tensor, Tensor, Tensor], Any], mode: str = "forward", **options: Any) -> Reading:
    [reading] = memory.measure(work(function, mode, **options), Settings())
    return reading


@pytest.mark.parametrize(("function", "peak"), [
    (lambda q, k, v: q + k, ONE),
    (lambda q, k, v: (q + k) * v, 2 * ONE),  # the sum is alive while the product is made
    (lambda q, k, v: ((q + k) * v) - q, 2 * ONE),  # the sum is free again when the difference is made
    (lambda q, k, v: (q + k).mul_(v).sub_(q), ONE),
    (lambda q, k, v: torch.stack([q + k, k + v]), 4 * ONE),
    (lambda q, k, v: q.transpose(1, 2)[..., :3], 0),
    (lambda q, k, v: q @ k.mT, SCORES),
    (lambda q, k, v: (q @ k.mT).softmax(-1), 2 * SCORES),
    (lambda q, k, v: (q @ k.mT).softmax(-1) @ v, 2 * SCORES),
    (lambda q, k, v: q.expand(3, -1, -1, -1).contiguous().sum(0), 4 * ONE),
], ids=["add", "two live", "chain", "in place", "stack", "view", "matmul", "softmax", "attention", "expand"])
def test_peaks_known_by_hand_are_met_to_the_byte(function: Callable[..., Any], peak: int) -> None:
    reading = measure(function)
    assert reading.samples == [peak, peak]
    assert (reading.quantity, reading.unit, reading.summary, reading.note) == ("peak_memory", "B", peak, "")


def test_half_precision_takes_half() -> None:
    assert measure(lambda q, k, v: (q + k) * v, dtype=torch.bfloat16).summary == ONE


def test_a_scalar_operand_shows_up_as_a_few_bytes() -> None:
    assert ONE <= (measure(lambda q, k, v: q + 1).summary or 0) <= ONE + 16


def test_temporaries_inside_an_operator_are_seen() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)

    assert 2 * SCORES <= (measure(attend).summary or 0) < 3 * SCORES


def tanh3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.tanh().tanh().tanh()


def test_the_backward_counts_what_is_saved_for_it_only_when_the_call_saves_it() -> None:
    # Three outputs are saved. Each of the three gradients is made while the one before it is alive.
    assert measure(tanh3).summary == 2 * ONE
    assert measure(tanh3, "forward_backward").summary == 5 * ONE
    assert measure(tanh3, "backward").summary == 2 * ONE


def test_what_a_backward_frees_makes_room_for_what_it_allocates() -> None:
    def four_in_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([q.tanh()] * 4).exp().sum(0, keepdim=True)

    # exp saved four times the input. Its gradient is as large, and takes its place before smaller ones are made.
    assert measure(four_in_one, "backward").summary == 4 * ONE


def test_detail_says_what_was_alive_before() -> None:
    reading = measure(lambda q, k, v: (q + k) * v)
    assert reading.detail == {"inputs": 3 * ONE, "parameters": 0, "output": ONE, "kept": 0, "peak_over_inputs": 2 / 3}


def test_state_made_by_the_first_call_is_not_counted() -> None:
    cache: dict[str, Tensor] = {}

    def cached(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if "once" not in cache:
            cache["once"] = q @ k.mT
        return q + k

    assert measure(cached).samples == [ONE, ONE]


def test_what_stays_allocated_is_told_and_what_is_replaced_is_not() -> None:
    kept: list[Tensor] = []

    def grows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append(q + k)
        return kept[-1]

    def replaces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept[:] = [q + k]
        return kept[0]

    reading = measure(grows)
    assert (reading.samples, reading.note) == ([ONE, ONE], f"{ONE:,} B stay allocated after the call")
    reading = measure(replaces)
    assert (reading.samples, reading.note) == ([ONE, ONE], "")


def test_passes_that_differ_give_the_largest_and_say_so() -> None:
    calls: list[int] = []

    def erratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(1)
        return q + k if len(calls) == 2 else (q + k) * v

    reading = measure(erratic)
    assert reading.samples == [ONE, 2 * ONE]
    assert reading.summary == 2 * ONE
    assert reading.note == f"the passes differ ({ONE:,} to {2 * ONE:,} B); the largest is given"


def test_other_devices_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="not on meta"):
        measure(lambda q, k, v: q + k, device="meta")


def event(time: float, address: int, size: int, total: int, device: int = 0) -> dict[str, Any]:
    return {"name": "[memory]", "ts": time,
            "args": {"Addr": address, "Bytes": size, "Total Allocated": total, "Device Type": device}}


TRACE = [
    {"name": "aten::add", "ts": 0},
    event(1, 50, 400, 400),  # made by `prepare`
    event(2, 7, 1, 401),
    event(3, 60, 1000, 1401),
    event(4, 50, -400, 1001),
    event(5, 70, 300, 1301),
    event(6, 70, -300, 1001),
    event(7, 7, -1, 1000),
    event(8, 80, 9999, 10999),
]


def test_events_are_read_between_the_markers_in_the_order_of_time() -> None:
    assert read_events(TRACE, 7) == Pass(peak=1000, kept=600)
    assert read_events([*reversed(TRACE), event(3.5, 1, 5000, 5000, device=1)], 7) == Pass(peak=1000, kept=600)


@pytest.mark.parametrize("lost", [3, 4, 5])
def test_a_lost_event_is_an_error(lost: int) -> None:
    with pytest.raises(InconsistentTrace, match="do not add up"):
        read_events(TRACE[:lost] + TRACE[lost + 1 :], 7)


@pytest.mark.parametrize("events", [[], [e for e in TRACE if e["name"] != "[memory]"], TRACE[:2], TRACE[3:], TRACE[:7]],
                         ids=["empty", "no memory events", "neither", "no start", "no stop"])
def test_a_trace_without_its_marker_is_an_error_and_not_a_zero(events: list[dict[str, Any]]) -> None:
    with pytest.raises(InconsistentTrace, match="did not report the marker"):
        read_events(events, 7)


def test_a_gpus_allocator_is_read_once_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, where = install(monkeypatch), torch.device("cuda:1")
    cuda.bytes, cuda.most = 100, 5000

    def prepare() -> None:
        cuda.log.append("prepare")
        cuda.take(40)

    def run(state: None) -> None:
        cuda.log.append("run")
        cuda.take(300)
        cuda.take(-200)

    assert _on_gpu(prepare, run, where) == Pass(peak=300, kept=100)
    assert cuda.log == ["prepare", f"synchronize {where}", f"reset {where}", f"allocated {where}", "run",
                        f"synchronize {where}", f"peak {where}", f"allocated {where}"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_rounds_blocks_up_to_512_bytes() -> None:
    blocks = -(-ONE // 512) * 512
    assert measure(lambda q, k, v: (q + k) * v, device="cuda").summary == 2 * blocks


def test_real_attentions_differ_as_their_formulas_say() -> None:
    shape = Shape(1, 1, 32, 32, 8)

    def peak(name: str, impl: str) -> float:
        case = Case(AttentionSpec(name), shape, impl=impl)
        [reading] = memory.measure(workload.build(case, OneAttention(helpers.load(name))), Settings())
        assert reading.samples[0] == reading.samples[1]
        return reading.samples[0]

    assert peak("softmax", "math") >= 2 * 1024**2 * 4
    assert peak("soft", "eager") < 1024**2 * 4


@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_every_attention_repeats_to_the_byte(name: str) -> None:
    case = Case(AttentionSpec(name), SHAPE, mode="forward_backward")
    [reading] = memory.measure(workload.build(case, OneAttention(helpers.load(name))), Settings())
    assert reading.samples[0] == reading.samples[1] > reading.detail["output"]
    assert reading.note == ""


def test_measuring_is_silent_and_the_module_loads_no_torch() -> None:
    code = ("import sys; from softbench.measures import memory, flops; assert 'torch' not in sys.modules;"
            "import torch; q = torch.ones(8);"
            "from softbench.measures.memory import passes;"
            "print(passes._on_cpu(lambda: None, lambda _: q + q).peak)")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("32\n", "")
