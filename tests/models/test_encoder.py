"""The encoder of tasks: every attention runs in it or says why not, its parts do what they say, it learns recall."""

from __future__ import annotations

import helpers
import pytest
import torch
from torch.nn import functional as F

from softbench.case import Shape
from softbench.contracts import task as tasks
from softbench.contracts.task import Form
from softbench.errors import Unsupported, UsageError
from softbench.models import encoder

SEQUENCE = Form("tokens", "queries", (1, 16), 5, vocab=11)
FORMS = {
    "sequence": SEQUENCE,
    "class token": Form("bytes", "class token", (1, 15), 3, vocab=256),
    "numbers": Form("numbers", "mean", (1, 16), 3, channels=2),
    "patches": Form("patches", "mean", (4, 4), 3, channels=6),
    "image": Form("image", "mean", (4, 4), 3, channels=12, patch=2),
}
# Attentions that need a grid, or a length, that a sequence of 16 does not give: their line says so.
NOT_ON_SEQUENCES = {name for name in helpers.SEEING_ALL
                    if helpers.load(name).misfit(Shape(1, 2, 1, 16, 8))}


def inputs_of(form: Form, count: int = 3) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows, cols = form.grid
    queries = torch.randint(cols, (count, 2)) if form.readout == "queries" else None
    if form.vocab:
        return torch.randint(1, form.vocab, (count, cols)), queries
    if form.kind == "image":
        return torch.randint(256, (count, 3, rows * form.patch, cols * form.patch), dtype=torch.uint8), None
    shape = (count, cols, form.channels) if form.kind == "numbers" else (count, rows, cols, form.channels)
    return torch.randn(shape), None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_every_attention_runs_in_it_or_says_why_not(name: str, form: str) -> None:
    grid = FORMS[form].grid if form != "class token" else (1, 16)
    if reason := helpers.load(name).misfit(Shape(1, 2, *grid, 8)):
        with pytest.raises(Unsupported, match=f"{name} cannot run on"):
            encoder.create(FORMS[form], name, width=16, depth=1)
        assert "\n" not in reason
        return
    model = encoder.create(FORMS[form], name, width=16, depth=1)
    inputs, queries = inputs_of(FORMS[form])
    logits = model(inputs, queries)
    assert logits.shape == ((3, 2, 5) if queries is not None else (3, FORMS[form].classes))
    grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)
    unused = [parameter for (parameter, _), grad in zip(model.named_parameters(), grads, strict=True) if grad is None]
    assert not [parameter for parameter in unused if ".core." not in parameter], unused


def test_few_attentions_cannot_read_a_sequence() -> None:
    assert len(NOT_ON_SEQUENCES) <= 3, NOT_ON_SEQUENCES


def test_logits_are_read_where_the_queries_are() -> None:
    model = encoder.create(SEQUENCE, "softmax", width=16)
    inputs, _ = inputs_of(SEQUENCE)
    everywhere = model(inputs, torch.arange(16).expand(3, -1))
    some = torch.tensor([[3, 9], [0, 15], [7, 7]])
    torch.testing.assert_close(model(inputs, some), everywhere[torch.arange(3)[:, None], some])
    with pytest.raises(UsageError, match="read at query positions"):
        model(inputs)


def test_padding_is_left_out_of_the_mean() -> None:
    model = encoder.create(Form("tokens", "mean", (1, 8), 3, vocab=9), "softmax", width=16, conv=False)
    tokens = torch.tensor([[4, 2, 7, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        before = model(tokens)
        x = model.embed(tokens) + model.pos_embed
        for block in model.blocks:
            x = block(x, model.grid)
        torch.testing.assert_close(before, model.head(model.norm(x)[:, :3].mean(1)))
    assert model(torch.zeros(1, 8, dtype=torch.long)).isfinite().all()


def test_patches_of_an_image_are_its_tokens() -> None:
    form = FORMS["image"]
    model = encoder.create(form, "softmax", width=16)
    image = inputs_of(form, 1)[0]
    tokens = model._embedded(image)
    changed = image.clone()
    changed[0, :, 2:4, 6:8] = 255 - changed[0, :, 2:4, 6:8]  # the patch in row 1, col 3
    moved = (model._embedded(changed) != tokens).any(-1)[0].nonzero().flatten().tolist()
    assert moved == [7]


def test_convolution_is_what_mixes_neighbours() -> None:
    form = Form("tokens", "queries", (1, 8), 3, vocab=9)
    for conv, expected in ((True, [3, 4, 5]), (False, [4])):
        block = encoder.create(form, "softmax", width=16, conv=conv).blocks[0]
        block.attn = torch.nn.Identity()
        block.attn.forward = lambda y, grid: y
        x = torch.randn(1, 8, 16)
        other = x.clone()
        other[:, 4] += torch.randn(16)
        moved = (block(x, (1, 8)) - block(other, (1, 8))).abs().amax(-1)[0] > 1e-6
        assert moved.nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(("size", "words"), [
    ({"width": 30, "heads": 4}, "A width of 30 is not divided by 4 heads."),
    ({"wide": 3}, "No option of the encoder named 'wide'. Did you mean 'width'?"),
    ({"depth": 0}, "the encoder: depth must be at least 1, not 0."),
])
def test_sizes_that_do_not_fit_are_refused(size: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError) as error:
        encoder.create(SEQUENCE, "softmax", **size)
    assert str(error.value) == words


def test_a_class_token_has_no_place_on_a_grid() -> None:
    with pytest.raises(UsageError, match="on a grid there is no place for it"):
        encoder.create(Form("image", "class token", (4, 4), 3, channels=3), "softmax")


def test_it_learns_recall() -> None:
    """Two pairs of eight keys, in seconds: far above the half that knowing the values of a sequence gives."""
    task = tasks.load("mqar", {"tokens": 12, "pairs": 2, "vocab": 16, "train": 4000, "val": 1, "test": 200})
    train, test = task.open("train"), task.open("test")
    model = encoder.create(task.form(train), "softmax", width=32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(180):
        rows = slice(step * 32 % 4000, step * 32 % 4000 + 32)
        logits = model(torch.from_numpy(train.inputs[rows].astype("int64")), torch.from_numpy(train.queries[rows]))
        optimiser.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(train.labels[rows]).flatten()).backward()
        optimiser.step()
    right = model(torch.from_numpy(test.inputs.astype("int64")), torch.from_numpy(test.queries)).argmax(-1)
    assert (right == torch.from_numpy(test.labels)).float().mean() > 0.9
