"""Loading: what is drawn depends on seed, epoch and index alone; images that cannot be read are passed over."""

from __future__ import annotations

import io
import random

import pytest
import torch
from PIL import Image
from training import jobs

from softbench.errors import UsageError
from softbench.inputs import seeding
from softbench.tasks.images import data
from softbench.tasks.images.data import PADDING, Images, Order, Shard, Stream, TrainingLoader
from softbench.tasks.images.preparing import Prepared
from softbench.tasks.images.sources import Split, open_source


def loader(recipe, *, workers=0, rank=0, world=1, accumulate=2, subset=None):
    split = open_source("digits").train
    return TrainingLoader(split, recipe, accumulate=accumulate, rank=rank, world=world, workers=workers, pin=False,
                          subset=subset)


def same(one, other):
    return (torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
            and one.indices == other.indices)


def test_batches_do_not_depend_on_the_number_of_workers():
    recipe, few = jobs.recipe(), torch.arange(200, 300)
    runs = [list(loader(recipe, workers=workers, subset=few).epoch(3, 0)) for workers in (0, 2)]
    assert [len(run) for run in runs] == [6, 6]
    assert all(same(one, other) for one, other in zip(*runs, strict=True))
    assert len({index for batch in runs[0] for index in batch.indices}) == 96


def test_an_epoch_goes_on_from_any_step_and_no_two_epochs_are_alike():
    found = loader(jobs.recipe(), subset=torch.arange(100))
    whole = list(found.epoch(0, 0))
    rest = list(found.epoch(0, 1))
    assert len(rest) == 4
    assert all(same(one, other) for one, other in zip(whole[2:], rest, strict=True))
    later = list(found.epoch(1, 0))
    assert later[0].indices != whole[0].indices
    index = next(i for i in whole[0].indices if i in {j for batch in later for j in batch.indices})

    def image(batches):
        return next(b.images[b.indices.index(index)] for b in batches if index in b.indices)
    assert not torch.equal(image(whole), image(later)), "augmented alike in two epochs"


@pytest.mark.parametrize("world", [2, 4])
def test_processes_take_the_micro_batches_of_one_in_turn(world):
    alone = list(Order(130, 8, 4, 0, 1, seed=5))
    shared = [list(Order(130, 8, 4 // world, rank, world, seed=5)) for rank in range(world)]
    dealt = [shared[number % world][number // world] for number in range(len(alone))]
    assert dealt == alone
    assert len(alone) == 16  # 4 steps of 32 images; 2 images stay out of this epoch


def test_evaluation_counts_each_image_once():
    for images, world in ((10, 3), (9, 3), (2, 4)):
        shards = [[place for batch in Shard(images, 2, rank, world) for _, place in batch] for rank in range(world)]
        assert sorted(p for shard in shards for p in shard if p != PADDING) == list(range(images))
        assert len({len(Shard(images, 2, rank, world)) for rank in range(world)}) == 1


class Reader:
    """Six images; 2 and 3 are not."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index in (2, 3):
            return io.BytesIO(b"not an image"), index
        file = io.BytesIO()
        Image.new("L", (40, 30), 40 * index).save(file, "PNG")
        file.seek(0)
        return file, index


def test_training_takes_the_next_image_for_one_that_cannot_be_read():
    images = Images(Split(Reader(), 6), data.training_transform(jobs.recipe()), 0, (32, 32))
    image, label, index, bad = images[0, 2]
    assert (label, index, bad) == (4, 4, [2, 3])
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.uint8


def test_evaluation_leaves_it_out():
    prepared = Prepared.by_recipe(jobs.recipe())
    loader = data.evaluation_loader(Split(Reader(), 6), prepared, batch=4, rank=0, world=1, workers=0, pin=False)
    batches = list(loader)
    assert [label for batch in batches for label in batch.labels.tolist()] == [0, 1, -1, -1, 4, 5]
    assert [index for batch in batches for index in batch.bad] == [2, 3]


def test_no_readable_image_at_all_ends_the_search():
    class Broken(Reader):
        def __getitem__(self, index):
            raise OSError("gone")

    _, label, index, bad = Images(Split(Broken(), 6), None, 0, (32, 32))[0, 1]
    assert (label, index) == (-1, PADDING)
    assert len(bad) == 100


def test_augmentation_survives_its_full_strength():
    """RandAugment may ask Pillow for an image of 0 bits, which versions from 13 on refuse."""
    transform = data.training_transform(jobs.recipe(augment="rand-m10-n9-inc1"))
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    for number in range(40):
        seeding.reseed(number)
        assert transform(image).shape == (3, 32, 32)


def test_a_stream_is_repeated_from_where_it_was():
    class Endless:
        def __init__(self):
            self.reader, self.epochs = [(Image.new("RGB", (8, 8), (i, 0, 0)), i % 10) for i in range(40)], []

        def set_loader_cfg(self, num_workers):
            pass

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    split = Split(None, 40, stream=Endless())
    found = TrainingLoader(split, jobs.recipe(total_batch=8, batch=4), accumulate=2, rank=0, world=1, workers=0,
                           pin=False)
    assert found.steps == 5
    whole, rest = list(found.epoch(2, 0)), list(found.epoch(2, 3))
    assert [len(whole), len(rest)] == [10, 4]
    assert all(same(one, other) for one, other in zip(whole[6:], rest, strict=True))
    assert split.stream.epochs == [2, 2]
    assert isinstance(found.dataset, Stream)


class Shuffled:
    """A reader that keeps its generator from epoch to epoch, as that of WebDataset does."""

    def __init__(self):
        self.draw = None

    def __iter__(self):
        self.draw = self.draw or random.Random(0)
        for _ in range(8):
            yield Image.new("RGB", (8, 8), (self.draw.randrange(256), 0, 0)), 0


class Streaming:
    """What timm has around such a reader."""

    def __init__(self):
        self.reader = Shuffled()

    def set_loader_cfg(self, num_workers):
        pass

    set_epoch = set_loader_cfg


def test_a_stream_forgets_the_epochs_before():
    """Or a job that goes on in the second epoch would not see what an undisturbed one sees."""
    recipe = jobs.recipe(total_batch=8, batch=4)
    runs = []
    for epochs in ((0, 1), (1,)):
        found = TrainingLoader(Split(None, 8, stream=Streaming()), recipe, accumulate=2, rank=0, world=1, workers=0,
                               pin=False)
        runs.append([list(found.epoch(epoch, 0)) for epoch in epochs][-1])
    assert all(same(one, other) for one, other in zip(*runs, strict=True))


def test_a_limit_of_a_stream_is_refused():
    split, few = Split(Shuffled(), 8, stream=Streaming()), torch.arange(4)
    with pytest.raises(UsageError, match="--limit: these data are a stream"):
        TrainingLoader(split, jobs.recipe(total_batch=2, batch=2), accumulate=1, rank=0, world=1, workers=0, pin=False,
                       subset=few)
    with pytest.raises(UsageError, match="--limit: these data are a stream"):
        data.evaluation_loader(split, Prepared.by_recipe(jobs.recipe()), batch=4, rank=0, world=1, workers=0, pin=False,
                               subset=few)


def test_an_augmentation_that_timm_does_not_know():
    for name in ("rnad-m9", "rand-q9"):
        with pytest.raises(UsageError, match=f"augment='{name}'"):
            data.training_transform(jobs.recipe(augment=name))


def test_a_limit_takes_images_of_all_classes_and_always_the_same():
    few = data.subset(1437, 50, 0)
    assert len(set(few.tolist())) == 50
    assert few.max() > 1000
    assert torch.equal(few, data.subset(1437, 50, 0))
    assert data.subset(40, 50, 0) is None
    assert data.subset(40, None, 0) is None


def test_too_few_images_for_one_step_are_an_error():
    with pytest.raises(UsageError, match="100 training images, fewer than one total batch of 128"):
        loader(jobs.recipe(total_batch=128), accumulate=8, subset=torch.arange(100))


def test_seeds_are_unrelated_and_reach_every_generator():
    import numpy as np

    assert len({seeding.derived(1, 2), seeding.derived(2, 1), seeding.derived(12), seeding.derived(1, 2, 0)}) == 4
    drawn = []
    for parts in ((1, 2), (1, 2), (1, 3)):
        seeding.reseed(*parts)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
