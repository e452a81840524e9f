"""roofline: this device's two ceilings, bytes a second of a large copy and FLOP a second of a large matrix product.

A copy of n bytes reads n and writes n, and 2 n / seconds is its bandwidth. Its buffers are four times as large as the
last cache that the system tells of (a GPU's L2), so that it measures memory. A product of two size x size matrices is
2 size^3 FLOP; the size doubles from 256 until one product lasts `patience` ms. The repeats of all of them are
interleaved. Each ceiling is the best repeat, as a ceiling is what can be reached at all; the median stands beside it.
float32 products on a GPU are TF32 where `--tf32 true` says so, and the number belongs to that setting and to the number
of threads.

The result is kept for the machine (see `softbench.machine.ceilings`), and `softbench latency` shows it as the floor
of each time. `--force` measures anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from softbench import dtypes, parsing
from softbench.contracts.quantities import Quantity
from softbench.contracts.study import Task
from softbench.machine.ceilings import BANDWIDTH, RATE
from softbench.machine.ceilings import recall as recall
from softbench.machine.ceilings import remember as remember
from softbench.options import option
from softbench.records.views import Rows

QUANTITIES = tuple(Quantity(f"{name}{which}", unit, "derived", "more")
                   for name, unit in ((BANDWIDTH, "B/s"), (RATE, "flop/s")) for which in ("", "_median"))
QUICK = {"repeats": 5, "patience": 5.0}


@dataclass(frozen=True)
class Settings:
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    dtypes: str = option(",".join(dtypes.NAMES), "dtypes of the matrix product, comma-separated")
    repeats: int = option(20, "times that each is measured, in turn", low=1, high=10_000)
    patience: float = option(40.0, "ms that one matrix product lasts at least", unit="ms", low=0.1, high=10_000)
    copy: str = option("", "bytes of the copy, as 1GiB; by default as many as leave the caches")


VIEWS = (
    Rows(name="ceilings", title="What this device can do at most: the best of all repeats, and their median.",
         by=("operation", "dtype", "size"),
         quantities=(BANDWIDTH, f"{BANDWIDTH}_median", RATE, f"{RATE}_median"),
         words={BANDWIDTH: "bandwidth", RATE: "FLOP rate", f"{BANDWIDTH}_median": "median",
                f"{RATE}_median": "median rate"},
         note="2 FLOP a multiply-add. A copy of n bytes moves 2 n."),
)


def tasks(settings: Settings) -> list[Task]:
    from softbench.studies.roofline import operations

    kinds = parsing.dtypes(settings.dtypes)
    copied = parsing.memory(settings.copy, "--copy", least=1) if settings.copy else 0
    name = f"copy {settings.copy or 'auto'}, products {','.join(kinds)}"
    return [Task(name, partial(operations.measure, settings.device, kinds, copied, settings.repeats,
                               settings.patience / 1e3))]
