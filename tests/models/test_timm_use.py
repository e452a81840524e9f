"""The pyramids in timm's world: made by name, taken as features, and trained and validated as timm's own scripts do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import (
    Mixup,
    create_dataset,
    create_loader,
    create_transform,
    resolve_data_config,
    resolve_model_data_config,
)
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy, dispatch_clip_grad, reparameterize_model
from torch import Tensor, nn

import softbench.models as models
import softbench.models.__main__ as registering

ROOT = Path(__file__).parents[2]
SIDE = 64
DIMS = (64, 128, 320, 512)


def images(batch: int = 2, rows: int = SIDE, cols: int = SIDE) -> Tensor:
    return torch.randn(batch, 3, rows, cols, generator=torch.Generator().manual_seed(0))


def test_every_arch_is_registered_and_none_takes_a_name_of_timm() -> None:
    ours = {arch.replace("-", "_") for arch in models.archs()}
    assert ours <= set(timm.list_models(module="registry"))
    assert {"soft_tiny", "soft_norm_small_d20", "performer_huge"} <= ours
    assert all(timm.models.model_entrypoint(name).__module__ == "softbench.models.registry" for name in ours)
    assert "soft_tiny" in timm.list_models("soft_*")
    assert timm.list_pretrained("soft_*") == []  # no weights are downloaded


def test_the_data_config_is_that_of_the_paper() -> None:
    config = resolve_model_data_config(timm.create_model("soft_tiny", num_classes=10, img_size=SIDE))
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bicubic")
    assert config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    assert resolve_data_config({}, model=timm.create_model("soft_tiny"))["input_size"] == (3, 224, 224)


@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (96, 160), (50, 70)])
def test_features_only(rows: int, cols: int) -> None:
    """As backbones of detection frameworks are made: maps of strides 4 to 32, for any size of image."""
    model = timm.create_model("soft_tiny", features_only=True, out_indices=(0, 2, 3), img_size=(rows, cols)).eval()
    assert type(model).__name__ == "FeatureGetterNet"
    assert model.feature_info.channels() == [DIMS[i] for i in (0, 2, 3)]
    assert model.feature_info.reduction() == [4, 16, 32]
    with torch.no_grad():
        maps = model(images(1, rows, cols))
    assert [tuple(m.shape) for m in maps] == [
        (1, DIMS[i], -(-rows // patch), -(-cols // patch)) for i, patch in ((0, 4), (2, 16), (3, 32))]


def test_features_are_those_of_the_whole_model() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("performer_tiny", img_size=SIDE, num_classes=7).eval()
    features = timm.create_model("performer_tiny", img_size=SIDE, num_classes=7, features_only=True).eval()
    features.model.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        wanted = whole.forward_intermediates(images(), intermediates_only=True)
        for found, expected in zip(features(images()), wanted, strict=True):
            torch.testing.assert_close(found, expected)


def test_feature_extraction_and_another_head() -> None:
    """The three ways of timm's manual: no classes, forward_features, and forward_head before the logits."""
    model = timm.create_model("soft_tiny", num_classes=0, img_size=SIDE).eval()
    with torch.no_grad():
        pooled = model(images())
        tokens = model.forward_features(images())
        assert pooled.shape == (2, model.num_features)
        assert tokens.shape == (2, 1 + (SIDE // 32) ** 2, model.num_features)
        torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), pooled)
        model.reset_classifier(7, "avg")
        assert model(images()).shape == (2, 7)
    assert model.get_classifier() is model.head
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, 1:].mean(1))


def test_one_step_of_timms_training_loop() -> None:
    """As train.py: mixup, soft targets, AdamW by groups, clipping, schedule, averaged weights."""
    torch.manual_seed(0)
    model = timm.create_model("soft_tiny", num_classes=5, img_size=SIDE, drop_path_rate=0.1).train()
    averaged = ModelEmaV3(model, decay=0.9)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=3, warmup_epochs=1, warmup_lr=1e-5,
                                       updates_per_epoch=2)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    criterion, seen = SoftTargetCrossEntropy(), AverageMeter()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    np.random.seed(0)  # noqa: NPY002  # mixup draws from it
    for update in range(2):
        mixed, targets = mixup(images(4), torch.tensor([0, 1, 2, 4]))
        loss = criterion(model(mixed), targets)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
        averaged.update(model)
        scheduler.step_update(update + 1)
        seen.update(loss.item(), 4)
    assert 0 < seen.avg < 10
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) == len(list(model.parameters()))
    assert not torch.equal(averaged.module.head.weight, model.head.weight)
    assert not torch.equal(averaged.module.head.weight, before["head.weight"])


def test_weight_decay_spares_positions_norms_and_biases() -> None:
    model = timm.create_model("soft_tiny", num_classes=5, img_size=SIDE)
    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    spared = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {"stages.0.pos_embed", "stages.3.cls_token", "norm.weight", "head.bias"} <= spared
    assert "head.weight" not in spared
    assert "stages.1.blocks.0.attn.q.weight" not in spared


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves that to the collector
def test_validation_as_in_timms_validate(tmp_path: Path) -> None:
    """A folder of images through create_dataset, create_loader and accuracy."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(2):
            pixels = generator.integers(0, 255, (SIDE + 9, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    model = timm.create_model("soft_tiny", num_classes=2, img_size=SIDE).eval()
    config = resolve_data_config({"img_size": SIDE}, model=model)
    loader = create_loader(create_dataset("", root=str(tmp_path)), input_size=config["input_size"], batch_size=2,
                           use_prefetcher=False, interpolation=config["interpolation"], mean=config["mean"],
                           std=config["std"], num_workers=0, persistent_workers=False,
                           crop_pct=config["crop_pct"], device=torch.device("cpu"))
    assert create_transform(**config) is not None
    shares = AverageMeter()
    with torch.no_grad():
        for batch, labels in loader:
            shares.update(float(accuracy(model(batch), labels, topk=(1,))[0]), len(batch))
    assert shares.count == 4
    assert 0 <= shares.avg <= 100


def test_what_timms_benchmark_asks_of_a_model() -> None:
    """benchmark.py reparameterizes, counts parameters, scripts nothing by default and takes a step with a scaler."""
    model = reparameterize_model(timm.create_model("soft_tiny", num_classes=3, img_size=SIDE))
    positions = sum(dim * (224**2 - SIDE**2) // patch**2 for dim, patch in zip(DIMS, (4, 8, 16, 32), strict=True))
    assert sum(p.numel() for p in model.parameters()) == 13_069_056 - positions - (1000 - 3) * (512 + 1)
    model.set_grad_checkpointing(True)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1e-4)
    loss = nn.functional.cross_entropy(model.train()(images()), torch.tensor([0, 2]))
    NativeScaler(device="cpu")(loss, optimizer, parameters=model.parameters())
    assert bool(loss.isfinite())


def test_safetensors_and_state_dicts_travel(tmp_path: Path) -> None:
    """timm's save_for_hf format where safetensors is installed, and checkpoint_path."""
    torch.manual_seed(0)
    model = timm.create_model("soft_tiny", num_classes=3, img_size=SIDE).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    again = timm.create_model("soft_tiny", num_classes=3, img_size=SIDE,
                              checkpoint_path=str(tmp_path / "weights.pth")).eval()
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))
    if importlib.util.find_spec("safetensors"):
        from safetensors.torch import save_file

        save_file(model.state_dict(), tmp_path / "weights.safetensors")
        again = timm.create_model("soft_tiny", num_classes=3, img_size=SIDE,
                                  checkpoint_path=str(tmp_path / "weights.safetensors")).eval()
        with torch.no_grad():
            assert torch.equal(again(images()), model(images()))


def test_a_script_of_timm_knows_our_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m softbench.models SCRIPT` registers them before the script starts, which gets its own arguments."""
    script = tmp_path / "list.py"
    script.write_text("import sys, timm\nprint(timm.is_model('soft_tiny'), sys.argv[1:], __name__)\n")
    done = subprocess.run([sys.executable, "-m", "softbench.models", str(script), "--model", "soft_tiny"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True ['--model', 'soft_tiny'] __main__"
    monkeypatch.setattr(sys, "argv", ["softbench.models", "nothing.py"])
    with pytest.raises(SystemExit) as stopped:
        registering.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("Error: no script 'nothing.py'. Usage: ")
