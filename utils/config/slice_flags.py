"""The flags about tiles, which detect.py, val.py and compare.py share: `--slice` and what says how."""

from typing import Any

from utils.config.flags import flag
from utils.config.option_records import SLICE_MATCHES, SLICE_MERGES, Slicing


def slice_flag() -> Any:
    """Return the field of a configuration that is `--slice`."""
    return flag(
        0,
        "also predict tiles of so many pixels per side of images that are larger, for small objects, and merge the "
        "boxes (docs/slicing.md); 0 is off",
        "integer",
        low=0,
        new=True,
    )


def overlap_flag() -> Any:
    """Return the field of a configuration that is `--overlap`."""
    return flag(
        Slicing.overlap,
        "--slice: share of a tile's side that neighbors have in common",
        "number",
        low=0,
        high=0.9,
        new=True,
    )


def slice_merge_flag() -> Any:
    """Return the field of a configuration that is `--slice-merge`."""
    return flag(
        Slicing.merge,
        "--slice: nms keeps the most confident of the boxes of one object, wbf averages them (weighted boxes fusion)",
        choices=SLICE_MERGES,
        new=True,
    )


def slice_match_flag() -> Any:
    """Return the field of a configuration that is `--slice-match`."""
    return flag(
        Slicing.match,
        "--slice: boxes of a class are one object by their iou, by ios (intersection over the smaller), or by border: "
        "by iou, and those that end at a tile's border by ios",
        choices=SLICE_MATCHES,
        new=True,
    )


def slice_thres_flag() -> Any:
    """Return the field of a configuration that is `--slice-thres`."""
    return flag(
        Slicing.threshold,
        "--slice: iou or ios above which boxes of several tiles are one object",
        "number",
        low=0,
        high=1,
        new=True,
    )


def slice_only_flag() -> Any:
    """Return the field of a configuration that is `--slice-only`."""
    return flag(False, "--slice: leave out the prediction of the whole image", "switch", new=True)
