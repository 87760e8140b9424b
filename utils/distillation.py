"""Distillation: the terms by which a network learns from the outputs of another one, its teacher, beside its labels.

SoftTargets: predictions. Mehta and Ozturk, 'Object detection at 200 frames per second', arXiv 1805.06361: where the
teacher sees an object, and as far as it does, the student's box and class learn from the teacher's; objectness learns
from the teacher's in all cells (f_bb^Comb, f_cl^Comb and f_obj^Comb). Temperature 1. Gains are those of the detection
loss, so a term weighs as much as the term of the labels.

ChannelDistillation: the maps that the heads read. Shu et al., 'Channel-wise knowledge distillation for dense
prediction', arXiv 2011.13256, section 3.2: each channel is a distribution over positions, and the student's, brought to
the teacher's channels by a 1x1 convolution, learns from the teacher's by the KL divergence.

ramp_up: the weight of a teacher that learns itself. Tarvainen and Valpola, 'Mean teachers', arXiv 1703.01780.

Values are a process's share of the mean per image of the global batch: the sum of all processes' is that mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.box_losses import BoxLoss
from utils.loss import LossHyperparameters, decode
from utils.processes import ALONE, Processes
from utils.types import HeadGeometry

MAX_ANCHOR_RATIO = 2.0  # of the sides of two anchors that stand for the same boxes; the loss matches boxes up to 4
RAMP_EXPONENT = 5.0  # of the mean teacher's ramp-up, exp(-5 (1 - t)^2)


@dataclass(frozen=True)
class HeadMatch:
    """The outputs of a student's head that a teacher's head has too.

    Attributes:
        levels: (student's level, teacher's level) of equal strides and similar anchors.
        classes: (student's class id, teacher's class id) of equal names.
        problems: Why levels or classes are missing: texts, none if the teacher knows all that the student is to learn.
    """

    levels: tuple[tuple[int, int], ...]
    classes: tuple[tuple[int, int], ...]
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.levels and self.classes)


@dataclass(frozen=True)
class HeadOutputs:
    """What the outputs of a head mean: its geometry, and the names of its classes."""

    geometry: HeadGeometry
    names: Sequence[str]


def same_strides(student: HeadGeometry, teacher: HeadGeometry) -> list[tuple[int, int]]:
    """Return the levels of equal strides.

    Args:
        student: Geometry of the head that learns.
        teacher: Geometry of the head that teaches.

    Returns:
        (student's level, teacher's level) of each.
    """
    ours, theirs = student.strides.tolist(), teacher.strides.tolist()
    return [(index, theirs.index(stride)) for index, stride in enumerate(ours) if stride in theirs]


def match_heads(student: HeadOutputs, teacher: HeadOutputs) -> HeadMatch:
    """Return the levels and classes of a student's head that a teacher's head can teach.

    Boxes are compared decoded, each by its own anchors, so anchors need not be equal; but an anchor whose sides are
    more than MAX_ANCHOR_RATIO times the other's stands for other boxes.

    Args:
        student: The head that learns.
        teacher: The head that teaches.

    Returns:
        The pairs, and what is missing.
    """
    problems = []
    levels = same_strides(student.geometry, teacher.geometry)
    if len(levels) < student.geometry.levels:
        problems.append(f"it has {len(levels)} of the student's {student.geometry.levels} strides")
    similar = [pair for pair in levels if _similar(student.geometry, teacher.geometry, *pair)]
    if len(similar) < len(levels):
        problems.append(
            f"its anchors are other ones at {len(levels) - len(similar)} of {len(levels)} strides (in number, or by "
            f"more than a factor of {MAX_ANCHOR_RATIO:g})"
        )
    ids = {name: class_id for class_id, name in reversed(list(enumerate(teacher.names)))}
    classes = [(index, ids[name]) for index, name in enumerate(student.names) if name in ids]
    if len(classes) < len(student.names):
        problems.append(f"it knows {len(classes)} of the student's {len(student.names)} classes")
    return HeadMatch(tuple(similar), tuple(classes), tuple(problems))


def _similar(student: HeadGeometry, teacher: HeadGeometry, ours: int, theirs: int) -> bool:
    left, right = student.anchors[ours], teacher.anchors[theirs].to(student.anchors.device)
    if left.shape != right.shape:
        return False
    ratio = left / right
    return bool(torch.maximum(ratio, 1 / ratio).max() <= MAX_ANCHOR_RATIO)


class SoftTargets:
    """The prediction term: a teacher's raw maps as targets of a student's.

    With t and s the outputs of teacher and student in one cell, o and p the probabilities of object and class, w the
    teacher's objectness in that cell:

        box    sum of w (1 - CIoU(s, t)) / sum of w           both boxes decoded, over the cells of a level
        class  sum of w mean of BCE(p_s, p_t) / sum of w      over the classes that both have
        object mean of BCE(o_s, w)                            over all cells

    A teacher's object counts as far as its class is one of the student's: w is o_t times the share of these classes in
    the sum of its class probabilities. If the teacher does not know all of the student's classes, its background says
    nothing of the others, so the object term is weighted by w too. Sums are at least divided by 1.

    Args:
        match: Which levels and classes.
        student: Geometry of the student's head.
        teacher: Geometry of the teacher's head.
        hyp: Gains of box, obj and cls, used as given.
        balance: Weight of the object term of each of the student's levels.
        processes: Those that hold a part of each batch.
    """

    def __init__(
        self,
        match: HeadMatch,
        student: HeadGeometry,
        teacher: HeadGeometry,
        hyp: LossHyperparameters,
        balance: Sequence[float],
        processes: Processes = ALONE,
    ):
        device = student.anchors.device
        self.match, self.hyp, self.balance, self.processes = match, hyp, tuple(balance), processes
        self.anchors = student.anchors.detach().float()
        self.taught_anchors = teacher.anchors.detach().float().to(device)
        self.ours, self.theirs = (torch.tensor(ids, device=device) for ids in zip(*match.classes, strict=True))
        self.is_partial = len(match.classes) < student.nc
        self.knows_others = len(match.classes) < teacher.nc
        self.learns_classes = student.nc > 1  # of a single class v6.1 does not train the probability
        self.box_loss = BoxLoss("CIoU", device=device)

    def __call__(self, raw_maps: Sequence[Tensor], taught_maps: Sequence[Tensor], share: Tensor | float) -> Tensor:
        """Return the term after gains, as this process's share of the mean per image.

        Args:
            raw_maps: (B, na, H, W, 5+nc) per level of the student, any float type; computed in float32.
            taught_maps: (B, na, H, W, 5+nc) per level of the teacher, without gradient.
            share: Share of the global batch's images that are this process's; 0 if its images stand in for none.

        Returns:
            () the value, with gradient.
        """
        pairs = [(raw_maps[ours].float(), taught_maps[theirs].float()) for ours, theirs in self.match.levels]
        weights = [self.evidence(taught) for _, taught in pairs]
        counted = torch.stack([weight.sum() for weight in weights]) * (torch.as_tensor(share) > 0)
        divisors = self.processes.sum(counted.double()).float().clamp(min=1)
        levels = [
            self._level(*pair, weight, level, divisor)
            for pair, weight, level, divisor in zip(pairs, weights, self.match.levels, divisors, strict=True)
        ]
        box, obj, cls = (torch.stack(terms).sum() for terms in zip(*levels, strict=True))
        is_counted = torch.as_tensor(share, device=box.device) > 0
        return (self.hyp.box * box + self.hyp.cls * cls) * is_counted + self.hyp.obj * obj * share

    def evidence(self, taught: Tensor) -> Tensor:
        """Return the weight w (...) in 0..1 of each cell of a teacher's raw map (..., 5+nc)."""
        objectness = taught[..., 4].sigmoid()
        if not self.knows_others:
            return objectness
        probabilities = taught[..., 5:].sigmoid()
        share = probabilities[..., self.theirs].sum(-1) / probabilities.sum(-1).clamp(min=1e-9)
        return objectness * share

    def _level(
        self, raw: Tensor, taught: Tensor, weight: Tensor, level: tuple[int, int], divisor: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The (box, obj, cls) terms of one level before gains."""
        ours, theirs = level
        shape = (*raw.shape[:4], 2)
        boxes, targets = (
            decode(values[..., :4].reshape(-1, 4), anchors[:, None, None].expand(shape).reshape(-1, 2))
            for values, anchors in ((raw, self.anchors[ours]), (taught, self.taught_anchors[theirs]))
        )
        size = raw.shape[2], raw.shape[3]
        box = (self.box_loss(boxes, targets, size).cost * weight.reshape(-1)).sum() / divisor
        obj = F.binary_cross_entropy_with_logits(raw[..., 4], weight, reduction="none")
        obj = (obj * weight if self.is_partial else obj).mean() * self.balance[ours]
        if not self.learns_classes:
            return box, obj, box.new_zeros(())
        classes = F.binary_cross_entropy_with_logits(
            raw[..., 5:][..., self.ours], taught[..., 5:][..., self.theirs].sigmoid(), reduction="none"
        )
        return box, obj, (classes.mean(-1) * weight).sum() / divisor


class ChannelDistillation(nn.Module):
    """The feature term: the maps of a student learn where each channel of a teacher's maps is strong.

    It holds the adapters, 1x1 convolutions from the student's channels to the teacher's, which are trained with the
    student and are no part of it. They have no bias: a distribution over positions does not change with one.

    Args:
        widths: (student's channels, teacher's channels) per pair of maps.
        seed: Decides the adapters' first weights.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        skip_init = nn.utils.skip_init  # which would draw from the training's generator
        self.adapters = nn.ModuleList(skip_init(nn.Conv2d, ours, theirs, 1, bias=False) for ours, theirs in widths)
        with torch.no_grad():
            for adapter, (ours, theirs) in zip(self.adapters, widths, strict=True):
                values = torch.randn(theirs, ours, 1, 1, generator=generator)
                adapter.get_parameter("weight").copy_(values / math.sqrt(ours))

    def forward(self, maps: Sequence[Tensor], taught_maps: Sequence[Tensor]) -> Tensor:
        """Return the mean over pairs of their `channel_divergence`.

        Args:
            maps: (B, C, H, W) of the student.
            taught_maps: (B, C', H, W) of the teacher, without gradient.

        Returns:
            () the mean per image of this process.
        """
        triples = zip(self.adapters, maps, taught_maps, strict=True)
        return torch.stack([channel_divergence(adapter(own), taught) for adapter, own, taught in triples]).mean()


def channel_divergence(maps: Tensor, taught_maps: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 / C sum over channels of KL(teacher || student) of their softmax over positions, mean over images.

    Args:
        maps: (B, C, H, W) of the student, with the teacher's channels.
        taught_maps: (B, C, H, W) of the teacher.
        temperature: T, by which maps are divided.

    Returns:
        () at least 0, in nats.
    """
    own, taught = (F.log_softmax(each.float().flatten(2) / temperature, 2) for each in (maps, taught_maps))
    return temperature**2 * (taught.exp() * (taught - own)).sum(2).mean()


def ramp_up(step: int, warmup: int) -> float:
    """Return the weight of a teacher that learns itself: exp(-5 (1 - t)^2) at the share t of the warm-up, then 1.

    Args:
        step: Batches seen.
        warmup: Batches of the warm-up; 0 for none.

    Returns:
        The weight, 0.0067 at step 0 of a warm-up.
    """
    left = 1 - min(step / warmup, 1.0) if warmup else 0.0
    return math.exp(-RAMP_EXPONENT * left**2)
