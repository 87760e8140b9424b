"""Models of changed yamls that are quick to build, and what tests of all shipped yamls share."""

import re

import pytest
import torch
import yaml

from models.graph.architecture import read_yaml, render_yaml
from models.graph.shapes import ShapeCache
from models.yolo import Model

BASE = read_yaml("yolov5n.yaml")
CACHE = ShapeCache()  # equal layers of the shipped yamls are built and run once


def in_tiers(paths):
    """Yamls as parameters of a test: a variant's files at s, m, l and x are slow, its n and its plain one are fast."""
    repeated = re.compile(r"yolov5[smlx]_")
    return [
        pytest.param(path, id=path.name, marks=pytest.mark.slow if repeated.match(path.name) else ()) for path in paths
    ]


def content(architecture):
    return yaml.safe_load(render_yaml(architecture))


def small(architecture, **settings):
    """A model of a changed yaml, quick to build and with random weights and statistics."""
    torch.manual_seed(settings.pop("seed", 0))
    model = Model({**content(architecture), "nc": 4, "depth_multiple": 0.33, "width_multiple": 0.125}, **settings)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    return model.eval()


SMALL = {
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [60, 70, 90, 80]],
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C3", [16]],
        [-1, 1, "Conv", [24, 3, 2]],
    ],
    "head": [[-1, 1, "SPPF", [24]], [[2, 4], 1, "Detect", ["nc", "anchors"]]],
}


def with_block(*row):
    """SMALL with one layer of 64 channels more, in front of SPPF."""
    return SMALL | {
        "backbone": SMALL["backbone"][:3] + [[-1, 1, "Conv", [64, 3, 2]], list(row)],
        "head": [[-1, 1, "SPPF", [24]], [[2, 5], 1, "Detect", ["nc", "anchors"]]],
    }


TINY = {
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}
