"""A network prepared for inference gives what it gave before: every variant, ensembles, blocks of plugins."""

import copy
from collections import Counter

import pytest
import torch
from small_models import SMALL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.ensemble import Ensemble
from models.inference import prepare_for_inference
from models.yolo import Model
from models.zoo import table as zoo
from utils.checkpoint import load_models
from utils.config import PredictOptions
from utils.engine.predictor import as_predictor, predict

FEW = ("CBAM", "C3CBAM", "MHSA", "CoT", "MobileNetV3s")  # gates, blocks in a C3, tokens, neighborhoods, a backbone


class ViewingBlock(nn.Module):
    """A block as users write them: it takes it for granted that its map is contiguous."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x * self.conv(x).view(x.shape[0], -1).mean(1).view(-1, 1, 1, 1) + x.view(x.shape)


class _Calls(TorchDispatchMode):
    """Counts the calls of each operator."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.name().partition("::")[2]] += 1
        return function(*args, **(kwargs or {}))


def randomized(model):
    """The model with statistics and gates as after a training, so that nothing is the identity by chance."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", ".gate")):
            tensor.uniform_(-0.2, 0.8)
    return model.eval().requires_grad_(False)


def last(image):
    return image.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def assert_prepared_alike(model):
    """Both forms of an image, of two shapes: boxes to a ten-thousandth of their size, probabilities to 1e-5."""
    image = torch.rand(2, 3, 96, 160)
    decoded, raw = model(image)
    prepared = prepare_for_inference(copy.deepcopy(model))
    for form in (last(image), image):
        got, got_raw = prepared(form)
        torch.testing.assert_close(got[..., :4], decoded[..., :4], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(got[..., 4:], decoded[..., 4:], rtol=0, atol=1e-5)
        for one, expected in zip(got_raw, raw, strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    other = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(prepared(last(other))[0], model(other)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in zoo.load_variants()]
)
def test_every_variant_gives_what_it_gave(name):
    torch.manual_seed(0)
    assert_prepared_alike(randomized(Model(str(zoo.MODELS / f"yolov5n_{name}.yaml"), nc=3, report=False)))


def test_operators_of_a_pass():
    """60 convolutions, a SiLU in place after all but the 3 of the head; 8 C3s, SPPF and the neck concatenate."""
    torch.manual_seed(0)
    prepared = prepare_for_inference(Model("yolov5n.yaml").eval())
    counts = counted(prepared, last(torch.rand(1, 3, 64, 64)))
    assert counts["convolution"] == 60 and counts["cat"] == 8 + 1 + 4 and counts["silu_"] == 57
    assert counts["sigmoid_"] == 1 and not counts["sigmoid"] and not counts["native_batch_norm"]
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last) for conv in convolutions(prepared))


def counted(model, image):
    with torch.no_grad(), _Calls() as calls:
        model(image)
    return calls.counts


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_blocks_of_plugins_get_contiguous_maps():
    torch.manual_seed(0)
    model = randomized(Model(SMALL, report=False))
    model.model[2].m.append(ViewingBlock(8))
    assert_prepared_alike(model)
    prepared = prepare_for_inference(model)
    assert prepared.model[2].m[-1].conv.weight.is_contiguous()


def test_ensembles_are_prepared_and_other_modules_left_alone():
    torch.manual_seed(0)
    models = [randomized(Model(SMALL, report=False)) for _ in range(2)]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = Ensemble(models).eval()(image)[0]
        prepared = prepare_for_inference(Ensemble(models).eval())
        torch.testing.assert_close(prepared(last(image))[0], expected, rtol=1e-4, atol=1e-4)
    bare = nn.Sequential(nn.Conv2d(3, 3, 1))
    assert prepare_for_inference(bare) is bare and type(bare[0]) is nn.Conv2d


def test_other_types_are_fused_only():
    model = prepare_for_inference(randomized(Model(SMALL, report=False)).double())
    assert all(conv.weight.is_contiguous() for conv in convolutions(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_a_prepared_network_is_traced_and_passes_gradients_to_its_input():
    torch.manual_seed(0)
    model = randomized(Model(SMALL, report=False))
    prepared, image = prepare_for_inference(copy.deepcopy(model)), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(prepared, image, check_trace=False)
        torch.testing.assert_close(traced(image)[0], model(image)[0], rtol=1e-4, atol=1e-4)
    leaf = image.clone().requires_grad_()
    prepared(leaf)[0].sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_decoding_in_place_equals_decoding_by_the_formula():
    torch.manual_seed(0)
    head = Model(SMALL, report=False).eval().head
    maps = [torch.randn(2, width, side, side + 1) for width, side in ((16, 8), (24, 4))]
    slow, slow_raw = head(maps)
    with torch.no_grad():
        fast, fast_raw = head([last(each) for each in maps])
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fast_raw, [each.detach() for each in slow_raw], rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # of the same logits: the same arithmetic
        by_level = torch.cat([head._decode(level, values.contiguous()) for level, values in enumerate(fast_raw)], 1)
        torch.testing.assert_close(head._decode_in_place(fast_raw), by_level, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bus.jpg", "zidane.jpg"])
def test_detections_are_those_of_the_network_as_trained(real, name):
    weights, source = real("weights/yolov5n.pt"), real(f"images/{name}")
    options = PredictOptions(imgsz=640)
    (ours,) = predict(str(weights), str(source), options)
    (plain,) = predict(as_predictor(load_models(weights, fuse=False)), str(source), options)
    assert len(ours) > 1 and torch.equal(ours.detections.cls, plain.detections.cls)
    torch.testing.assert_close(ours.detections.conf, plain.detections.conf, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.detections.xyxy, plain.detections.xyxy, rtol=0, atol=1e-2)
