"""Records of the statistics: the matched detections of an evaluation, and a difference with its verdict."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np


@dataclass(frozen=True)
class MatchedDetections:
    """The matched detections of one evaluation, enough to compute AP for any resampling of its images.

    Rows are in the order in which utils.metrics.average_precision ranks them (falling confidence, ties by its frozen
    shuffle). The thresholds at which a detection is correct are contiguous: from the first that a more confident
    candidate for its label does not reach, up to its own IoU.

    Attributes:
        image: (n,) int32 position of the image in the dataset.
        conf: (n,) float32, 0..1.
        cls: (n,) int32 class ids.
        correct: (n, 10) bool at IoU 0.50, 0.55, ... 0.95.
        labels: (images, nc) int32 number of labels of each class in each image.
    """

    image: np.ndarray
    conf: np.ndarray
    cls: np.ndarray
    correct: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        shapes = self.image.shape, self.conf.shape, self.cls.shape, self.correct.shape
        count = len(self.image)
        if shapes != ((count,), (count,), (count,), (count, 10)) or self.labels.ndim != 2:
            raise ValueError(
                f"MatchedDetections: expected image, conf, cls ({count},), correct ({count}, 10), labels (images, nc), "
                f"got {shapes} and {self.labels.shape}"
            )
        if (np.diff(self.correct, axis=1, prepend=False, append=False).sum(1) > 2).any():
            raise ValueError(
                "MatchedDetections: expected detections that are correct at contiguous thresholds, got gaps"
            )

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def nc(self) -> int:
        return self.labels.shape[1]

    def save(self, file: str | Path | BinaryIO) -> None:
        """Write a compressed .npz, arrays only, to a path or an open file."""
        np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> "MatchedDetections":
        """Return the record that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Difference:
    """A variant compared with the baseline in one metric: variant minus baseline, paired by seed.

    Attributes:
        variant: Name of the variant.
        metric: "mAP50-95", "mAP50", "AP75" or "class/<name>".
        difference: Mean over the seeds, -1..1.
        per_seed: The difference of each seed.
        interval: 95 %, over images and seeds; nan if there are too few images.
        p: Of the paired permutation test.
        p_holm: Corrected over the variants.
        verdict: "better", "worse" or "no difference shown"; never better or worse if the interval contains zero.
        sentence: The verdict in words.
    """

    variant: str
    metric: str
    difference: float
    per_seed: dict[int, float]
    interval: tuple[float, float]
    p: float
    p_holm: float
    verdict: str
    sentence: str
