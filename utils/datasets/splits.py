"""From a data set's description to a split that is ready to be read."""

from pathlib import Path

from utils.config import DatasetSpec, Hyperparameters
from utils.datasets.dataset import DetectionDataset
from utils.datasets.labels import read_labels
from utils.datasets.prepare import ensure


def open_split(
    spec: DatasetSpec,
    split: str,
    *,
    imgsz: int,
    stride: int = 32,
    augment: bool = False,
    hyp: Hyperparameters | None = None,
    rect: bool = False,
    pad: float = 0.0,
    cache: str | None = None,
    single_cls: bool = False,
    labels_policy: str = "skip",
    cache_labels: bool = True,
    seed: int = 0,
    download: bool = False,
    report_dir: Path | str | None = None,
) -> DetectionDataset:
    """Return the split "train", "val" or "test" of a data set.

    Draws a data set that is made from a description, fetches one only with `download`, and raises DataError where
    it is not there or has no usable label. The other options are `DetectionDataset`'s and `read_labels`'.
    """
    ensure(spec, (split,), download=download)
    store = read_labels(
        spec.paths(split),
        spec.nc,
        names=spec.names,
        policy=labels_policy,
        single_cls=single_cls,
        cache=cache_labels,
        report_dir=report_dir,
        split=split,
    )
    return DetectionDataset(
        store,
        imgsz,
        stride=stride,
        augment=augment,
        hyp=hyp,
        rect=rect,
        pad=pad,
        cache=cache,
        single_cls=single_cls,
        seed=seed,
    )
