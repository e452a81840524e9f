"""The table of variants and the names of archs."""

from __future__ import annotations

import pytest

from softbench.errors import UsageError
from softbench.models import variants


@pytest.mark.parametrize(("arch", "expected"), [
    ("soft-tiny", ("soft", "tiny")), ("soft_tiny", ("soft", "tiny")),
    ("soft-norm-small-d20", ("soft_norm", "small_d20")),
    ("soft-small", ("soft", "small")), (" performer-huge", ("performer", "huge")),
    ("./a/mine.py-tiny", ("./a/mine.py", "tiny")), ("my-own.py_small-d20", ("my-own.py", "small_d20")),
])
def test_parse(arch: str, expected: tuple[str, str]) -> None:
    assert variants.parse(arch) == expected


@pytest.mark.parametrize(("arch", "message"), [
    ("sfot-tiny", "No arch named 'sfot-tiny'. Did you mean 'soft-tiny'?"),
    ("soft-tyni", "Did you mean 'soft-tiny'?"),
    ("densenet", "An arch is an attention (agent, bigbird"),
    ("", "No arch named ''. An arch is"),
    ("resnet50", r"and a variant (tiny, small, small-d20, medium, large, huge), as in soft-tiny."),
])
def test_unknown_arch_is_told(arch: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        variants.parse(arch)
    assert message in str(caught.value)


def test_every_arch_parses_and_is_named_once() -> None:
    names = variants.archs()
    assert len(set(names)) == len(names) >= 6 * 7
    assert all(variants.parse(name)[1] in variants.VARIANTS for name in names)


def test_grids_round_up() -> None:
    assert [variants.grid((224, 224), i) for i in range(4)] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert [variants.grid((225, 33), i) for i in range(4)] == [(57, 9), (29, 5), (15, 3), (8, 2)]


def test_all_heads_have_32_channels() -> None:
    for row in variants.VARIANTS.values():
        assert [d // h for d, h in zip(row.dims, row.heads, strict=True)] == [32] * 4


def test_official_options_exist_for_soft_only() -> None:
    assert variants.official_options("soft_norm")["inverse"] == "newton_batch"
    with pytest.raises(UsageError, match="for soft and soft_norm"):
        variants.official_options("performer")
