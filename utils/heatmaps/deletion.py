"""Deletion and insertion: how fast a detection vanishes if the pixels that a map shows are taken away, and appears.

Petsiuk et al., RISE, BMVC 2018, section 4.2. Pixels are taken in the order of the map, equal ones in a random order.
Deleted ones become gray, as the letterbox's border is; insertion starts from a blurred image. After each part the
target's detections are looked for by their overlap: the score is the largest objectness times class score among the
predictions of at least half IoU with the original box. A curve's area is its mean over the share of pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.boxes import iou_matrix, xywh_to_xyxy
from utils.heatmaps.detection_target import HeatTarget
from utils.heatmaps.placement import content
from utils.types import Detections, Letterbox

FOUND_AGAIN = 0.5  # IoU with the original box
FILL = 114 / 255
BLUR_SHARE = 5 / 224  # deviation of the blur as a share of the longer side: RISE's 5 pixels of 224
BATCH = 8
CURVES = ("deletion", "insertion")


@dataclass(frozen=True)
class TrustCurve:
    """A deletion or insertion curve.

    Attributes:
        kind: "deletion" or "insertion".
        order: What decided the order of the pixels: "map", "random", "center" or "box".
        shares: (steps+1,) share of the pixels that are deleted or inserted, 0..1.
        scores: (steps+1,) score of the target.
    """

    kind: str
    order: str
    shares: np.ndarray
    scores: np.ndarray

    @property
    def area(self) -> float:
        """Area under the curve: low is good for deletion, high for insertion."""
        return float(np.trapezoid(self.scores, self.shares))


@dataclass(frozen=True)
class TrustSettings:
    """How curves are measured.

    Attributes:
        steps: Parts that the pixels are deleted or inserted in.
        draws: Number of random maps.
        seed: Decides random maps and the order of equal pixels.
    """

    steps: int = 32
    draws: int = 3
    seed: int = 0


class ScoreOf:
    """The score with which a target is found again in other images.

    Args:
        model: A detector in evaluation mode.
        found: The detections of the original image, in pixels of the network input.
        target: Which of them.
    """

    def __init__(self, model: nn.Module, found: Detections, target: HeatTarget):
        self._model = model
        self._boxes = found.xyxy[list(target.chosen)]
        self._classes = target.classes

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Return (B,) scores of images (B, 3, H, W); those of several detections are added."""
        decoded = self._model(images)[0]
        scores = decoded[..., 4:5] * decoded[..., 5:]
        boxes = xywh_to_xyxy(decoded[..., :4])
        return np.array([self._score(*rows) for rows in zip(boxes, scores, strict=True)])

    def _score(self, boxes: Tensor, scores: Tensor) -> float:
        near = iou_matrix(self._boxes, boxes) >= FOUND_AGAIN
        best = torch.where(near, scores[:, self._classes].T, torch.zeros_like(near, dtype=scores.dtype))
        return float(best.max(1).values.sum())


def orders(
    values: Tensor, grid: tuple[int, int], boxes: Sequence[Sequence[float]], settings: TrustSettings
) -> dict[str, list[Tensor]]:
    """Return the maps whose order of pixels is compared: the map itself, and three baselines that know no network.

    Args:
        values: (H, W) map in pixels of the resized image, without border.
        grid: (h, w) of the layer that it is from; random maps have its cells.
        boxes: xyxy of the explained detections, in pixels of the same plane.
        settings: Number of random maps and their seed.

    Returns:
        Name -> maps (H, W), several for "random".
    """
    height, width = values.shape
    generator = torch.Generator().manual_seed(settings.seed)
    noise = [torch.rand(1, 1, *grid, generator=generator, dtype=torch.float64) for _ in range(settings.draws)]
    random = [F.interpolate(each, size=(height, width), mode="bilinear")[0, 0] for each in noise]
    y = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    x = torch.arange(width, dtype=torch.float64)[None] + 0.5
    center = -torch.hypot(y - height / 2, x - width / 2)
    inside = torch.full_like(center, -torch.inf)
    for left, top, right, bottom in boxes:  # 1 at a box's center, 0 at its edge, falling on outside
        across = (x - (left + right) / 2).abs() / max(right - left, 1)
        down = (y - (top + bottom) / 2).abs() / max(bottom - top, 1)
        inside = torch.maximum(inside, 1 - 2 * torch.maximum(across, down))
    return {"map": [values.double()], "random": random, "center": [center], "box": [inside]}


def trust_curves(
    score_of: Callable[[Tensor], np.ndarray],
    image: Tensor,
    placed: Letterbox,
    maps: Mapping[str, Sequence[Tensor]],
    settings: TrustSettings,
    advance: Callable[[int], object] = lambda count: None,
) -> list[TrustCurve]:
    """Return the deletion and insertion curves of some orders of pixels; those of several random maps are averaged.

    Args:
        score_of: From images (B, 3, H, W) to scores (B,).
        image: (1, 3, H, W) of values 0..1.
        placed: How the image was put into the network input.
        maps: Of `orders`.
        settings: Number of parts, and the seed.
        advance: Called with the number of images that were scored.

    Returns:
        One curve per kind and order.
    """
    blurred = image.clone()  # whose border stays as it is
    for plane, source in zip(blurred[0], blur(image)[0], strict=True):
        content(plane, placed).copy_(content(source, placed))
    gray = torch.full_like(image, FILL)
    shares = np.linspace(0, 1, settings.steps + 1)
    curves = []
    for kind, start, end in (("deletion", image, gray), ("insertion", blurred, image)):
        for order, several in maps.items():
            scores = []
            for values in several:
                rank = torch.from_numpy(pixel_order(values.numpy(), settings.seed)).to(image.device)
                scores.append(_scores(score_of, (start, end), _planes(rank, placed, image), shares, advance))
            curves.append(TrustCurve(kind, order, shares, np.mean(scores, 0)))
    return curves


def forward_images(maps: Mapping[str, Sequence[Tensor]], settings: TrustSettings) -> int:
    """Return the number of images that `trust_curves` scores.

    Args:
        maps: Of `orders`.
        settings: Number of parts.

    Returns:
        The number.
    """
    return len(CURVES) * sum(map(len, maps.values())) * (settings.steps + 1)


def pixel_order(values: np.ndarray, seed: int) -> np.ndarray:
    """Return the place (H, W) of each pixel in the order of falling values, 0..1; equal values in a random order.

    Args:
        values: (H, W).
        seed: Decides the order of equal values.

    Returns:
        (H, W) float64: the first pixel has 0, the others rise in steps of 1 / (H W).
    """
    flat = values.ravel()
    shuffled = np.random.default_rng(seed).permutation(flat.size)
    order = shuffled[np.argsort(-flat[shuffled], kind="stable")]
    place = np.empty(flat.size)
    place[order] = np.arange(flat.size) / flat.size
    return place.reshape(values.shape)


def blur(image: Tensor) -> Tensor:
    """Return images (B, 3, H, W) blurred by a Gaussian whose deviation is 5/224 of the longer side."""
    deviation = BLUR_SHARE * max(image.shape[2:])
    reach = min(int(3 * deviation), min(image.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    weights = torch.exp(-(offsets**2) / (2 * deviation**2))
    weights = (weights / weights.sum()).view(1, 1, -1, 1).repeat(image.shape[1], 1, 1, 1)
    padded = F.pad(image, (reach, reach, reach, reach), mode="reflect")
    down = F.conv2d(padded, weights, groups=image.shape[1])
    return F.conv2d(down, weights.transpose(2, 3), groups=image.shape[1])


def _planes(rank: Tensor, placed: Letterbox, image: Tensor) -> Tensor:
    """(H, W) places in the network input; its border never changes."""
    plane = torch.full(image.shape[2:], torch.inf, dtype=rank.dtype, device=image.device)
    content(plane, placed).copy_(rank)
    return plane


def _scores(
    score_of: Callable[[Tensor], np.ndarray],
    ends: tuple[Tensor, Tensor],
    places: Tensor,
    shares: np.ndarray,
    advance: Callable[[int], object],
) -> np.ndarray:
    start, end = ends
    scores = []
    for part in torch.from_numpy(shares).to(places.device).split(BATCH):
        changed = places[None, None] < part.view(-1, 1, 1, 1)
        scores.append(score_of(torch.where(changed, end, start)))
        advance(len(part))
    return np.concatenate(scores)
