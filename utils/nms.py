"""Non-maximum suppression: from a head's decoded predictions to `Detections`.

Its only limits are counts (`MAX_CANDIDATES`, `max_det`), never a clock, so that the result depends on the predictions
alone. The input is not changed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.types import Detections
from utils.vision_operators import nms

MIN_SIDE = 2  # pixels: boxes with a smaller side are no candidates
MAX_SIDE = 7680  # pixels: nor are boxes with a larger side; also the offset that separates the boxes of two classes
MAX_CANDIDATES = 30_000  # the most confident ones per image that enter suppression
SUPPRESSED_AT_ONCE = 512  # candidates: enough to be worth a call, few enough to stop soon after `max_det`


def non_max_suppression(
    prediction: Tensor,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
    labels: Sequence[Tensor] = (),
) -> list[Detections]:
    """Return the detections of each image, by falling confidence, in the pixels of `prediction`.

    The confidence of a box is objectness times class score; both the objectness and the product must exceed
    `conf_thres`. Boxes that overlap a more confident one of their class by more than `iou_thres` are removed.

    Args:
        prediction: (B, N, 5+nc) xywh pixels, objectness and class scores in 0..1, of any float type; computed in
            float32.
        conf_thres: 0..1.
        iou_thres: 0..1.
        classes: Ids of the classes to keep; None keeps all.
        agnostic: Whether boxes of different classes suppress each other too.
        multi_label: Whether a box counts for every class above the threshold, not only for its best.
        max_det: Largest number of detections per image.
        labels: One (n, 5) tensor per image, class id and xywh pixels, that join as certain candidates (for
            autolabeling).

    Returns:
        One record per image, on the device of `prediction`.

    Raises:
        ValueError: A threshold is outside 0..1, or shapes do not fit.

    Example:
        >>> rows = torch.tensor([[[50.0, 50, 20, 20, 0.9, 1], [51, 50, 20, 20, 0.8, 1], [90, 50, 20, 20, 0.1, 1]]])
        >>> (found,) = non_max_suppression(rows, conf_thres=0.25)
        >>> found.xyxy
        tensor([[40., 40., 60., 60.]])
    """
    _check(prediction, conf_thres, iou_thres, labels)
    nc = prediction.shape[2] - 5
    confident = prediction[..., 4] > conf_thres
    found = []
    for i, (rows, keep) in enumerate(zip(prediction, confident, strict=True)):
        rows = rows[keep].float()
        if len(labels):
            rows = torch.cat((rows, _certain(labels[i].to(rows), nc)))
        xyxy, conf, cls, _ = _candidates(rows, conf_thres, multi_label and nc > 1, classes)
        found.append(_suppress(xyxy, conf, cls, iou_thres, agnostic, max_det)[0])
    return found


def traced_suppression(
    prediction: Tensor,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    max_det: int = 300,
) -> tuple[Detections, Tensor]:
    """Return the detections of one image as `non_max_suppression` does, and the row of `prediction` of each.

    Args:
        prediction: (1, N, 5+nc) as `non_max_suppression` takes it.
        conf_thres: 0..1.
        iou_thres: 0..1.
        classes: Ids of the classes to keep; None keeps all.
        agnostic: Whether boxes of different classes suppress each other too.
        max_det: Largest number of detections.

    Returns:
        The detections, and (n,) int64 indices into the rows of `prediction`.
    """
    _check(prediction, conf_thres, iou_thres, ())
    rows = (prediction[0, :, 4] > conf_thres).nonzero(as_tuple=True)[0]
    xyxy, conf, cls, source = _candidates(prediction[0, rows].float(), conf_thres, False, classes)
    found, kept = _suppress(xyxy, conf, cls, iou_thres, agnostic, max_det)
    return found, rows[source[kept]]


def _check(prediction: Tensor, conf_thres: float, iou_thres: float, labels: Sequence[Tensor]) -> None:
    if prediction.ndim != 3 or prediction.shape[2] < 6:
        raise ValueError(f"non_max_suppression: expected predictions (B, N, 5 + nc), got {tuple(prediction.shape)}")
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"non_max_suppression: expected {name} in 0..1, got {value}")
    if len(labels) not in (0, len(prediction)):
        raise ValueError(f"non_max_suppression: expected labels for {len(prediction)} images, got {len(labels)}")


def _certain(labels: Tensor, nc: int) -> Tensor:
    """Predictions (n, 5+nc) of labels (n, 5), with objectness and class score 1."""
    rows = labels.new_zeros(len(labels), 5 + nc)
    rows[:, :4] = labels[:, 1:5]
    rows[:, 4] = 1
    rows[torch.arange(len(labels), device=labels.device), labels[:, 0].long() + 5] = 1
    return rows


def _candidates(
    rows: Tensor, conf_thres: float, multi_label: bool, classes: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The xyxy (K, 4), conf (K,), cls (K,) and index of the boxes that enter suppression, by falling conf."""
    sides = rows[:, 2:4]
    source = ((sides >= MIN_SIDE) & (sides <= MAX_SIDE)).all(1).nonzero(as_tuple=True)[0]
    rows = rows[source]
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        box, cls = (scores > conf_thres).nonzero(as_tuple=True)
        conf = scores[box, cls]
    else:
        conf, cls = scores.max(1)
        box = (conf > conf_thres).nonzero(as_tuple=True)[0]
        conf, cls = conf[box], cls[box]
    if classes is not None:
        kept = torch.isin(cls, torch.as_tensor(list(classes), dtype=cls.dtype, device=cls.device))
        box, conf, cls = box[kept], conf[kept], cls[kept]
    order = conf.argsort(descending=True, stable=True)[:MAX_CANDIDATES]
    box = box[order]
    center, half = rows[box, :2], rows[box, 2:4] / 2
    return torch.cat((center - half, center + half), 1), conf[order], cls[order], source[box]


def _suppress(
    xyxy: Tensor, conf: Tensor, cls: Tensor, iou_thres: float, agnostic: bool, max_det: int
) -> tuple[Detections, Tensor]:
    """The detections, and their indices (n,) among the candidates."""
    # With every class shifted to a region of its own, one pass handles all of them.
    shifted = xyxy if agnostic else xyxy + (cls * MAX_SIDE)[:, None].to(xyxy.dtype)
    kept = _first_kept(shifted, conf, iou_thres, max_det)
    return Detections(xyxy[kept], conf[kept], cls[kept]), kept


def _first_kept(xyxy: Tensor, conf: Tensor, iou_thres: float, count: int) -> Tensor:
    """Indices of the first `count` boxes that suppression keeps, of boxes by falling conf.

    Only kept boxes suppress others, and only less confident ones. So a part of the boxes needs those that were kept of
    the parts before it alone, and no part is looked at once there are enough.
    """
    kept = torch.zeros(0, dtype=torch.int64, device=xyxy.device)
    for part in torch.arange(len(conf), device=xyxy.device).split(SUPPRESSED_AT_ONCE):
        rows = torch.cat((kept, part))
        kept = rows[nms(xyxy[rows], conf[rows], iou_thres)]
        if len(kept) >= count:
            break
    return kept[:count]
