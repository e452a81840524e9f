"""Every task keeps the contract, and every check of it sees a task that does not."""

from __future__ import annotations

import re
from pathlib import Path

import helpers
import numpy as np
import pytest
import task_contract as contract

from softbench import plugins
from softbench.contracts import task as tasks
from softbench.contracts.task import Samples
from softbench.errors import PluginError, SoftbenchError, UsageError
from softbench.models import trivial

ARRAYS = [name for name in plugins.names("tasks") if "LOADER" not in plugins.facts("tasks", name)]


@pytest.mark.parametrize("check", contract.CHECKS)
@pytest.mark.parametrize("name", ARRAYS)
def test_task_keeps_the_contract(name: str, check: str) -> None:
    contract.CHECKS[check](contract.small(name))


@pytest.mark.parametrize("check", contract.CHECKS)
def test_sound_task_passes(tmp_path: Path, check: str) -> None:
    contract.CHECKS[check](contract.small(helpers.write_plugin(tmp_path, helpers.SOUND_TASK)))


@pytest.mark.parametrize("defect", helpers.TASK_DEFECTS)
def test_defect_is_seen(tmp_path: Path, defect: str) -> None:
    check, sound, broken = helpers.TASK_DEFECTS[defect]
    assert sound in helpers.SOUND_TASK
    path = helpers.write_plugin(tmp_path, helpers.SOUND_TASK.replace(sound, broken))
    with pytest.raises((AssertionError, SoftbenchError)):
        contract.CHECKS[check](contract.small(path))


def test_every_check_sees_some_defect() -> None:
    assert {check for check, *_ in helpers.TASK_DEFECTS.values()} == set(contract.CHECKS)


def opened(path: str) -> float:
    task = contract.small(path)
    task.open("test")
    return task.chance()


@pytest.mark.parametrize(("sound", "broken", "words"), [
    ("return Samples", "raise KeyError('x')\n    return Samples", "Task 'broken': open() raised KeyError: 'x'"),
    ("return Samples", "raise SystemExit(3)\n    return Samples", "Task 'broken': open() raised SystemExit: 3"),
    ("return Samples", "return 3\n    return Samples", "Task 'broken', test: open() must return Samples, not a int."),
    ("settings.vocab, vocab=", "2, vocab=", "labels must be whole numbers from 0 to 1, and go from 0 to 7."),
    ("vocab=settings.vocab", "vocab=4", "tokens must be whole numbers from 0 to 3, and go from 0 to 7."),
    ("labels, settings", "labels[:, None], settings", "inputs (200, 12) and labels (200, 1) are not those of tokens"),
    ('"tokens"\n', '"words"\n', "Task 'broken': INPUT 'words' is none of tokens, bytes, numbers, patches, image."),
    ('("accuracy",)', '("luck",)', "Task 'broken': SCORES must be a tuple of accuracy, top1, top5."),
    ("class Settings(Sizes)", "class Settings", "Task 'broken': Settings must be a frozen dataclass that extends"),
    ("return Samples(tokens, labels", "return Samples(tokens[:, :0], labels", "inputs (200, 0) and labels"),
    ("vocab=settings.vocab)", "vocab=8, queries=[1])", "queries must be a numpy array, not a list."),
    ("vocab=settings.vocab)", "vocab=8, queries=labels)", "each label of a query needs its position"),
    ("vocab=settings.vocab)", "vocab=8, patch=0)", "patch must be a whole number of 1 or more, not 0."),
    ("labels, settings.vocab", "labels, '8'", "classes must be a whole number of 1 or more, not '8'."),
    ("labels, settings", "labels.astype(str), settings", "labels must be whole numbers, not <U"),
    ('TITLE = "Sound"\n', 'TITLE = "Sound"\nRECIPE = ["epochs"]\n', "RECIPE must be a dict of keys of the recipe"),
    ('("accuracy",)', '([],)', "Task 'broken': SCORES must be a tuple of accuracy, top1, top5."),
    ("@dataclass(frozen=True)\n", "", "Task 'broken': Settings must be a frozen dataclass that extends"),
    ('TITLE = "Sound"\n', "", "Task 'broken' lacks TITLE"),
    ("0.125", "1 / 0", "Task 'broken': chance() raised ZeroDivisionError: division by zero."),
])
def test_broken_task_is_one_clear_line(tmp_path: Path, sound: str, broken: str, words: str) -> None:
    assert sound in helpers.SOUND_TASK
    path = helpers.write_plugin(tmp_path, helpers.SOUND_TASK.replace(sound, broken))
    with pytest.raises(PluginError) as error:
        opened(path)
    assert words in str(error.value).replace(f"'{path}'", "'broken'")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "values", "words"), [
    ("images", {}, "Task 'images' has models of its own: softbench train --task images learns it."),
    ("mqr", {}, "No task named 'mqr'. Did you mean 'mqar'?"),
    ("mqar", {"pair": 3}, "No option of task 'mqar' named 'pair'. Did you mean 'pairs'?"),
    ("mqar", {"pairs": 17}, "17 pairs and as many queries take 68 tokens: set tokens to as many, not 64"),
    ("mqar", {"tokens": 512, "pairs": 64}, "A vocabulary of 128 has 63 keys, and 64 pairs need as many: set vocab to"),
    ("forgetting", {"updates": 9}, "no more updates than pairs"),
    ("selective_copy", {"size": 33}, "set tokens higher, or size lower"),
    ("needle", {"tokens": 4, "vocab": 2, "train": 9}, "There are no more than 8 different samples with these settings"),
    ("digits", {"test": 2000}, "There are 1,797 samples: test=2000 and val=300 leave none to learn from."),
    ("digits", {"patch": 3}, "Pictures of 8 pixels a side hold no whole patches of patch=3: use a divisor."),
    ("mnist5k", {"side": 30}, "not to side=30"),
    ("image", {"side": 5}, "Pictures of 28x28 pixels cannot become side=5: use a divisor."),
    ("text", {"packages": "asyncio"}, "packages must name two or more"),
    ("text", {"packages": "asyncio,../.."}, "The package '../..' of Python's standard library has 0 files"),
    ("retrieval", {"tokens": 65}, "need an even number of tokens, not 65"),
    ("listops", {"min_length": 126}, "No sequence has more than 126 and fewer than 128 tokens"),
    ("mqar", {"train": 0}, "task 'mqar': train must be at least 1, not 0."),
])
def test_settings_that_allow_nothing_are_refused(name: str, values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as error:
        tasks.load(name, values).open("train")
    assert words in str(error.value)


def test_packages_are_joined_by_a_plus_where_commas_part_tasks() -> None:
    plus, comma = (contract.small(name, packages=f"asyncio{joint}email", train=20, val=2, test=2).open("train").digest()
                   for name, joint in (("text", "+"), ("text", ",")))
    assert plus == comma
    assert tasks.load("text", {"packages": "asyncio+email+xml"}).chance() == 1 / 3


def test_trivial_rules_read_what_they_can() -> None:
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 8, (600, 6))
    at_place, by_count = tokens[:, 3], np.array([np.bincount(row, minlength=8).argmax() for row in tokens])

    def rule(labels: np.ndarray) -> dict[str, float]:
        halves = [Samples(tokens[half], labels[half], 8, vocab=8) for half in (slice(400), slice(400, None))]
        return trivial.scores(*halves)

    assert rule(at_place)["one token"] == 1
    assert rule(by_count)["count of tokens"] > 0.6 > 0.4 > rule(by_count)["one token"]
    assert max(rule(rng.integers(0, 8, 600)).values()) < 0.3
    assert rule(np.where(rng.random(600) < 0.7, 2, at_place))["most frequent label"] > 0.6


@pytest.mark.parametrize(("name", "values"), [
    ("mqar", {}), ("forgetting", {}), ("selective_copy", {}), ("pointer", {}),
    ("needle", {"tokens": 256})])  # of few tokens the most frequent one is often the needle
def test_what_is_drawn_gives_nothing_away(name: str, values: dict[str, int]) -> None:
    """With samples enough to learn from, a rule without attention stays where guessing is."""
    task = contract.small(name, train=3000, test=500, **values)
    scores = trivial.scores(task.open("train"), task.open("test"))
    assert max(scores.values()) < task.chance() + 0.1, scores


def test_label_tells_tasks_apart() -> None:
    assert tasks.load("mqar", {"pairs": "16", "tokens": 64}).label == "mqar:pairs=16"
    assert re.fullmatch(r"[0-9a-f]{12}", contract.small("mqar").open("test").digest())
