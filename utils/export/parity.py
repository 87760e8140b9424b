"""Parity: what a file's runtime computes on real images, compared with torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.boxes import iou_matrix
from utils.datasets.letterboxing import letterbox
from utils.export.graph_network import GraphNetwork
from utils.images import read_image
from utils.nms import non_max_suppression
from utils.types import Detections

RunImages = Callable[[np.ndarray], np.ndarray]  # (B, 3, H, W) float32 in 0..1 -> (B, N, 5+nc)
RunSuppressed = Callable[[np.ndarray], tuple[np.ndarray, ...]]  # the same -> boxes, scores, classes, counts
_SOLID = 0.05  # confidence from which a prediction counts where precision is lower
_LEAST_ROWS = 100  # predictions that are compared at least, whatever their confidence
_SIDE = 32  # pixels: boxes are compared relative to their longer side, or to this if it is shorter
_AGREEMENT_IOU = 0.5
_ROUNDINGS = 4  # a file's rounding errors are as likely as torch's own, and may fall less well


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from torch.

    Attributes:
        box: Largest difference of a box, as a share of its longer side (of 32 pixels if that is shorter).
        score: Largest difference of objectness and class scores.
        all_rows: Compare every prediction; if not, those of a confidence over 0.05, or the 100 most confident.
        agreement: Least share of detections that both have, instead of the other two: 8-bit files, and files in half
            precision that suppress boxes themselves.
    """

    box: float
    score: float
    all_rows: bool = True
    agreement: float | None = None


EXACT = Tolerance(5e-4, 5e-4)
HALF = Tolerance(0.05, 0.05, all_rows=False)
HALF_SUPPRESSED = Tolerance(0.0, 0.0, all_rows=False, agreement=0.9)  # a detection at the threshold may drop out
EIGHT_BIT = Tolerance(0.0, 0.0, all_rows=False, agreement=0.5)


@dataclass(frozen=True)
class OutputDifference:
    """How far predictions are from torch's on some images.

    Attributes:
        pixels: Largest difference of a box's center or side in pixels.
        box: The same as a share of the box, see `Tolerance`.
        score: Largest difference of objectness or a class score.
        finite: Whether the file's output is finite wherever torch's is.
        agreement: Share of detections that both have, of all that either has.
    """

    pixels: float
    box: float
    score: float
    finite: bool = True
    agreement: float = 1.0

    def within(self, tolerance: Tolerance, rounding: "OutputDifference | None" = None) -> bool:
        """Return whether a file may be handed out.

        Args:
            tolerance: How far it may be from torch.
            rounding: How far torch in float32 is from itself in float64, if that is known: what a network amplifies by
                itself is no fault of a file, which may be four times as far.

        Returns:
            Whether it may.
        """
        if tolerance.agreement is not None:
            return self.finite and self.agreement >= tolerance.agreement
        box, score = (0.0, 0.0) if rounding is None else (_ROUNDINGS * rounding.box, _ROUNDINGS * rounding.score)
        return self.finite and self.box <= max(tolerance.box, box) and self.score <= max(tolerance.score, score)

    def describe(self, tolerance: Tolerance) -> str:
        """Return the figures that the tolerance is about, as text."""
        if not self.finite:
            return "values that are not finite"
        if tolerance.agreement is not None or not np.isfinite(self.pixels):
            return f"{self.agreement:.0%} of the detections agree"
        return f"largest difference {self.pixels:.2g} px, {self.score:.2g} in scores"

    @staticmethod
    def largest(parts: Iterable["OutputDifference"]) -> "OutputDifference":
        """Return the largest of several differences, figure by figure."""
        parts = list(parts)
        return OutputDifference(
            max(part.pixels for part in parts),
            max(part.box for part in parts),
            max(part.score for part in parts),
            all(part.finite for part in parts),
            min(part.agreement for part in parts),
        )


def compare_outputs(found: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> OutputDifference:
    """Return how far a file's predictions are from torch's.

    Args:
        found: (B, N, 5+nc) of the file.
        expected: (B, N, 5+nc) of torch.
        tolerance: Says which predictions are compared.

    Returns:
        The difference; not finite if the shapes differ.
    """
    if found.shape != expected.shape or not np.isfinite(found[np.isfinite(expected)]).all():
        return OutputDifference(np.inf, np.inf, np.inf, finite=False, agreement=0.0)
    rows = slice(None)
    agreement = 1.0
    if not tolerance.all_rows:
        confidence = (expected[..., 4] * expected[..., 5:].max(-1)).ravel()
        least = min(_SOLID, np.partition(confidence, -min(_LEAST_ROWS, len(confidence)))[-_LEAST_ROWS:].min())
        rows = confidence >= least
        agreement = _agreement(*(non_max_suppression(torch.from_numpy(each)) for each in (found, expected)))
    one, other = (values.reshape(-1, values.shape[-1])[rows].astype(np.float64) for values in (found, expected))
    boxes = np.abs(one[:, :4] - other[:, :4]).max(1)
    longer = np.maximum(other[:, 2:4].max(1), _SIDE)
    scores = np.abs(one[:, 4:] - other[:, 4:])
    return OutputDifference(float(boxes.max()), float((boxes / longer).max()), float(scores.max()), True, agreement)


def compare_file(run: RunImages, network: GraphNetwork, images: Tensor, tolerance: Tolerance) -> OutputDifference:
    """Return how far a file is from a network on a batch of images.

    Args:
        run: Runs the file.
        network: A `GraphNetwork` in torch, in the precision to compare with.
        images: (B, 3, H, W) in 0..1.
        tolerance: Says which predictions are compared.

    Returns:
        The difference.
    """
    with torch.no_grad():
        expected = network(images.to(network.device)).cpu().numpy()
    return compare_outputs(np.asarray(run(images.cpu().numpy())), expected, tolerance)


def rounding_of(network: GraphNetwork, images: Tensor) -> OutputDifference:
    """Return how far a network in float32 is from itself in float64.

    Args:
        network: In float32, on a device that has float64.
        images: (B, 3, H, W) in 0..1.

    Returns:
        The difference.
    """
    with torch.no_grad():
        images = images.to(network.device)
        expected = network.in_float64()(images).cpu().numpy()
        return compare_outputs(network(images).cpu().numpy(), expected, EXACT)


def compare_suppressed(
    run: RunSuppressed, network: GraphNetwork, images: Tensor, options: dict[str, Any], max_det: int
) -> OutputDifference:
    """Return how far a file with NMS inside is from torch followed by `non_max_suppression`.

    Args:
        run: Runs the file; returns boxes (B, K, 4), scores (B, K), classes (B, K) and counts (B,).
        network: A `GraphNetwork` in torch.
        images: (B, 3, H, W) in 0..1.
        options: `conf_thres`, `iou_thres` and `agnostic` of `non_max_suppression`.
        max_det: Rows per image of the file.

    Returns:
        The difference between each detection and its nearest one of the same class; infinite if a detection has no
        partner, and then the agreement counts.
    """
    with torch.no_grad():
        expected = non_max_suppression(network(images.to(network.device)), **options, max_det=max_det)
    expected = [each.cpu() for each in expected]
    boxes, scores, classes, counts = (torch.as_tensor(np.asarray(each)) for each in run(images.cpu().numpy()))
    found = [
        Detections(boxes[index, :count].float(), scores[index, :count].float(), classes[index, :count].long())
        for index, count in enumerate(counts.tolist())
    ]
    agreement = _agreement(found, expected)
    if agreement < 1 or any(len(one) != len(other) for one, other in zip(found, expected, strict=True)):
        return OutputDifference(np.inf, np.inf, np.inf, agreement=agreement)
    return OutputDifference.largest(_nearest(one, other) for one, other in zip(found, expected, strict=True))


def _nearest(one: Detections, other: Detections) -> OutputDifference:
    """Return how far detections are from the nearest ones of their class, of which there are some."""
    if not len(one):
        return OutputDifference(0.0, 0.0, 0.0)
    apart = (one.xyxy[:, None] - other.xyxy).abs().amax(2)  # (n, m) pixels
    pixels, nearest = apart.masked_fill(one.cls[:, None] != other.cls, np.inf).min(1)
    sides = (other.xyxy[nearest, 2:] - other.xyxy[nearest, :2]).amax(1).clamp(min=_SIDE)
    scores = (one.conf - other.conf[nearest]).abs()
    return OutputDifference(float(pixels.max()), float((pixels / sides).max()), float(scores.max()))


def check_batches(
    files: Sequence[Path | str], imgsz: tuple[int, int], stride: int, batch: int = 1, dynamic: bool = False
) -> list[Tensor]:
    """Return real images as network inputs: of a fixed file's shape, or of two sizes and two batches.

    Args:
        files: Images.
        imgsz: (height, width) of the file's input in pixels.
        stride: Multiple of which the other size is.
        batch: Images per batch of a fixed file.
        dynamic: Whether other shapes are tried.

    Returns:
        (B, 3, H, W) float32 in 0..1 each.
    """
    images = [read_image(path)[0] for path in files]
    if not dynamic:
        return [_stack([images[(first + index) % len(images)] for index in range(batch)], imgsz) for first in range(2)]
    other = (_smaller(imgsz[0], 0.6, stride), _smaller(imgsz[1], 0.8, stride))
    return [_stack(images[:1], imgsz), _stack([images[0], images[-1]], other)]


def _smaller(side: int, share: float, stride: int) -> int:
    return max(round(side * share / stride) * stride - (stride if side == stride else 0), stride)


def _stack(images: Sequence[np.ndarray], shape: tuple[int, int]) -> Tensor:
    canvases = [letterbox(image, shape)[0] for image in images]
    return torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).contiguous().float() / 255


def _agreement(found: Sequence[Detections], expected: Sequence[Detections]) -> float:
    """Return the share of detections that have a partner of the same class on the other side, at IoU 0.5."""
    partners = total = 0
    for one, other in zip(found, expected, strict=True):
        total += len(one) + len(other)
        if len(one) and len(other):
            pairs = (iou_matrix(one.xyxy, other.xyxy) > _AGREEMENT_IOU) & (one.cls[:, None] == other.cls)
            partners += int(pairs.any(1).sum() + pairs.any(0).sum())
    return partners / total if total else 1.0
