"""approx-error as a study: its tasks, what it refuses, what it flags, and that it repeats itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
import torch
from reports import reader

from softbench import inputs, options, plugins
from softbench.bench import study
from softbench.case import Shape
from softbench.contracts import study as studies
from softbench.errors import UsageError
from softbench.measures.memory import passes
from softbench.records import Record
from softbench.studies import approx_error
from softbench.studies.approx_error import approximation, estimate, truth
from softbench.studies.approx_error.summary import mean_interval

SMALL = {"attn": "soft", "sizes": "9", "samplings": "none", "inputs": "structured", "tokens": "64", "head_dim": "16",
         "cost": "false", "seeds": "3"}


def settings(**changes: object) -> approx_error.Settings:
    return options.parse(approx_error.Settings, SMALL | changes, "study")


def records(**changes: object) -> list[Record]:
    asked = settings(**changes)
    made = study.Study("approx_error", approx_error, asked, approx_error.tasks(asked))
    return [record for _, given in made for record in given]


def numbers(found: list[Record]) -> dict[str, Record]:
    assert len({r.quantity for r in found}) == len(found)
    return {r.quantity: r for r in found}


def names(**changes: object) -> list[str]:
    return [task.name for task in approx_error.tasks(settings(**changes))]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything above 50 tokens counts as many: tiles, sampled rows, no floor."""
    monkeypatch.setattr(approximation, "EXACT_TOKENS", 50)
    monkeypatch.setattr(approximation, "SAMPLED_ROWS", 20)
    monkeypatch.setattr(approximation, "SAMPLED_LOSS_ROWS", 7)
    monkeypatch.setattr(estimate, "DENSE", 10)
    monkeypatch.setattr(approximation.floor, "MOST_TOKENS", 50)
    yield
    approximation._cached_spectra.cache_clear()


POOLED = '''
"""Attention to means of as many segments as `anchors` says."""

import torch
from reports import reader
from dataclasses import dataclass
from torch import nn

from softbench.contracts.attention import Cost
from softbench.options import option

APPROXIMATES = "softmax"
SHARES_QK = False
LINEAR_IN_V = True
IMPLS = ("eager",)


@dataclass(frozen=True)
class Options:
    anchors: int = option(7, "segments m", low=1, high=4096, size=True)


class Pooled(nn.Module):
    def __init__(self, anchors):
        super().__init__()
        self.anchors = anchors

    def forward(self, q, k, v, grid):
        k, v = (torch.stack([part.mean(2) for part in t.tensor_split(self.anchors, 2)], 2) for t in (k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v)


def build(shape, options, impl):
    return Pooled(options.anchors)


def cost(shape, options):
    return Cost(4.0 * shape.batch * shape.heads * shape.tokens * options.anchors * shape.head_dim, shape.tokens)
'''


@pytest.mark.parametrize("name", [name for name in plugins.names("attention") if helpers.load(name).size_option])
def test_every_attention_with_an_m_is_measured_at_the_sizes_asked_for(name: str) -> None:
    tasks = names(attn=name, sizes="4,9,16")
    assert [f" m={size} " in task for size, task in zip((4, 9, 16), tasks, strict=True)] == [True] * 3, tasks


def test_option_of_any_name_that_a_file_marks_is_m(tmp_path: Path) -> None:
    found = [r for r in records(attn=helpers.write_plugin(tmp_path, POOLED, "pooled"), sizes="4,9,64")
             if r.quantity == "error_matrix_fro"]
    assert [(r.coords["size"], r.options["anchors"]) for r in found] == [(4, 4), (9, 9), (64, 64)]
    assert found[0].value > found[1].value > found[2].value
    assert found[2].value < 1e-9


def test_keeps_the_contract_and_its_defaults_are_valid() -> None:
    assert studies.load("approx_error") is approx_error
    defaults = approx_error.Settings()
    texts = {key: str(value) for key, value in options.to_dict(defaults).items()}
    assert options.parse(approx_error.Settings, texts, "x") == defaults
    assert dataclasses.replace(defaults, **approx_error.QUICK)
    found = approx_error.tasks(defaults)
    assert len({task.name for task in found}) == len(found) == 3 * (5 * 3 + 2 + 7)
    assert len(approx_error.tasks(dataclasses.replace(defaults, **approx_error.QUICK))) < 15
    assert len({view.name for view in approx_error.VIEWS}) == len(approx_error.VIEWS)


def test_names_say_all_that_decides_the_result() -> None:
    base = names()
    for change in ({"seed": 1}, {"seeds": 2}, {"heads": 3}, {"head_dim": 8}, {"tokens": "65"}, {"sizes": "10"},
                   {"topk": 3}, {"against": "softmax"}, {"inputs": "normal"}, {"attn": "soft:ridge=0.02"},
                   {"cost": "true"}):
        assert not set(names(**change)) & set(base), change


@pytest.mark.parametrize(("change", "message"), [
    ({"attn": "sofft"}, "Did you mean 'soft'"), ({"attn": "soft:landmark=3"}, "Did you mean 'landmarks'"),
    ({"inputs": "structred"}, "Did you mean 'structured'"), ({"inputs": "structured:x"}, "strength alpha"),
    ({"inputs": "structured,"}, "No inputs named ''"), ({"sizes": "0"}, "sizes must be at least 1"),
    ({"sizes": "4,x"}, "not a positive whole number"), ({"sizes": "1m"}, "landmarks must be at most 4096"),
    ({"tokens": "99999999999"}, "tokens must be at most"), ({"tokens": "0"}, "tokens must be at least 1"),
    ({"samplings": "avg,best"}, "sampling must be one of"),
    ({"samplings": "avg,best", "attn": "performer"}, "sampling must be one of"),
    ({"samplings": "", "attn": "performer"}, "sampling must be one of"),
    ({"attn": "soft,performer,soft"}, "--attn: 'soft' is named twice"), ({"heads": "0"}, "heads must be at least 1"),
    ({"seeds": "1.5"}, "whole number"), ({"against": "sofmax"}, "must be one of own, softmax, gaussian"),
    ({"target_error": "-1"}, "at least 0"),
    ({"attn": "soft:landmarks=3", "target_error": "0.5"}, "leave landmarks out"),
])
def test_bad_settings_are_told_in_one_line(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        approx_error.tasks(settings(**change))
    assert "\n" not in str(error.value)


def test_every_quantity_with_its_interval() -> None:
    found = numbers(records(seeds="4"))
    assert set(found) == {"error_matrix_fro", "error_matrix_spectral", "floor_fro", "floor_spectral", "error_output",
                          "worst_row", "row_sum_error", "topk_overlap", "error_dq", "error_dv"}
    for record in found.values():
        assert record.status == "ok"
        assert len(record.samples) == 4
        assert record.value == pytest.approx(sum(record.samples) / 4)
        low, high = record.detail["ci95"]
        assert low <= record.value <= high
        assert (record.coords["size"], record.coords["against"], record.dtype) == (9, "gaussian", "float64")
        assert record.options["landmarks"] == 9
        assert len(record.to_json()) < 2000
    error = found["error_matrix_fro"]
    assert 0 < found["floor_fro"].value <= error.value < 1
    assert len(set(error.samples)) == 4


@pytest.mark.parametrize("attention", ["performer", "soft:sampling=random", "linformer"])
def test_seeds_alone_decide(attention: str) -> None:
    torch.manual_seed(5)
    first = records(attn=attention)
    torch.manual_seed(6)
    assert [r.value for r in records(attn=attention)] == [r.value for r in first]
    assert [r.samples for r in records(attn=attention, seeds="2")] == [r.samples[:2] for r in first]


def test_random_features_differ_between_seeds_unless_their_seed_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    one = inputs.tokens("structured", Shape(1, 2, 8, 8, 16), 0)
    monkeypatch.setattr(inputs, "tokens", lambda family, shape, seed: one)
    assert len(set(numbers(records(attn="performer"))["error_output"].samples)) == 3
    assert len(set(numbers(records(attn="performer:seed=0"))["error_output"].samples)) == 1


def test_each_attention_is_judged_against_what_it_estimates() -> None:
    found = [r for r in records(attn="soft,soft_norm,performer") if r.quantity == "error_matrix_fro"]
    assert [r.coords["against"] for r in found] == ["gaussian", "gaussian_normalised", "softmax"]
    assert "error_dk" in {r.quantity for r in records(attn="performer")}


@pytest.mark.parametrize(("attention", "why"), [
    ("soft:sampling=conv", "weights to be trained"), ("soft:conv=3", "weights to be trained"),
    ("nystromformer:conv=3", "weights to be trained"), ("softmax", "defines its own kernel"),
])
def test_what_has_no_error_that_means_anything_is_not_given_one(attention: str, why: str) -> None:
    (record,) = records(attn=attention)
    assert (record.status, record.value) == ("unsupported", None)
    assert why in record.note


def test_plugins_are_judged_by_what_they_say(tmp_path: Path) -> None:
    path = helpers.write_plugin(tmp_path, helpers.SOUND, "mine")
    (record,) = records(attn=path)
    assert "defines its own kernel" in record.note
    asked = numbers(records(attn=path, against="softmax"))
    assert asked["error_matrix_fro"].value == pytest.approx(1, abs=0.5)
    assert asked["floor_fro"].status == "unsupported"
    path = helpers.write_plugin(tmp_path, helpers.SOUND.replace("LINEAR_IN_V = True", "LINEAR_IN_V = False"), "bent")
    (record,) = records(attn=path, against="softmax")
    assert "not linear in v" in record.note
    source = helpers.SOUND.replace("APPROXIMATES = None", 'APPROXIMATES = "cosine"')
    path = helpers.write_plugin(tmp_path, source, "far")
    (record,) = records(attn=path)
    assert "'cosine', whose exact matrix this study does not have" in record.note


def test_exact_attention_asked_for_has_no_error() -> None:
    assert numbers(records(attn="softmax", against="softmax"))["error_matrix_fro"].value < 1e-14


def test_linformer_is_fitted_where_that_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = numbers(records(attn="linformer"))["error_matrix_fro"]
    assert fitted.value < 1
    assert "fitted" in fitted.note
    monkeypatch.setattr(approximation.projection, "MOST_TOKENS", 50)
    (record,) = records(attn="linformer")
    assert (record.status, record.value) == ("unsupported", None)
    assert "fitted up to 50 tokens" in record.note


@pytest.mark.parametrize(("family", "status"), [
    ("nan", "diverged"), ("inf", "diverged"), ("huge", "ok"), ("zero", "ok"), ("constant", "ok")])
@pytest.mark.parametrize("attention", ["soft", "soft_norm", "performer", "nystromformer", "linformer",
                                       "soft:sampling=kmeans", "soft:sampling=rpcholesky"])
def test_hostile_tokens_give_a_row(monkeypatch: pytest.MonkeyPatch, attention: str, family: str, status: str) -> None:
    genuine = inputs.tokens

    def hostile(name: str, shape: Shape, seed: int) -> tuple[torch.Tensor, ...]:
        q, k, v = genuine("constant" if family == "constant" else "structured", shape, seed)
        if family in ("nan", "inf"):
            q[0, 0, 3, 2] = float(family)
        scale = {"huge": 1e18, "zero": 0.0}.get(family, 1.0)
        return q * scale, k * scale, v

    monkeypatch.setattr(inputs, "tokens", hostile)
    approximation._cached_spectra.cache_clear()
    found = records(attn=attention, seeds="2")
    approximation._cached_spectra.cache_clear()
    error = found[0]
    assert error.quantity == "error_matrix_fro"
    assert (error.status, error.value is None) == (status, status == "diverged")
    assert (error.note == "not finite for 2 of 2 seeds") == (status == "diverged")
    for record in found:
        json.loads(record.to_json())


def test_one_bad_seed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = inputs.tokens

    def sometimes(name: str, shape: Shape, seed: int) -> tuple[torch.Tensor, ...]:
        q, k, v = genuine(name, shape, seed)
        return q * (float("nan") if seed == 1 else 1), k, v

    monkeypatch.setattr(inputs, "tokens", sometimes)
    approximation._cached_spectra.cache_clear()
    error = numbers(records(attn="performer"))["error_matrix_fro"]
    approximation._cached_spectra.cache_clear()
    assert (error.status, error.value, len(error.samples)) == ("diverged", None, 2)
    assert error.note == "not finite for 1 of 3 seeds"


def test_failing_task_still_names_its_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*arguments: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(approximation, "_sample", break_down)
    (record,) = records()
    assert (record.status, record.attention, record.coords["size"]) == ("oom", "soft", 9)


def test_many_tokens_are_sampled_and_said_to_be(without: None) -> None:
    found = numbers(records(attn="performer", tokens="400", heads="1"))
    error = found["error_matrix_fro"]
    assert error.note == "estimated from 20 of 400 rows a head"
    assert all(0 < s < error.value for s in error.detail["standard_error"])
    assert found["error_matrix_spectral"].status == "unsupported"
    assert found["floor_fro"].status == "unsupported"
    assert found["error_dk"].note == "loss on 7 of 400 rows a head"


def test_sampled_rows_estimate_what_all_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    every = numbers(records(tokens="400"))["error_matrix_fro"]
    monkeypatch.setattr(approximation, "EXACT_TOKENS", 50)
    monkeypatch.setattr(approximation, "SAMPLED_ROWS", 200)
    some = numbers(records(tokens="400"))["error_matrix_fro"]
    for exact, sampled, error in zip(every.samples, some.samples, some.detail["standard_error"], strict=True):
        assert 0 < abs(exact - sampled) < 4 * error


def test_graph_that_would_not_fit_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximation, "GRAPH_BYTES", 1000)
    found = numbers(records())
    assert found["error_dv"].status == "unsupported"
    assert "error_dq" not in found


def test_no_matrix_of_all_tokens_is_held_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "TILE", 1 << 17)
    monkeypatch.setattr(approximation, "LOSS_ROWS", 32)
    (task,) = approx_error.tasks(settings(tokens="4k", heads="1", seeds="1"))
    peak = passes._on_cpu(lambda: None, lambda state: task.run()).peak
    assert peak < 8 * 4096**2 / 4


def test_landmark_choices_are_compared_at_the_middle_size() -> None:
    found = records(sizes="4,9,16", samplings="strided,kmeans,rpcholesky", attn="performer,soft", seeds="1")
    chosen = [r for r in found if r.coords["part"] == "landmarks" and r.quantity == "error_matrix_fro"]
    assert [(r.coords["sampling"], r.coords["size"], r.label) for r in chosen] == [
        ("strided", 9, "soft:sampling=strided"), ("kmeans", 9, "soft:sampling=kmeans"),
        ("rpcholesky", 9, "soft:sampling=rpcholesky")]
    swept = [r for r in found if r.coords["part"] == "size" and r.quantity == "error_matrix_fro"]
    assert [(r.label, r.coords["size"]) for r in swept] == [
        ("performer", 4), ("performer", 9), ("performer", 16), ("soft", 4), ("soft", 9), ("soft", 16)]
    assert {name.split("m=")[1].split()[0] for name in names(sizes="16,4,9", samplings="avg")
            if name.startswith("landmarks")} == {"9"}


def test_records_do_not_depend_on_what_else_was_asked_for() -> None:
    """A task is found again by its name and digest when a study is resumed with other sizes."""
    one, many = records(sizes="9", seeds="1"), records(sizes="9,16,25", seeds="1")
    same = {r.coords["task"] for r in one}
    kept = [r for r in many if r.coords["task"] in same]
    assert [(r.identity(), r.value, r.coords, r.detail) for r in kept] == [
        (r.identity(), r.value, r.coords, r.detail) for r in one]


def test_only_the_middle_size_is_shown_of_the_details() -> None:
    details = next(view for view in approx_error.VIEWS if view.name == "details")
    for sizes, middle in (("16,4,9", "9"), ("9,16", "16")):
        table, = reader.listed(details, records(sizes=sizes, seeds="1", attn="soft,soft:landmarks=5"))
        assert [row[:2] for row in table.rows] == [["soft", middle], ["soft:landmarks=5", "5"]]


def test_size_given_with_the_attention_is_not_swept() -> None:
    found = [r for r in records(attn="soft:landmarks=5", sizes="4,9", seeds="1") if r.quantity == "error_matrix_fro"]
    assert [(r.coords["size"], r.label) for r in found] == [(5, "soft:landmarks=5")]


def test_cost_is_joined_and_measured_once_for_all_families() -> None:
    found = records(attn="soft,performer", cost="true", inputs="structured,normal", seeds="1")
    times = [r for r in found if r.quantity == "latency"]
    assert len(times) == 2 * 4
    assert len({tuple(r.samples) for r in times}) == 4
    assert {r.unit for r in times} == {"s"}
    sizes = {r.label: r.value for r in found if r.quantity == "peak_memory"}
    assert set(sizes) == {"soft", "performer", "softmax", "gaussian"}
    assert all(value > 0 for value in sizes.values())
    assert {r.value for r in found if r.coords["part"] == "exact" and r.quantity == "error_matrix_fro"} == {0.0}


def test_target_finds_the_smallest_size() -> None:
    found = [r for r in records(attn="soft:sampling=first:inverse=cholesky", target_error="0.7", cost="true")
             if r.coords["part"] == "target"]
    by_name = numbers(found)
    size = int(by_name["size_needed"].value)
    assert set(by_name) == {"size_needed", "error_matrix_fro", "latency", "peak_memory"}
    tried = dict(by_name["size_needed"].detail["tried"])
    assert by_name["size_needed"].detail["interval"] == [size - 1, size]
    assert tried[size] <= 0.7 < tried[size - 1]
    assert by_name["error_matrix_fro"].options["landmarks"] == size
    again = numbers(records(attn="soft:sampling=first:inverse=cholesky", sizes=str(size)))
    assert again["error_matrix_fro"].value == pytest.approx(tried[size], rel=1e-5)


def test_features_are_searched_beyond_the_tokens() -> None:
    found = [r for r in records(attn="performer", target_error="0.7", tokens="16", seeds="2", cost="false")
             if r.coords["part"] == "target"]
    assert 16 < numbers(found)["size_needed"].value <= 16 * 16


def test_floor_that_cannot_be_told_from_rounding_is_a_bound_with_a_note() -> None:
    found = numbers(records(attn="nystromformer", inputs="constant", seeds="2"))["floor_fro"]
    assert (found.value, found.samples) == (1e-6, [1e-6, 1e-6])
    assert found.note == "a bound: floors below 1e-06 are not resolved"
    assert not numbers(records(attn="nystromformer", seeds="2"))["floor_fro"].note


def test_gradients_of_nothing_have_no_relative_error(monkeypatch: pytest.MonkeyPatch) -> None:
    same = numbers(records(attn="performer", inputs="constant", seeds="2"))
    assert (same["error_dq"].value, same["error_dq"].status) == (0.0, "ok")
    genuine = approximation.errors.gradient_quantities
    monkeypatch.setattr(approximation.errors, "gradient_quantities",
                        lambda heads: genuine(heads) | {"error_dq": float("inf")})
    found = numbers(records(attn="performer", seeds="2"))["error_dq"]
    assert (found.value, found.status) == (None, "unsupported")
    assert found.note == "the exact gradient is 0 for 2 of 2 seeds, and the estimated one is not"


def test_times_that_others_disturbed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, note in ((0.2, "other processes took more than 5% of the CPU"), (0.01, "")):
        monkeypatch.setattr("softbench.machine.cpu_share.Ticks.foreign_share", property(lambda ticks: share))  # noqa: B023
        found = records(cost="true", seeds="1")
        assert {r.note for r in found if r.quantity == "latency"} == {note}


def test_target_of_soft_norm_is_said_to_depend_on_its_size() -> None:
    found = numbers(records(attn="soft_norm", seeds="1"))
    assert "exact matrix, and so its floor, depends on m" in found["error_matrix_fro"].note
    assert not found["error_output"].note
    assert not numbers(records(seeds="1"))["error_matrix_fro"].note
    assert "depends on m" in next(view for view in approx_error.VIEWS if view.name == "error_by_size").note


def test_target_that_no_size_reaches_is_told() -> None:
    (record,) = [r for r in records(target_error="1e-9", inputs="normal") if r.coords["part"] == "target"]
    assert (record.status, record.value) == ("unsupported", None)
    assert record.note.startswith("no m up to 64 reaches 1e-09; the smallest error is 0.0")


def test_interval_of_the_mean() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 3, 5, 31, 32, 60):
        samples = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64).tolist()
        mean, interval = mean_interval(samples)
        spread = float(torch.tensor(samples, dtype=torch.float64).std()) / count**0.5
        low, high = stats.t.interval(0.95, count - 1, loc=mean, scale=spread)
        assert interval is not None
        assert interval[1] - interval[0] == pytest.approx(high - low, rel=2e-3)
        assert sum(interval) / 2 == pytest.approx(mean)
    assert mean_interval([3.0]) == (3.0, None)
    assert mean_interval([1.0, float("inf")])[1] is None


def test_threads_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(approximation, "_errors_of", lambda point: seen.append(torch.get_num_threads()) or [])
        records(cost="true", samplings="none")
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
