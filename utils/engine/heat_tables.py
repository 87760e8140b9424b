"""The tables of a run of heatmap.py: maps, sanity checks, curves and their areas."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from utils.datasets.sources import Frame
from utils.engine.heat_map_maker import HeatResult
from utils.heatmaps.deletion import TrustCurve
from utils.heatmaps.randomization import SanityStep

_COMMON = ("image", "frame", "network", "method", "layer")
_FIELDS = {
    "heatmaps.csv": (
        *_COMMON, "weights", "target", "score", "maximum", "peak_x", "peak_y", "peak_inside", "share_inside",
        "area_inside", "boxes",
    ),
    "sanity.csv": (*_COMMON, "draw", "depth", "row", "spearman", "ssim", "flat"),
    "curves.csv": (*_COMMON, "kind", "order", "share", "score"),
    "areas.csv": (*_COMMON, "kind", "order", "area"),
}  # fmt: skip


class HeatTables:
    """Writes the rows of each image as soon as they are known; a table without rows is not there.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, TextIO] = {}

    def add_maps(self, frame: Frame, result: HeatResult) -> None:
        """Write a row per map, or one that says that nothing was found.

        Args:
            frame: The image.
            result: Its maps.
        """
        known = {"weights": result.source.weights, "target": result.target_title()}
        if result.target is None:
            self._write("heatmaps.csv", [{**_common(frame, result, ""), **known}])
            return
        chosen = list(result.chosen)
        score = round(float(result.native.conf[chosen].sum()), 5)
        boxes = " ".join(",".join(f"{side:.1f}" for side in corners) for corners in result.native.xyxy[chosen].tolist())
        self._write(
            "heatmaps.csv",
            [
                {**_common(frame, result, heat.title), **known, "score": score, "boxes": boxes, **result.figures(heat)}
                for heat in result.maps
            ],
        )

    def add_sanity(self, frame: Frame, result: HeatResult, steps: Sequence[SanityStep]) -> None:
        """Write a row per step.

        Args:
            frame: The image.
            result: Its maps.
            steps: Of `cascade`.
        """
        common = _common(frame, result, result.final.title)
        self._write(
            "sanity.csv",
            [
                {
                    **common, "draw": step.draw, "depth": step.depth, "row": step.row,
                    "spearman": round(step.spearman, 4), "ssim": round(step.ssim, 4), "flat": int(step.flat),
                }
                for step in steps
            ],
        )  # fmt: skip

    def add_curves(self, frame: Frame, result: HeatResult, curves: Sequence[TrustCurve]) -> None:
        """Write a row per point, and one per area.

        Args:
            frame: The image.
            result: Its maps.
            curves: Of `trust_curves`.
        """
        common = _common(frame, result, result.final.title)
        for curve in curves:
            known = {**common, "kind": curve.kind, "order": curve.order}
            self._write(
                "curves.csv",
                [
                    {**known, "share": round(float(share), 4), "score": round(float(score), 5)}
                    for share, score in zip(curve.shares, curve.scores, strict=True)
                ],
            )
            self._write("areas.csv", [{**known, "area": round(curve.area, 5)}])

    def _write(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("w", newline="", encoding="utf-8")
            csv.DictWriter(self._files[name], _FIELDS[name]).writeheader()
        csv.DictWriter(self._files[name], _FIELDS[name]).writerows(rows)
        self._files[name].flush()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def _common(frame: Frame, result: HeatResult, layer: str) -> dict[str, object]:
    return {
        "image": frame.path,
        "frame": frame.number,
        "network": result.source.name,
        "method": result.method,
        "layer": layer,
    }
