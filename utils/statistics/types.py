"""What the statistics get and give: the matched detections of an evaluation, a difference and its verdict."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class MatchedDetections:
    """The matched detections of one evaluation, enough to compute AP for any resampling of its images.

    image (n,) int32: place of the image in the data set; conf (n,) float32; cls (n,) int32; correct (n, 10) bool at IoU 0.50 to
    0.95; labels (images, nc) int32: labels of each class in each image. Rows are in the order in which
    utils.metrics.average_precision ranks them (falling confidence, ties by its frozen shuffle). A detection is correct at thresholds side by
    side: from those that a more confident claimant of its label misses up to its own IoU.
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
                "MatchedDetections: a detection is correct at thresholds side by side, got gaps between them"
            )

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def nc(self) -> int:
        return self.labels.shape[1]

    def save(self, path: str | Path) -> None:
        """Write `path` (.npz), compressed; arrays only."""
        np.savez_compressed(path, **asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "MatchedDetections":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Difference:
    """A variant against the baseline in one metric (variant minus baseline, paired by seed).

    interval: 95 % by bootstrap over images and seeds; p: paired permutation test; p_holm: corrected over the variants;
    verdict: "better", "worse" or "no difference shown" (never better or worse where the interval holds zero);
    sentence: the verdict in words.
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
