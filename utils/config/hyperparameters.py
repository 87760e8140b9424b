"""The hyperparameters of a training: keys, defaults and ranges.

They are YOLOv5 v6.1's 29 with the defaults of hyp.scratch-low, three that choose the box loss, the gates' rate, and the
pieces of a recipe (docs/recipes.md), each off by default: without them a training is v6.1's.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from utils.config.yaml_files import find_yaml, read_yaml
from utils.errors import ConfigError, cut, nearest, shown
from utils.log import LOGGER, warn_once

BOX_LOSSES = ("IoU", "GIoU", "DIoU", "CIoU", "EIoU", "SIoU", "MPDIoU", "ShapeIoU", "WIoUv1", "WIoUv2", "WIoUv3")
OPTIMIZERS = ("SGD", "Adam", "AdamW", "MuSGD", "Muon")
_BY_PLAIN_NAME = {**{name.lower(): name for name in BOX_LOSSES}, "wiou": "WIoUv3"}
_RENAMED = {"giou": "box"}  # of YOLOv5 v1 to v3.0
_QUALITY_LOSSES = ("bce", "qfl", "vfl")


def _gain(default: float | None, low: float = 0.0, high: float = math.inf):
    return field(default=default, metadata={"low": low, "high": high})


def _piece(default: float | None, low: float = 0.0, high: float = math.inf):
    """A number that files of v6.1 do not have: written only if it differs from its default."""
    return field(default=default, metadata={"low": low, "high": high, "optional": True})


def _word(*choices: str):
    """A word that files of v6.1 do not have; the first one is v6.1's."""
    return field(default=choices[0], metadata={"words": choices, "optional": True})


@dataclass(frozen=True)
class Hyperparameters:
    """One set of hyperparameters, in the order of v6.1's files.

    Learning: lr0 first learning rate, lrf final one as a fraction of lr0, warmup_* over warmup_epochs.
    Loss: box, cls, obj gains; *_pw weights of positives; iou_t and anchor_t matching thresholds;
    anchors: number of anchors per level, None keeps the model's. Augmentation: hsv_* and translate, scale
    as fractions; degrees, shear in degrees; flips, mosaic, mixup, copy_paste as probabilities.
    Box loss, ours: iou one of BOX_LOSSES in any case (WIoU is v3); inner the sides of Inner-IoU's boxes as a multiple
    of the boxes', 1 or None off; focal the power of Focal-EIoU's weight IoU^focal, 0 or None off.
    gate_lr: learning rate of identity start's gates as a multiple of the weights', None for the optimizer's own.
    label_smoothing is a flag that travels with the gains; no file of v6.1 has it.

    Assignment and losses: assign the rule of positive anchors, anchor_fit what AutoAnchor judges anchors by (the ratio
    of sides or that rule's recall); obj_target, obj_loss, cls_loss, balance as words of utils.quality_losses;
    class_balance a power, 0 off; fl_gamma above 0 is also the power of qfl and vfl, else 2.

    Schedule: optimizer (auto: the flag's or SGD), schedule as words; nbs images behind a step, max_batch the most
    images of a batch whatever the flag says, None off; ortho_every the steps between two of a matrix that Muon
    orthogonalizes; warmup_share and ema_share as shares of the run, None off;
    close_mosaic, swa in epochs; smooth_fitness the share kept of the running mean; lr_transfer and lr_backbone
    multiples of the rate when a training starts from weights; accumulate as a word. Augmentation: mosaic9 (of mosaics),
    box_paste (of images), mixup_gate (of blends) as probabilities; object_scale the share of views, and
    letterbox_jitter that of the free border; color_ops a number, color_magnitude 0..10. Distillation: self_distill,
    distill and distill_features as gains, the last two with a teacher; distill_every in batches.
    """

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
    anchors: float | None = _piece(None, 1, 100)
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
    label_smoothing: float = _piece(0.0, 0, 1)
    iou: str = field(default="CIoU", metadata={"choices": BOX_LOSSES, "optional": True})
    inner: float = _piece(1.0, 0.1, 3)
    focal: float = _piece(0.0, 0, 10)
    gate_lr: float | None = _piece(None, 0, 1000)
    assign: str = _word("v5", "atss", "simota", "tal")
    anchor_fit: str = _word("ratio", "assign")
    obj_target: str = _word("iou", "quality", "both")
    obj_loss: str = _word(*_QUALITY_LOSSES)
    cls_loss: str = _word(*_QUALITY_LOSSES)
    balance: str = _word("fixed", "learned")
    class_balance: float = _piece(0.0, 0, 1)
    optimizer: str = _word("auto", *OPTIMIZERS)
    schedule: str = _word("linear", "cosine")
    nbs: float = _piece(64.0, 1, 65536)
    max_batch: float | None = _piece(None, 1, 65536)
    ortho_every: float = _piece(1.0, 1, 100)
    accumulate: str = _word("fixed", "noise")
    warmup_share: float | None = _piece(None, 0, 0.5)
    lr_transfer: float = _piece(1.0, 0, 100)
    lr_backbone: float = _piece(1.0, 0, 100)
    ema_share: float | None = _piece(None, 0, 1)
    swa: float = _piece(0.0, 0, 100000)
    close_mosaic: float = _piece(0.0, 0, 100000)
    smooth_fitness: float = _piece(0.0, 0, 0.99)
    mosaic9: float = _piece(0.0, 0, 1)
    object_scale: float = _piece(0.0, 0, 1)
    box_paste: float = _piece(0.0, 0, 1)
    mixup_gate: float = _piece(0.0, 0, 1)
    color_ops: float = _piece(0.0, 0, 10)
    color_magnitude: float = _piece(9.0, 0, 10)
    letterbox_jitter: float = _piece(0.0, 0, 1)
    self_distill: float = _piece(0.0, 0, 100)
    distill: float = _piece(1.0, 0, 100)
    distill_features: float = _piece(1.0, 0, 100)
    distill_every: float = _piece(1.0, 1, 1000)

    def __post_init__(self):
        for each in fields(self):
            object.__setattr__(self, each.name, _checked(each, getattr(self, each.name)))

    @classmethod
    def load(
        cls, source: "Path | str | Mapping | Hyperparameters | None" = None, unknown: str = "refuse"
    ) -> "Hyperparameters":
        """Return the hyperparameters of a yaml file, of a mapping, or the defaults for None.

        A missing key takes its default, and a key of an older version its name of today; both are logged.

        Args:
            source: A path or a name in data/hyps, or a mapping, for example a row of evolve.csv.
            unknown: What a key that is not known here does: "refuse" it, or "ignore" it with a warning.

        Returns:
            The hyperparameters.

        Raises:
            ConfigError: Naming the file, the key and the range or the nearest key.
        """
        if isinstance(source, Hyperparameters):
            return source
        if source is None:
            return cls()
        where: Path | str = "hyperparameters"
        if not isinstance(source, Mapping):
            where = file = find_yaml(source, "data/hyps", "hyperparameter file")
            source = read_yaml(file)
        known = [each.name for each in fields(cls)]
        source = _known_keys(cut(where), source, known, unknown)
        missing = [each.name for each in fields(cls) if each.name not in source and not each.metadata.get("optional")]
        if missing:
            LOGGER.info(f"{where}: not given, so the default is taken: {', '.join(missing)}")
        try:
            return cls(**source)
        except ConfigError as error:
            raise ConfigError(f"{cut(where)}: {error}") from None

    def as_dict(self) -> dict[str, float | str]:
        """Return plain values as v6.1's files hold them; keys that not all files have only if not at their default."""
        values = {each: getattr(self, each.name) for each in fields(self)}
        return {
            each.name: value
            for each, value in values.items()
            if not each.metadata.get("optional") or value != each.default
        }

    def replace(self, **changes: Any) -> "Hyperparameters":
        """Return a copy with some values changed. Raises ConfigError as creation does."""
        for key in changes:
            if key not in self.__dataclass_fields__:
                raise ConfigError(f"{key}: no such hyperparameter{nearest(key, self.__dataclass_fields__)}")
        return replace(self, **changes)

    def scaled(self, levels: int, nc: int, imgsz: int, label_smoothing: float = 0.0) -> "Hyperparameters":
        """Return the gains as the loss uses them (v6.1's train).

        They are box x 3/levels, cls x nc/80 x 3/levels, obj x (imgsz/640)^2 x 3/levels.

        Args:
            levels: Output maps of the head.
            nc: Number of classes.
            imgsz: Side of the network input in pixels.
            label_smoothing: Share of a class target that is given to the other classes, 0..1.

        Returns:
            A copy with scaled gains.
        """
        per_level = 3 / levels
        return self.replace(
            box=self.box * per_level,
            cls=self.cls * nc / 80 * per_level,
            obj=self.obj * (imgsz / 640) ** 2 * per_level,
            label_smoothing=label_smoothing,
        )


def _known_keys(where: str, source: Mapping, known: list[str], unknown: str) -> dict[str, Any]:
    """Return the hyperparameters of a file under their names of today, without those that are not known here."""
    content = dict(source)
    for old, name in _RENAMED.items():
        if old in content:
            if name in content:
                raise ConfigError(f"{where}: {old}: is {name} here, which is given too; leave one out")
            content[name] = content.pop(old)
            LOGGER.info(f"{where}: {old} is read as {name}; the box loss itself is chosen by `iou:`, by default CIoU")
    others = [key for key in content if key not in known]
    if not others:
        return content
    named = cut(", ".join(f"{cut(key, 60)}{nearest(str(key), known)}" for key in others[:20]), 600)
    if unknown != "ignore":
        what = "no such hyperparameter" if len(others) == 1 else "no such hyperparameters"
        raise ConfigError(f"{where}: {named}: {what}; --hyp-unknown ignore leaves out keys of other programs")
    warn_once(f"{where}: not known here and ignored: {named}")
    return {key: value for key, value in content.items() if key in known}


def _checked(each, value: object) -> float | str | None:
    """Return a hyperparameter as a float inside its range (iou: as the loss's name), or raise ConfigError."""
    if "choices" in each.metadata:
        return _box_loss(value)
    if "words" in each.metadata:
        return _one_of(each.name, value, each.metadata["words"])
    if each.name in ("inner", "focal") and value in (None, 0):
        return each.default
    low, high = each.metadata["low"], each.metadata["high"]
    if value is None and each.default is None:
        return None
    if each.name == "anchors" and value == 0:  # v6.1's files say 0 for "the model's own"
        return None
    if isinstance(value, str):  # yaml reads 1e-3, without a dot, as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise ConfigError(f"{each.name}: expected a number, got {shown(value)}")
    value = float(value)
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise ConfigError(f"{each.name} {value:g}: expected {bounds}")
    return value


def _one_of(name: str, value: object, words: Sequence[str]) -> str:
    """Return the word that is meant, in any case, or raise ConfigError."""
    found = next((word for word in words if word.lower() == str(value)[:100].lower()), None)
    if found is None:
        raise ConfigError(f"{name}: expected {', '.join(words)}, got {shown(value)}{nearest(str(value), words)}")
    return found


def _box_loss(value: object) -> str:
    """Return the box loss of this name, in any case and with or without - and _, or raise ConfigError."""
    name = _BY_PLAIN_NAME.get(str(value)[:100].lower().replace("-", "").replace("_", ""))
    if name is None:
        hint = nearest(str(value), BOX_LOSSES)
        raise ConfigError(f"iou: no box loss is called {shown(value)}{hint}; there are {', '.join(BOX_LOSSES)}")
    return name
