"""Models built without first weights, for weights that a checkpoint has."""

import pytest
import torch
from torch import nn

from models.undrawn import UndrawnWeights
from models.yolo import Model
from models.zoo.table import load_variants
from utils.files import ROOT


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    with UndrawnWeights():
        layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
        table = nn.Parameter(torch.empty(2, 3))
        assert nn.init.trunc_normal_(table, std=0.02) is table and nn.init.kaiming_normal_(table) is table
    assert torch.equal(torch.get_rng_state(), before)
    assert layers[1].weight.eq(1).all() and layers[1].running_var.eq(1).all() and layers[1].bias.eq(0).all()
    nn.init.uniform_(table)
    assert not torch.equal(torch.get_rng_state(), before)


def _equals_drawn(description) -> bool:
    """Whether a model built without first weights computes the same, once it has the weights."""
    torch.manual_seed(0)
    drawn = Model(description, nc=2, report=False).eval()
    with UndrawnWeights():
        undrawn = Model(description, nc=2, report=False).eval()
    undrawn.load_state_dict(drawn.state_dict())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(drawn(image)[0], undrawn(image)[0])


@pytest.mark.parametrize("tag", [tag for tag in load_variants() if tag in ("MHSA", "BoT", "SEA", "Fca", "DLKA")])
def test_equals_the_model_that_drew_them(tag):
    assert _equals_drawn(ROOT / "models" / f"yolov5n_{tag}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("tag", list(load_variants()))
def test_every_variant_equals_the_model_that_drew_its_weights(tag):
    assert _equals_drawn(ROOT / "models" / f"yolov5n_{tag}.yaml")
