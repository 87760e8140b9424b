"""Batches, in an order that a seed and an epoch decide, from this process or from workers."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.config import LoaderOptions
from utils.datasets.augmentation import quadrupled
from utils.datasets.dataset import DetectionDataset, collate
from utils.datasets.label_store import LabelStore
from utils.errors import ConfigError, DataError, UserError
from utils.types import Batch, Letterbox, Sample

ImageWeights = np.ndarray | Callable[[], np.ndarray | None] | None
_ORDER, _SHEETS = 1, 2  # which stream of random numbers of a (seed, epoch)


class Loader:
    """Batches of one dataset: `for batch in loader.epoch(e)` gives those of epoch e, `len(loader)` in every epoch.

    A batch holds images of one shape; without `shuffle` the order is by shape, then as in the dataset.

    Args:
        dataset: What is loaded.
        options: Batch size, workers and order; `LoaderOptions()` if None.
        image_weights: (n,) weights with which images are drawn (with replacement), or a function that gives them, or
            None, at the start of an epoch.
    """

    def __init__(
        self, dataset: DetectionDataset, options: LoaderOptions | None = None, image_weights: ImageWeights = None
    ):
        self.dataset, self.options = dataset, options or LoaderOptions()
        self.image_weights = image_weights
        _, groups = np.unique(dataset.shapes, axis=0, return_inverse=True)
        self._group: np.ndarray = groups.reshape(-1)
        self._length = len(self._batches(np.arange(len(dataset))))
        self.workers = _useful_workers(self.options.workers, self.batch_size, self._length)
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

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch. Raises DataError naming an image that cannot be read."""
        self._loader = self._loader or self._open()
        self._sampler.keys = [[(number, index) for index in batch] for batch in self._planned(number)]
        try:
            for batch in self._loader:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a worker process that reads images died ({str(error).splitlines()[0]}); it may have run out of "
                f"memory: lower --workers (now {self.workers}), 0 reads in the main process"
            ) from None

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
        self._loader = None

    def _open(self) -> DataLoader:
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


class _EpochSampler:
    """The batches of the current epoch, as the dataset's keys: what `Loader.epoch` last put here."""

    def __init__(self, length: int):
        self.length = length
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return self.length


class _BatchDataset(Dataset):
    """What a worker has: it is asked for all images of a batch at once and gives the batch, or the user error."""

    def __init__(self, dataset: DetectionDataset, seed: int, quad: bool):
        self.dataset, self.seed, self.quad = dataset, seed, quad

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | UserError:
        try:
            samples = [self.dataset[key] for key in keys]
        except UserError as error:  # raised as it is in the main process; torch would wrap it in a traceback
            return error
        return collate(collate_quad(samples, _generator(self.seed, *keys[0], _SHEETS)) if self.quad else samples)


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
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(wanted, processors, batches, batch_size if batch_size > 1 else 0), 0)


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


def _start_worker(_: int) -> None:
    """One thread per worker; Ctrl-C is handled by the main process."""
    reuse_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch
