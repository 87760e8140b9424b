"""Datasets of drawn shapes that are quick to train on."""

from pathlib import Path

import yaml

SHAPES = ["disc", "triangle", "square", "star"]


def drawn_yaml(folder: Path, **images: int) -> Path:
    """A data yaml in a folder, of 64-pixel images in as many splits as are given; drawn when it is first read."""
    spec = {
        "path": str(folder / "shapes"),
        **{split: f"images/{split}" for split in images},
        "names": SHAPES,
        "generate": {"generator": "shapes", "seed": 1, **images, "size": 64},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path
