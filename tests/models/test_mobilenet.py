"""MobileNetV3 as a backbone: compared with torchvision's network with the same weights."""

import pytest
import torch
import torchvision
import yaml
from torch import nn

from models.common import ConvHardswish, MobileNetV3Block
from models.graph.architecture import read_yaml, render_yaml
from models.mobilenet import SqueezeExcitation, gate_width
from models.registry import Scale, find
from models.yolo import Model
from utils.errors import ModelError
from utils.files import ROOT

SIZES = ("small", "large")
REFERENCES = {"small": torchvision.models.mobilenet_v3_small, "large": torchvision.models.mobilenet_v3_large}
TAPS = {
    "small": {3: (24, 8), 8: (48, 16), 11: (96, 32)},  # layer: width, stride
    "large": {6: (40, 8), 12: (112, 16), 15: (160, 32)},
}
# the published totals without the classifier and the 1x1 convolution before it
BACKBONE = {
    "small": 2_542_856 - (576 * 1024 + 1024 + 1024 * 1000 + 1000) - (96 * 576 + 2 * 576),
    "large": 5_483_032 - (960 * 1280 + 1280 + 1280 * 1000 + 1000) - (160 * 960 + 2 * 960),
}


def file(size):
    return ROOT / "models" / "hub" / f"yolov5-mobilenetv3-{size}.yaml"


def image(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(size):
    """torchvision's layers up to the last bottleneck, with random weights and running statistics."""
    generator = torch.Generator().manual_seed(3)
    layers = REFERENCES[size](weights=None).features[:-1].eval()
    with torch.no_grad():
        for name, tensor in layers.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1, generator=generator)
    return layers


def backbone(size):
    model = Model(str(file(size))).eval()
    return model.model[: max(TAPS[size]) + 1]


def copy_weights(ours, theirs):
    """Both networks hold the same tensors in the order in which they are used."""
    source, target = theirs.state_dict(), ours.state_dict()
    assert [tuple(each.shape) for each in source.values()] == [tuple(each.shape) for each in target.values()]
    ours.load_state_dict(dict(zip(target, source.values(), strict=True)))


@pytest.mark.parametrize("size", SIZES)
def test_equals_torchvisions_network_layer_by_layer(size):
    theirs, ours, x = reference(size).double(), backbone(size).double(), image(2, 3, 64, 96).double()
    copy_weights(ours, theirs)
    assert len(theirs) == len(ours)
    expected = got = x
    with torch.no_grad():
        for index, (their, our) in enumerate(zip(theirs, ours, strict=True)):
            expected, got = their(expected), our(got)
            torch.testing.assert_close(
                got, expected, rtol=1e-9, atol=1e-9, msg=lambda text, index=index: f"layer {index}: {text}"
            )
            if index in TAPS[size]:
                width, stride = TAPS[size][index]
                assert got.shape == (2, width, 64 // stride, 96 // stride) and got.abs().max() > 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_gradients_equal_torchvisions_in_training(size):
    theirs, ours = reference(size), backbone(size)
    copy_weights(ours, theirs)
    for layers in (theirs, ours):
        layers.double().train()
    x = image(3, 3, 64, 64).double()
    for layers in (theirs, ours):
        out = layers(x)
        (out * image(*out.shape, seed=2).double()).sum().backward()
    for expected, got in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size):
    count = sum(each.numel() for each in backbone(size).parameters())
    assert count == sum(each.numel() for each in reference(size).parameters()) == BACKBONE[size]


@pytest.mark.parametrize("size", SIZES)
def test_taps_and_neck(size):
    architecture = read_yaml(file(size))
    assert yaml.safe_load(render_yaml(architecture)) == yaml.safe_load(file(size).read_text(encoding="utf-8"))
    p3, p4, p5 = TAPS[size]
    head = architecture.rows[p5 + 1 :]
    assert [row.block for row in head] == [row.block for row in read_yaml("yolov5s.yaml").rows[9:]]
    assert [row.sources for row in head if row.block == "Concat"] == [[-1, p4], [-1, p3], [-1, p5 + 6], [-1, p5 + 2]]
    assert head[-1].sources == [p5 + 9, p5 + 12, p5 + 15]
    assert not [row for row in head if row.block == "MobileNetV3Block"]


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
@pytest.mark.parametrize("size", SIZES)
def test_builds_at_every_width(size, width):
    content = yaml.safe_load(file(size).read_text(encoding="utf-8"))
    model = Model({**content, "width_multiple": width})
    assert model.stride.tolist() == [8, 16, 32]
    scale, blocks = Scale(width=width), [each for each in model.modules() if isinstance(each, MobileNetV3Block)]
    rows = [row for row in content["backbone"] if row[2] == "MobileNetV3Block"]
    assert [(each.project.conv.out_channels, each.depthwise.conv.out_channels) for each in blocks] == [
        (scale(row[3][0]), scale(row[3][1])) for row in rows
    ]


@pytest.mark.parametrize("size", SIZES)
def test_trains_evaluates_and_fuses(size):
    torch.manual_seed(0)
    model, x = Model(str(file(size)), nc=3).train(), image(2, 3, 128, 96)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    sum(each.square().mean() for each in model(x)).backward()
    optimizer.step()
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not still and all(value.isfinite().all() for value in model.parameters())
    model, x = model.double().eval(), x.double()
    with torch.no_grad():
        expected = model(x)[0]
        norms = sum(isinstance(each, nn.BatchNorm2d) for each in model.modules())
        got = model.fuse()(x)[0]
    assert norms > 40 and not [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "args", [(16, 16, 16, 3, 1, True, False), (16, 24, 64, 5, 2, True, True), (8, 8, 24, 3, 1, False, True)]
)
def test_one_block_follows_the_papers_equations(args):
    c_in, c_out, hidden, kernel, stride, se, hard_swish = args
    torch.manual_seed(0)
    block, x = MobileNetV3Block(*args).double().eval(), image(2, c_in, 7, 5).double()
    act = (lambda u: u * (u + 3).clamp(0, 6) / 6) if hard_swish else (lambda u: u.clamp(min=0))
    with torch.no_grad():
        features = x if hidden == c_in else act(block.expand.bn(block.expand.conv(x)))
        features = act(block.depthwise.bn(block.depthwise.conv(features)))
        if se:
            squeezed_mean = block.se.fc1(features.mean((2, 3), keepdim=True)).clamp(min=0)
            features = features * ((block.se.fc2(squeezed_mean) + 3).clamp(0, 6) / 6)
        expected = block.project.bn(block.project.conv(features)) + (x if stride == 1 and c_in == c_out else 0)
        before = x.clone()
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before) and expected.shape[2:] == (-(-7 // stride), -(-5 // stride))


def test_a_batch_of_one_at_one_position_trains():
    block = MobileNetV3Block(16, 16, 64, 5, 1, True, True).train()
    block(image(1, 16, 1, 1)).sum().backward()
    assert all(each.grad.isfinite().all() for each in block.parameters())


def test_widths_inside_the_gate_are_torchvisions():
    from torchvision.models._utils import _make_divisible

    for hidden in range(8, 1300, 8):
        assert gate_width(hidden) == _make_divisible(hidden // 4, 8)


def test_wiring_and_refusals():
    wiring = find("MobileNetV3Block").wiring
    plan = wiring([24], 1, Scale(width=0.5), [40, 240, 5, 2, True, True])
    assert (plan.args, plan.channels_out) == ((24, 24, 120, 5, 2, True, True), 24)
    assert find("ConvHardswish").wiring([3], 1, Scale(width=0.5), [16, 3, 2]).args == (3, 8, 3, 2)
    for args in ([], [40], [40, "240"], [40, True], [0, 16]):
        with pytest.raises(ValueError, match="hidden"):
            wiring([24], 1, Scale(), args)
    with pytest.raises(ValueError, match="Concat"):
        wiring([24, 24], 1, Scale(), [40, 240])
    for args, word in (
        ((4,), "odd"),
        (("5",), "odd"),
        ((3, 3), "stride"),
        ((3, 1, "SE"), "se must be one of True, False"),
        ((3, 1, True, 6), "hard_swish"),
    ):
        with pytest.raises(ModelError, match=word):
            MobileNetV3Block(16, 16, 16, *args)
    assert isinstance(MobileNetV3Block(16, 16, 16, 3, 1, 1, 0).se, SqueezeExcitation)  # 0 and 1, as copies write
    assert isinstance(ConvHardswish(3, 16, 3, 2).act, nn.Hardswish)
