"""q, k, v from inside a backbone: what is captured, from which weights, in both studies, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from softbench import inputs, models, options
from softbench.attention._nystrom import Nystrom
from softbench.bench import study
from softbench.case import Shape
from softbench.errors import Unsupported, UsageError
from softbench.inputs import captured
from softbench.models import checkpoints
from softbench.studies import approx_error, pinv
from softbench.studies.approx_error import tokens as _tokens
from softbench.studies.pinv import matrices
from softbench.studies.pinv.matrices import Sizes

SMALL = {"attn": "soft,nystromformer", "sizes": "9", "samplings": "none", "tokens": "64", "seeds": "2", "cost": "false"}


@pytest.fixture(autouse=True)
def _fresh_models() -> None:
    captured._model.cache_clear()


def fresh(arch: str = "soft-tiny", seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return models.create(arch, **options).eval()


def called(model: nn.Module, module: nn.Module, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a module inside gets and gives when the model sees these images, normalised as for ImageNet."""
    seen: list[tuple[tuple[Tensor, ...], Tensor]] = []
    module.register_forward_hook(lambda _, got, gave: seen.append((got, gave)))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        model((images - mean[:, None, None]) / std[:, None, None])
    (only,) = seen
    return only


@pytest.mark.parametrize(("arch", "place", "heads", "patch"), [
    ("soft-tiny", "stage1", 2, 4), ("soft-tiny", "stage3.2", 10, 16), ("performer-tiny", "stage2.1", 4, 8)])
def test_tokens_are_what_the_attention_gets(arch: str, place: str, heads: int, patch: int) -> None:
    wanted = captured.shape(f"{arch}@{place}", 20)
    assert wanted == Shape(1, heads, 4, 5, 32)
    stage, _, block = place.removeprefix("stage").partition(".")
    model = fresh(arch)
    core = model.get_submodule(f"stages.{int(stage) - 1}.blocks.{block or 0}.attn.core")
    got, _ = called(model, core, inputs.crops("", 1, (4 * patch, 5 * patch), 7))
    tokens = captured.tokens(f"{arch}@{place}", wanted, 7)
    for mine, theirs in zip(tokens, got, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(tokens[0], tokens[1]) == (arch == "soft-tiny")
    assert not torch.equal(tokens[0], captured.tokens(f"{arch}@{place}", wanted, 8)[0])


def test_last_stage_is_softmax_and_its_class_token_is_left_out() -> None:
    wanted = captured.shape("soft-tiny@stage4", 6)
    assert wanted == Shape(1, 16, 2, 3, 32)
    model = fresh()
    qkv = model.get_submodule("stages.3.blocks.0.attn.qkv")
    _, made = called(model, qkv, inputs.crops("", 1, (64, 96), 0))
    q, k, v = captured.tokens("soft-tiny@stage4", wanted, 0)
    for part, tokens in enumerate((q, k, v)):
        assert tokens.shape == (1, 16, 6, 32)
        assert torch.equal(tokens[0, 3], made[0, 1:, part * 512 + 3 * 32 : part * 512 + 4 * 32])


@pytest.mark.parametrize("options", [{}, {"sampling": "avg"}])
def test_landmarks_are_those_whose_kernel_the_attention_inverts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                                options: dict[str, str]) -> None:
    """By convolution, as in the pyramid, and by averages, which are scaled after pooling."""
    model = fresh("soft-tiny", attn_options=options)
    torch.save({"arch": "soft-tiny", "options": options, "state_dict": model.state_dict()}, tmp_path / "x.pt")
    inverted: list[Tensor] = []
    genuine = Nystrom.inverted
    monkeypatch.setattr(Nystrom, "inverted", lambda self, a: inverted.append(a) or genuine(self, a))
    found = matrices.make(f"checkpoint:{tmp_path / 'x.pt'}@stage1", Sizes(3, 49, 32, 0.01), seed=0)
    assert found.shape == (3, 49, 49)
    expected = torch.stack([inverted[0][0, 0], inverted[0][0, 1], inverted[0][1, 0]]).double()
    assert torch.allclose(found, expected, atol=1e-5)
    assert float(found.std()) > 1e-4


def test_stages_without_landmarks_are_pooled_to_them() -> None:
    place = "performer-tiny@stage4"
    landmarks = captured.landmarks(place, 2, 49, 32, seed=0)
    q, _, _ = captured.tokens(place, Shape(1, 16, 7, 7, 32), 0)
    assert torch.allclose(landmarks, q[0, :2].double() * 32**-0.25, atol=1e-6)


def test_landmarks_of_another_number_or_size_are_refused() -> None:
    with pytest.raises(Unsupported, match="has 49 landmarks, not 36: set size=49"):
        captured.landmarks("soft-tiny@stage2", 1, 36, 32, 0)
    with pytest.raises(Unsupported, match="have 32 entries, not 64: set head_dim=32"):
        captured.landmarks("soft-tiny@stage2", 1, 49, 64, 0)


@pytest.mark.parametrize("kind", ["ours", "ema", "plain", "official", "compiled_names"])
def test_weights_of_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    path, source = tmp_path / "weights.pt", "soft-tiny="
    model = fresh(seed=3, **({"official": True} if kind == "official" else {"num_classes": 7}))
    state = model.state_dict()
    if kind in ("ours", "ema"):
        other = fresh(seed=4, num_classes=7).state_dict()
        torch.save({"arch": "soft-tiny", "options": {}, "state_dict": other if kind == "ema" else state}
                   | ({"state_dict_ema": state} if kind == "ema" else {}), path)
        source = ""
    elif kind == "official":
        torch.save(checkpoints.to_official(model), path)
    else:
        torch.save({f"module.{name}": tensor for name, tensor in state.items()} if kind == "compiled_names" else state,
                   path)
    core = model.get_submodule("stages.1.blocks.0.attn.core")
    got, _ = called(model, core, inputs.crops("", 1, (32, 40), 0))
    text = f"{source}{path}@stage2"
    assert torch.equal(captured.tokens(text, captured.shape(text, 20), 0)[0], got[0])


def test_drawing_initial_weights_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    captured.check("soft-tiny@stage1")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("place", "message"), [
    ("soft-tiny", "names no place in a backbone: write SOURCE@stage2"), ("", "names no place"),
    ("soft-tiny@", "names no place"), ("soft-tiny@stage", "names no place"), ("@stage1", "names no place"),
    ("soft-tiny@stage0", "stages are 1 to 4"), ("soft-tiny@stage5", "stages are 1 to 4"),
    ("soft-tiny@stage2.2", "stage2 has 2 blocks, counted from 0: there is no stage2.2"),
    ("sofft-tiny@stage1", "Did you mean 'soft-tiny'"),
    ("timm:resnet18@stage1", "timm:resnet18 cannot be looked into: only softbench's own"),
    ("nowhere.pt@stage1", "there is no file 'nowhere.pt'"), ("a/b@stage1", "there is no file 'a/b'"),
    ("soft-tiny=nowhere.pt@stage1", "there is no file 'nowhere.pt'"), ("folder@stage1", "there is no file 'folder'"),
    ("sofft-tiny=bare.pt@stage1", "Did you mean 'soft-tiny'"),
    ("text.pt@stage1", "text.pt is not a checkpoint, or is torn"), ("torn.pt@stage1", "torn.pt"),
    ("bare.pt@stage1", "bare.pt does not say what it is a checkpoint of: write soft-tiny=bare.pt@stage1"),
    ("soft-small=bare.pt@stage1", "These weights do not fit this model"), ("list.pt@stage1", "holds a list"),
    ("other.pt@stage1", "timm:resnet18 cannot be looked into"),
])
def test_bad_places_are_told_in_one_line_by_both_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str,
                                                        message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("text.pt").write_text("no checkpoint")
    if "bare" in place or "torn" in place:
        torch.save(fresh(num_classes=3).state_dict(), "bare.pt")
        Path("torn.pt").write_bytes(Path("bare.pt").read_bytes()[:50_000])
    torch.save([1], "list.pt")
    torch.save({"arch": "timm:resnet18", "state_dict": {"x": torch.zeros(1)}}, "other.pt")
    sampled = SMALL | {"inputs": f"checkpoint:{place}"}
    for run in (lambda: approx_error.tasks(options.parse(approx_error.Settings, sampled, "x")),
                lambda: pinv.tasks(options.parse(pinv.Settings, {"matrices": f"checkpoint:{place}"}, "x"))):
        with pytest.raises(UsageError) as error:
            run()
        assert "\n" not in str(error.value)
        if place:  # else pinv says what it says of any family without its parameter
            assert message in str(error.value)


def test_errors_on_tokens_of_a_backbone(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"arch": "soft-tiny", "options": {}, "state_dict": fresh().state_dict()}, path)
    families = f"checkpoint:soft-tiny@stage1,checkpoint:{path}@stage1"
    asked = options.parse(approx_error.Settings, SMALL | {"inputs": families}, "x")
    tasks = approx_error.tasks(asked)
    found = [r for _, group in study.Study("approx_error", approx_error, asked, tasks) for r in group]
    errors = [r for r in found if r.quantity == "error_matrix_fro"]
    assert [(r.label, r.coords["against"]) for r in errors] == [("soft", "gaussian"), ("nystromformer", "softmax")] * 2
    assert all(r.status == "ok" and (r.heads, r.head_dim, r.rows, r.cols) == (2, 32, 8, 8) for r in errors)
    assert [r.samples for r in errors[:2]] == [r.samples for r in errors[2:]]  # the same weights, by file
    assert errors[0].coords["inputs"] == "checkpoint:soft-tiny@stage1"
    before = {task.name for task in tasks}
    torch.save({"arch": "soft-tiny", "options": {}, "state_dict": fresh(seed=1).state_dict()}, path)
    captured._model.cache_clear()
    assert len(before & {task.name for task in approx_error.tasks(asked)}) == 2  # the file's tasks are other ones now


def test_inverses_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"matrices": "backbone:stage2,checkpoint:soft-tiny@stage2", "count": "2", "methods": "newton,cholesky",
             "parts": "inverse", "ridge": "0.01"}
    settings = options.parse(pinv.Settings, asked, "x")
    made = study.Study("pinv", pinv, settings, pinv.tasks(settings))
    found = [r for _, group in made for r in group if r.quantity == "residual"]
    values = {(r.coords["family"], r.coords["method"]): r.value for r in found}
    assert values["backbone:stage2", "newton"] == values["checkpoint:soft-tiny@stage2", "newton"] > 0.1
    assert values["backbone:stage2", "cholesky"] < 1e-3


def test_other_inputs_need_no_timm() -> None:
    code = ("import sys; sys.modules['timm'] = None\n"
            "from softbench.studies.approx_error import tokens\nfrom softbench.studies.pinv import matrices\n"
            "tokens.check('normal'); matrices.check('smooth:1'); tokens.shape('image', 64, 2, 8)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_inputs_name_the_backbones_too() -> None:
    with pytest.raises(UsageError, match="checkpoint:PATH@stage"):
        _tokens.check("check")
