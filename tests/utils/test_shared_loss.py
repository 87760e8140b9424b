"""The loss of several processes is that of the global batch: terms, gradients, Wise-IoU's running mean."""

import pytest
import torch
from several import run_several

from utils.box_losses import BoxLoss
from utils.config import Hyperparameters
from utils.loss import DetectionLoss
from utils.processes import ALONE
from utils.types import HeadGeometry

ANCHORS = torch.tensor([[[1.2, 1.6], [2.0, 3.7]], [[1.9, 3.8], [3.9, 2.8]], [[3.6, 2.8], [4.9, 6.2]]])


def geometry() -> HeadGeometry:
    return HeadGeometry(ANCHORS, torch.tensor([8.0, 16.0, 32.0]), nc=3)


def maps_and_targets(images: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(images, 2, 64 // s, 96 // s, 8, generator=generator) for s in (8, 16, 32)]
    rows = torch.rand(9 * images, 6, generator=generator) * 0.6 + 0.2
    # the first image has most objects, the last one none: means of means would differ
    rows[:, 0] = (torch.rand(len(rows), generator=generator) ** 3 * max(images - 1, 1)).long()
    rows[:, 1] = torch.arange(len(rows)) % 3
    return maps, rows


QUALITY = dict(obj_target="both", obj_loss="qfl", cls_loss="vfl", balance="learned")


def loss_of(processes, kind: str, images: int, rule: str = "v5", words: dict | None = None) -> dict:
    maps, rows = maps_and_targets(images)
    own = processes.world.own(images)
    chosen = list(own) or [0]
    maps = [each[chosen].requires_grad_() for each in maps]
    rows = rows[[index for index, row in enumerate(rows) if int(row[0]) in own]]
    rows[:, 0] -= own.start
    weights = torch.tensor([0.5, 1.0, 2.0]) if words else None
    hyp = Hyperparameters(assign=rule, **(words or {}))
    loss = DetectionLoss(geometry(), hyp, "cpu", BoxLoss(kind), processes, weights)
    total, parts = loss(maps, rows, counts=bool(len(own)))
    total.backward()
    state = {
        f"{name}.{i}": x for name, value in loss.state_dict().items() for i, x in enumerate(value.view(-1).tolist())
    }
    return {
        "total": total.item(),
        "parts": parts.row(),
        "gradients": [m.grad for m in maps],
        "state": state,
        "own": own,
    }


@pytest.mark.parametrize(
    "kind, images, size, rule, words",
    [
        ("CIoU", 5, 2, "v5", None),
        ("WIoUv3", 5, 2, "v5", None),
        ("CIoU", 1, 2, "v5", None),
        ("CIoU", 4, 3, "v5", None),
        ("CIoU", 5, 2, "simota", None),
        ("WIoUv3", 5, 2, "tal", QUALITY),
    ],
)
def test_parts_add_up_to_the_loss_of_the_whole(kind, images, size, rule, words):
    whole = loss_of(ALONE, kind, images, rule, words)
    parts = run_several(size, loss_of, kind, images, rule, words)
    assert sum(each["total"] for each in parts) / size == pytest.approx(whole["total"], rel=1e-5)
    for each in parts:
        assert each["parts"] == pytest.approx(whole["parts"], rel=1e-5)
        assert each["state"] == pytest.approx(whole["state"], rel=1e-6)
    for level, expected in enumerate(whole["gradients"]):
        # the processes' gradients are averaged, so each is `size` times its part of the whole
        own = torch.cat([each["gradients"][level] / size for each in parts if len(each["own"])])
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-7)
        for each in parts:
            assert len(each["own"]) or not each["gradients"][level].any()  # a stand-in adds nothing


def evaluated(processes) -> float:
    """The first of two computes a loss without gradient; the other one has nothing to do."""
    if not processes.is_first:
        return 0.0
    maps, rows = maps_and_targets(3)
    return float(DetectionLoss(geometry(), Hyperparameters(), "cpu", processes=processes)(maps, rows)[0])


def test_validation_waits_for_nobody():
    maps, rows = maps_and_targets(3)
    expected = float(DetectionLoss(geometry(), Hyperparameters(), "cpu")(maps, rows)[0])
    assert run_several(2, evaluated)[0] == expected
