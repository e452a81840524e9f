"""Official weights: the same outputs and gradients as the official code, both directions exact, bad files told."""

from __future__ import annotations

import argparse
import pickle
import random
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from softbench import models  # registers with timm
from softbench.errors import ResultsError, SoftbenchError, UsageError
from softbench.models import checkpoints
from softbench.models.checkpoints import load_official, to_official, to_ours
from softbench.models.pyramid import Pyramid

# Outputs of the official code (fudan-zvg/SOFT at d3febc3) on weights that follow from their names alone.
FOLDER = Path(__file__).parent.parent / "data" / "official"
sys.path.insert(0, str(FOLDER))
import weights  # noqa: E402

NAMES = ("soft_tiny", "soft_norm_tiny")


def reference(name: str) -> dict[str, Any]:
    return torch.load(FOLDER / f"{name}.pt", weights_only=True)


def official_state(name: str) -> dict[str, Tensor]:
    return weights.fill({key: torch.empty(shape) for key, shape in reference(name)["keys"].items()})


def filled(name: str, **kwargs: Any) -> Pyramid:
    return load_official(timm.create_model(name, official=True, **kwargs), official_state(name)).eval()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.norm())


@pytest.mark.parametrize("size", ["224x224", "256x192", "320x320"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_stages_are_those_of_the_official_code(name: str, size: str) -> None:
    truth = reference(name)[size]
    rows, cols = map(int, size.split("x"))
    model, norms = filled(name), []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, out: norms.append(float(out[0].norm())))
    with torch.no_grad():
        logits = model(weights.images(len(truth["logits"]), rows, cols))
    assert relative(logits, truth["logits"]) < 1e-5
    assert norms == pytest.approx(list(truth["stage_norms"].values()), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_official_code(name: str) -> None:
    truth = reference(name)["grad"]
    model = filled(name)
    loss = model(weights.images(1, 224, 224, seed=2)).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(truth["loss"], rel=1e-5)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    norms = {key: float(value.norm()) for key, value in to_official(model).items() if key in truth["norms"]}
    assert norms == pytest.approx(truth["norms"], rel=1e-3)


def test_what_official_selects_matters() -> None:
    x, truth = weights.images(1, 320, 320), reference("soft_tiny")["320x320"]["logits"][:1]
    ours = load_official(timm.create_model("soft_tiny"), official_state("soft_tiny")).eval()
    with torch.no_grad():
        assert relative(ours(x), truth) > 1e-3  # 49 landmarks instead of 100, and an inverse that converges


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name: str) -> None:
    state = official_state(name)
    back = to_official(filled(name))
    assert {key: list(value.shape) for key, value in back.items()} == reference(name)["keys"]
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert set(to_ours(state)) == set(timm.create_model(name).state_dict())


@pytest.mark.parametrize("wrap", [
    lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}, lambda s: {"state_dict_ema": s, "state_dict": {}},
    lambda s: {f"module.{k}": v for k, v in s.items()},
    lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "optimizer": {"state": {}}, "arch": "soft"},
    lambda s: {"state_dict": s, "state_dict_ema": {}, "args": argparse.Namespace(model="soft_tiny", lr=1e-3)},
    lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
], ids=["state_dict", "model", "ema", "module", "training", "arguments", "compiled", "old"])
def test_wrapped_state_dicts(wrap: Any, tmp_path: Path) -> None:
    state = official_state("soft_tiny")
    torch.save(wrap(state), tmp_path / "official.pth")
    model = load_official(timm.create_model("soft_tiny", official=True), tmp_path / "official.pth")
    assert torch.equal(model.head.weight, state["head.weight"])


def test_ema_or_not() -> None:
    state = official_state("soft_tiny")
    both = {"state_dict": state, "state_dict_ema": {k: v + 1 for k, v in state.items()}}
    model = timm.create_model("soft_tiny")
    assert torch.equal(load_official(model, both).head.bias, state["head.bias"] + 1)
    assert torch.equal(load_official(model, both, ema=False).head.bias, state["head.bias"])


def test_positions_follow_the_image_size() -> None:
    model = load_official(timm.create_model("soft_tiny", img_size=(96, 160)), official_state("soft_tiny"))
    assert model.stages[0].pos_embed.shape[1] == 24 * 40
    with torch.no_grad():
        same = load_official(timm.create_model("soft_tiny"), official_state("soft_tiny")).eval()
        assert relative(model.eval()(weights.images(1, 96, 160)), same(weights.images(1, 96, 160))) < 1e-5


def test_timm_loads_them_too(tmp_path: Path) -> None:
    state = official_state("soft_tiny")
    torch.save(state, tmp_path / "official.pth")
    overlay = {"file": str(tmp_path / "official.pth")}
    model = timm.create_model("soft_tiny", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.norm.weight, state["norm.weight"])
    fewer = timm.create_model("soft_tiny", pretrained=True, num_classes=10, img_size=64, pretrained_cfg_overlay=overlay)
    assert torch.equal(fewer.norm.weight, state["norm.weight"])
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    again = timm.create_model("soft_tiny", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "ours.pth")})
    assert torch.equal(again.head.weight, model.head.weight)


def test_another_depth_is_told() -> None:
    with pytest.raises(UsageError, match=r"they have \[1, 2, 3, 2\] blocks in the four stages \(tiny\), the model"
                                         r" \[1, 3, 7, 4\]"):
        load_official(timm.create_model("soft_small"), official_state("soft_tiny"))


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("block2.1.att.mha.W_v.bias"), "missing block2.1.att.mha.W_v.bias"),
    (lambda s: [s.pop("head.bias"), s.pop("norm.bias")], "missing norm.bias and 1 more"),
    (lambda s: s.update(extra=torch.ones(1)), "unexpected extra"),
    (lambda s: s.update({"head.weight": torch.ones(10, 512)}), r"head.weight is \[10, 512\], the model needs"
                                                               r" \[1000, 512\]"),
    (lambda s: s.clear(), "no weights in this checkpoint"),
    (lambda s: s.update({"norm.bias": torch.zeros(512, dtype=torch.int8)}), "norm.bias is torch.int8, the model needs"),
    (lambda s: s.update({"pos_embed1": torch.zeros(3136)}), r"pos_embed1 is \[3136\]"),
    (lambda s: s.update({"pos_embed1": torch.zeros(1, 0, 64)}), r"pos_embed1 is \[1, 0, 64\]"),
    (lambda s: s.update({"pos_embed1": torch.zeros(1, 3135, 64)}), r"pos_embed1 is \[1, 3135, 64\]"),
    (lambda s: s.update({"block4.0.attn.q.weight": torch.zeros(512, 9)}), "missing block4.0.attn.qkv.weight"),
    (lambda s: s.update({"block4.0.attn.q.bias": torch.zeros(())}), "missing block4.0.attn.qkv.bias"),
])
def test_a_state_dict_that_does_not_fit_is_told_and_changes_nothing(change: Any, message: str) -> None:
    state, model = official_state("soft_tiny"), timm.create_model("soft_tiny")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change(state)
    with pytest.raises(UsageError, match=message):
        load_official(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_of_another_attention_are_told() -> None:
    with pytest.raises(UsageError, match=r"missing|unexpected"):
        load_official(timm.create_model("performer_tiny"), official_state("soft_tiny"))


def test_weights_are_for_whole_pyramids() -> None:
    with pytest.raises(UsageError, match=r"whole pyramid, not for a FeatureGetterNet.*pretrained_cfg_overlay"):
        load_official(timm.create_model("soft_tiny", features_only=True), official_state("soft_tiny"))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "hook": Malicious()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious()))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(ResultsError, match=r"refused|not a checkpoint"):
            checkpoints.read(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18", "resnet18.hf-hub:timm/x",
                                  "local-dir:.", "hf-hub:resnet18", "https://example.org/resnet18"])
def test_no_name_of_a_model_fetches_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *where: pytest.fail(f"connects to {where}"))
    with pytest.raises(UsageError, match=r"timm has no model|cannot be made"):
        models.create(f"timm:{name}")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04", b"PK\x03\x04 torn"])
def test_what_is_no_checkpoint_is_told(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="is not a checkpoint, or is torn"):
        checkpoints.read(write(tmp_path / "file.pth", content))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_torn_file_is_told(kept: float, tmp_path: Path) -> None:
    torch.save(official_state("soft_tiny"), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    with pytest.raises(ResultsError, match="torn"):
        checkpoints.read(write(tmp_path / "torn.pth", whole[: int(kept * len(whole))]))


@pytest.mark.filterwarnings("ignore")  # torch's, about what the damage looks like to it
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_told_or_read(zipped: bool, tmp_path: Path) -> None:
    path, draw = tmp_path / "file.pth", random.Random(0)
    state = {"state_dict": {f"layer{i}.weight": torch.ones(2) for i in range(3)}, "epoch": 1}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole, told = path.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] = draw.randrange(256)
        try:
            checkpoints.unwrapped(checkpoints.read(write(path, bytes(damaged))))
        except SoftbenchError:
            told += 1
    assert told > 20


def test_other_unreadable_things_are_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"Cannot read .*missing.pth: No such file"):
        checkpoints.read(tmp_path / "missing.pth")
    with pytest.raises(SoftbenchError, match="Cannot read"):
        checkpoints.read(tmp_path)
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ResultsError, match="holds a list, not a state dict"):
        checkpoints.read(tmp_path / "list.pth")


def test_names_that_nobody_knows_stay() -> None:
    state: Mapping[str, Tensor] = {"patch_embed9.proj.0.weight": torch.ones(1), "block4.0.att.x": torch.ones(1)}
    assert set(to_ours(state)) == {"patch_embed9.proj.0.weight", "stages.3.blocks.0.att.x"}
