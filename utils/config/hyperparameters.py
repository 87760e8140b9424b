"""The hyperparameters of a training: YOLOv5 v6.1's 29 keys, their defaults (hyp.scratch-low) and their ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from utils.config.yaml_files import find_yaml, read_yaml
from utils.errors import ConfigError, nearest
from utils.log import LOGGER


def _gain(default: float | None, low: float = 0.0, high: float = math.inf):
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Hyperparameters:
    """One set of hyperparameters, in the order of v6.1's files.

    Learning: lr0 first learning rate, lrf final one as a fraction of lr0, warmup_* over warmup_epochs.
    Loss: box, cls, obj gains; *_pw weights of positives; iou_t and anchor_t matching thresholds;
    anchors: number of anchors a level, None keeps the model's. Augmentation: hsv_* and translate, scale
    as fractions; degrees, shear in degrees; flips, mosaic, mixup, copy_paste as probabilities.
    label_smoothing is a flag that travels with the gains; it stands in no file of v6.1."""

    lr0: float = _gain(0.01)
    lrf: float = _gain(0.01)
    momentum: float = _gain(0.937, 0, 1)
    weight_decay: float = _gain(0.0005)
    warmup_epochs: float = _gain(3.0)
    warmup_momentum: float = _gain(0.8, 0, 1)
    warmup_bias_lr: float = _gain(0.1)
    box: float = _gain(0.05)
    cls: float = _gain(0.5)
    cls_pw: float = _gain(1.0)
    obj: float = _gain(1.0)
    obj_pw: float = _gain(1.0)
    iou_t: float = _gain(0.20, 0, 1)
    anchor_t: float = _gain(4.0, 1)
    anchors: float | None = _gain(None, 1, 100)
    fl_gamma: float = _gain(0.0)
    hsv_h: float = _gain(0.015, 0, 1)
    hsv_s: float = _gain(0.7, 0, 1)
    hsv_v: float = _gain(0.4, 0, 1)
    degrees: float = _gain(0.0, 0, 180)
    translate: float = _gain(0.1, 0, 1)
    scale: float = _gain(0.5, 0, 1)
    shear: float = _gain(0.0, 0, 89)
    perspective: float = _gain(0.0, 0, 0.1)
    flipud: float = _gain(0.0, 0, 1)
    fliplr: float = _gain(0.5, 0, 1)
    mosaic: float = _gain(1.0, 0, 1)
    mixup: float = _gain(0.0, 0, 1)
    copy_paste: float = _gain(0.0, 0, 1)
    label_smoothing: float = _gain(0.0, 0, 1)

    def __post_init__(self):
        for each in fields(self):
            object.__setattr__(self, each.name, _checked(each, getattr(self, each.name)))

    @classmethod
    def load(cls, source: "Path | str | Mapping | Hyperparameters | None" = None) -> "Hyperparameters":
        """Return the hyperparameters of a yaml file (a path or a name in data/hyps), of a mapping such as a
        row of evolve.csv, or the defaults for None. A missing key takes its default, with a line that says so.

        Raises ConfigError that names the file, the key and the range or the nearest known key."""
        if isinstance(source, cls):
            return source
        if source is None:
            return cls()
        where = "hyperparameters"
        if not isinstance(source, Mapping):
            where = find_yaml(source, "data/hyps", "hyperparameter file")
            source = read_yaml(where)
        known = [each.name for each in fields(cls)]
        for key in source:
            if key not in known:
                raise ConfigError(f"{where}: {key}: no such hyperparameter{nearest(key, known)}")
        missing = [name for name in known if name not in source and name not in ("anchors", "label_smoothing")]
        if missing:
            LOGGER.info(f"{where}: not given, so the default is taken: {', '.join(missing)}")
        try:
            return cls(**source)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, float]:
        """Return plain values as v6.1's files hold them: anchors and label_smoothing only where they say something."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.anchors is None:
            del values["anchors"]
        if self.label_smoothing == 0:
            del values["label_smoothing"]
        return values

    def replace(self, **changes: float | None) -> "Hyperparameters":
        """Return a copy with some values changed. Raises ConfigError as creation does."""
        for key in changes:
            if key not in self.__dataclass_fields__:
                raise ConfigError(f"{key}: no such hyperparameter{nearest(key, self.__dataclass_fields__)}")
        return replace(self, **changes)

    def scaled(self, levels: int, nc: int, imgsz: int, label_smoothing: float = 0.0) -> "Hyperparameters":
        """Return the gains as the loss uses them, for a head of `levels` maps, `nc` classes and `imgsz` pixels:
        box x 3/levels, cls x nc/80 x 3/levels, obj x (imgsz/640)^2 x 3/levels (v6.1's train)."""
        per_level = 3 / levels
        return self.replace(box=self.box * per_level, cls=self.cls * nc / 80 * per_level,
                            obj=self.obj * (imgsz / 640) ** 2 * per_level, label_smoothing=label_smoothing)


def _checked(each, value: object) -> float | None:
    """Return a hyperparameter as a float inside its range, or raise ConfigError."""
    low, high = each.metadata["low"], each.metadata["high"]
    if each.name == "anchors" and value in (None, 0):  # v6.1's files say 0 for "the model's own"
        return None
    if isinstance(value, str):  # yaml reads 1e-3, without a dot, as text
        try:
            value = float(value)
        except ValueError:
            pass
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ConfigError(f"{each.name}: expected a number, got {value!r}")
    value = float(value)
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise ConfigError(f"{each.name} {value:g}: expected {bounds}")
    return value
