"""What augmentation reads of a dataset: its images, their labels, and a census of its objects."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from utils.datasets.label_store import LabelStore
from utils.types import Labels

SIZE_QUANTILES = 0.05, 0.95  # of the objects, between which sizes are drawn


class ImageSource(Protocol):
    """What augmentation reads of a dataset of `len()` images."""

    @property
    def census(self) -> "ObjectCensus":
        """Its objects, counted; read only for augmentation that asks for it."""

    def __len__(self) -> int: ...

    def fitted(self, index: int) -> tuple[int, int]:
        """Return (height, width) with the long side brought to the training size."""

    def labels(self, index: int) -> Labels: ...

    def image(self, index: int, zoom: float) -> np.ndarray:
        """Return an image for use at a multiple of its fitted size.

        Args:
            index: Which image.
            zoom: Multiple of the fitted size that it will be shown at.

        Returns:
            (H, W, 3) uint8 RGB, at least that large if the file is.
        """


@dataclass(frozen=True)
class ObjectCensus:
    """The m objects of a dataset by class, by image and by size.

    Attributes:
        counts: (nc,) objects per class.
        by_class: (m,) indices of the objects, class by class.
        image_of: (m,) index of the image of each object.
        first_of: (n,) index of the first object of each image.
        cumulated: (n,) weights of the images, summed up: that of an image is the rarity of its rarest class.
        size_range: Sizes (square root of the area, in pixels with the image's long side at the training size) that 5 %
            and 95 % of the objects do not exceed.
    """

    counts: np.ndarray
    by_class: np.ndarray
    image_of: np.ndarray
    first_of: np.ndarray
    cumulated: np.ndarray
    size_range: tuple[float, float]

    @staticmethod
    def build(store: LabelStore, imgsz: int) -> "ObjectCensus":
        """Return the census of a dataset.

        Args:
            store: Its labels.
            imgsz: Training size in pixels.

        Returns:
            The census.
        """
        counts = store.class_counts(int(store.cls.max(initial=-1)) + 1)
        sizes = np.sqrt(store.boxes_px(imgsz).prod(1))
        weights = np.zeros(len(store))
        np.maximum.at(weights, store.image_of, 1 / counts[store.cls])
        low, high = np.quantile(sizes, SIZE_QUANTILES) if len(sizes) else (1.0, 1.0)
        return ObjectCensus(
            counts,
            np.argsort(store.cls, kind="stable"),
            store.image_of,
            store.offsets[:-1],
            np.cumsum(weights if weights.any() else weights + 1),
            (max(float(low), 1.0), max(float(high), 1.0)),
        )

    def __len__(self) -> int:
        return len(self.by_class)

    def draw_object(self, generator: np.random.Generator) -> tuple[int, int]:
        """Return the index of an image and that of one of its objects: each class as likely, then each of its objects.

        Raises ValueError if there are no objects.
        """
        present = np.flatnonzero(self.counts)
        if not len(present):
            raise ValueError("a dataset without objects has none to draw")
        cls = present[generator.integers(len(present))]
        start = self.counts[:cls].sum()
        chosen = self.by_class[start + generator.integers(self.counts[cls])]
        image = self.image_of[chosen]
        return int(image), int(chosen - self.first_of[image])

    def draw_image(self, generator: np.random.Generator) -> int:
        """Return the index of an image, drawn in proportion to 1 / (objects of its rarest class).

        An image without objects is drawn only if there are no others.
        """
        place = generator.random() * self.cumulated[-1]
        return min(int(np.searchsorted(self.cumulated, place, side="right")), len(self.cumulated) - 1)

    def rarity(self, cls: np.ndarray) -> float:
        """Return the mean of 1 / (objects of the class in the dataset) over objects of these classes, 0 for none."""
        return float((1 / self.counts[cls]).mean()) if len(cls) else 0.0
