"""Models equal the published ones: keys, shapes, parameters, strides, outputs, work; and behave in every mode."""

import copy
import logging
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from small_models import SMALL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.ensemble import Ensemble
from models.graph.flops import thop_gflops
from models.head import Detect
from models.layers import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    Concat,
    Contract,
    Conv,
    CrossConv,
    DWConv,
    Expand,
    Focus,
    GhostBottleneck,
    MixConv2d,
    Sum,
    TransformerBlock,
    fold_norm,
)
from models.yolo import AUGMENTED_VIEWS, GRAY, Model, main
from utils.errors import ModelError
from utils.log import LOGGER

NAMES = (
    "yolov5n",
    "yolov5s",
    "yolov5m",
    "yolov5l",
    "yolov5x",
    "yolov5n6",
    "yolov5s6",
    "yolov5m6",
    "yolov5l6",
    "yolov5x6",
    "yolov3",
    "yolov3-spp",
    "yolov3-tiny",
    "yolov5-bifpn",
    "yolov5-fpn",
    "yolov5-p2",
    "yolov5-p34",
    "yolov5-p6",
    "yolov5-p7",
    "yolov5-panet",
    "yolov5s-ghost",
    "yolov5s-transformer",
)
FORWARDS = ("yolov3-tiny", "yolov5n", "yolov5s6", "yolov5s-ghost", "yolov5s-transformer")


@pytest.fixture()
def small() -> Model:
    torch.manual_seed(0)
    return Model(SMALL)


@pytest.fixture(scope="module")
def nano() -> Model:
    torch.manual_seed(0)
    return Model("yolov5n.yaml").eval()


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def randomize_norms(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.7), (module.running_var, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_structure_and_work_are_the_published_ones(golden, name):
    wanted = golden("models.json")[name]
    model = Model(f"{name}.yaml")
    assert _shapes(model) == [list(item) for item in _state(wanted)]
    assert [[layer.i, layer.f, layer.type.split(".")[-1], layer.np] for layer in model.model] == [
        [index, source, kind.split(".")[-1], count] for index, source, kind, count in wanted["layers"]
    ]
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted["parameters"]
    assert model.stride.tolist() == wanted["stride"]
    assert model.save == wanted["save"]
    assert round(thop_gflops(model), 3) == wanted["thop_gflops_640"]
    assert {key for key, _ in model.named_buffers()} <= set(model.state_dict())


def _shapes(model: nn.Module) -> list:
    return [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]


def _state(wanted: dict) -> list:
    entries = wanted["state_dict"]
    return list(entries.items()) if isinstance(entries, dict) else entries


@pytest.fixture(scope="module", params=FORWARDS)
def published(request, golden, fill):
    """Reference figures, a model with their weights, and their input."""
    wanted = golden(f"forward_{request.param}.npz")
    seed, shape = int(wanted["seed"]), tuple(int(side) for side in wanted["input_shape"])
    model = fill.fill_(Model(f"{request.param}.yaml"), seed).eval()
    return wanted, model, fill.tensor_input("image", shape, seed, 0.0, 1.0)


def test_outputs_are_the_published_ones(published):
    """In double precision: in float32 two processors differ by more than a mistake would."""
    wanted, single, image = published
    model, image = copy.deepcopy(single).double(), image.double()
    with torch.no_grad():
        decoded, raw = model(image)
        training = _training_maps(model.train(), image)
    np.testing.assert_allclose(decoded, wanted["decoded64"], rtol=1e-9, atol=1e-9)
    for level, maps in enumerate(raw):
        np.testing.assert_allclose(maps, wanted[f"head{level}64"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(training[level], maps, rtol=1e-9, atol=1e-9)


def test_single_precision_is_double_precision_rounded(published):
    """Every layer adds its rounding, and every processor rounds in its own way: compared by the largest value."""
    _, single, image = published
    double = copy.deepcopy(single).double()
    with torch.no_grad():
        decoded, raw = single(image)
        exact = double(image.double())[1]
        boxes = torch.cat([double.head._decode(level, maps.double()) for level, maps in enumerate(raw)], 1)
    pairs = [(maps, wanted, 64) for maps, wanted in zip(raw, exact, strict=True)]  # measured: 25 at most
    # decoding alone is a few steps, and would turn the rounding of logits of over 100 into more
    pairs += [(decoded[..., :4], boxes[..., :4], 8), (decoded[..., 4:], boxes[..., 4:], 8)]
    for ours, wanted, roundings in pairs:
        limit = roundings * torch.finfo(torch.float32).eps * float(wanted.abs().max())
        assert float((ours - wanted).abs().max()) < limit


def _training_maps(model: Model, image: torch.Tensor) -> list[torch.Tensor]:
    """The raw maps that the head returns in training while the norms use their running statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model(image)


def test_decoding_against_a_loop_over_cells(small):
    head = small.eval().double().head
    with torch.no_grad():
        decoded, raw = small(random_image(2, 3, 64, 96).double())
    rows = []
    for level, maps in enumerate(raw):
        stride = head.strides[level]
        for anchor in range(head.na):
            for y in range(maps.shape[2]):
                for x in range(maps.shape[3]):
                    value = maps[1, anchor, y, x].sigmoid()
                    width, height = head.anchors[level, anchor] * stride
                    rows.append(
                        [
                            (2 * value[0] - 0.5 + x) * stride,
                            (2 * value[1] - 0.5 + y) * stride,
                            (2 * value[2]) ** 2 * width,
                            (2 * value[3]) ** 2 * height,
                            *value[4:],
                        ]
                    )
    torch.testing.assert_close(decoded[1], torch.tensor(rows, dtype=torch.float64), atol=1e-9, rtol=1e-9)


def test_training_and_evaluation_outputs(small):
    image = random_image(1, 3, 64, 96)
    before = image.clone()
    raw = small(image.expand(2, -1, -1, -1))
    assert [tuple(maps.shape) for maps in raw] == [(2, 2, 16, 24, 8), (2, 2, 8, 12, 8)]
    decoded, maps = small.eval()(image)
    assert decoded.shape == (1, 2 * (16 * 24 + 8 * 12), 8) and len(maps) == 2
    assert torch.equal(image, before)


def test_building_leaves_norm_statistics_alone(small):
    norms = [module for module in small.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(int(norm.num_batches_tracked) == 0 and bool((norm.running_mean == 0).all()) for norm in norms)
    assert all((norm.eps, norm.momentum) == (1e-3, 0.03) for norm in norms)
    assert all(module.training for module in small.modules())


def test_every_batch_size_agrees_with_one_image_at_a_time(nano):
    model, images = copy.deepcopy(nano).double(), random_image(3, 3, 64, 64).double()
    with torch.no_grad():
        together = model(images)[0]
        alone = torch.cat([model(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=1e-9)


def test_precisions_and_memory_formats(nano):
    image = random_image(1, 3, 64, 64)
    with torch.no_grad():
        plain = nano(image)[0]
        double = copy.deepcopy(nano).double()(image.double())[0]
        brain = copy.deepcopy(nano).bfloat16()(image.bfloat16())[0]
        last = copy.deepcopy(nano).to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))[0]
        with torch.autocast("cpu", torch.bfloat16):
            mixed, raw = nano(image)
    assert (
        double.dtype == torch.float64 and brain.dtype == mixed.dtype == torch.float32 and raw[0].dtype == torch.bfloat16
    )
    # 1e-4 is 800 roundings of float32
    torch.testing.assert_close(double.float(), plain, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(last, plain, atol=1e-3, rtol=1e-4)
    # centers move by less than a tenth of the largest cell: coordinates are not rounded to 8 bits
    assert float((brain - plain)[..., :2].abs().max()) < 3.2 and float((mixed - plain)[..., :2].abs().max()) < 3.2


def test_gradients_after_inference_mode(small):
    """The remembered cell grid of a pass without gradients must serve one with them."""
    small.eval().double()
    with torch.inference_mode():
        first = small(random_image(1, 3, 64, 64).double())[0]
    image = random_image(1, 3, 64, 64).double().requires_grad_()
    second = small(image)[0]
    second.sum().backward()
    torch.testing.assert_close(first, second.detach(), atol=1e-9, rtol=1e-9)
    assert float(image.grad.abs().sum()) > 0


def test_remembered_grids_are_bounded_and_follow_the_size(small):
    small.eval()
    for side in range(8, 8 * 80, 8):
        small(torch.zeros(1, 3, side, 8))
    assert len(small.head._grids) <= 64
    # the same kernels on the same numbers, whichever they are
    assert torch.equal(small(random_image(1, 3, 64, 32))[0], copy.deepcopy(small)(random_image(1, 3, 64, 32))[0])


def test_traced_model_takes_other_sizes(small):
    small.eval().double()
    traced = torch.jit.trace(small, random_image(1, 3, 64, 64).double(), check_trace=False)
    other = random_image(2, 3, 32, 96).double()
    torch.testing.assert_close(traced(other)[0], small(other)[0], atol=1e-9, rtol=1e-9)


def test_fuse_changes_nothing_but_rounding(fill):
    single = fill.fill_(Model("yolov5n.yaml"), 3).eval()
    model, image = copy.deepcopy(single).double(), random_image(1, 3, 96, 96).double()
    keys = set(model.state_dict())
    with torch.no_grad():
        # pixels of up to 322: a thousandth is 26 roundings of float32 (measured: 2.4)
        assert float((copy.deepcopy(single).fuse()(image.float())[0] - single(image.float())[0]).abs().max()) < 1e-3
        before = model(image)[0]
        fused = copy.deepcopy(model).fuse()
        after = fused(image)[0]
        torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)
        # a second fuse finds nothing: the same kernels on the same weights
        assert torch.equal(copy.deepcopy(fused).fuse()(image)[0], after)
    assert not any(".bn." in key for key in fused.state_dict()) and set(model.state_dict()) == keys
    assert [tuple(maps.shape) for maps in fused.train()(image)] == [
        (1, 3, 12, 12, 85),
        (1, 3, 6, 6, 85),
        (1, 3, 3, 3, 85),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"dilation": 2, "padding": 2},
        {"groups": 4},
        {"bias": True},
        {"stride": 2, "padding_mode": "reflect", "padding": 1},
    ],
)
def test_folding_keeps_the_convolution_s_options_and_the_norm_s_eps(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, **{"bias": False, **options}).double()
    norm = nn.BatchNorm2d(12, eps=0.3).double()
    randomize_norms(norm)
    image = random_image(2, 8, 11, 9).double()
    with torch.no_grad():
        torch.testing.assert_close(fold_norm(conv, norm)(image), norm.eval()(conv(image)), atol=1e-9, rtol=1e-9)


def test_summary_lines(nano, caplog):
    with caplog.at_level(logging.INFO, "yolo"):
        line = Model("yolov5s.yaml").summary(verbose=True)
        fused = Model("yolov5s.yaml").fuse().summary()
    assert line == "Model Summary: 270 layers, 7235389 parameters, 7235389 gradients, 16.6 GFLOPs"
    assert fused.startswith("Model Summary: 213 layers, 7225885 parameters, 0 gradients")
    table = caplog.text
    assert f"{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<40}{'arguments':<30}" in table
    assert "[17, 20, 23]  1    229245  models.head.Detect" in table and "[3, 32, 6, 2, 2]" in table


def test_overrides_are_logged_and_kept(caplog):
    with caplog.at_level(logging.INFO, "yolo"):
        model = Model(SMALL, ch=4, nc=7, anchors=3.4)
    assert "Overriding model.yaml nc=3 with nc=7" in caplog.text and "anchors" in caplog.text
    assert (model.nc, model.head.na, model.yaml["ch"], len(model.names)) == (7, 3, 4, 7)
    assert model.head.placeholder_anchors and SMALL["nc"] == 3
    again = Model(model.yaml)
    assert _shapes(again) == _shapes(model)
    assert model.model[0].conv.in_channels == 4


def test_wide_head_width_is_not_scaled():
    """A row as wide as na*(nc+5) is the head's own width and keeps it at every scale."""
    content = copy.deepcopy(SMALL) | {"width_multiple": 0.5}
    content["head"].insert(1, [-1, 1, "Conv", [16, 1]])
    content["head"][2][0] = [2, 5]
    assert Model(content).model[5].conv.out_channels == 16  # 2 anchors * (3 classes + 5)
    assert Model(content, nc=4).model[5].conv.out_channels == 8


def test_anchors_in_pixels_and_their_order(small):
    head = small.head
    wanted = torch.tensor([[[10.0, 13], [16, 30]], [[60, 70], [90, 80]]])
    torch.testing.assert_close(small.geometry.anchors_px, wanted)
    torch.testing.assert_close(head.anchors, wanted / torch.tensor([4.0, 8]).view(-1, 1, 1))
    head.set_anchors(wanted.flip(0))
    torch.testing.assert_close(small.geometry.anchors_px, wanted)
    # areas rise in pixels and fall in grid units: the order must stay
    flat = torch.tensor([[[20.0, 20]] * 2, [[24.0, 24]] * 2])
    head.set_anchors(flat.view(-1, 2))
    torch.testing.assert_close(small.geometry.anchors_px, flat)
    reversed_yaml = copy.deepcopy(SMALL) | {"anchors": SMALL["anchors"][::-1]}
    torch.testing.assert_close(Model(reversed_yaml).geometry.anchors_px, wanted)


def test_bias_prior():
    head = Detect(4, 3, (8, 8))
    for conv in head.m:
        nn.init.zeros_(conv.bias)
    head.set_strides([8, 16])
    for conv, stride in zip(head.m, (8, 16), strict=True):
        bias = conv.bias.detach().view(3, 9)
        torch.testing.assert_close(bias[:, 4], torch.full((3,), float(np.log(8 / (640 / stride) ** 2))))
        torch.testing.assert_close(bias[:, 5:], torch.full((3, 4), float(np.log(0.6 / (4 - 0.999999)))))
        assert bool((bias[:, :4] == 0).all())
    assert float(head.anchors.min()) > 0


def test_augmented_views_against_literal_ones(small):
    small.eval().double()
    image = random_image(2, 3, 64, 96).double()
    sizes = [small(image)[1][level][0, ..., 0].numel() for level in (0, 1)]
    views = [small(image)[0][:, : sizes[0]]]
    for scale, flip in AUGMENTED_VIEWS[1:]:
        height, width = int(64 * scale), int(96 * scale)
        scaled = F.interpolate(image.flip(-1) if flip else image, (height, width), mode="bilinear", align_corners=False)
        canvas = image.new_full((2, 3, math.ceil(64 * scale / 8) * 8, math.ceil(96 * scale / 8) * 8), GRAY)
        canvas[..., :height, :width] = scaled
        decoded, raw = small(canvas)
        decoded = decoded.clone()
        decoded[..., [0, 2]] *= 96 / width
        decoded[..., [1, 3]] *= 64 / height
        if flip:
            decoded[..., 0] = 96 - decoded[..., 0]
        views.append(decoded if flip else decoded[:, raw[0][0, ..., 0].numel() :])
    joined, nothing = small(image, augment=True)
    assert nothing is None
    torch.testing.assert_close(joined, torch.cat(views, 1), atol=1e-9, rtol=1e-9)


def test_ensemble_joins_predictions(small):
    other = Model(SMALL).eval()
    both = Ensemble([small, other]).eval()
    image = random_image(1, 3, 64, 64)
    joined, nothing = both(image)
    # each network alone on the same image: the same kernels on the same numbers
    assert nothing is None and torch.equal(joined, torch.cat((small(image)[0], other(image)[0]), 1))
    assert (
        both.stride.tolist() == [4, 8] and both.nc == 3 and both.names == ["0", "1", "2"] and both.geometry.levels == 2
    )
    with pytest.raises(ModelError, match="does not train"):
        both.train()(image)
    with pytest.raises(ModelError, match=r"\[3, 5\] classes"):
        Ensemble([small, Model(SMALL, nc=5)])


def test_repeats_may_change_the_width_once():
    content = copy.deepcopy(SMALL)
    content["backbone"][1] = [-1, 3, "Bottleneck", [16]]
    content["backbone"][3] = [-1, 1, "Conv", [24, 3, 2]]
    model = Model(content)
    assert [layer.cv1.conv.in_channels for layer in model.model[1]] == [8, 16, 16]
    assert model.stride.tolist() == [2, 4]


def test_layers_against_their_definitions():
    image = random_image(2, 4, 6, 8)
    torch.testing.assert_close(Expand(2)(Contract(2)(image)), image)
    contracted = Contract(2)(image)
    assert contracted.shape == (2, 16, 3, 4) and torch.equal(contracted[:, 4 * 1 : 4 * 2], image[:, :, 0::2, 1::2])
    focus = Focus(4, 8).eval()
    corners = torch.cat((image[..., ::2, ::2], image[..., 1::2, ::2], image[..., ::2, 1::2], image[..., 1::2, 1::2]), 1)
    torch.testing.assert_close(focus(image), focus.conv(corners))
    pooled, fast = SPP(4, 8).eval(), SPPF(4, 8).eval()
    fast.load_state_dict(pooled.state_dict())
    torch.testing.assert_close(pooled(image), fast(image))
    weighted = Sum(3, True)
    first, second = (2 * torch.sigmoid(weighted.w)).tolist()
    torch.testing.assert_close(weighted([image, image, image]), image * (1 + first + second))
    # x + x is 2 x to the last bit, and what is copied is copied
    assert weighted.w.tolist() == [-0.5, -1.0] and torch.equal(Sum(2)([image, image]), 2 * image)
    assert torch.equal(Concat(1)([image, image]), torch.cat((image, image), 1))


def test_mixed_kernels_share_channels_or_weights():
    assert [conv.out_channels for conv in MixConv2d(8, 64, (1, 3, 5)).m] == [22, 21, 21]
    widths = [conv.out_channels for conv in MixConv2d(8, 64, (1, 3), equal_channels=False).m]
    assert sum(widths) == 64 and widths == [58, 6]
    assert MixConv2d(8, 64, (1, 3), 2)(random_image(2, 8, 8, 8)).shape == (2, 64, 4, 4)
    with pytest.raises(ValueError, match="cannot be divided"):
        MixConv2d(8, 2, (1, 3, 5))


@pytest.mark.parametrize(
    "layer",
    [
        Bottleneck(8, 8),
        C3(8, 8, 2),
        CrossConv(8, 8, 3, 1, shortcut=True),
        DWConv(8, 8, 3),
        GhostBottleneck(8, 8),
        TransformerBlock(12, 8),
        Conv(8, 8, (1, 3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_reach_every_parameter_at_odd_sizes(layer):
    channels = next(layer.parameters()).shape[1] if not isinstance(layer, DWConv) else 8
    output = layer.train()(random_image(2, channels, 7, 5))
    assert output.shape == (2, 8, 7, 5)
    (output * random_image(2, 8, 7, 5, seed=5)).sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in layer.parameters())


def test_half_a_ghost_at_stride_two():
    assert GhostBottleneck(8, 16, 3, 2)(random_image(2, 8, 8, 6)).shape == (2, 16, 4, 3)


def test_command(monkeypatch, capsys):
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr(LOGGER, "level", logging.INFO)
    assert main(["--cfg", "yolov3-tiny.yaml", "--device", "cpu"]) == 0
    assert main(["--cfg", "yolov3-tinny.yaml"]) == 2
    shown = capsys.readouterr()
    assert "59 layers, 8852366 parameters" in shown.out
    assert shown.err.startswith("error: yolov3-tinny.yaml does not exist (did you mean yolov3-tiny.yaml")


def test_command_as_a_file(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "models" / "yolo.py"), "--cfg", "yolov5n.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and "1872157 parameters" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "block, args, width, stride",
    [
        ("Conv", [32, 3, 2], 32, 2),
        ("DWConv", [32, 3], 32, 1),
        ("Focus", [32, 3], 32, 2),
        ("Bottleneck", [32, False], 32, 1),
        ("BottleneckCSP", [32], 32, 1),
        ("C3", [32, False], 32, 1),
        ("C3TR", [32], 32, 1),
        ("C3SPP", [32, [3, 5]], 32, 1),
        ("C3Ghost", [32], 32, 1),
        ("SPP", [32, [3, 5]], 32, 1),
        ("SPPF", [32, 3], 32, 1),
        ("GhostConv", [32, 3, 2], 32, 2),
        ("GhostBottleneck", [32, 3, 2], 32, 2),
        ("CrossConv", [32, 3, 2], 32, 2),
        ("MixConv2d", [32, [1, 3], 2], 32, 2),
        ("TransformerBlock", [32], 32, 1),
        ("Contract", [2], 64, 2),
        ("Expand", [2], 4, 0.5),
        ("nn.MaxPool2d", [2, 2], 16, 2),
        ("nn.BatchNorm2d", [], 16, 1),
        ("nn.Conv2d", [32, 1], 32, 1),
        ("nn.ConvTranspose2d", [32, 2, 2], 32, 0.5),
        ("Sum", [], 16, 1),
    ],
)
def test_every_layer_can_stand_in_a_yaml(block, args, width, stride):
    source, repeats = ([-1, 0], 1) if block == "Sum" else (-1, 2)
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3]], [source, repeats, block, args]]
    content = SMALL | {"anchors": 1, "backbone": rows, "head": [[[-1], 1, "Detect", ["nc", "anchors"]]]}
    if block in (
        "Conv",
        "Focus",
        "GhostConv",
        "GhostBottleneck",
        "CrossConv",
        "MixConv2d",
        "nn.MaxPool2d",
        "nn.ConvTranspose2d",
    ):
        stride = stride**2  # two copies in a row
    model = Model(content)
    assert model.stride.tolist() == [2 * stride] and model.head.m[0].in_channels == width
    decoded, _ = model.eval()(random_image(1, 3, 64, 32))
    assert decoded.shape == (1, int(64 * 32 / (2 * stride) ** 2), 8) and bool(decoded.isfinite().all())


class _Operators(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket] += 1
        return function(*args, **(kwargs or {}))


def test_an_activation_copies_nothing():
    """With a gradient its input is kept as it is, without one it is overwritten; figures are those of torch's own."""
    conv, x, aten = Conv(3, 4), torch.randn(2, 3, 8, 8), torch.ops.aten
    with _Operators() as training:
        conv(x).sum().backward()
    assert training.counts[aten.silu] == 1 and not {aten.silu_, aten.clone, aten.copy_} & training.counts.keys()
    with torch.no_grad(), _Operators() as inference:
        conv(x)
    assert inference.counts[aten.silu_] == 1 and not {aten.silu, aten.clone, aten.copy_} & inference.counts.keys()
    results = []
    for act in (conv.act, nn.SiLU(inplace=True)):
        out = act(conv.bn(conv.conv(x)))
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), list(conv.parameters()))))
    assert all(map(torch.equal, *results)), "the same operators on the same numbers"
