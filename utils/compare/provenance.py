"""What a study was made with: a hash of its data, versions, the revision of the source, the machine."""

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.config import DatasetSpec, SplitOptions
from utils.config.compare_options import CompareConfig
from utils.datasets.splits import open_split
from utils.files import ROOT, read_text

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "thop")


def data_facts(config: CompareConfig, spec: DatasetSpec, split: str) -> dict[str, Any]:
    """Return the facts of a split: its hash, the number of images and objects, and objects by class name.

    The hash is the SHA-256 over name, size and labels of each image, in order of name; folders and pixels do not count.

    Args:
        config: Input size, label policy and single-class mode; whether labels are cached and the data downloaded.
        spec: The dataset.
        split: "train", "val" or "test".

    Returns:
        "hash", "images", "objects" and "by_class".

    Raises:
        DataError: The split cannot be read.
    """
    store = open_split(spec, split, SplitOptions.of(config)).store
    digest = hashlib.sha256()
    for image_index in sorted(range(len(store)), key=lambda index: Path(store.paths[index]).name):
        labels = store.labels(image_index)
        height, width = store.sizes[image_index]
        name = Path(store.paths[image_index]).name
        digest.update(f"{name} {width} {height} {len(labels)}\n".encode("utf-8", "surrogateescape"))
        digest.update(labels.cls.astype("<i8").tobytes() + labels.xywhn.astype("<f4").tobytes())
    counts = np.bincount(store.cls, minlength=spec.nc)
    return {
        "hash": digest.hexdigest(),
        "images": len(store),
        "objects": int(len(store.cls)),
        "by_class": {name: int(count) for name, count in zip(spec.names, counts, strict=True)},
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, the libraries and the source, and the machine."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["source"] = revision() or "no git revision"
    found["system"] = f"{platform.system()} {platform.machine()}"
    return found


def device_name(device: torch.device) -> str:
    """Return the name of a device: the GPU's, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = read_text("/proc/cpuinfo").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{device.type} ({model or platform.machine()})"


def revision(root: Path = ROOT) -> str:
    """Return the commit that the source's git folder has checked out, "" without one, whatever has changed since."""
    git = root / ".git"
    try:
        if git.is_file():  # a linked worktree
            git = (root / read_text(git).partition(":")[2].strip()).resolve()
        head = read_text(git / "HEAD").strip()
        if not head.startswith("ref:"):
            return head
        name = head.partition(":")[2].strip()
        common = git / read_text(git / "commondir").strip() if (git / "commondir").exists() else git
        if (common / name).exists():
            return read_text(common / name).strip()
        packed = [line.split() for line in read_text(common / "packed-refs").splitlines() if line.endswith(f" {name}")]
        return packed[0][0] if packed else ""
    except OSError:
        return ""
