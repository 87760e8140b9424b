"""The detection dataset: from an index, an epoch and a seed to one labeled network input."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.config import Hyperparameters, SplitOptions
from utils.datasets.augmentation import augmented
from utils.datasets.bad_images import LEFT_OUT_OF_FIGURES, BadImage, UnreadableImageError, neighbors
from utils.datasets.image_cache import open_images
from utils.datasets.image_source import ImageSource, ObjectCensus
from utils.datasets.label_store import LabelStore
from utils.datasets.letterboxing import fit, fitted_size, minimal_shape
from utils.errors import DataError
from utils.types import Batch, Labels, Letterbox, Sample

MOST_BAD_PER_SAMPLE = 20  # then it is not single images that are bad


class DetectionDataset(Dataset):
    """The images and labels of one split as network inputs: squares, or with `rect` each in its own smallest rectangle.

    With `augment` they are training samples, without `rect` and before `options.closed_from` perhaps mosaics.
    Otherwise the long side of an image is brought to `imgsz` and the rest padded with gray. `dataset[(epoch, index)]`
    depends on (seed, epoch, index) and nothing else; `dataset[index]` is epoch 0.

    Args:
        store: The labels of the split.
        options: How it is shaped, cached and augmented; `SplitOptions()` if None.
        hyp: Augmentation gains; the defaults if None.
    """

    def __init__(self, store: LabelStore, options: SplitOptions | None = None, hyp: Hyperparameters | None = None):
        self.options = options = options or SplitOptions()
        self.store = store.as_single_class() if options.single_cls else store
        self.imgsz = options.imgsz
        self.hyp = hyp or Hyperparameters()
        self._closed_hyp = without_mixing(self.hyp)
        self.shapes = self._input_shapes()
        self._images = open_images(store.paths, store.sizes, options.imgsz, options.cache, again=options.augment)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return the sample of (epoch, index). Raises DataError naming an image that cannot be read any more."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        return self._augmented(epoch, index) if self.options.augment else self._plain(index)

    def sample(self, epoch: int, index: int, bad: list[BadImage]) -> Sample | None:
        """Return the sample of (epoch, index), also if images of it cannot be read and the options tolerate that.

        A training sample is drawn anew, with neighbors in the place of bad images; one to be evaluated is left out.

        Args:
            epoch: Index of the epoch.
            index: Index of the image.
            bad: Gets what cannot be read.

        Returns:
            The sample, or None if it is left out.

        Raises:
            DataError: If an image cannot be read and that is not tolerated, or no neighbor can take its place.
        """
        if not self.options.max_bad_images:
            return self[epoch, index]
        if self.options.augment:
            images = _WithNeighbors(self)
            sample = images.read(lambda: self._augmented(epoch, index, images))
            bad += images.bad_images()
            return sample
        try:
            return self._plain(index)
        except UnreadableImageError as error:
            bad.append(BadImage(self.store.paths[index], str(error), LEFT_OUT_OF_FIGURES))
            return None

    @property
    def paths(self) -> Sequence[str]:
        return self.store.paths

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2) native (height, width)."""
        return self.store.sizes

    @property
    def box_sizes(self) -> np.ndarray:
        """(m, 2) float64 widths and heights of all objects, in pixels with the long side at `imgsz`."""
        return self.store.boxes_px(self.imgsz)

    # What augmentation reads (`image_source.ImageSource`)

    @cached_property
    def census(self) -> ObjectCensus:
        """The objects by class, image and size; made by the process that first asks."""
        return ObjectCensus.build(self.store, self.imgsz)

    def fitted(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image with its long side at `imgsz`."""
        return fitted_size(self._native(index), self.imgsz)

    def labels(self, index: int) -> Labels:
        return self.store.labels(index)

    def image(self, index: int, zoom: float) -> np.ndarray:
        """Return an image with the pixels that it needs at a zoom.

        Args:
            index: Which image.
            zoom: Multiple of its `fitted` size that it will be shown at.

        Returns:
            (H, W, 3) uint8 RGB, not to be written to.
        """
        return self._images.read(index, max(round(self.imgsz * min(zoom, 1.0)), 1))

    def _plain(self, index: int) -> Sample:
        native = self._native(index)
        image, letterbox = fit(self._images.read(index, self.imgsz), native, self.imgsz, self._shape(index))
        labels = _into(self.store.labels(index), letterbox)
        return Sample(image, labels, self.store.paths[index], letterbox, index)

    def _augmented(self, epoch: int, index: int, images: ImageSource | None = None) -> Sample:
        shape = self._shape(index)
        generator = np.random.default_rng([self.options.seed, epoch, index])
        hyp = self._closed_hyp if self._is_closed(epoch) else self.hyp
        image, labels = augmented(images or self, index, shape, hyp, generator, mosaic=not self.options.rect)
        return Sample(image, labels, self.store.paths[index], Letterbox(shape, (1.0, 1.0), (0, 0), shape), index)

    def _is_closed(self, epoch: int) -> bool:
        """Whether samples of an epoch show one image each; fixed from the start, as workers have a copy of this."""
        return self.options.closed_from is not None and epoch >= self.options.closed_from

    def _native(self, index: int) -> tuple[int, int]:
        height, width = self.store.sizes[index]
        return int(height), int(width)

    def _shape(self, index: int) -> tuple[int, int]:
        height, width = self.shapes[index]
        return int(height), int(width)

    def _input_shapes(self) -> np.ndarray:
        """(n, 2) height and width of every input."""
        if not self.options.rect:
            return np.full((len(self.store), 2), self.imgsz, np.int32)
        stride, pad = self.options.stride, self.options.pad
        native, which = np.unique(self.store.sizes, axis=0, return_inverse=True)
        shapes = [minimal_shape((int(height), int(width)), self.imgsz, stride, pad) for height, width in native]
        return np.array(shapes, np.int32).reshape(-1, 2)[which.reshape(-1)]


def without_mixing(hyp: Hyperparameters) -> Hyperparameters:
    """Return the gains of the epochs that `close_mosaic` counts: nothing joins images or moves objects between them.

    Their samples look as the images of validation do, up to view, flips and colors (YOLOX, arXiv 2107.08430, 2.1).
    """
    return hyp.replace(mosaic=0, mosaic9=0, mixup=0, copy_paste=0, box_paste=0)


class _WithNeighbors:
    """The images of a dataset for one sample, with a neighbor in the place of each that turned out to be unreadable."""

    def __init__(self, dataset: DetectionDataset):
        self.dataset = dataset
        self.reasons: dict[int, str] = {}

    def read(self, draw: Callable[[], Sample]) -> Sample:
        """Return what `draw` returns; it is called again as long as it meets another image that cannot be read."""
        while True:
            try:
                return draw()
            except UnreadableImageError as error:
                if len(self.reasons) == MOST_BAD_PER_SAMPLE:
                    raise DataError(f"{error}; {len(self.reasons)} images in its place cannot be read either") from None
                self.reasons[error.index] = str(error)
                self._resolved(error.index)

    def bad_images(self) -> Iterator[BadImage]:
        paths = self.dataset.store.paths
        for index, reason in self.reasons.items():
            yield BadImage(paths[index], reason, f"replaced by {paths[self._resolved(index)]}")

    @property
    def census(self) -> ObjectCensus:
        return self.dataset.census

    def __len__(self) -> int:
        return len(self.dataset)

    def fitted(self, index: int) -> tuple[int, int]:
        return self.dataset.fitted(self._resolved(index))

    def labels(self, index: int) -> Labels:
        return self.dataset.labels(self._resolved(index))

    def image(self, index: int, zoom: float) -> np.ndarray:
        return self.dataset.image(self._resolved(index), zoom)

    def _resolved(self, index: int) -> int:
        """The image itself or, if it is bad, its first neighbor that is not known to be."""
        if index not in self.reasons:
            return index
        others = neighbors(index, self.dataset.shapes, self.dataset.options.seed)
        found = next((other for other in others if other not in self.reasons), None)
        if found is None:
            raise DataError(f"{self.reasons[index]}; there is no other image of its shape to take in its place")
        return found


def _into(labels: Labels, letterbox: Letterbox) -> Labels:
    """Labels of an image as labels of its network input."""
    height, width = letterbox.shape
    scaled = [letterbox.native[1] * letterbox.ratio[0], letterbox.native[0] * letterbox.ratio[1]]
    inner, outer = np.array(scaled, np.float32), np.array([width, height], np.float32)
    center = (labels.xywhn[:, :2] * inner + np.array(letterbox.pad, np.float32)) / outer
    return Labels(labels.cls, np.concatenate((center, labels.xywhn[:, 2:] * (inner / outer)), 1))


def collate(samples: Sequence[Sample]) -> Batch:
    """Return samples of one shape as a batch, their images in one contiguous (B, H, W, 3) block."""
    height, width = samples[0].image.shape[:2]
    block = _block((len(samples), height, width, 3))
    pixels = block.numpy()
    for index, sample in enumerate(samples):
        pixels[index] = sample.image
    return Batch(
        block.permute(0, 3, 1, 2),
        targets([sample.labels for sample in samples]),
        tuple(sample.path for sample in samples),
        tuple(sample.letterbox for sample in samples),
        tuple(sample.index for sample in samples),
    )


def targets(labels: Sequence[Labels]) -> torch.Tensor:
    """Return (M, 6) float32 rows: index in the batch, class, xywh normalized."""
    counts = [len(each) for each in labels]
    rows = np.empty((sum(counts), 6), np.float32)
    rows[:, 0] = np.repeat(np.arange(len(labels)), counts)
    rows[:, 1] = np.concatenate([each.cls for each in labels])
    rows[:, 2:] = np.concatenate([each.xywhn for each in labels])
    return torch.from_numpy(rows)


def _block(shape: tuple[int, ...]) -> torch.Tensor:
    """An uint8 tensor; in a worker process one in shared memory, so that handing it over copies nothing."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.empty(shape, dtype=torch.uint8).share_memory_()
