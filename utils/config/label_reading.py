"""What `--labels` says: what a bad row does, and how rows are read that could mean two things."""

from dataclasses import dataclass
from typing import Any

from utils.config.flags import flag
from utils.errors import ConfigError, nearest

POLICIES = ("skip", "clip", "strict")
SHAPES = ("boxes", "polygons")
NAMES = "names"
WORDS = (*POLICIES, NAMES, *SHAPES)
_HELP = (
    "how label rows are read; several words are joined by commas. A bad row: skip leaves it out, clip also pulls boxes "
    "into the image, strict ends the run. names: rows begin with class names. Rows of more than 5 values: boxes takes "
    "the box in front of key points, polygons takes all points; without either, the labels themselves decide"
)


@dataclass(frozen=True)
class LabelReading:
    """How label rows are read.

    Attributes:
        policy: What becomes of a bad row: "skip", "clip" or "strict".
        shape: What rows of more than 5 values are: "boxes" with more behind them, "polygons", or "auto".
        by_name: Whether rows begin with class names.
    """

    policy: str = "skip"
    shape: str = "auto"
    by_name: bool = False

    @classmethod
    def of(cls, text: str) -> "LabelReading":
        """Return what a value of `--labels` such as "strict,names" says. Raises ConfigError for what it cannot be."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        for word in words:
            if word not in WORDS:
                expected = f"must be one of {', '.join(WORDS)}, or several joined by commas"
                raise ConfigError(f"--labels {text[:80]}: {expected}{nearest(word, WORDS)}")
        policies = [word for word in words if word in POLICIES]
        shapes = [word for word in words if word in SHAPES]
        for given in (policies, shapes):
            if len(set(given)) > 1:
                raise ConfigError(f"--labels {text[:80]}: {' and '.join(given)} contradict each other; give one")
        return cls((policies or ["skip"])[0], (shapes or ["auto"])[0], NAMES in words)


def labels_flag() -> Any:
    """Return the field of a configuration that is `--labels`."""
    return flag("skip", _HELP, choices=WORDS, open_choices=True, new=True)
