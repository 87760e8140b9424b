"""YOLOv5's create_dataloader and LoadImagesAndLabels, over our dataset and loader."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.compat.image_loaders import img2label_paths
from utils.config import Hyperparameters, LoaderOptions, SplitOptions
from utils.config.yaml_files import MOST_CLASSES
from utils.datasets.dataset import DetectionDataset
from utils.datasets.labels import read_labels
from utils.datasets.loader import Loader, sampling_weights
from utils.types import Letterbox, Sample

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]] | None
Item = tuple[Tensor, Tensor, str, Shapes]
Batch = tuple[Tensor, Tensor, tuple[str, ...], tuple[Shapes, ...]]


def _shapes(letterbox: Letterbox) -> Shapes:
    """v6.1's record of a letterbox: size, ratios (y, x), border (x, y)."""
    return letterbox.native, ((letterbox.ratio[1], letterbox.ratio[0]), letterbox.pad)


def _hyperparameters(hyp: Any) -> Hyperparameters | None:
    if not isinstance(hyp, Mapping):
        return hyp
    known = {each.name for each in fields(Hyperparameters)}
    return Hyperparameters(**{name: value for name, value in hyp.items() if name in known})


class LoadImagesAndLabels(Dataset):
    """The labeled images of a folder or list: item i is (image, labels, path, shapes).

    image: (3, H, W) uint8 RGB. labels: (n, 6) zeros, class id, xywh normalized. shapes: ((height, width), ((ratio of y,
    ratio of x), (left, top))), or None for training samples.

    Args:
        path: A folder or a .txt list of images, or several.
        img_size: Side of the network's input in pixels.
        batch_size: Not used here.
        augment: Whether items are training samples.
        hyp: Augmentation gains, a mapping as in v6.1.
        rect: Whether each image has its own smallest rectangle.
        image_weights: Not used here.
        cache_images: Keep decoded images: True or "ram", "disk".
        single_cls: Count every object as class 0.
        stride: Largest stride of the network.
        pad: Strides of border around rectangles.
        prefix: Not used.

    Attributes:
        labels: (n, 5) class id, xywh normalized, per image.
        shapes: (images, 2) width and height.
        img_files: The image files; `im_files` in v6.2.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: int = 640,
        batch_size: int = 16,
        augment: bool = False,
        hyp: Any = None,
        rect: bool = False,
        image_weights: bool = False,
        cache_images: bool | str = False,
        single_cls: bool = False,
        stride: int = 32,
        pad: float = 0.0,
        prefix: str = "",
    ):
        options = SplitOptions(
            imgsz=img_size,
            stride=int(stride),
            rect=rect,
            pad=pad,
            augment=augment,
            single_cls=single_cls,
            cache_labels=False,  # that of a training knows the number of classes
            cache="ram" if cache_images is True else str(cache_images) if cache_images else None,
        )
        store = read_labels(path, MOST_CLASSES, options, split=str(prefix).strip(" :") or "data")
        self.inner = DetectionDataset(store, options, _hyperparameters(hyp))
        self.img_size, self.stride, self.rect, self.augment = img_size, int(stride), rect, augment
        self.mosaic = augment and not rect
        self.img_files = self.im_files = list(self.inner.paths)
        self.label_files = img2label_paths(self.img_files)
        labels = [self.inner.store.labels(index) for index in range(len(self.inner))]
        self.labels = [np.column_stack((each.cls, each.xywhn)).astype(np.float32) for each in labels]
        self.shapes = np.asarray(self.inner.sizes)[:, ::-1].astype(np.float64)
        self.n, self.indices = len(self.inner), range(len(self.inner))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        return self.item(self.inner[index])

    def item(self, sample: Sample) -> Item:
        """Return a sample as v6.1's tuple."""
        rows = torch.zeros(len(sample.labels), 6)
        rows[:, 1] = torch.from_numpy(sample.labels.cls).float()
        rows[:, 2:] = torch.from_numpy(sample.labels.xywhn)
        image = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))
        return image, rows, sample.path, None if self.augment else _shapes(sample.letterbox)

    @staticmethod
    def collate_fn(batch: Sequence[Item]) -> Batch:
        """Return items of one shape as a batch; column 0 of the labels becomes the index of the image."""
        images, labels, paths, shapes = zip(*batch, strict=True)
        rows = [each.clone() for each in labels]
        for index, each in enumerate(rows):
            each[:, 0] = index
        return torch.stack(images), torch.cat(rows), paths, shapes


class ScriptLoader:
    """Batches (images, targets, paths, shapes) of our loader; each iteration is an epoch.

    Args:
        loader: Ours.
        dataset: What it loads.
    """

    def __init__(self, loader: Loader, dataset: LoadImagesAndLabels):
        self.loader, self.dataset = loader, dataset
        self.batch_size, self.num_workers = loader.batch_size, loader.workers
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self.epoch += 1
        for batch in self.loader.epoch(self.epoch - 1):
            shapes = [None if self.dataset.augment else _shapes(each) for each in batch.letterboxes]
            yield batch.images.contiguous(), batch.targets, batch.paths, tuple(shapes)


def create_dataloader(
    path: str | Path | Sequence[str | Path],
    imgsz: int,
    batch_size: int,
    stride: int,
    single_cls: bool = False,
    hyp: Any = None,
    augment: bool = False,
    cache: bool | str = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
) -> tuple[ScriptLoader, LoadImagesAndLabels]:
    """Return the batches of a folder or list of labeled images, and their dataset.

    Args:
        path: A folder or a .txt list of images, or several.
        imgsz: Side of the network's input in pixels.
        batch_size: Images per batch.
        stride: Largest stride of the network.
        single_cls: Count every object as class 0.
        hyp: Augmentation gains, a mapping as in v6.1.
        augment: Whether they are training samples.
        cache: Keep decoded images: True or "ram", "disk".
        pad: Strides of border around rectangles.
        rect: Whether each image has its own smallest rectangle; a batch holds images of one shape.
        rank: Not used.
        workers: Most worker processes.
        image_weights: Whether images of rare classes are drawn more often.
        quad: Whether four inputs are joined to one of twice the size.
        prefix: Begins messages.
        shuffle: Whether the order is drawn anew in each epoch, as v6.1 does for training samples without `rect`.

    Returns:
        The batches (images (B, 3, H, W) uint8 RGB, targets (M, 6), paths, shapes), and the dataset.
    """
    dataset = LoadImagesAndLabels(
        path, imgsz, batch_size, augment, hyp, rect, image_weights, cache, single_cls, stride, pad, prefix
    )
    options = LoaderOptions(
        batch_size=min(batch_size, len(dataset)), workers=workers, shuffle=shuffle and not rect, quad=quad
    )
    weights = sampling_weights(dataset.inner.store) if image_weights else None
    return ScriptLoader(Loader(dataset.inner, options, weights), dataset), dataset
