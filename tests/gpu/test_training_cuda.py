"""Training on a GPU: it goes on where it was, in bfloat16 and float32, and says what memory it took."""

from __future__ import annotations

import pytest
from training import jobs

from softbench.training.learner import Arithmetic

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("amp", ["bfloat16", "float16", "none"])
def test_a_run_goes_on_where_it_was(tmp_path, amp):
    class Stopped(Exception):
        pass

    def stop(position):
        if position.updates == 4:
            raise Stopped

    changes = {"device": "cuda", "arithmetic": Arithmetic(amp), "minutes": 0.0, "arch": "soft-tiny", "workers": 2}
    whole, first, second = jobs.Watch(), jobs.Watch(stop), jobs.Watch()
    found = jobs.train(jobs.job(tmp_path / "whole", **changes), whole)
    with pytest.raises(Stopped):
        jobs.train(jobs.job(tmp_path / "cut", **changes), first)
    jobs.train(jobs.job(tmp_path / "cut", **changes), second)
    assert [*first.losses[:3], *second.losses] == pytest.approx(whole.losses, rel=2e-2)
    assert {r.device for r in found} == {"cuda"}
    assert next(r.value for r in found if r.quantity == "peak_memory") > 50e6


def test_losses_are_those_of_the_cpu(tmp_path):
    losses = []
    for device in ("cpu", "cuda"):
        watch = jobs.Watch()
        jobs.train(jobs.job(tmp_path / device, device=device, arch="soft-tiny", erasing=0.0, drop_path=0.0), watch)
        losses.append(watch.losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
