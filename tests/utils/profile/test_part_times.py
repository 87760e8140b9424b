"""The clock of parts on a clock of ours, and its table."""

from itertools import count

import pytest
import torch

from models.yolo import Model
from utils.profile.part_times import PartClock, layer_labels, render_parts


def ticking(*readings):
    """A clock that shows the given seconds, one after the other."""
    left = iter(readings)
    return PartClock(torch.device("cpu"), lambda: next(left))


def test_a_part_leaves_out_what_runs_inside_it():
    clock = ticking(0, 1, 3, 6, 10, 15, 21, 28, 36, 45)
    clock.begin_step()  # 0
    clock.enter("forward")  # 1: other 1
    clock.enter("forward: Conv")  # 3: forward 2
    clock.leave()  # 6: Conv 3
    clock.leave()  # 10: forward 4
    clock.enter("loss")  # 15: other 5
    clock.rename("backward")  # 21: loss 6
    clock.leave()  # 28: backward 7
    clock.end_step()  # 36: other 8
    assert clock.steps == [{"other": 14, "forward": 6, "forward: Conv": 3, "loss": 6, "backward": 7}]
    assert not clock.is_inside and clock.seconds("forward") == 9


def test_a_step_that_was_broken_off_leaves_nothing_behind():
    clock = PartClock(torch.device("cpu"), count().__next__)
    clock.begin_step()
    clock.enter("loading")
    clock.begin_step()  # of the next epoch
    clock.drop_step()
    assert clock.steps == [] and not clock.is_inside


def test_time_that_was_taken_elsewhere_moves_from_the_rest():
    clock = ticking(0, 10, 10)
    clock.begin_step()
    clock.move({"NMS": 2.0, "letterbox": 3.0})
    clock.end_step()
    assert clock.steps == [{"other": 5.0, "NMS": 2.0, "letterbox": 3.0}]


def test_the_table_is_aligned_and_adds_up():
    steps = [
        {"loading": 0.010, "forward": 0.001, "forward: C3": 0.020, "forward: Conv": 0.004, "other": 0.005},
        {"loading": 0.030, "forward": 0.001, "forward: C3": 0.024, "forward: Conv": 0.004, "other": 0.001},
    ]
    assert render_parts(steps, ("loading", "transfer", "forward"), "batch").splitlines() == [
        "part              ms per batch    share  slowest",
        "loading                  20.00   40.0 %    30.00",
        "forward                  27.00   54.0 %    29.00",
        "  C3                     22.00   44.0 %    24.00",
        "  Conv                    4.00    8.0 %     4.00",
        "  between layers          1.00    2.0 %     1.00",
        "other                     3.00    6.0 %     5.00",
        "all                      50.00  100.0 %    60.00",
    ]


@pytest.mark.parametrize(
    "yaml, labels, missing",
    [
        (
            "yolov5n_CBAM.yaml",
            {"forward: CBAM", "forward: Conv", "forward: C3", "forward: Detect"},
            "forward: attention in CBAM",
        ),
        ("yolov5n_C3CBAM.yaml", {"forward: attention in C3Attention", "forward: C3Attention"}, "forward: CBAM"),
    ],
)
def test_layers_are_named_by_their_kind_and_attention_inside_by_its_layer(yaml, labels, missing):
    found = set(layer_labels(Model(yaml, report=False)).values())
    assert labels <= found and missing not in found
