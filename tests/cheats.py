"""Attentions that would get a time that they did not earn, each by one trick, and honest ones that look like them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

SOURCE = '''"""Softmax attention, or what passes for it."""

import gc
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as honest

from softbench.contracts.attention import Cost

APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
IMPLS = {impls}
CACHE, COUNT = {{}}, [0]
{imported}


@dataclass(frozen=True)
class Options:
    pass


class Lazy(torch.Tensor):
    """A tensor that would be computed when somebody looks at it."""


class Attention(nn.Module):
    def __init__(self, impl):
        super().__init__()
        self.impl, self.cache, self.count = impl, {{}}, 0
{setup}

    def forward(self, q, k, v, grid):
        self.count += 1
{forward}


def build(shape, options, impl):
    return Attention(impl)


def cost(shape, options):
    return Cost(4.0 * shape.batch * shape.heads * shape.tokens**2 * shape.head_dim, 1.0)
'''


@dataclass(frozen=True)
class Trick:
    """One attention: what its `forward` does, and of what its row must speak; an honest one has nothing to tell.

    Attributes:
        setup: further lines of its constructor; imported: of its file.
        keys: of [sweep], where the trick needs a certain case.
    """

    forward: str
    note: str = ""
    setup: str = ""
    imported: str = ""
    impls: str = '("eager",)'
    keys: tuple[tuple[str, str], ...] = ()

    def write(self, folder: Path, name: str) -> str:
        """Save it as an attention file; returns its path."""
        path = folder / f"{name}.py"
        path.write_text(SOURCE.format(
            impls=self.impls, imported=self.imported, setup=indent(self.setup or "pass", " " * 8),
            forward=indent(self.forward.strip("\n"), " " * 8)))
        return str(path)


LONG = (("tokens", "2k"), ("heads", "1"))
TWO = (("batch", "2"),)
TRAINING = (("mode", "forward_backward"),)
FAST_AND_PLAIN = '("fast", "plain")'
_STALE = "away from that of a fresh module"
_STILL = "do not change with the inputs"

CHEATS: dict[str, Trick] = {
    "caches_the_first_result": Trick("""
if "y" not in self.cache:
    self.cache["y"] = honest(q, k, v)
return self.cache["y"]
""", _STALE),
    "caches_for_all_modules": Trick("""
return CACHE.setdefault((q.shape, q.dtype), honest(q, k, v) if (q.shape, q.dtype) not in CACHE else None)
""", "nothing is computed"),
    "caches_for_all_modules_in_new_memory": Trick("""
return CACHE.setdefault((q.shape, q.dtype), honest(q, k, v)).clone()
""", _STILL),
    "caches_by_identity": Trick("""
if id(q) not in CACHE:
    CACHE[id(q)] = (q, honest(q, k, v))
return CACHE[id(q)][1]
""", _STALE),
    "caches_by_address": Trick("""
if q.data_ptr() not in self.cache:
    self.cache[q.data_ptr()] = honest(q, k, v)
return self.cache[q.data_ptr()]
""", _STALE),
    "caches_by_address_and_version": Trick("""
key = (q.data_ptr(), q._version)
if key not in self.cache:
    self.cache = {key: honest(q, k, v)}
return self.cache[key]
""", _STALE),
    "caches_by_content": Trick("""
key = hash(q.numpy().tobytes())
if key not in self.cache:
    time.sleep(0.02)
    self.cache[key] = honest(q, k, v)
return self.cache[key]
""", "keeps results"),
    "renews_its_cache_now_and_then": Trick("""
if self.count % 50 == 1:
    self.cache["y"] = honest(q, k, v)
return self.cache["y"]
""", "away from that of"),
    "wrong_above_1024": Trick("return honest(q, k, v) * (1.5 if q.shape[2] > 1024 and self.impl == 'fast' else 1)",
                              "away from 'plain'", impls=FAST_AND_PLAIN, keys=LONG),
    "wrong_above_1024_alone": Trick("return honest(q, k, v) if q.shape[2] <= 1024 else v.clone()", _STILL, keys=LONG),
    "nothing_above_1024": Trick("return honest(q, k, v) if q.shape[2] <= 1024 else torch.zeros_like(v)", _STILL,
                                keys=LONG),
    "input_above_1024": Trick("return honest(q, k, v) if q.shape[2] <= 1024 else v", "nothing is computed", keys=LONG),
    "late_rows_are_left_out": Trick("""
y = honest(q[:, :, :1024], k, v)
return torch.cat([y, v[:, :, 1024:]], 2)
""", _STILL, keys=LONG),
    "late_rows_wrong": Trick("""
y = honest(q, k, v)
if self.impl == "fast":
    y[:, :, 1024:] *= 1.1
return y
""", "away from 'plain'", impls=FAST_AND_PLAIN, keys=LONG),
    "last_row_wrong": Trick("""
y = honest(q, k, v)
if self.impl == "fast":
    y[:, :, -1] = v[:, :, -1]
return y
""", "away from 'plain'", impls=FAST_AND_PLAIN, keys=(("tokens", "1k"),)),
    "wrong_from_the_4th_call_on": Trick("return honest(q, k, v) if self.count < 4 else v.clone()", "in float64"),
    "wrong_from_the_7th_call_on": Trick("return honest(q, k, v) if self.count < 7 else v.clone()", _STALE),
    "wrong_from_a_global_count_on": Trick("""
COUNT[0] += 1
return honest(q, k, v) if COUNT[0] < 20 else v.clone()
""", "away from that of"),
    "nan_after_twelve_calls": Trick("return honest(q, k, v) * (float('nan') if self.count > 12 else 1)", "not finite"),
    "other_shape_after_twelve_calls": Trick("""
y = honest(q, k, v)
return y[:, :, :1] if self.count > 12 else y
""", "it must be [1, 2, 64, 8]"),
    "lazy": Trick("return honest(q, k, v).as_subclass(Lazy)", "the output is a Lazy"),
    "lazy_after_six_calls": Trick("return honest(q, k, v).as_subclass(Lazy) if self.count > 6 else honest(q, k, v)",
                                  "the output is a Lazy"),
    "leaves_work_to_a_thread": Trick("""
y = torch.empty_like(v)
work = lambda: (time.sleep(0.002), y.copy_(honest(q, k, v)))
threading.Thread(target=work).start()
time.sleep(0.01 if self.count == 1 else 0)
return y
""", ""),
    "works_on_in_a_thread": Trick("""
def spin():
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass
y = honest(q, k, v)
if self.count > 3 and "spin" not in {thread.name for thread in threading.enumerate()}:
    threading.Thread(target=spin, name="spin").start()
return y
""", "thread"),
    "looks_at_no_grad": Trick("return honest(q, k, v) if torch.is_grad_enabled() else v.clone()", "in float64"),
    "looks_at_the_stack": Trick("""
frame, names = sys._getframe(), set()
while frame:
    names.add(frame.f_code.co_name)
    frame = frame.f_back
return v.clone() if "_timed_calls" in names else honest(q, k, v)
""", _STALE),
    "samples_depend_on_each_other": Trick("""
y = honest(q, k, v).clone()
y[0] += y[-1]
return y
""", "that sample's alone", keys=TWO),
    "samples_depend_on_each_other_above_1024": Trick("""
y = honest(q, k, v).clone()
if q.shape[2] > 1024:
    y[0] += y[-1]
return y
""", _STALE, keys=(*TWO, *LONG)),
    "writes_into_its_inputs": Trick("return honest(q.mul_(0.5), k, v)", "writes into its inputs"),
    "writes_into_its_inputs_later": Trick("return honest(q.mul_(0.5 if self.count > 5 else 1.0), k, v)",
                                          "writes into its inputs"),
    "writes_when_it_trains": Trick("""
v.data.mul_(0.5)
return honest(q, k, v)
""", "writes into its inputs", keys=TRAINING),
    "gives_a_view_of_an_input": Trick("return v", "nothing is computed"),
    "gives_the_same_memory_each_time": Trick("""
y = self.cache.setdefault(v.shape, torch.empty_like(v))
return y.copy_(honest(q, k, v))
""", "overwritten"),
    "constant": Trick("return torch.ones(()).expand_as(v)", _STILL),
    "caches_gradients": Trick("""
class Cached(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return honest(q, k, v)

    @staticmethod
    def backward(ctx, dy):
        if "g" not in self.cache:
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
                self.cache["g"] = torch.autograd.grad(honest(*leaves), leaves, dy)
        return self.cache["g"]

return Cached.apply(q, k, v)
""", _STALE, keys=TRAINING),
}
CHEATS["caches_gradients_backward"] = Trick(CHEATS["caches_gradients"].forward, _STALE, keys=(("mode", "backward"),))

# What a case may not change in the process -> how its row names it.
CHANGES: dict[str, tuple[str, str]] = {
    "threads": ("torch.set_num_threads(1)", "torch's threads from 2 to 1"),
    "subnormals": ("torch.set_flush_denormal(False)", "the flushing of subnormal numbers from True to False"),
    "grad_mode": ("torch.set_grad_enabled(False)", "torch's grad mode from True to False"),
    "inference_mode": ("CACHE[len(CACHE)] = torch._C._InferenceMode(True)",
                       "torch's inference mode from False to True"),
    "dtype": ("torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "device": ("torch.set_default_device('meta')", "torch's default device from cpu to meta"),
    "determinism": ("torch.use_deterministic_algorithms(True)", "torch's deterministic algorithms from 0 to 2"),
    "autocast": ("torch.set_autocast_enabled('cpu', True)", "autocast on cpu from False to True"),
    "precision": ("torch.set_float32_matmul_precision('medium')", "the precision of float32 products"),
    "onednn": ("torch._C._set_mkldnn_enabled(False)", "torch's use of oneDNN from True to False"),
    "sdpa": ("torch.backends.cuda.enable_flash_sdp(False)", "the flash kernel of SDPA from True to False"),
    "anomaly": ("torch.autograd.set_detect_anomaly(True)", "torch's anomaly mode from False to True"),
    "directory": ("os.chdir('/')", "the working directory from"),
    "handler": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "the handlers of signals SIGTERM"),
    "environment": ("os.environ['OMP_NUM_THREADS'] = '7'", "the environment variables OMP_NUM_THREADS"),
    "cores": ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "the cores it may use"),
    "trace": ("sys.setprofile(lambda *_: None)", "Python's profile function"),
    "clock": ("time.perf_counter = lambda: 0.0", "time.perf_counter"),
    "collector": ("gc.disable()", "Python's garbage collector from True to False"),
}

HONEST: dict[str, Trick] = {
    "plain": Trick("return honest(q, k, v)"),
    "mean_by_expanding": Trick("return v.mean(2, keepdim=True).expand_as(v)"),
    "not_contiguous": Trick("return honest(q, k, v).transpose(1, 2).contiguous().transpose(1, 2)"),
    "a_fixed_draw": Trick("return honest(q @ self.draw.to(q), k, v)", setup="self.draw = torch.randn(8, 8)"),
    "a_draw_in_a_buffer": Trick("return honest(q @ self.draw, k, v)",
                                setup='self.register_buffer("draw", torch.randn(8, 8))'),
    "parameters": Trick("return self.out(honest(q, k, v))", setup="self.out = nn.Linear(8, 8)", keys=TRAINING),
    "counts_in_a_buffer": Trick("""
self.calls += 1
return honest(q, k, v)
""", setup='self.register_buffer("calls", torch.zeros((), dtype=torch.long))', keys=TRAINING),
    "a_state_in_training": Trick("""
if self.training:
    self.mean.lerp_(v.detach().mean((0, 2), keepdim=True), 0.1)
return honest(q, k, v) + self.mean
""", setup='self.register_buffer("mean", torch.zeros(1, 2, 1, 8))', keys=TRAINING),
    "dropout": Trick("return honest(q, k, v, dropout_p=0.5 if self.training else 0.0)", keys=TRAINING),
    "dropout_of_a_batch": Trick("return nn.functional.dropout(honest(q, k, v), 0.3, self.training)",
                                keys=(*TRAINING, *TWO)),
    "half_precision": Trick("return honest(q, k, v)", keys=(("dtype", "bfloat16"),)),
    "float16": Trick("return honest(q, k, v)", keys=(("dtype", "float16"),)),
    "by_numpy": Trick("return v + torch.from_numpy(q.numpy() * k.numpy())"),
    "by_numpy_alone": Trick("return torch.from_numpy(q.numpy() * k.numpy() + v.numpy())"),
    "in_threads_that_it_waits_for": Trick("""
pool = self.cache.setdefault("pool", __import__("concurrent.futures").futures.ThreadPoolExecutor(2))
return torch.cat(list(pool.map(lambda h: honest(q[:, h:h+1], k[:, h:h+1], v[:, h:h+1]), range(q.shape[1]))), 1)
"""),
    "a_cached_index": Trick("""
if "mask" not in self.cache:
    self.cache["mask"] = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
return honest(q, k, v, attn_mask=self.cache["mask"])
"""),
    "local": Trick("""
b, h, n, d = q.shape
cut = lambda t: t.reshape(b, h, n // 16, 16, d)
return honest(cut(q), cut(k), cut(v)).reshape(b, h, n, d)
""", keys=LONG),
    "constant_inputs": Trick("return honest(q, k, v)", keys=(("inputs", "constant"),)),
}
