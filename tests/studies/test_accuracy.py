"""accuracy: rates chosen on validation samples alone, seeds as units, and verdicts that follow from what runs reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import helpers
import number_contracts as contract
import numpy as np
import pytest

from softbench import options
from softbench.bench import costs
from softbench.bench.run import Run, run
from softbench.bench.study import Study
from softbench.contracts import study as studies
from softbench.contracts import task as tasks
from softbench.errors import PluginError, Unsupported, UsageError
from softbench.measures import latency
from softbench.records import Record
from softbench.studies.accuracy import conclusion, learning
from softbench.studies.accuracy.conclusion import Scored
from softbench.training.samples import Learned, Reached

TASK = "needle:tokens=24:vocab=8:train=40:val=20:test=40"
Score = Callable[[str, float, int, str], float]
calls: list[tuple[str, float, int, str]] = []


def learns(monkeypatch: pytest.MonkeyPatch, score: Score) -> None:
    """Runs that reach what `score` of attention, learning rate, seed and split says: NaN where one diverges."""
    calls.clear()

    def learn(task: Any, attention: str, attn_options: Mapping[str, Any], recipe: Any, *, split: str, **_: Any
              ) -> Learned:
        calls.append((attention, recipe.lr, recipe.seed, split))
        reached = score(*calls[-1])
        if np.isnan(reached):
            return Learned({}, 0, [], 3, 0.5, 99, diverged=True)
        curve = [Reached(steps, 0.1, 1.0, {"accuracy": reached * steps / 20}) for steps in (10, 20)]
        return Learned({"accuracy": reached}, 40, curve, 20, 0.5, 99, diverged=False)

    monkeypatch.setattr(learning.samples, "learn", learn)


def accuracy(**values: Any) -> Study:
    module = studies.load("accuracy")
    usual = {"task": TASK, "attn": "linear", "cost": False, "seeds": 4, "lrs": "1e-3,3e-3"}
    settings = options.parse(module.Settings, usual | values, "it")
    return Study("accuracy", module, settings, module.tasks(settings), environment={"machine": "m"})


def answers(done: Run, quantity: str = "accuracy") -> dict[str, Record]:
    return {str(r.label): r for r in done.records
            if r.quantity == quantity and r.coords.get("part") in ("answer", "rule")}


def reached(attention: str, base: float = 0.9, other: float = 0.6, noise: float = 0.01) -> Score:
    """The named attention reaches `base`, others `other`, with noise of each run's own."""
    def score(name: str, rate: float, seed: int, split: str) -> float:
        drawn = np.random.default_rng([seed, round(1e6 * rate), len(name)]).normal()
        return (base if name == attention else other) + noise * float(drawn)
    return score


def test_the_rate_is_chosen_on_validation_samples_and_the_seeds_that_are_scored_are_others(
        monkeypatch: pytest.MonkeyPatch) -> None:
    best = {"softmax": 3e-3, "linear": 1e-3}
    learns(monkeypatch, lambda name, rate, seed, split: 0.9 if rate == best[name] else 0.5)
    done = run(accuracy())
    chosen = {(rate, seed, split) for name, rate, seed, split in calls if name == "linear"}
    assert chosen == {(1e-3, 0, "val"), (3e-3, 0, "val"), *((1e-3, seed, "test") for seed in (1, 2, 3, 4))}
    assert {label: r.value for label, r in answers(done, "learning_rate").items()} == best


def test_means_intervals_and_differences_are_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    by_seed = {"softmax": [0.9, 0.8, 0.85, 0.95], "linear": [0.7, 0.6, 0.7, 0.7]}
    learns(monkeypatch, lambda name, rate, seed, split: by_seed[name][seed - 1] if seed else 0.5)
    done = run(accuracy())
    scored = answers(done)["linear"]
    assert scored.samples == by_seed["linear"]
    assert scored.value == pytest.approx(0.675)
    half = 3.182446 * np.std(by_seed["linear"], ddof=1) / 2  # t of 3 degrees of freedom
    assert scored.detail["ci95"] == pytest.approx([0.675 - half, 0.675 + half])
    apart = answers(done, "difference")["linear"]
    assert apart.samples == pytest.approx([-0.2, -0.2, -0.15, -0.25])
    assert apart.value == pytest.approx(-0.2)
    assert answers(done, "error_rate")["linear"].value == pytest.approx(0.325)
    assert scored.detail["verdict"] == "worse"
    curve = {r.coords["steps"]: r.value for r in done.records if r.quantity == "curve" and r.label == "softmax"}
    assert curve == pytest.approx({10: 0.4375, 20: 0.875})


@pytest.mark.parametrize(("base", "other", "noise", "verdict"), [
    (0.9, 0.6, 0.01, "worse"), (0.7, 0.9, 0.01, "better"), (0.9, 0.9, 0.0005, "same"),
    (0.9, 0.88, 0.02, "inconclusive"), (0.12, 0.9, 0.001, "not learned")])
def test_verdicts(monkeypatch: pytest.MonkeyPatch, base: float, other: float, noise: float, verdict: str) -> None:
    learns(monkeypatch, reached("softmax", base, other, noise))
    scored = answers(run(accuracy()))
    assert scored["linear"].detail["verdict"] == verdict
    assert scored["softmax"].detail["verdict"] == ("not learned" if verdict == "not learned" else "baseline")


def test_the_interval_of_a_difference_holds_it_and_no_verdict_is_wrong_too_often() -> None:
    """Of 400 studies whose attentions are alike, 95 % hold 0, and a wrong better or worse is rarer than 5 %."""
    subjects = accuracy().tasks[-1].run.args[0]
    rng, held, wrong = np.random.default_rng(4), 0, 0
    for _ in range(400):
        scored = [Scored(subject, dict(enumerate(0.8 + 0.02 * rng.normal(size=5))), 0, []) for subject in subjects]
        low, high = conclusion._interval(conclusion._differences(scored[1], scored[0]))
        held += low <= 0 <= high
        wrong += conclusion._verdicts(scored)["linear"] in ("better", "worse")
    assert 365 <= held <= 395
    assert wrong <= 20


def test_a_budget_of_seconds_gives_each_as_many_steps_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """linear makes 40 steps a second here, softmax 10: in 9 s that is 360 and 90, with schedules of that length."""
    steps: dict[tuple[str, int], int] = {}

    def learn(task: Any, attention: str, attn_options: Mapping[str, Any], recipe: Any, split: str, **more: Any
              ) -> Learned:
        length = recipe.epochs * (len(task.task.open("train")) // recipe.total_batch)
        if "seconds" in more:
            assert more["seconds"] == pytest.approx(0.9)
            return Learned({"accuracy": 0.5}, 20, [], 20, 0.5 if attention == "linear" else 2.0, 9, diverged=False)
        steps[attention, recipe.seed] = length
        return Learned({"accuracy": 0.9}, 40, [], length, 9.0, 9, diverged=False)

    monkeypatch.setattr(learning.samples, "learn", learn)
    task = "needle:tokens=24:vocab=8:train=8000:val=20:test=40"
    done = run(accuracy(task=task, seeds=1, lrs="1e-3", budget=9.0))
    assert {name: count for (name, _), count in steps.items()} == {"softmax": 90, "linear": 360}
    assert {record.coords.get("budget") for record in done.records if record.attention} == {"9 s of training"}


def test_rules_without_attention_stand_beside_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    learns(monkeypatch, reached("softmax"))
    scored = answers(run(accuracy()))
    assert list(scored) == ["softmax", "linear", "(guessing)", "(most frequent label)", "(one token)",
                            "(count of tokens)"]
    assert scored["(guessing)"].value == 1 / 8
    assert all(scored[name].detail["verdict"] == "rule" for name in list(scored)[2:])


def test_a_task_that_a_rule_reads_is_told_and_nothing_is_concluded(monkeypatch: pytest.MonkeyPatch,
                                                                   tmp_path: Any) -> None:
    leaking = helpers.SOUND_TASK.replace("tokens[:, 0] + tokens[:, 1]", "tokens[:, -1]")
    learns(monkeypatch, reached("softmax", 0.999, 0.6, 1e-4))
    scored = answers(run(accuracy(task=f"{helpers.write_plugin(tmp_path, leaking)}:train=300:val=50:test=100")))
    assert scored["(one token)"].value == 1
    assert scored["(one token)"].note == "this rule reads the task: no attention is needed for it"
    assert scored["softmax"].detail["verdict"] == scored["linear"].detail["verdict"] == "not learned"


def test_a_run_that_diverged_counts_as_a_guess_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    learns(monkeypatch, lambda name, rate, seed, split: float("nan") if (name, seed) == ("linear", 2) else 0.9)
    done = run(accuracy())
    scored = answers(done)["linear"]
    assert scored.samples == [0.9, 1 / 8, 0.9, 0.9]
    assert scored.note == "1 of 4 runs diverged, and count as a guess"
    runs = [r.status for r in done.records if r.quantity == "test_accuracy" and r.label == "linear"]
    assert runs.count("diverged") == 1
    assert answers(done, "difference")["linear"].samples == pytest.approx([0, 1 / 8 - 0.9, 0, 0])


@pytest.mark.parametrize(("best", "note"), [
    (1e-3, "its best learning rate, 0.001, is the smallest that was tried"), (3e-3, ""),
    (1e-2, "its best learning rate, 0.01, is the largest that was tried"), (None, "")])
def test_a_best_rate_at_the_edge_of_those_tried_is_told(monkeypatch: pytest.MonkeyPatch, best: float | None,
                                                        note: str) -> None:
    learns(monkeypatch, lambda name, rate, seed, split: 0.9 if best in (rate, None) else 0.6)
    assert answers(run(accuracy(lrs="1e-3,3e-3,1e-2")))["linear"].note == note


def test_rates_that_diverge_are_not_chosen_and_where_all_do_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    learns(monkeypatch, lambda name, rate, seed, split: float("nan") if name == "linear" or rate > 2e-3 else 0.9)
    done = run(accuracy())
    assert {rate for name, rate, _, split in calls if split == "test"} == {1e-3}
    assert (answers(done)["linear"].status, answers(done)["linear"].value) == ("diverged", None)
    assert answers(done)["softmax"].detail["verdict"] == "baseline"
    assert len([call for call in calls if call[3] == "test"]) == 4  # of softmax alone


def test_an_attention_that_cannot_run_there_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(name: str, rate: float, seed: int, split: str) -> float:
        if name == "linear":
            raise Unsupported("linear cannot run on 1x24 tokens")
        return 0.9
    learns(monkeypatch, score)
    scored = answers(run(accuracy()))["linear"]
    assert (scored.status, scored.note) == ("unsupported", "linear cannot run on 1x24 tokens")


def test_a_resumed_study_runs_what_is_new_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    learns(monkeypatch, reached("softmax"))
    out = tmp_path / "a.jsonl"
    first = run(accuracy(seeds=2), out)
    calls.clear()
    done = run(accuracy(seeds=3, attn="linear,performer"), out, resume=True)
    again = {(name, seed) for name, _, seed, split in calls if split == "test"}
    assert again == {("softmax", 3), ("linear", 3), ("performer", 1), ("performer", 2), ("performer", 3)}
    assert {name for name, _, _, split in calls if split == "val"} == {"performer"}
    assert len(answers(done)["softmax"].samples) == 3
    assert answers(done)["softmax"].samples[:2] == answers(first)["softmax"].samples
    calls.clear()
    assert run(accuracy(seeds=3, attn="linear,performer"), out, resume=True).new == []
    run(accuracy(seeds=3, attn="linear,performer", lrs="1e-3,3e-3,1e-2"), out, resume=True)
    assert {rate for _, rate, _, split in calls if split == "val"} == {1e-2}
    assert {split for *_, split in calls} == {"val", "test"}  # another grid may choose another rate
    calls.clear()
    run(accuracy(seeds=3, attn="linear,performer", epochs=3), out, resume=True)
    assert len(calls) == 3 * (2 + 3)


def test_what_is_inconclusive_gets_more_seeds_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The verdict on linear is clear with 2 seeds, that on performer is not with 2, and is with 4 of 8."""
    apart = {"softmax": 0.0, "linear": -0.5, "performer": -0.05}

    def score(name: str, rate: float, seed: int, split: str) -> float:
        return 0.9 + apart[name] + (0.02 if (name, seed) == ("performer", 1) else 1e-4 * seed * len(name))

    learns(monkeypatch, score)
    out = tmp_path / "a.jsonl"
    done = run(accuracy(attn="linear,performer", seeds=2, max_seeds=8, lrs="1e-3"), out)
    seeds = {name: sorted(seed for each, _, seed, split in calls if (each, split) == (name, "test")) for name in apart}
    assert seeds["linear"] == [1, 2]
    assert seeds["softmax"] == seeds["performer"]
    assert 4 <= len(seeds["performer"]) <= 8
    assert {label: r.detail["verdict"] for label, r in answers(done).items() if "(" not in label} == {
        "softmax": "baseline", "linear": "worse", "performer": "worse"}
    skipped = [r.note for r in done.records if r.status == "not_run"]
    assert len(skipped) == 3 * 8 - sum(map(len, seeds.values()))
    assert set(skipped) == {"the verdict was clear without this seed"}
    calls.clear()
    again = run(accuracy(attn="linear,performer", seeds=2, max_seeds=8, lrs="1e-3"), out, resume=True)
    assert (calls, again.new) == ([], [])
    run(accuracy(attn="linear,performer", seeds=8, lrs="1e-3"), out, resume=True)  # the rule no longer leaves seeds out
    assert {seed for name, _, seed, _ in calls if name == "linear"} == {3, 4, 5, 6, 7, 8}


def test_another_rule_concludes_anew_from_the_same_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    learns(monkeypatch, reached("softmax", 0.9, 0.85, 1e-3))
    out = tmp_path / "a.jsonl"
    verdicts = [answers(run(accuracy(**values), out, resume=True))["linear"].detail["verdict"] for values in (
        {}, {"margin": 0.2}, {"margin": 0.01}, {"baseline": "linear", "attn": "softmax,linear"})]
    assert verdicts == ["worse", "same", "worse", "baseline"]
    assert len(calls) == 2 * (2 + 4)


def test_other_files_in_the_folder_of_a_task_are_learned_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    reading = helpers.SOUND_TASK.replace("    vocab:", '    data: str = option("", "a file")\n    vocab:').replace(
        "Samples(tokens,", "Samples((tokens + int(__import__('pathlib').Path(settings.data).read_text())) % 8,")
    (tmp_path / "data").write_text("1")
    task = f"{helpers.write_plugin(tmp_path, reading)}:data={tmp_path / 'data'}:train=300:val=50:test=100"
    learns(monkeypatch, reached("softmax"))
    run(accuracy(task=task), tmp_path / "a.jsonl")
    calls.clear()
    learning.Kept._label = ""  # as in another process
    assert run(accuracy(task=task), tmp_path / "a.jsonl", resume=True).new == []
    (tmp_path / "data").write_text("2")
    learning.Kept._label = ""
    run(accuracy(task=task), tmp_path / "a.jsonl", resume=True)
    assert len(calls) == 2 * (2 + 4)


def test_m_is_what_there_is_of_landmarks_and_not_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    learns(monkeypatch, reached("softmax"))
    done = run(accuracy(attn="soft:landmarks=49,soft:landmarks=8,performer:features=64", seeds=2))
    assert {label: r.coords.get("size") for label, r in answers(done).items() if "(" not in label} == {
        "softmax": None, "soft:landmarks=49": 24, "soft:landmarks=8": 8, "performer:features=64": 64}


def test_one_seed_says_whether_the_baseline_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    for base, first, other in ((0.99, "baseline", "inconclusive"), (0.12, "not learned", "not learned")):
        learns(monkeypatch, reached("softmax", base, 0.6, 1e-3))
        scored = answers(run(accuracy(seeds=1)))
        assert [scored[name].detail["verdict"] for name in ("softmax", "linear")] == [first, other]


def test_runs_that_left_no_score_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(name: str, rate: float, seed: int, split: str) -> float:
        if (name, seed) == ("linear", 3) or (name, rate, split) == ("linear", 1e-3, "val"):
            raise RuntimeError("killed")
        return 0.9
    learns(monkeypatch, score)
    scored = answers(run(accuracy()))
    assert (scored["softmax"].note, len(scored["linear"].samples)) == ("", 3)
    assert scored["linear"].note == "1 of 4 runs gave no score; 1 of 2 learning rates were not tried"


def test_a_curve_has_the_steps_that_all_runs_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(task: Any, attention: str, attn_options: Any, recipe: Any, **_: Any) -> Learned:
        curve = [Reached(steps, 0.1, 1.0, {"accuracy": 0.5}) for steps in (10, 20 + recipe.seed)]
        return Learned({"accuracy": 0.9}, 40, curve, 30, 0.5, 99, diverged=False)
    monkeypatch.setattr(learning.samples, "learn", learn)
    done = run(accuracy(seeds=2))
    assert {(r.label, r.coords["steps"]) for r in done.records if r.quantity == "curve"} == {
        ("softmax", 10), ("linear", 10)}



@pytest.mark.parametrize(("values", "words"), [
    ({"task": "nedle"}, "No task named 'nedle'. Did you mean 'needle'?"),
    ({"task": "needle:token=3"}, "No option of task 'needle' named 'token'. Did you mean 'tokens'?"),
    ({"task": "mqar:pairs=17"}, "17 pairs and as many queries take 68 tokens"),
    ({"task": f"{TASK},{TASK}"}, "is named twice"), ({"attn": "sofmax"}, "No attention named 'sofmax'."),
    ({"baseline": "softmax,linear"}, "--baseline must be one attention"),
    ({"lrs": "fast"}, "--lrs takes learning rates"), ({"lrs": "1e-3,0.001"}, "each once"), ({"lrs": "-1"}, "between 0"),
    ({"seeds": 0}, "seeds must be at least 1, not 0."), ({"epochs": -1}, "epochs must be at least 0"),
    ({"heads": 3}, "--width 64 is not divided by --heads 3."),
    ({"budget": 9.0, "jobs": 2}, "give --jobs 1."),
])
def test_bad_settings_are_told_before_anything_runs(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        accuracy(**values)
    assert words in str(error.value)


def test_a_file_that_raises_is_one_line_before_anything_runs(tmp_path: Any) -> None:
    broken = helpers.SOUND_TASK.replace("return Samples", "raise KeyError('x')\n    return Samples")
    with pytest.raises(PluginError, match=r"^Task 'broken': open\(\) raised KeyError: 'x'$"):
        accuracy(task=helpers.write_plugin(tmp_path, broken))


@pytest.mark.parametrize("check", ["declared", "as_said", "silent"])
def test_it_keeps_the_contract_of_studies(monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    learns(monkeypatch, reached("softmax"))
    contract.STUDY_CHECKS[check](studies.load("accuracy"), lambda: run(accuracy(seeds=2)).records)


def test_costs_are_of_the_tasks_own_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    learns(monkeypatch, reached("softmax"))
    monkeypatch.setattr(costs, "_LATENCY", latency.Settings(rep=2.0, warmup=1.0, rounds=1))
    done = run(accuracy(seeds=2, cost=True))
    taken = [r for r in done.records if r.coords["part"] == "cost"]
    assert {(r.label, r.quantity) for r in taken} == {(name, quantity) for name in ("softmax", "linear")
                                                      for quantity in ("latency", "peak_memory")}
    assert {(r.rows, r.cols, r.heads, r.head_dim) for r in taken} == {(1, 24, 2, 32)}
    assert answers(done, "latency")["linear"].value == next(
        r.value for r in taken if (r.label, r.quantity) == ("linear", "latency"))


def test_one_real_run_of_each_kind_learns_and_leaves_the_generators_alone() -> None:
    import torch

    before = torch.get_rng_state()
    done = run(accuracy(task="mqar:tokens=12:pairs=2:vocab=16:train=128:val=20:test=40", seeds=1, lrs="1e-2", width=8,
                        depth=1, epochs=1, points=2))
    assert not done.failed, [record.note for record in done.records]
    assert torch.equal(before, torch.get_rng_state())
    assert {record.quantity for record in done.records} >= {"accuracy", "difference", "curve", "train_time"}
    problem = tasks.load("mqar", {"tokens": 12, "pairs": 2, "vocab": 16, "train": 128, "val": 20, "test": 40})
    digests = {split: problem.open(split).digest() for split in ("train", "val", "test")}
    assert {r.quantity: r.detail["samples"] for r in done.records if "samples" in r.detail} == {
        "val_accuracy": {split: digests[split] for split in ("train", "val")}, "test_accuracy": digests}
