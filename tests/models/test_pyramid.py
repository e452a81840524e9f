"""The backbone: sizes, shapes, dtypes, compilation, timm's interface, and what it refuses."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import softbench.models as models
from softbench.case import Shape
from softbench.errors import PluginError, UsageError
from softbench.models.blocks import PatchEmbed, ProjectedAttention, SoftBlock
from softbench.models.pyramid import Pyramid, resampled
from softbench.models.variants import Variant

# Counted in the official code, but for `small`, whose third stage has 7 blocks in the paper's table.
PARAMETERS = {"tiny": 13_069_056, "small": 24_110_092, "small-d20": 38_858_462, "medium": 45_812_707,
              "large": 64_700_646, "huge": 87_108_273}
SMALL = {"num_classes": 10, "img_size": 64}
SMALLEST = Variant((32, 32, 32, 32), (1, 1, 1, 1), (1, 1, 1, 1))
MINE = '''"""Mean of the values."""
from dataclasses import dataclass
from torch import nn
from softbench.contracts.attention import Cost
APPROXIMATES, SHARES_QK, LINEAR_IN_V, IMPLS = None, True, True, ("eager",)
@dataclass(frozen=True)
class Options:
    pass
class Mean(nn.Module):
    def forward(self, q, k, v, grid):
        return v.mean(2, keepdim=True).expand_as(v)
def build(shape, options, impl): return Mean()
def cost(shape, options): return Cost(0.0, 0.0)
'''


def images(batch: int = 2, rows: int = 64, cols: int = 64, **like: Any) -> Tensor:
    return torch.randn(batch, 3, rows, cols, generator=torch.Generator().manual_seed(0)).to(**like)


def tiny(name: str = "soft-tiny", seed: int = 0, **kwargs: Any) -> Pyramid:
    torch.manual_seed(seed)
    model = models.create(name, **{**SMALL, **kwargs})
    assert isinstance(model, Pyramid)
    return model.eval()


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("variant", PARAMETERS)
@pytest.mark.parametrize("attention", ["soft", "soft-norm"])
def test_parameters_to_the_digit(attention: str, variant: str) -> None:
    with torch.device("meta"):
        model = models.create(f"{attention}-{variant}")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("arch", [a for a in models.archs() if a.endswith("-tiny")])
def test_every_attention_runs_forward_and_backward(arch: str) -> None:
    model = tiny(arch).train()
    logits = model(images())
    assert logits.shape == (2, 10)
    logits.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    assert all(float(g.norm()) > 0 for name, g in gradients.items() if g is not None and ".proj." not in name)


@pytest.mark.parametrize("variant", ["small", "medium", "huge"])
def test_other_variants_run(variant: str) -> None:
    model = models.create(f"soft-{variant}", num_classes=3, img_size=32)
    model(images(rows=32, cols=32)).sum().backward()


@pytest.mark.parametrize("size", [(224, 224), (4, 4), (31, 33), (225, 100), (32, 160)])
def test_any_size_uses_every_pixel(size: tuple[int, int]) -> None:
    model = tiny()
    x = images(1, *size).requires_grad_()
    model(x).square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum((0, 1)) > 0).all())


def test_landmarks_do_not_grow_with_the_image() -> None:
    counts = []
    model = tiny()
    for stage in list(model.stages)[:3]:
        core = stage.blocks[0].attn.core
        core.landmarks.register_forward_hook(lambda m, i, out: counts.append(out.shape[2]))
    for size in (224, 256, 384):
        model(images(1, size, size))
    assert counts[:3] == [49] * 3
    assert max(counts) == 49


@pytest.mark.parametrize("landmarks", [36, 49, 64, 81])
def test_asked_landmarks_are_those_of_every_stage(landmarks: int) -> None:
    model = tiny(attn_options={"landmarks": landmarks})
    counts: list[int] = []
    for stage in list(model.stages)[:3]:
        stage.blocks[0].attn.core.landmarks.register_forward_hook(lambda m, i, out: counts.append(out.shape[2]))
    model(images(1, 224, 224))
    assert counts == [landmarks] * 3


@pytest.mark.parametrize(("dtype", "bound"), [
    (torch.float64, 1e-5), (torch.float16, 6e-3), (torch.bfloat16, 5e-2)])
def test_logits_agree_with_float32(dtype: torch.dtype, bound: float) -> None:
    model, x = tiny(), images()
    truth = model(x)
    assert relative(model.to(dtype)(x.to(dtype)), truth) < bound


@pytest.mark.parametrize("arch", ["soft-tiny", "soft-norm-tiny", "performer-tiny", "linformer-tiny", "softmax-tiny",
                                  "nystromformer-tiny", "gaussian-tiny"])
def test_autocast_keeps_the_attention_in_full_precision(arch: str) -> None:
    model, x = tiny(arch).train(), images()
    truth = model(x)
    seen: list[tuple[torch.dtype, bool]] = []
    core = model.stages[0].blocks[0].attn.core  # type: ignore[union-attr, index]
    core.register_forward_pre_hook(lambda m, a: seen.append((a[0].dtype, torch.is_autocast_enabled("cpu"))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    assert relative(logits, truth) < 8e-2
    assert seen == [(torch.bfloat16, False)]
    logits.float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_channels_last_export_and_checkpointing_change_nothing() -> None:
    model, x = tiny(), images()
    truth = model(x)
    assert relative(model(x.to(memory_format=torch.channels_last)), truth) < 1e-5
    assert relative(torch.export.export(model, (x,)).module()(x), truth) < 1e-5
    plain = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    model.set_grad_checkpointing()
    again = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(again, plain, strict=True))
    model.set_grad_checkpointing(False)
    assert not model.stages[0].grad_checkpointing  # type: ignore[union-attr]


def test_the_batch_of_an_exported_model_may_vary() -> None:
    model, x = Pyramid(SMALLEST, "softmax", img_size=32).eval(), images(5, 32, 32)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(model, (x[:2],), dynamic_shapes=(batch,)).module()
    assert torch.allclose(exported(x), model(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.jit.trace
@pytest.mark.parametrize("sampling", ["conv", "avg"])
def test_counters_that_trace_with_gradients_on_see_the_model(sampling: str) -> None:
    from fvcore.nn import FlopCountAnalysis  # as timm's benchmark.py does

    model = Pyramid(SMALLEST, img_size=32, attn_options={"sampling": sampling, "landmarks": 4}).eval()
    counted = FlopCountAnalysis(model, images(1, 32, 32)).unsupported_ops_warnings(False)
    assert counted.total() > 4 * 32 * 9 * 16 * 16 * 3 / 4  # multiply-adds of the first convolution, for one


def test_dynamo_sees_one_graph() -> None:
    model, x = Pyramid(SMALLEST, img_size=64).train(), images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, while it traces
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        plain, traced = (torch.autograd.grad(m(x).square().mean(), list(model.parameters())) for m in (model, compiled))
    for (name, _), a, b in zip(model.named_parameters(), traced, plain, strict=True):
        if not name.endswith("bias") or "patch_embed" not in name:  # before a batch norm, where gradients are 0
            assert relative(a, b) < 1e-3, name


def test_gradients_reach_the_images_in_float64() -> None:
    model = tiny("soft-norm-tiny").double()
    x = images(1, 8, 8, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda x: model(x)[:, :2], x, fast_mode=True)


def test_global_pooling_needs_no_class_token() -> None:
    pooled = tiny(global_pool="avg")
    bare = tiny(global_pool="avg", class_token=False)
    assert bare.stages[3].cls_token is None  # type: ignore[union-attr]
    assert bare.stages[3].pos_embed.shape[1] == 4  # type: ignore[union-attr]
    features = pooled.forward_features(images())
    assert features.shape == (2, 5, 512)
    assert torch.equal(pooled.forward_head(features, pre_logits=True), features[:, 1:].mean(1))
    assert torch.equal(tiny().forward_head(features, pre_logits=True), features[:, 0])
    assert bare(images()).shape == (2, 10)
    with pytest.raises(UsageError, match="needs the class token"):
        tiny(class_token=False)
    with pytest.raises(UsageError, match="needs the class token"):
        bare.reset_classifier(3, "token")


def test_without_pooling_each_token_has_logits() -> None:
    model = tiny(global_pool="")
    assert model(images()).shape == (2, 5, 10)
    model.reset_classifier(0)
    assert torch.equal(model(images()), model.forward_features(images()))
    model.reset_classifier(3, "avg")
    assert model(images()).shape == (2, 3)
    model.reset_classifier(3, "")
    assert model(images()).shape == (2, 5, 3)
    for pool in ("max", "map"):
        with pytest.raises(UsageError, match=f"global_pool must be 'token', 'avg', or '' for none, not '{pool}'"):
            model.reset_classifier(3, pool)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", ["random", "first", "strided"])
def test_picked_landmarks_survive_the_meta_device(sampling: str) -> None:
    def made() -> Pyramid:
        return Pyramid(SMALLEST, img_size=32, impl="eager",
                       attn_options={"sampling": sampling, "landmarks": 3}).eval()

    def picked(model: Pyramid) -> Tensor:
        return model.stages[0].blocks[0].attn.core.landmarks(tokens, (8, 8))  # type: ignore[union-attr, index]

    model, tokens = made(), torch.randn(1, 1, 64, 32)
    for assign in (False, True):
        with torch.device("meta"):
            empty = made()
        if not assign:
            empty._apply(lambda t: torch.zeros_like(t, device="cpu"))  # as to_empty, but never right by luck
        empty.load_state_dict(model.state_dict(), assign=assign)
        assert torch.equal(picked(empty), picked(model))


def test_drop_path_leaves_out_whole_branches() -> None:
    model = tiny(drop_path_rate=0.4).train()
    rates = [block.drop_path.drop_prob if isinstance(block, SoftBlock) else block.drop_path1.drop_prob
             for stage in model.stages for block in list(stage.blocks)[stage is model.stages[0]:]]  # first has rate 0
    assert rates == pytest.approx([0.4 * i / 7 for i in range(1, 8)])
    block = model.stages[2].blocks[2]  # type: ignore[union-attr, index]
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()
    x = torch.randn(400, 16, 320)
    unchanged = (block(x, (4, 4)) == x).flatten(1).double().mean(1)  # 1: neither branch was added
    assert float(unchanged[unchanged < 1].max()) < 0.01  # a number here and there is left as it was by rounding
    assert 0.01 < float((unchanged == 1).double().mean()) < 0.15  # both branches: (0.4 * 5 / 7)^2 = 0.08


def test_mlp_ratios_are_honoured() -> None:
    model = tiny(mlp_ratios=(8, 6, 4, 2))
    hidden = [stage.blocks[0].mlp.fc1.out_features for stage in model.stages]
    assert hidden == [64 * 8, 128 * 6, 320 * 4, 512 * 2]


def test_feature_maps() -> None:
    model = timm.create_model("soft_tiny", features_only=True, out_indices=(1, 3))
    maps = model(images(1, 96, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(128, 12, 8), (512, 3, 2)]
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([128, 512], [8, 32])
    whole, x = tiny(), images()
    features, all_maps = whole.forward_intermediates(x, norm=True)
    assert torch.equal(features, whole.forward_features(x))
    assert torch.equal(all_maps[3].flatten(2).mT, features[:, 1:])
    first = whole.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    assert torch.equal(first[0], all_maps[0])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="NCHW"):
        whole.forward_intermediates(x, output_fmt="NLC")


def test_pruning_drops_later_stages() -> None:
    model = tiny()
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert (len(model.stages), model.num_classes) == (2, 0)
    assert isinstance(model.norm, nn.Identity)


def test_reset_classifier() -> None:
    model = tiny().double()
    model.reset_classifier(7, "avg")
    assert model(images(dtype=torch.float64)).shape == (2, 7)
    model.reset_classifier(0)
    assert model(images(dtype=torch.float64)).shape == (2, 512)
    assert isinstance(model.get_classifier(), nn.Identity)


def test_positions_and_the_class_token_do_not_decay() -> None:
    assert tiny().no_weight_decay() == {f"stages.{i}.pos_embed" for i in range(4)} | {"stages.3.cls_token"}


@pytest.mark.parametrize("coarse", [False, True])
def test_groups_order_all_parameters_by_depth(coarse: bool) -> None:
    from timm.models import group_parameters

    groups = group_parameters(tiny(), tiny().group_matcher(coarse))
    layer = {name: index for index, names in groups.items() for name in names}
    assert set(layer) == {name for name, _ in tiny().named_parameters()}
    order = ["stages.0.patch_embed.proj.0.weight", "stages.0.blocks.0.norm1.weight", "stages.1.blocks.1.norm1.weight",
             "stages.2.pos_embed", "stages.3.blocks.1.norm1.weight"]
    assert sorted(order, key=lambda name: (layer[name], order.index(name))) == order
    assert len(groups) == (6 if coarse else 10)  # stem, stages or blocks, head


def test_positions_are_resampled_bilinearly_and_prefixes_kept() -> None:
    positions = torch.cat([torch.full((1, 1, 1), 9.0), torch.arange(2.0).repeat(2)[None, :, None]], 1)  # columns 0, 1
    wide = resampled(positions, (2, 2), (2, 4))
    assert wide.flatten().tolist() == [9, 0, 0.25, 0.75, 1, 0, 0.25, 0.75, 1]
    assert resampled(positions, (2, 2), (2, 2)) is positions


def test_patch_embed_halves_rounding_up() -> None:
    tokens, grid = PatchEmbed(3, 8, stem=True)(torch.zeros(1, 3, 9, 17))
    assert (tuple(tokens.shape), grid) == ((1, 15, 8), (3, 5))


def test_an_implementation_follows_the_weights_and_keeps_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    from softbench.contracts import attention as _contract

    attention = _contract.load(_contract.AttentionSpec("soft", {"sampling": "conv", "conv": 3}))
    monkeypatch.setattr(attention.module, "supports", lambda impl, device, dtype, shape: (
        "not in float64" if impl != "reference" and dtype == torch.float64 else ""), raising=False)
    module = ProjectedAttention(64, 2, attention, (4, 4))
    before = dict(module.named_parameters())
    state = torch.get_rng_state()
    assert module.impl != "reference"
    module.double()
    assert (module.impl, module.core.impl) == ("reference", "reference")
    assert {n: id(p) for n, p in module.named_parameters()} == {n: id(p) for n, p in before.items()}
    assert torch.equal(torch.get_rng_state(), state)
    assert module.float().impl != "reference"
    assert ProjectedAttention(64, 2, attention, (4, 4), "eager").double().impl == "eager"
    module.core.requires_grad_(False)
    assert not any(p.requires_grad for p in module.double().core.parameters())  # frozen weights stay frozen
    assert all(p.requires_grad for p in module.q.parameters())


def test_a_file_is_an_attention_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    model = models.create(f"{path}-tiny", **SMALL).eval()
    assert model(images()).shape == (2, 10)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(images()), model(images()))


def test_a_file_that_makes_no_attention_is_told(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text(MINE.replace("return Mean()", "return None"))
    with pytest.raises(PluginError, match=r"'none': build\(\) must return a torch module, not a NoneType"):
        models.create(f"{tmp_path / 'none.py'}-tiny")
    (tmp_path / "raising.py").write_text(MINE.replace("return Mean()", "raise KeyError('oops')"))
    with pytest.raises(UsageError, match=r"raising.py-tiny cannot be made with these arguments \(KeyError: 'oops'\)"):
        models.create(f"{tmp_path / 'raising.py'}-tiny")


def test_a_whole_model_can_be_saved() -> None:
    model = Pyramid(SMALLEST, attn_options={"landmarks": "36"}).eval()
    file = io.BytesIO()
    torch.save(model, file)
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert torch.equal(again(images()), model(images()))
    chosen = again.stages[0].blocks[0].attn.attention.options
    assert chosen == model.stages[0].blocks[0].attn.attention.options  # type: ignore[union-attr, index]
    assert chosen.landmarks == 36


@pytest.mark.parametrize(("arguments", "message"), [
    ({"arch": "soft-tinny"}, "Did you mean 'soft-tiny'"),
    ({"arch": "timm:resnet5"}, "Did you mean 'timm:resnet"),
    ({"arch": "timm:qqqqqqqq"}, "timm.list_models"),
    ({"arch": "timm:resnet18", "impl": "eager"}, "has no attention of softbench"),
    ({"arch": "timm:resnet18", "img_size": 32}, "timm:resnet18 does not take these arguments"),
    ({"arch": "soft-tiny", "depths": 3}, "soft-tiny does not take these arguments"),
    ({"arch": "soft-tiny", "attn_options": {"landmark": 3}}, "Did you mean 'landmarks'"),
    ({"arch": "soft-tiny", "attn_options": {"landmarks": "many"}}, "must be a whole number"),
    ({"arch": "soft-tiny", "attn_options": {"landmarks": 500}}, "more than the 196 tokens of stage 3"),
    ({"arch": "soft-tiny", "img_size": 3}, "smaller than a patch"),
    ({"arch": "soft-tiny", "img_size": 0}, "smaller than a patch"),
    ({"arch": "performer-tiny", "official": True}, "for soft and soft_norm"),
    ({"arch": "soft-tiny", "img_size": (64,)}, "whole number of pixels, or rows and columns"),
    ({"arch": "soft-tiny", "img_size": "64"}, "whole number of pixels, or rows and columns"),
    ({"arch": "soft-tiny", "num_classes": -1}, "num_classes must be at least 0"),
    ({"arch": "soft-tiny", "in_chans": 0}, "in_chans must be at least 1"),
    ({"arch": "soft-tiny", "mlp_ratios": (4, 4)}, "mlp_ratios must be 4 positive numbers"),
    ({"arch": "soft-tiny", "mlp_ratios": (4, 4, 0, 4)}, "mlp_ratios must be 4 positive numbers"),
    ({"arch": "soft-tiny", "drop_path_rate": 1.5}, "drop_path_rate must be between 0 and 1, not 1.5"),
    ({"arch": "soft-tiny", "drop_rate": -0.1}, "drop_rate must be between 0 and 1"),
    ({"arch": "soft-tiny", "global_pool": "max"}, "global_pool must be 'token', 'avg'"),
    ({"arch": "soft-tiny", "attn_options": "landmarks=3"}, "attn_options must be a dict"),
    ({"arch": "soft-tiny", "attn_options": {"landmarks": " 500 "}}, "more than the 196 tokens of stage 3"),
    ({"arch": "softmax-tiny", "impl": "flash"}, "softmax has no implementation 'flash'; it has sdpa, math"),
    ({"arch": "soft-tiny", "pretrained": True}, r"soft-tiny cannot be made .*No pretrained weights exist"),
    ({"arch": "soft-tiny", "checkpoint_path": "/no/such.pth"}, "soft-tiny cannot be made .*FileNotFoundError"),
    ({"arch": "soft-tiny", "features_only": True, "out_indices": (9,)}, "soft-tiny cannot be made .*out of range"),
    ({"arch": "timm:resnet18.no_such_tag"}, "timm:resnet18.no_such_tag cannot be made .*tag"),
    ({"arch": "timm:resnet18", "global_pool": "foo"}, "timm:resnet18 cannot be made .*AssertionError"),
])
def test_bad_requests_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.create(**arguments)


@pytest.mark.parametrize(("shape", "message"), [
    ((0, 3, 64, 64), "with at least one of them"), ((1, 1, 64, 64), r"\[batch, 3, rows, cols\]"),
    ((3, 64, 64), r"got \[3, 64, 64\]"), ((1, 3, 2, 64), "2x64 pixels is smaller than a patch")])
def test_bad_images_are_told(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny()(torch.zeros(shape))


def test_a_variant_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match=r"No variant named .tinny.\. Did you mean .tiny."):
        Pyramid("tinny")


def test_a_lack_of_memory_is_no_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("[enforce fail] can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError, match="allocate"):
        models.create("soft-tiny")


def test_an_attention_for_one_length_tells_another() -> None:
    with pytest.raises(UsageError, match="built for 256 tokens, not 64"):
        tiny("linformer-tiny")(images(1, 32, 32))


def test_the_shape_that_attentions_are_built_for() -> None:
    model = tiny(img_size=(96, 64))
    shapes = [stage.blocks[0].attn.shape for stage in list(model.stages)[:3]]
    assert shapes == [Shape(1, 2, 24, 16, 32), Shape(1, 4, 12, 8, 32), Shape(1, 10, 6, 4, 32)]
