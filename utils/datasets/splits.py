"""From the description of a dataset to a split that is ready to be read."""

from pathlib import Path

from utils.config import DatasetSpec, Hyperparameters, SplitOptions
from utils.datasets.dataset import DetectionDataset
from utils.datasets.labels import read_labels
from utils.datasets.prepare import ensure


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
    store = read_labels(spec.paths(split), spec.nc, options, names=spec.names, report_dir=report_dir, split=split)
    return DetectionDataset(store, options, hyp)
