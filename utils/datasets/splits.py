"""From the description of a dataset to a split that is ready to be read."""

from collections.abc import Sequence
from pathlib import Path

from utils.config import DatasetSpec, Hyperparameters, SplitOptions
from utils.datasets.dataset import DetectionDataset
from utils.datasets.label_files import has_images, list_images
from utils.datasets.labels import read_labels
from utils.datasets.prepare import ensure
from utils.files import exists


def require_images(spec: DatasetSpec, splits: Sequence[str], download: bool = False) -> None:
    """Return if each split has images, so that wrong paths are reported before a model is built.

    A dataset that is to be drawn or fetched passes: that takes time, and happens when its splits are opened.

    Args:
        spec: The dataset.
        splits: Names of the splits.
        download: Whether a dataset that is not on disk may be fetched.

    Raises:
        DataError: A folder or list is not there, holds no image, or none of the images that a list names exists.
    """
    sources = [source for split in splits for source in spec.paths(split)]
    will_be_fetched = download and spec.download is not None and not all(map(exists, sources))
    if spec.generate is not None or will_be_fetched:
        return
    ensure(spec, splits)
    for source in sources:
        if not has_images(source):
            list_images(source)  # raises the error that reading the split would


def open_split(
    spec: DatasetSpec,
    split: str,
    options: SplitOptions | None = None,
    *,
    hyp: Hyperparameters | None = None,
    report_dir: Path | str | None = None,
) -> DetectionDataset:
    """Return a split of a dataset; a dataset that its yaml says how to draw is drawn first.

    Args:
        spec: The dataset.
        split: "train", "val", "test" or another split that the data yaml names.
        options: How it is read and shaped; `SplitOptions()` if None. With `download` a dataset that is not on disk is
            fetched.
        hyp: Augmentation gains; the defaults if None.
        report_dir: Folder that gets labels_<split>.csv if label rows have problems.

    Returns:
        The images and labels of the split.

    Raises:
        DataError: If the split is not there or has no usable label.
    """
    options = options or SplitOptions()
    ensure(spec, (split,), download=options.download)
    store = read_labels(
        spec.paths(split),
        spec.nc,
        options,
        names=spec.names,
        report_dir=report_dir,
        split=split,
        keypoints=spec.keypoints,
    )
    return DetectionDataset(store, options, hyp)
