"""The Python interface: `softbench.create` an attention, `measure` some, put a `study`, `load` the records of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softbench import parsing
from softbench.bench.run import Watch, run
from softbench.case import AttentionSpec, Shape, most_square
from softbench.contracts import attention as _contract
from softbench.contracts import measure as measures
from softbench.contracts import study as studies
from softbench.errors import Unsupported, UsageError
from softbench.ops._common import is_traced, outside_autocast, run_uncast
from softbench.records import to_frame

if TYPE_CHECKING:
    import pandas as pd

    from softbench.bench.programme import Programme


class Attention(nn.Module):
    """An attention by name, built on its first call: `softbench.create("soft", landmarks=64)(q, k, v)`.

    Parameters (of `linformer`, or of `soft` with a convolution) are drawn at that first call from torch's global
    generator, on the device and in the dtype of q; call `prepare` to have them before, as `load_state_dict` needs them.
    Autocast changes nothing within, nor in a backward under it if the call was too.
    """

    def __init__(self, attention: _contract.Attention, impl: str, causal: bool = False) -> None:
        super().__init__()
        if reason := attention.formless(causal):
            raise Unsupported(reason)
        self.attention = attention
        self.impl = impl
        self.causal = causal
        self.core: nn.Module | None = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int] | None = None, **inputs: Tensor) -> Tensor:
        """The attention's output.

        Args:
            q: [B, H, N, D].
            k: [B, H, N, D]. Attentions that tie keys to queries (`soft`, `soft_norm`) do not use it.
            v: [B, H, N, E].
            grid: rows and columns of the tokens, rows * cols = N; by default as square as N allows.
            inputs: what else the attention needs, by name: its gates, as `softbench info` says.
        Returns:
            [B, H, N, E]
        Raises:
            UsageError: shapes, dtypes, devices or gates that do not fit each other or the attention.
            Unsupported: the implementation does not run on this device and dtype.
        """
        if grid is None:
            grid = most_square(q.shape[2]) if isinstance(q, Tensor) and q.dim() == 4 and q.shape[2] else (0, 0)
        if self.core is None:
            _contract.check_inputs(q, k, v, grid)
            self.prepare(Shape(q.shape[0], q.shape[1], *grid, q.shape[3]), like=q, value_dim=v.shape[3])
        if inputs and not is_traced():
            self.attention.check_gates(q, inputs)  # their values too, at each call
        assert self.core is not None
        output: Tensor = run_uncast(self.core, q, k, v, grid=grid, **inputs)
        return output

    def state(self, shape: Shape, value_dim: int = 0) -> Any:
        """The state before the first token of a causal attention that has one, in float32 on the CPU.

        Raises:
            Unsupported: it has none.
        """
        if self.core is None:
            self.prepare(shape, like=torch.empty(0), value_dim=value_dim)
        core: Any = self.core
        if not hasattr(core, "state"):
            raise Unsupported(f"{self.attention.name} has no state that tokens are added to one by one"
                              f"{'' if self.causal else ' unless it is causal'}.")
        return core.state(shape, value_dim) if value_dim not in (0, shape.head_dim) else core.state(shape)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Any, **inputs: Tensor) -> tuple[Tensor, Any]:
        """The output [B, H, n, E] of n tokens more, which see those before them through the state, and the next state.

        Raises:
            UsageError: as a call, and of a state of another shape. Unsupported: the attention has no state.
        """
        _contract.check_inputs(q, k, v, (1, q.shape[2] if isinstance(q, Tensor) and q.dim() == 4 else 0))
        self.attention.check_gates(q, inputs)
        if self.core is None or not hasattr(self.core, "step"):
            self.state(Shape(q.shape[0], q.shape[1], 1, q.shape[2], q.shape[3]), v.shape[3])
        core: Any = self.core
        with outside_autocast(q.device.type):
            output, state = core.step(q, k, v, state, **inputs)
        return output, state

    def prepare(self, shape: Shape, like: Tensor, value_dim: int = 0) -> None:
        """Build the module for a shape, on the device and in the dtype of a tensor; E is `value_dim` if wider."""
        shape = replace(shape, causal=self.causal)
        widest = replace(shape, head_dim=max(shape.head_dim, value_dim))
        impl = self.attention.resolve(self.impl, like.device.type, like.dtype, widest)
        self.core = self.attention.build(shape, impl).to(like).train(self.training)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        """Raises UsageError where there is something to load and nothing yet that could hold it."""
        if self.core is None and any(key.startswith(f"{prefix}core.") for key in state_dict):
            raise UsageError(f"This {self.attention.name} has no parameters before its first call: call prepare(shape,"
                             " like=q) before load_state_dict.")
        super()._load_from_state_dict(state_dict, prefix, *more)

    def extra_repr(self) -> str:
        return f"{self.attention.name}, {self.attention.options}"


def create(name: str, *, impl: str = "auto", causal: bool = False, **options: Any) -> Attention:
    """An attention by its name in `softbench list`, or by the path of a file that keeps the contract.

    Args:
        impl: one of the attention's implementations; "auto" takes the first that runs.
        causal: a token sees itself and those before it alone.
        options: options of that attention, as in `--attn`.
    Raises:
        UsageError: no such attention or option, or a bad value. PluginError: the file breaks the contract. Unsupported:
            it has no causal form, or no other.

    >>> softbench.create("soft", landmarks=64)(q, k, v)  # [B, H, N, D] -> [B, H, N, D]
    >>> softbench.create("softmax", causal=True)(q, k, v)
    """
    return Attention(_contract.load(AttentionSpec(name, options)), impl, causal)


def measure(name: str, attn: str | None = None, *, settings: Mapping[str, Any] | None = None,
            process: Mapping[str, Any] | None = None, quick: bool = False, out: Path | str | None = None,
            resume: bool = False, isolate: bool = False, memory_limit: int | str | None = None,
            timeout: float | str | None = None, check_convergence: bool = False,
            say: Callable[[str], None] = lambda text: None, **sweep: Any) -> pd.DataFrame:
    """Run a measure and return its records as a frame; nothing is printed, and saved only to `out`.

    It sets this process up as the command does (threads, malloc, subnormals), and leaves it so.

    Args:
        name: a measure: "latency", "memory", "flops".
        attn: attentions as in `--attn`: "soft,soft:landmarks=64". For whole models give `model` instead.
        settings: settings of the measure, as {"rep": 200}.
        process: keys of [process], as {"threads": 1}.
        quick: a smaller programme.
        isolate: run each case in a process of its own.
        memory_limit: bytes that a case may take, or "2GB".
        timeout: seconds that a case may take, or "2m".
        check_convergence: mark the numbers of cases in which an inverse has not converged.
        out: a file that the records of each step are appended to as soon as it is done.
        resume: leave out the cases that `out` holds already for this machine, these settings and this code.
        say: called with what there is to say of that, as `print`.
        sweep: keys of [sweep] in bench.toml: tokens="1k,4k", dtype="bfloat16", device="cuda"; model="soft-tiny",
            image="224,384", by_stage=True.
    Raises:
        UsageError: an unknown name or a bad value. ResultsError: `out` cannot be written or read.
        Interrupted: Ctrl-C, with `out`; it holds what was done.

    >>> frame = softbench.measure("latency", "soft,performer", tokens="1k,4k")
    >>> frame[["label", "tokens", "value"]]
    >>> softbench.measure("latency", model="soft-tiny,timm:resnet18", image=224, batch=8)
    >>> softbench.measure("memory", "soft", out="here.jsonl", resume=True, say=print)
    """
    from softbench.bench import session

    measures.load(name)
    flags = {"sweep": sweep if attn is None else {"attn": attn, **sweep}, "process": process or {},
             name: settings or {}}
    started = session.start(
        session.configure(name, flags, quick=quick), name, isolate=isolate, check_convergence=check_convergence,
        memory_limit=None if memory_limit is None else parsing.memory(str(memory_limit), "memory_limit"),
        timeout=None if timeout is None else parsing.seconds(str(timeout), "timeout"))
    return _frame(started, out, resume, say)


def study(name: str, /, *, process: Mapping[str, Any] | None = None, quick: bool = False, out: Path | str | None = None,
          resume: bool = False, force: bool = False, say: Callable[[str], None] = lambda text: None,
          **settings: Any) -> pd.DataFrame:
    """Run a study and return its records as a frame, as `measure` does.

    Args:
        name: a study: "approx-error", "scaling", "crossover".
        process: keys of [process], as {"threads": 1}.
        quick: a smaller programme.
        out: a file that the records of each task are appended to as soon as it is done.
        resume: leave out the tasks that `out` holds already for this machine, these settings and this code.
        say: called with what there is to say of that, as `print`.
        force: measure anew what this machine is known to do ("roofline").
        settings: settings of the study, its flags on the command line: attn="soft", tokens="1k", seeds=2.
    Raises:
        UsageError: an unknown name or a bad value. ResultsError: `out` cannot be written or read.
        Interrupted: Ctrl-C, with `out`; it holds what was done.

    >>> frame = softbench.study("approx-error", attn="soft,performer", tokens="256", out="here.jsonl", resume=True)
    >>> frame[frame["quantity"] == "error_matrix_fro"][["label", "size", "value"]]
    """
    from softbench.bench import session

    name = name.replace("-", "_")
    studies.load(name)
    flags = {"process": process or {}, name: settings}
    return _frame(session.start_study(session.configure(name, flags, quick=quick), name), out, resume, say, force)


def _frame(programme: Programme, out: Path | str | None, resume: bool, say: Callable[[str], None],
           force: bool = False) -> pd.DataFrame:
    target = None if out is None else Path(out)
    return to_frame(run(programme, target, resume=resume, force=force, watch=Watch(say)).records)
