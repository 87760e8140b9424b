"""GraphNetwork: the predictions of the model it is made of, whatever its form.

Compared in float64: random networks amplify the rounding of float32.
"""

import copy

import pytest
import torch
from exported_files import apart, spread_model
from small_models import content

from models.ensemble import Ensemble
from models.graph.architecture import read_yaml
from utils.export.graph_network import GraphNetwork


@pytest.fixture(scope="module")
def model():
    return spread_model()


def exact(model):
    """Batch norms are folded in float32, as in the network that is exported."""
    return copy.deepcopy(model).fuse().double()


@pytest.mark.parametrize("shape", [(64, 96), None])
def test_predictions_are_those_of_the_head(model, shape):
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = exact(model)(images.double())[0]
        found = GraphNetwork(model, shape).in_float64()(images)
    assert found.shape == expected.shape == (2, 2 * (16 * 24 + 8 * 12), 8)
    assert apart(found, expected) < 1e-9
    assert expected[..., 4].std() > 0.1, "a head that answers its bias would hide every mistake"


def test_a_network_of_any_size_is_right_at_other_sizes(model):
    network = GraphNetwork(model).in_float64()
    for height, width in ((32, 32), (96, 64), (160, 224)):
        images = torch.rand(1, 3, height, width)
        with torch.no_grad():
            assert apart(network(images), exact(model)(images.double())[0]) < 1e-9


def test_the_model_it_is_made_of_stays_as_it_is(model):
    before = copy.deepcopy(model.state_dict())
    GraphNetwork(model, (64, 96), half=True)
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert next(model.parameters()).dtype == torch.float32


def test_half_precision_decodes_in_float32(model):
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = GraphNetwork(model, (64, 96), half=True)(images), model(images)[0]
    assert found.dtype == torch.float32
    assert (found[..., :2] - expected[..., :2]).abs().max() < 0.5, "half precision has steps of 1/16 at 100 pixels"
    assert (found - expected).abs().max() > 1e-4, "but it is half precision"


def test_several_networks_are_an_ensemble(model):
    other = spread_model(seed=5)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = Ensemble([exact(model), exact(other)]).eval()(images.double())[0]
        found = GraphNetwork(Ensemble([model, other]), (64, 64)).in_float64()(images)
    assert found.shape == (1, 1280, 8) and apart(found, expected) < 1e-9


def test_taps_follow_the_predictions(model):
    images = torch.rand(1, 3, 64, 64)
    network = GraphNetwork(model, (64, 64), taps=("model.0", "model.2.cv1"))
    kept = {}
    fused = copy.deepcopy(model).fuse()
    for name in ("model.0", "model.2.cv1"):
        fused.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: kept.__setitem__(name, out))
    with torch.no_grad():
        output, *taps = network(images)
        fused(images)
    assert len(taps) == 2 and output.shape[2] == 8
    for tap, name in zip(taps, kept, strict=True):
        assert torch.allclose(tap, kept[name], atol=1e-6)


def test_a_head_of_four_levels():
    model = spread_model({**content(read_yaml("yolov5n6.yaml")), "nc": 3, "width_multiple": 0.125}, side=256)
    images = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        found = GraphNetwork(model, (128, 192)).in_float64()(images)
        assert apart(found, exact(model)(images.double())[0]) < 1e-9
