"""Batches, in an order that a seed and an epoch decide, from this process or from workers."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.config import LoaderOptions
from utils.datasets.augmentation import quadrupled
from utils.datasets.bad_images import BadImage, BadImages
from utils.datasets.dataset import DetectionDataset, collate
from utils.datasets.label_store import LabelStore
from utils.errors import ConfigError, DataError, UserError
from utils.stop_signals import ENDING_SIGNALS
from utils.threads import usable_cores
from utils.types import Batch, Letterbox, Sample

ImageWeights = np.ndarray | Callable[[], np.ndarray | None] | None
_ORDER, _SHEETS = 1, 2  # which stream of random numbers of a (seed, epoch)
_FILES_AT_LEAST, _FILES_PER_WORKER = 16, 8  # open files beside those open already
_OWN_SIGNAL_WITHIN = 0.5  # seconds in which a signal that ended a worker reaches this process too, if it was meant


class Loader:
    """Batches of one dataset: `for batch in loader.epoch(e)` gives those of epoch e, `len(loader)` in every epoch.

    A batch holds images of one shape; without `shuffle` the order is by shape, then as in the dataset. Of several
    processes (`options.world`) each gets its part of every batch; the batches do not depend on how many there are.

    Args:
        dataset: What is loaded.
        options: Batch size, workers and order; `LoaderOptions()` if None.
        image_weights: (n,) weights with which images are drawn (with replacement), or a function that gives them, or
            None, at the start of an epoch.
        bad_images: Counts and lists images that cannot be read while a dataset that tolerates them is loaded; if None
            there is no limit to them.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        options: LoaderOptions | None = None,
        image_weights: ImageWeights = None,
        bad_images: BadImages | None = None,
    ):
        self.dataset, self.options = dataset, options or LoaderOptions()
        self.image_weights = image_weights
        self.bad_images = bad_images or BadImages()
        _, groups = np.unique(dataset.shapes, axis=0, return_inverse=True)
        self._group: np.ndarray = groups.reshape(-1)
        self._length = len(self._batches(np.arange(len(dataset))))
        own = len(self.options.world.own(self.batch_size, self._multiple)) or 1
        self.workers = _useful_workers(self.options.workers, own, self._length)
        self._sampler = _EpochSampler(self._length)
        self._loader: DataLoader | None = None

    @property
    def batch_size(self) -> int:
        """Images per batch."""
        return self.options.batch_size

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(B, 3, H, W) of the largest batch of square inputs."""
        return self.batch_size, 3, self.dataset.imgsz, self.dataset.imgsz

    def __len__(self) -> int:
        return self._length

    @property
    def _multiple(self) -> int:
        """Images that stay together."""
        return 4 if self.options.quad else 1

    def epoch(self, number: int, batches: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            number: Which epoch.
            batches: Which of its batches, in this order; all if None.

        Yields:
            The batches, or this process's parts of them.

        Raises:
            DataError: If an image cannot be read and the dataset does not tolerate it, if too many cannot, or if a
                worker process died.
        """
        self._loader = self._loader or self._open()
        planned = self._planned(number)
        chosen = planned if batches is None else [planned[index] for index in batches]
        self._sampler.parts = [self._own_part(number, batch) for batch in chosen]
        with reporting_dead_workers():
            with _signals_held():  # workers begin before they can ignore Ctrl-C
                loaded_batches = iter(self._loader)
            for loaded in loaded_batches:
                if isinstance(loaded, UserError):
                    raise loaded
                for bad in loaded.bad:
                    self.bad_images.add(bad, number)
                if loaded.batch is not None:
                    yield loaded.batch

    def follow(self, class_map: Callable[[], Sequence[float] | None]) -> None:
        """Draw images of classes with low AP more often from now on (--image-weights).

        `class_map` gives the last AP per class, an empty list before there is one, or None for a plain shuffle.
        """

        def weights() -> np.ndarray | None:
            current = class_map()
            return None if current is None else sampling_weights(self.dataset.store, class_map=current)

        self.image_weights = weights

    def close(self) -> None:
        """End the worker processes. The loader starts new ones if it is used once more."""
        end_workers = getattr(getattr(self._loader, "_iterator", None), "_shutdown_workers", None)
        self._loader = None
        if end_workers is not None:  # else they end when the last traceback that names them is gone
            with suppress(RuntimeError):  # that one has died already
                end_workers()

    def _open(self) -> DataLoader:
        _require_open_files(self.workers)
        if self.workers:
            release_freed_memory()
        return DataLoader(
            _BatchDataset(self.dataset, self.options.seed, self.options.quad),
            batch_sampler=self._sampler,
            collate_fn=_unchanged,
            num_workers=self.workers,
            pin_memory=self.options.pin_memory,
            generator=torch.Generator().manual_seed(self.options.seed),  # else torch's own would be advanced
            persistent_workers=self.workers > 0,
            worker_init_fn=_start_worker if self.workers else None,
        )

    def _planned(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch as lists of indices into the dataset."""
        generator = _generator(self.options.seed, epoch, _ORDER)
        count = len(self.dataset)
        weights = self.image_weights() if callable(self.image_weights) else self.image_weights
        if weights is not None:
            if self._group.any():
                raise ConfigError(
                    "--image-weights cannot be used with --rect: the number of batches would change every epoch"
                )
            order = generator.choice(count, count, p=weights / weights.sum())
        else:
            order = generator.permutation(count) if self.options.shuffle else np.arange(count)
        batches = self._batches(order)
        return [batches[index] for index in generator.permutation(len(batches))] if self.options.shuffle else batches

    def _own_part(self, epoch: int, batch: list[int]) -> "_Part":
        """This process's part of a batch; if it has none, a first group of images that stand in."""
        own = self.options.world.own(len(batch), self._multiple)
        indices = [batch[place] for place in own] or batch[: self._multiple]
        return _Part(epoch, indices, batch[0], own.start // self._multiple, bool(own))

    def _batches(self, order: np.ndarray) -> list[list[int]]:
        """Cut an order of images into batches of one shape each."""
        batches = []
        for group in range(int(self._group.max(initial=0)) + 1):
            members = order[self._group[order] == group].tolist()
            cut = [members[start : start + self.batch_size] for start in range(0, len(members), self.batch_size)]
            if self.options.drop_last and cut and len(cut[-1]) < self.batch_size:
                cut.pop()
            elif self.options.shuffle and self.batch_size > 1 < len(cut) and len(cut[-1]) == 1:
                last = cut.pop()  # batch norm over a single image is noise, and fails on 1 x 1 maps
                cut[-1] += last
            batches += cut
        return batches


def sampling_weights(store: LabelStore, nc: int | None = None, class_map: Sequence[float] = ()) -> np.ndarray:
    """Return the weights with which images are drawn, as v6.1's --image-weights.

    That of an image is the sum over its objects of their class's weight, the inverse of its frequency times (1 - AP)^2.

    Args:
        store: The labels.
        nc: Number of classes, if more than the labels and `class_map` have.
        class_map: Last AP per class; empty before there is one.

    Returns:
        (n,) weights; all equal if every one would be 0.
    """
    nc = max(nc or 0, len(class_map), int(store.cls.max(initial=0)) + 1)
    ap = np.zeros(nc)
    ap[: len(class_map)] = class_map
    frequency = store.class_counts(nc).astype(np.float64)
    rarity = 1 / np.maximum(frequency, 1)
    per_class = rarity / rarity.sum() * (1 - ap) ** 2
    weights = np.bincount(store.image_of, weights=per_class[store.cls], minlength=len(store))
    return weights if weights.sum() > 0 else np.ones(len(store))


@dataclass(frozen=True)
class _Part:
    """What a process loads of a batch.

    Attributes:
        epoch: Index of the epoch.
        indices: Of its images in the dataset.
        first: Index of the first image of the whole batch, which decides its random numbers.
        groups_before: Groups of four that other processes load before it.
        counts: Whether the images count, or stand in.
    """

    epoch: int
    indices: list[int]
    first: int
    groups_before: int
    counts: bool


class _EpochSampler:
    """The parts of the batches of the current epoch: what `Loader.epoch` last put here."""

    def __init__(self, length: int):
        self.length = length
        self.parts: list[_Part] = []

    def __iter__(self) -> Iterator[list[_Part]]:
        return ([part] for part in self.parts)

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True)
class _Loaded:
    """What a worker makes of the keys of a batch: the batch, None if no image can be read, and the bad images."""

    batch: Batch | None
    bad: tuple[BadImage, ...]

    def pin_memory(self) -> "_Loaded":
        return _Loaded(self.batch.pin_memory() if self.batch is not None else None, self.bad)


class _BatchDataset(Dataset):
    """What a worker has: it is asked for all images of a batch at once and gives the batch, or the user error."""

    def __init__(self, dataset: DetectionDataset, seed: int, quad: bool):
        self.dataset, self.seed, self.quad = dataset, seed, quad

    def __getitems__(self, parts: list[_Part]) -> _Loaded | UserError:
        (part,) = parts
        bad: list[BadImage] = []
        try:
            loaded = [self.dataset.sample(part.epoch, index, bad) for index in part.indices]
        except UserError as error:  # raised as it is in the main process; torch would wrap it in a traceback
            return error
        samples = [sample for sample in loaded if sample is not None]
        if not samples:
            return _Loaded(None, tuple(bad))
        batch = collate(collate_quad(samples, self._sheets(part)) if self.quad else samples)
        if not part.counts:
            batch = replace(batch, targets=batch.targets[:0], counts=False)
        return _Loaded(batch, tuple(bad))

    def _sheets(self, part: _Part) -> np.random.Generator:
        """The random numbers of a batch's groups of four, past those of other processes."""
        generator = _generator(self.seed, part.epoch, part.first, _SHEETS)
        generator.random(part.groups_before)
        return generator


def collate_quad(samples: Sequence[Sample], generator: np.random.Generator) -> list[Sample]:
    """Return a quarter as many samples of twice the height and width.

    Args:
        samples: Samples of one shape.
        generator: Decides for each four between a 2 x 2 grid of all and the first one enlarged.

    Returns:
        The joined samples.
    """
    larger = []
    for start in range(0, max(len(samples) // 4, 1) * 4, 4):
        four = samples[start : start + 4]
        image, labels = quadrupled([(sample.image, sample.labels) for sample in four], generator.random() < 0.5)
        shape = (image.shape[0], image.shape[1])
        larger.append(Sample(image, labels, four[0].path, Letterbox(shape, (1.0, 1.0), (0, 0), shape), four[0].index))
    return larger


def _generator(*numbers: int) -> np.random.Generator:
    """A random generator of its own: sample (epoch, index) has another key length, so none of these repeats one."""
    *entropy, stream = numbers
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(stream,)))


def _useful_workers(wanted: int, batch_size: int, batches: int) -> int:
    """No more workers than there are processors, batches, or images in a batch of several."""
    processors = usable_cores()
    return max(min(wanted, processors, batches, batch_size if batch_size > 1 else 0), 0)


def _require_open_files(workers: int) -> None:
    """Raise ConfigError if the limit on open files is too low: a thread of torch would fail, and the loader wait.

    A worker has its pipes, and each batch under way is a file of shared memory.
    """
    try:
        import resource

        limit, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError):  # systems without the one or the other
        return
    needed = used + _FILES_AT_LEAST + _FILES_PER_WORKER * workers
    if workers and limit != resource.RLIM_INFINITY and limit < needed:
        raise ConfigError(
            f"--workers {workers}: the limit of {limit} open files is too low, {needed} are needed; raise it "
            "(ulimit -n 1024), or use --workers 0"
        )


def release_freed_memory() -> None:
    """Give freed blocks back to the system, before processes are started that would inherit them.

    `reuse_freed_memory` keeps what a training step freed. A forked process holds on to such pages when the next step
    writes them anew here: the feature maps of a batch, once more for the workers of validation. Does nothing on other C
    libraries.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reuse_freed_memory() -> None:
    """Have this process keep freed blocks of up to 32 MB and use them again.

    By default glibc gives each image's memory back and asks for fresh pages for the next one: up to a third of the time
    from file to sample. Does nothing on other C libraries.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD


@contextmanager
def reporting_dead_workers() -> Iterator[None]:
    """Turn the death of a worker process into one line, wherever it is seen.

    torch raises it from its handler of SIGCHLD, so in the midst of whatever the main process does: a step, a
    validation, the writing of a checkpoint. Use it, or decorate with it, whatever is done while there are workers.

    Raises DataError.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        if not reason.startswith("DataLoader worker"):
            raise
        if (signal.strsignal(signal.SIGTERM) or "SIGTERM") in reason:
            time.sleep(_OWN_SIGNAL_WITHIN)  # a whole group is ended so: then our own signal is what is reported
        raise DataError(
            f"a worker process that reads images died ({reason.rstrip('. ')}); it may have run out of memory: lower "
            "--workers, 0 reads in the main process"
        ) from None


@contextmanager
def _signals_held() -> Iterator[None]:
    """Deliver the signals that a terminal or a job manager sends to whole groups of processes later.

    Processes that are started meanwhile hold them back too, until `_start_worker`: no traceback from a worker that is
    hit by Ctrl-C while it starts.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """One thread per worker; signals that ask to end are for the main process, which ends this one.

    It may need this worker for the rest of its step. So also SIGTERM is ignored once: torch sends it to workers that do
    not end when they should.
    """
    reuse_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in ENDING_SIGNALS:
        signal.signal(number, _end_next_time if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)


def _end_next_time(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _unchanged(batch: Any) -> Any:
    return batch
