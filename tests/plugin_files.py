"""Attention files that tests write to disk: one that is right, and several that misbehave in one way each."""

from __future__ import annotations

from pathlib import Path

MEAN = '''"""Mean attention: every token gets the mean of v."""

from dataclasses import dataclass

import torch
from torch import nn

from softbench.contracts.attention import Cost
from softbench.options import option

APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
IMPLS = ("eager",)


@dataclass(frozen=True)
class Options:
    scale: float = option(1.0, "factor of the mean", low=0)


class Mean(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, q, k, v, grid):
        return BODY


def build(shape, options, impl):
    return Mean(options.scale)


def cost(shape, options):
    return Cost(0.0, shape.batch * shape.heads * shape.tokens * ELEMENTS)
'''

_RIGHT = "(q + k).sum(-1, keepdim=True) * 0 + self.scale * v.mean(2, keepdim=True).expand_as(v)"
_BODIES = {
    "mean": _RIGHT,
    "nan": f"({_RIGHT}) * float('nan')",
    "wrong_shape": f"({_RIGHT})[:, :, :1]",
    "raises": "1 / 0",
    "out_of_memory": "torch.empty(1 << 60)",
    "slow": f"__import__('time').sleep(1.5 * (q.shape[2] > 1024)) or {_RIGHT}",
    "half_wrong": f"({_RIGHT}) * (1.5 if v.dtype == torch.float32 else 1.0)",
    "loud": f"print('no answer') or {_RIGHT}",
    "killed": "__import__('os').kill(__import__('os').getpid(), 9)",
    "vanishes": "__import__('os')._exit(0)",
    "lingers": ("__import__('threading').Thread(target=__import__('time').sleep, args=(600,)).start() or"
                f" __import__('atexit').register(__import__('time').sleep, 600) and {_RIGHT}"),
    "spawns": ("open(f'{__file__}.pids', 'a').write(f'{__import__(\"subprocess\").Popen([\"sleep\", \"300\"]).pid} ')"
               f" and __import__('time').sleep(SECONDS) or {_RIGHT}"),
    "aborted": "__import__('os').abort()",
    "hungry": f"torch.ones(1 << 27).sum() * 0 + {_RIGHT}",  # 512 MiB of float32
    "exits": "__import__('sys').exit(3)",
    "wrong_gradient": f"(lambda y: y.detach() + 2 * (y - y.detach()) if v.dtype == torch.float32 else y)({_RIGHT})",
    "unsupported": "(_ for _ in ()).throw(__import__('softbench.errors').errors.Unsupported('no such kernel here'))",
    "too_large": _RIGHT,
    "interrupts": "(_ for _ in ()).throw(KeyboardInterrupt)",
    "gives_up": "(_ for _ in ()).throw(GeneratorExit('enough'))",
    "own_kind": "(_ for _ in ()).throw(type('Quit', (BaseException,), {})('of my own'))",
    "speechless": "(_ for _ in ()).throw(type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})())",
    "worse_than_speechless": "(_ for _ in ()).throw(type('Mute', (BaseException,), {'__str__': lambda self: 3})())",
    "presses_ctrl_c": f"__import__('os').kill(__import__('os').getpid(), 2) or {_RIGHT}",
}


# Code in place of the body's one line, which never returns while it is let alone.
_ENDLESS = {
    "swallows": "while True:\n            try:\n                __import__('time').sleep(0.01)\n"
                "            except BaseException:\n                pass",
    "resets_the_alarm": "import signal, time\n        signal.setitimer(signal.ITIMER_REAL, 0)\n"
                        "        while True: time.sleep(0.01)",
    "takes_the_handler": "import signal, time\n        signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
                         "        while True: time.sleep(0.01)",
    "blocks_signals": "import signal, time\n        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n"
                      "        while True: time.sleep(0.01)",
    "in_c_code": "import ctypes, signal\n        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n"
                 "        ctypes.CDLL(None).sleep(600)",
    "swallows_once": "try:\n            __import__('time').sleep(600)\n        except Exception:\n"
                     "            __import__('time').sleep(600)",
}


def write(folder: Path, name: str) -> str:
    """Write the attention of that name into a folder; returns its path."""
    path = folder / f"{name}.py"
    elements = "1e12" if name == "too_large" else "1"
    text = MEAN.replace("        return BODY", f"        {_ENDLESS[name]}") if name in _ENDLESS else MEAN
    path.write_text(text.replace("BODY", _BODIES.get(name, "")).replace("ELEMENTS", elements))
    return str(path)
