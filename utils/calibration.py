"""The calibrated confidence of weights: the threshold of the best F1 on val, which a training stores in best.pt.

In the settings of a checkpoint: `confidence`, of the largest mean F1 of all classes at IoU 0.5, and
`confidence_per_class`, a list with that of each class's own largest F1, None for a class that val does not have or the
network does not find. Validation's suppression keeps more boxes (IoU 0.6, several classes per box) than that of
detection, so the optimum there may lie a little lower.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import ConfigError

AUTO = "auto"
OVERALL, PER_CLASS = "confidence", "confidence_per_class"  # keys of a checkpoint's settings


@dataclass(frozen=True)
class CalibratedConfidence:
    """The thresholds of the best F1.

    Attributes:
        overall: Of the largest mean F1 of the classes, 0..1.
        per_class: Of the largest F1 of each class, None for a class without one.
    """

    overall: float
    per_class: tuple[float | None, ...] = ()

    def settings(self) -> dict[str, object]:
        """Return what a checkpoint's settings hold."""
        return {OVERALL: self.overall, PER_CLASS: list(self.per_class)}


def stored_confidence(settings: Mapping) -> float | None:
    """Return the overall threshold in the settings of a checkpoint, None if there is no usable one."""
    value = settings.get(OVERALL)
    return value if isinstance(value, float) and 0 < value <= 1 else None


def least_confidence(asked: float | str, stored: float | None, flag: str) -> float:
    """Return the threshold that is asked for.

    Args:
        asked: A number, or "auto" for that of the weights.
        stored: That of the weights; None if they carry none.
        flag: How it was asked for, for the message.

    Returns:
        The number.

    Raises:
        ConfigError: With "auto", if the weights carry none.
    """
    if asked != AUTO:
        return float(asked)
    if stored is None:
        raise ConfigError(
            f"{flag} auto: the weights carry no calibrated confidence, as best.pt of one training does; give a number: "
            "val.py --verbose prints the confidence of the best F1"
        )
    return stored


def without_confidence(settings: Mapping) -> dict:
    """Return the settings of a checkpoint without its thresholds, for weights that they do not belong to."""
    return {key: value for key, value in settings.items() if key not in (OVERALL, PER_CLASS)}
