"""Models of changed yamls that are quick to build, for tests."""

import torch
import yaml

from models.rows import read_yaml, render
from models.yolo import Model

BASE = read_yaml("yolov5n.yaml")


def content(architecture):
    return yaml.safe_load(render(architecture))


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
