"""Loading: images in an order and with an augmentation that depend on (seed, epoch, index) alone.

Images travel as bytes and become normalised floats on the device.
"""

from __future__ import annotations

import copy
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from softbench.errors import ResultsError, UsageError
from softbench.inputs import pictures, seeding
from softbench.inputs.order import EVALUATION, PADDING, Key, Order, Shard
from softbench.processes.stopping import SIGNALS
from softbench.tasks.images.preparing import Prepared
from softbench.tasks.images.recipe import Recipe
from softbench.tasks.images.sources import Split

_TRIES = 100  # images in a row that may be unreadable

Sample = tuple[Tensor, int, int, list[int]]


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        images: [B, 3, rows, cols], bytes.
        labels: [B]; -1 where there is no image.
        indices: of the images in their split.
        bad: indices of images that could not be read.
    """

    images: Tensor
    labels: Tensor
    indices: list[int]
    bad: list[int]

    def pin_memory(self) -> Batch:
        """torch's data loader asks for it."""
        self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
        return self

    def __getstate__(self) -> tuple[Any, ...]:
        """How it comes from another process: images in shared memory as such, others as bytes through the pipe."""
        images = self.images if self.images.is_shared() else self.images.numpy()
        return images, self.labels.tolist(), self.indices, self.bad

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        images, labels, self.indices, self.bad = state
        self.images, self.labels = torch.as_tensor(images), torch.tensor(labels)


def collate(samples: list[Sample]) -> Batch:
    """A batch of samples.

    A process that loads puts the images into shared memory here, where it may fail. In torch's queue a batch for which
    there is no room would vanish, and whoever waits for it would wait for ever.
    """
    images, labels, indices, bad = zip(*samples, strict=True)
    stacked = torch.stack(images)
    if get_worker_info() is not None:
        with suppress(RuntimeError):  # no room left: containers often have 64 MB in all
            stacked.share_memory_()
    return Batch(stacked, torch.tensor(labels), list(indices), [index for some in bad for index in some])


class Images(Dataset[Sample]):
    """Images of a split by (epoch, index). One that cannot be read is replaced by the next one that can; in evaluation
    it stays away, as no image may count twice."""

    def __init__(self, split: Split, transform: Any, seed: int, size: tuple[int, int], subset: Tensor | None = None
                 ) -> None:
        self.reader, self.transform, self.seed, self.size = split.reader, transform, seed, size
        self.subset = subset

    def __len__(self) -> int:
        return len(self.reader) if self.subset is None else len(self.subset)

    def __getitem__(self, key: Key) -> Sample:
        epoch, place = key
        bad: list[int] = []
        while place != PADDING and len(bad) < _TRIES:
            index = place if self.subset is None else int(self.subset[place])
            try:
                image, label = _decoded(*self.reader[index][:2])
            except Exception:  # whatever a decoder makes of bytes that are not an image
                bad.append(index)
                place = PADDING if epoch == EVALUATION else (place + 1) % len(self)
                continue
            seeding.reseed(self.seed, seeding.IMAGE, epoch, index, cpu_only=True)
            return self.transform(image), label, index, bad
        return torch.zeros(3, *self.size, dtype=torch.uint8), -1, PADDING, bad


class Stream(IterableDataset[Sample]):
    """Images of a split that can only be read one after the other; its own reader leaves out what it cannot decode.

    Resuming reads anew what came before, so the order is repeated exactly where the number of workers is the same.
    """

    def __init__(self, split: Split, transform: Any, seed: int) -> None:
        self.stream, self.transform, self.seed, self.epoch = split.stream, transform, seed, EVALUATION

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        reader = copy.copy(self.stream.reader)  # which remembers where its shuffling is
        for number, (image, label) in enumerate(reader):
            try:
                picture = pictures.rgb(image)
            except ValueError:  # numbers without a range
                continue
            seeding.reseed(self.seed, seeding.IMAGE, self.epoch, worker.id if worker else 0, number, cpu_only=True)
            yield self.transform(picture), int(label), number, []


def _decoded(image: Any, label: int) -> tuple[Image.Image, int]:
    if isinstance(image, Image.Image):
        return pictures.rgb(image), int(label)
    with image:
        return pictures.opened(image), int(label)


class TrainingLoader:
    """The training batches of one process: `epoch(number, step)` iterates from that step on."""

    def __init__(self, split: Split, recipe: Recipe, *, accumulate: int, rank: int, world: int, workers: int, pin: bool,
                 subset: Tensor | None = None) -> None:
        transform = training_transform(recipe)
        self.accumulate, self.steps = accumulate, 0
        self.order: Order | None = None
        common = _loading(workers, pin) | {"persistent_workers": workers > 0 and split.stream is None}
        if split.stream is not None:
            _no_limit(subset)
            self.dataset: Any = Stream(split, transform, recipe.seed)
            self.steps = split.size // recipe.total_batch
            split.stream.set_loader_cfg(num_workers=workers)
            self.generator = torch.Generator()
            self.loader: Any = DataLoader(self.dataset, recipe.batch, drop_last=True, generator=self.generator,
                                          **common)
        else:
            self.dataset = Images(split, transform, recipe.seed, (recipe.img_size, recipe.img_size), subset)
            self.order = Order(len(self.dataset), recipe.batch, accumulate, rank, world, recipe.seed)
            self.steps = self.order.steps
            self.loader = DataLoader(self.dataset, batch_sampler=self.order, **common)
        self.seed, self.rank = recipe.seed, rank
        images = split.size if subset is None else len(subset)
        if not self.steps:
            raise UsageError(f"There are {images:,} training images, fewer than one total batch of"
                             f" {recipe.total_batch:,}: give a smaller --total-batch.")

    def epoch(self, number: int, step: int) -> Iterator[Batch]:
        """The micro-batches of an epoch that are left from a step on."""
        if self.order is not None:
            self.order.epoch, self.order.step = number, step
            yield from started(self.loader)
            return
        self.dataset.epoch = number
        self.dataset.stream.set_epoch(number)
        self.generator.manual_seed(seeding.derived(self.seed, seeding.ORDER, number, self.rank))
        for turn, batch in enumerate(started(self.loader)):
            if turn >= step * self.accumulate:
                yield batch


def evaluation_loader(split: Split, prepared: Prepared, *, batch: int, rank: int, world: int, workers: int, pin: bool,
                      subset: Tensor | None = None) -> Any:
    """Batches of a split for evaluation, each image once over all processes.

    Of a stream, every process reads all, as shards cannot be dealt out without losing or repeating images.
    """
    transform, common = prepared.transform(), _loading(workers, pin)
    if split.stream is not None:
        _no_limit(subset)
        split.stream.reader.dist_rank, split.stream.reader.dist_num_replicas = 0, 1
        split.stream.set_loader_cfg(num_workers=workers)
        return DataLoader(Stream(split, transform, seed=0), batch, **common)
    images = Images(split, transform, 0, prepared.size, subset)  # nothing is drawn, so any seed will do
    return DataLoader(images, batch_sampler=Shard(len(images), batch, rank, world), **common)


def started(loader: Any) -> Iterator[Batch]:
    """An iterator over a loader, whose processes begin at once.

    Raises:
        ResultsError: they cannot begin, or, while it iterates, one of them is killed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)  # from Python 3.12 on
        try:
            batches = iter(loader)
        except OSError as error:
            raise ResultsError(f"Cannot start the processes that load images: {error.strerror or error}. Give fewer"
                               " --workers; 0 is none.") from error
    return _explained(batches)


def _explained(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except RuntimeError as error:
        if not any(words in str(error) for words in ("DataLoader worker", "Communication with the workers")):
            raise
        raise ResultsError("A process that loads images was killed, perhaps for memory or shared memory, or files ran"
                           " out: give fewer --workers. The same command goes on from the last checkpoint.") from error


class _Worker(ForkProcess):
    """A process that loads images. Where torch would terminate it, it is killed, as it ignores that signal."""

    terminate = ForkProcess.kill


class _Fork(ForkContext):
    Process = _Worker


def end_workers() -> None:
    """Kill the processes that load images: one may hang in a reader, and waiting for it would never end."""
    workers = [child for child in multiprocessing.active_children() if isinstance(child, _Worker)]
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main else None  # torch takes it for an accident
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(1.0)
    if in_main:
        signal.signal(signal.SIGCHLD, handler)


def _no_limit(subset: Tensor | None) -> None:
    if subset is not None:
        raise UsageError("--limit: these data are a stream, which is read as a whole. Leave --limit out, or name a part"
                         " of it with --splits.")


def training_transform(recipe: Recipe) -> Any:
    """timm's augmentation of a recipe, from a PIL image to bytes [3, rows, cols]; erasing comes on the device."""
    try:
        transform = create_transform(
            recipe.img_size, is_training=True, scale=(recipe.crop_scale, 1.0),
            ratio=(recipe.crop_ratio, 1 / recipe.crop_ratio), hflip=recipe.hflip, color_jitter=recipe.color_jitter,
            auto_augment=recipe.augment or None, interpolation="random", normalize=False)
    except (AssertionError, ValueError, KeyError) as error:
        raise UsageError(f"timm cannot make an augmentation of augment='{recipe.augment}': it needs one such as"
                         " rand-m9-mstd0.5-inc1.") from error
    for part in transform.transforms:
        for op in getattr(part, "ops", []):
            if op.aug_fn is auto_augment.posterize:
                op.aug_fn = _posterized
    return transform


def _posterized(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm asks for 0 bits at full strength, which Pillow refuses from version 13 on: black, as it was before."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = auto_augment.posterize(image, bits)  # type: ignore[no-untyped-call]
    return posterized


def subset(images: int, limit: int | None, seed: int) -> Tensor | None:
    """A fixed choice of `limit` of so many images, as the first ones would be of a single class; None takes all."""
    if limit is None or limit >= images:
        return None
    generator = torch.Generator().manual_seed(seeding.derived(seed, seeding.ORDER))
    return torch.randperm(images, generator=generator)[:limit].clone()


def _loading(workers: int, pin: bool) -> dict[str, Any]:
    """How torch loads. Workers are forked, as those of a fork server would outlive a killed job."""
    return {"num_workers": workers, "collate_fn": collate, "pin_memory": pin,
            "worker_init_fn": _leave_signals_to_the_parent, "multiprocessing_context": _Fork() if workers else None}


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: the workers go on until the checkpoint is written."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
