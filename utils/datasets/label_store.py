"""The labels of a whole dataset in a few flat arrays.

Flat arrays, not Python objects: worker processes share their pages instead of copying them
as reference counts change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.datasets.label_problems import Problem
from utils.types import Labels


class Texts(Sequence):
    """An immutable list of strings in one byte array."""

    def __init__(self, texts: Iterable[str]):
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.concatenate(([0], np.cumsum([len(text) for text in encoded], dtype=np.int64))).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class LabelStore:
    """n images and the m objects on them.

    Attributes:
        paths: n strings.
        sizes: (n, 2) int32 native height and width in pixels.
        offsets: (n + 1,) int64; the objects of image i are offsets[i]:offsets[i + 1].
        cls: (m,) int64 class ids.
        xywhn: (m, 4) float32 in 0..1.
        points: (p, 2) float32, all polygons' points in 0..1.
        point_offsets: (m + 1,) int64 into them; an object without polygon has none.
        summary: One line for the user.
        problems: What was wrong.
    """

    paths: Sequence[str]
    sizes: np.ndarray
    offsets: np.ndarray
    cls: np.ndarray
    xywhn: np.ndarray
    points: np.ndarray
    point_offsets: np.ndarray
    summary: str = ""
    problems: tuple[Problem, ...] = ()

    def __post_init__(self):
        n, m = len(self.paths), len(self.cls)
        expected = {"sizes": (n, 2), "offsets": (n + 1,), "xywhn": (m, 4), "point_offsets": (m + 1,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"LabelStore: expected {name} {shape}, got {getattr(self, name).shape}")
        if not len(self.points):  # one zero seen m + 1 times: 8 bytes less for each of the objects
            object.__setattr__(self, "point_offsets", np.broadcast_to(np.zeros((), np.int64), (m + 1,)))

    @staticmethod
    def build(
        paths: Iterable[str], sizes: Sequence[tuple[int, int]], labels: Sequence[Labels], **more: Any
    ) -> "LabelStore":
        """Return a store of images and their labels.

        Args:
            paths: Files of the images.
            sizes: Native (height, width) of each.
            labels: Objects of each.
            **more: `summary` and `problems`.

        Returns:
            The store.
        """
        segments = [segment for label in labels for segment in (label.segments or [np.zeros((0, 2))] * len(label))]
        return LabelStore(
            Texts(paths),
            np.array(sizes, np.int32).reshape(-1, 2),
            _offsets(len(label) for label in labels),
            np.concatenate([label.cls for label in labels] or [np.zeros(0)]).astype(np.int64),
            np.concatenate([label.xywhn for label in labels] or [np.zeros((0, 4))]).astype(np.float32),
            np.concatenate(segments or [np.zeros((0, 2))]).astype(np.float32),
            _offsets(map(len, segments)),
            **more,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, index: int) -> Labels:
        """Return the objects of an image: views of the store, not to be written to."""
        first, last = self.offsets[index], self.offsets[index + 1]
        bounds = self.point_offsets[first : last + 1]
        segments: tuple[np.ndarray, ...] = ()
        if bounds[0] < bounds[-1]:
            segments = tuple(self.points[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True))
        return Labels(self.cls[first:last], self.xywhn[first:last], segments)

    @property
    def image_of(self) -> np.ndarray:
        """(m,) index of the image of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def class_counts(self, nc: int) -> np.ndarray:
        """Return (nc,) objects per class."""
        return np.bincount(self.cls, minlength=nc)

    def boxes_px(self, imgsz: int | None = None) -> np.ndarray:
        """Return (m, 2) float64 widths and heights in pixels: native, or with the long side at `imgsz`."""
        sizes = self.sizes[:, ::-1].astype(np.float64)
        if imgsz is not None:
            sizes *= imgsz / sizes.max(1, keepdims=True)
        return self.xywhn[:, 2:] * sizes[self.image_of]

    def as_single_class(self) -> "LabelStore":
        """Return the same store with every object of class 0."""
        return replace(self, cls=np.zeros_like(self.cls))


def _offsets(counts: Iterable[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(np.fromiter(counts, np.int64)))).astype(np.int64)
