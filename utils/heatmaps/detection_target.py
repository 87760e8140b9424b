"""What a heat map explains: detections after suppression, traced back to their rows of the decoded predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from utils.class_choice import class_ids
from utils.config import PredictOptions
from utils.errors import ConfigError, cut, nearest
from utils.nms import traced_suppression
from utils.types import Detections


@dataclass(frozen=True)
class TargetChoice:
    """Which detections are explained.

    Attributes:
        target: "box" (one detection), "class" (all of its class), or the name of a class.
        box: Which detection, 1 being the most confident.
    """

    target: str = "box"
    box: int = 1

    def require_known(self, names: Sequence[str], weights: str) -> None:
        """Return if the target is a word or one of the classes.

        Args:
            names: Class names of the network.
            weights: The file that they are from.

        Raises:
            ConfigError: If it is neither; the line names the nearest classes.
        """
        if self.target not in ("box", "class", *names):
            raise ConfigError(
                f"--target {cut(self.target)}: expected box, class, or a class of {cut(weights)}"
                f"{nearest(self.target, ('box', 'class', *names))}"
            )


@dataclass(frozen=True)
class HeatTarget:
    """The detections that a heat map explains; its score is the sum of objectness times class score over their rows.

    Attributes:
        rows: (n,) int64 rows of the decoded predictions.
        classes: (n,) int64 class ids.
        chosen: Indices of the detections.
        level: Of each, the level of the head that it came from.
    """

    rows: Tensor
    classes: Tensor
    chosen: tuple[int, ...]
    level: tuple[int, ...]

    def score(self, decoded: Tensor) -> Tensor:
        """Return the score of predictions (1, N, 5+nc), with gradients if they have any."""
        rows = decoded[0, self.rows]
        return (rows[:, 4] * rows.gather(1, 5 + self.classes[:, None])[:, 0]).sum()

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the head that the detections came from, in rising order."""
        return tuple(sorted(set(self.level)))


@torch.no_grad()
def find_target(
    model: nn.Module, image: Tensor, options: PredictOptions, choice: TargetChoice
) -> tuple[Detections, HeatTarget | None]:
    """Return what a network detects in an image, and the target among it.

    Args:
        model: A detector in evaluation mode.
        image: (1, 3, H, W) of values 0..1.
        options: Thresholds and classes.
        choice: Which detections are explained.

    Returns:
        The detections in pixels of `image`, and the target; None if there is no such detection.
    """
    names = cast("Sequence[str]", model.names)
    classes = class_ids(options.classes, names)
    decoded, raw = model(image)
    found, rows = traced_suppression(
        decoded, options.conf_thres, options.iou_thres, classes, options.agnostic, options.max_det
    )
    chosen = _choose(found, choice, names)
    if not chosen:
        return found, None
    index = torch.tensor(chosen, device=rows.device)
    ends = torch.tensor([maps[0, ..., 0].numel() for maps in raw]).cumsum(0)
    level = torch.searchsorted(ends, rows[index].cpu(), right=True).tolist()
    return found, HeatTarget(rows[index], found.cls[index], tuple(chosen), tuple(level))


def _choose(found: Detections, choice: TargetChoice, names: Sequence[str]) -> list[int]:
    """Indices of the detections that are explained; none if there is no such detection."""
    if choice.target in ("box", "class"):
        best = choice.box - 1
        if best >= len(found):
            return []
        if choice.target == "box":
            return [best]
        wanted = int(found.cls[best])
    else:
        wanted = list(names).index(choice.target)
    return [index for index, class_id in enumerate(found.cls.tolist()) if class_id == wanted]
