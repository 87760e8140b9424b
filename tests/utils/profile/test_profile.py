"""The cost of models: operations and bytes against counts by hand, and every figure of every block."""

import sys

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL, with_block
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.ops import deform_conv2d

import models.yolo  # noqa: F401  fills the registry
from models.attention.c2psa import C2PSA
from models.attention.cbam import CBAM
from models.attention.cot import CoTAttention
from models.attention.dlka import DeformConv
from models.attention.ema import EMA
from models.attention.mhsa import MHSA
from models.graph.architecture import insert_block, read_yaml
from models.graph.flops import describe_gflops, flop_counter, flops, thop_gflops
from models.graph.shapes import infer_shapes, load_spec
from models.identity_start import IdentityStart
from models.layers import Conv, TransformerBlock
from models.mobilenet import MobileNetV3Block
from models.registry import register, registered
from models.yolo import Model
from utils.profile.__main__ import main
from utils.profile.components import attention_modules, for_inference
from utils.profile.layer_profile import profile_layers, render
from utils.profile.memory import LiveBytes, inference_peak, kept_for_backward, train_step, training_peak
from utils.profile.timing import layer_times

BLOCKS = sorted(name for name, entry in registered().items() if entry.attention)
CPU = torch.device("cpu")
C, H, W = 64, 12, 8
N = H * W


@pytest.fixture()
def small() -> Model:
    torch.manual_seed(0)
    return Model(SMALL)


def counted(function) -> int:
    with flop_counter() as counter:
        function()
    return counter.get_total_flops()


# ---- operations, by hand: 2 per multiply-add ----


BY_HAND = {
    "Conv": (lambda: Conv(C, 32, 3, 2), 2 * (N // 4) * 32 * C * 9),
    "CBAM": (lambda: CBAM(C, 16), 2 * (2 * C * 4) + 2 * 4 * C + 2 * N * 2 * 49),  # fc1 on two vectors, fc2 once, 7 x 7
    # q k v; tables (C, 14) resized to the map's rows and columns; q k and weights v, both twice as wide as a head
    "MHSA": (lambda: MHSA(C, heads=4), 3 * 2 * N * C * C + 2 * C * 14 * (H + W) + 2 * (2 * N * N * 2 * C)),
    # 3 x 3 in four groups, values, 1 x 1 of 2 C to C / 2, and to C logits (the mean of the nine)
    "CoTAttention": (
        lambda: CoTAttention(C),
        2 * N * C * (C // 4) * 9 + 2 * N * C * C + 2 * N * (2 * C) * (C // 2) + 2 * N * (C // 2) * C,
    ),
    # 16 groups of 4: 1 x 1 on H + W positions, 3 x 3, two products of (1, 4) and (4, N)
    "EMA": (lambda: EMA(C, 16), 16 * (2 * (H + W) * 16 + 2 * N * 16 * 9 + 2 * 2 * 4 * N)),
    # halves of 32: in; q 16, k 16 and v 32; two products 32 wide (keys padded); 3 x 3 per channel; out; MLP of 64; out
    "C2PSA": (
        lambda: C2PSA(C),
        2 * N * C * C
        + 2 * N * 32 * 64
        + 2 * (2 * N * N * 32)
        + 2 * N * 32 * 9
        + 2 * N * 32 * 32
        + 2 * (2 * N * 32 * 64)
        + 2 * N * C * C,
    ),
    # an offset (x, y) for each of nine taps; the taps are sampled and weighted element by element
    "DeformConv": (lambda: DeformConv(C, 3), 2 * N * C * 18 * 9),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operations_counted_by_hand(name, device):
    build, expected = BY_HAND[name]
    block = build().eval().to(device)
    with torch.no_grad():
        assert counted(lambda: block(torch.zeros(1, C, H, W, device=device))) == expected


def test_operations_follow_the_size_and_attention_its_square():
    stem = nn.Conv2d(3, C, 1, bias=False)
    model = nn.Sequential(stem, C2PSA(C))
    linear = BY_HAND["C2PSA"][1] - 4 * N * N * 32
    assert flops(model, (H, W)) == 2 * N * 3 * C + BY_HAND["C2PSA"][1]
    assert flops(model, (2 * H, W)) == 2 * (2 * N * 3 * C + linear) + 4 * (2 * N) ** 2 * 32
    assert flops(nn.Sequential(stem), 32) == 2 * 32 * 32 * 3 * C


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("masked", [False, True])
def test_both_products_of_dense_attention_count_whatever_runs_them(device, backend, masked):
    query, key = torch.zeros(2, 3, 50, 8, device=device), torch.zeros(2, 3, 30, 8, device=device)
    mask = torch.zeros(50, 30, device=device) if masked else None
    with sdpa_kernel(backend):
        assert counted(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask)) == 2 * 6 * 50 * 30 * (
            8 + 8
        )


def test_operators_that_torch_does_not_count():
    attention, tokens = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.zeros(3, 50, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 24, batch_first=True).eval()
    expected = 3 * (4 * 2 * 50 * 8 * 8 + 2 * 2 * 50 * 50 * 8)
    with torch.no_grad():  # without gradients another kernel runs
        assert counted(lambda: attention(tokens, tokens, tokens, need_weights=False)) == expected
        assert counted(lambda: layer(tokens)) == expected + 3 * 2 * 2 * 50 * 8 * 24
    assert counted(lambda: attention(tokens, tokens, tokens, need_weights=False)) == expected
    matrix, vector = torch.zeros(4, 5), torch.zeros(5)
    assert (
        counted(lambda: (matrix @ vector, vector @ vector, torch.addmv(torch.zeros(4), matrix, vector))) == 40 + 10 + 40
    )
    image, offsets, weight = torch.zeros(2, 8, 6, 6), torch.zeros(2, 18, 4, 4), torch.zeros(12, 4, 3, 3)
    assert counted(lambda: deform_conv2d(image, offsets, weight)) == 2 * 2 * 12 * 16 * 4 * 9


def test_flops_count_products_inside_attention(small):
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False))
    assert flops(conv, 32) == 2 * 32 * 32 * 8 * 3 * 9
    block = TransformerBlock(8, 8, 2, 1)
    tokens = 16 * 16
    products = 2 * 2 * tokens**2 * 8
    linear = 2 * tokens * 8 * 8 * (1 + 3 + 4 + 2)  # position, q k v, in and out projections, two maps
    wrapped = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), block)
    assert flops(wrapped, 16) == 2 * tokens * 3 * 8 + linear + products
    parameters = [parameter.clone() for parameter in small.parameters()]
    assert describe_gflops(small, 64).endswith(" GFLOPs") and small.training
    assert all(torch.equal(old, new) for old, new in zip(parameters, small.parameters(), strict=True))
    assert not any("total_ops" in key for key in small.state_dict())


def test_a_missing_count_says_why(monkeypatch, small):
    monkeypatch.setitem(sys.modules, "thop", None)
    text = describe_gflops(small, 64)
    assert text.startswith(f"{flops(small, 64) / 1e9:.1f} GFLOPs") and "thop cannot be imported" in text

    class Broken(nn.Module):
        def forward(self, image):
            raise RuntimeError("no map\nat all")

    broken = nn.Sequential(nn.Conv2d(3, 3, 1), Broken())
    assert describe_gflops(broken, 64).startswith("GFLOPs unknown") and "no map at all" in describe_gflops(broken, 64)


def test_layer_times_cover_every_layer(small):
    times = layer_times(small, CPU, 64, rounds=2)
    assert len(times) == 6 and min(times) > 0 and small.training
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in small.model)


def test_thop_by_layer_adds_up(small):
    profile = profile_layers(small, 64, rounds=1)
    assert sum(layer.thop for layer in profile.layers) == pytest.approx(thop_gflops(small, 64)) == profile.thop
    assert profile.layers[0].thop == pytest.approx(
        2 * 32 * 32 * 8 * (27 + 4) / 1e9
    )  # the convolution, and four of the norm


# ---- bytes, by hand ----


def test_bytes_of_a_chain_by_hand():
    """x -> a -> b: while b is made, a and x's last holder decide what is alive."""
    first = torch.zeros(10)
    with LiveBytes() as live:
        live.add(first)
        second = first + 1
        view = second[:5]
        assert live.live == 80
        del first
        third = second.repeat(3)
        assert live.live == 40 + 120 and live.peak == 160
        del second
        assert live.live == 160  # the view holds it
        del view
        assert live.live == 120 and live.peak == 160 and len(third) == 30


class Squares(nn.Module):
    """x^2 keeps x; the sigmoid keeps its result; the sum keeps nothing."""

    def forward(self, x):
        return torch.sigmoid(x * x) + x


def test_kept_for_backward_by_hand():
    kept = kept_for_backward(Chain(nn.Conv2d(3, 4, 1), Squares(), nn.Identity()), (8, 6))
    assert kept == {(0, False): 4 * 3 * 48, (1, False): 2 * 4 * 4 * 48}  # the image; x, once, and the sigmoid


class Chain(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, image):
        return self.model(image)


def test_peaks_by_hand():
    chain = Chain(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 8, 1, bias=False))
    weights, image, middle, last = 4 * (12 + 32), 4 * 3 * 48, 4 * 4 * 48, 4 * 8 * 48
    assert inference_peak(chain, (8, 6)) == weights + image + middle + last  # nn.Sequential's caller holds the image
    assert inference_peak(chain, (8, 6), batch=5) == weights + 5 * (image + middle + last)
    # backward of the second convolution: gradients of its output, its input and its weight beside all maps
    assert training_peak(chain, (8, 6)) > 2 * weights + 16 * (image + middle + last)


@pytest.mark.parametrize("name", ["CBAM", "C2PSA", "DLKA", "CoTAttention"])
def test_bytes_without_values_are_those_with_values(name):
    model = Model(with_block(-1, 1, name, []))

    def real(train: bool) -> int:
        with LiveBytes() as live:
            for tensor in (*model.parameters(), *model.buffers()):
                live.add(tensor)
            with torch.set_grad_enabled(train):
                images = torch.zeros(2, 3, 64, 96)
                train_step(model.train(), images) if train else model.eval()(images)
        return live.peak

    assert inference_peak(model, (64, 96), 2) == real(False)
    assert training_peak(model, (64, 96), 2) == real(True)


def test_fused_attention_keeps_no_map_of_all_positions():
    """N x N weights would be 4 * N^2 bytes; torch's kernel keeps what is linear in N."""
    one, two = (kept_for_backward(Chain(nn.Conv2d(3, C, 1), C2PSA(C)), (side, 64))[1, True] for side in (64, 128))
    assert one < 2 * 4 * 4096**2 / 4 and two < 2.1 * one


class Peeking(nn.Module):
    """Looks at values, which shapes alone do not have, and refuses single images in training."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        if self.training and len(x) == 1:
            raise ValueError("more than one image")
        return self.conv(x) * (2.0 if float(x.sum()) > -1e9 else 1.0)


def test_blocks_that_look_at_values_are_run_for_real():
    chain = Chain(nn.Conv2d(3, 4, 1), Peeking(4))
    assert flops(chain, 8) == 2 * 64 * (12 + 16)
    assert kept_for_backward(chain, 8)[1, False] >= 4 * 4 * 64
    assert inference_peak(chain, 8) > 0


# ---- layers and attention ----


def assert_complete(profile, model, block=None):
    shown = render(profile)
    assert profile.notes == () and "n/a" not in shown and "None" not in shown and "nan" not in shown
    for layer in profile.layers:
        assert layer.shape and layer.all.kept >= 0 and layer.all.live > 0 and layer.all.milliseconds > 0
        assert layer.attention.parameters <= layer.all.parameters and layer.attention.flops <= layer.all.flops
        assert layer.attention.kept <= layer.all.kept and layer.attention.milliseconds <= layer.all.milliseconds
    assert profile.all.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert profile.all.flops == flops(model, profile.size)
    assert [layer.index for layer in profile.layers if layer.attention.milliseconds] == (
        [] if block is None else [block]
    )


@pytest.mark.parametrize("name", BLOCKS)
def test_no_figure_of_any_block_is_blank(name):
    model = Model(with_block(-1, 1, name, [64, 3] if name == "DoubleAttentionLayer" else []))
    profile = profile_layers(model, (96, 64), rounds=1)
    assert_complete(profile, model, block=4)
    layer = profile.layers[4]
    assert (layer.all.parameters, layer.all.flops) == (layer.attention.parameters, layer.attention.flops)
    assert layer.shape == "64 x 12 x 8"
    assert profile.attention == layer.attention


@pytest.mark.parametrize("name", ["yolov5n_C3CBAM.yaml", "yolov3-tiny.yaml", "yolov5s-transformer.yaml"])
def test_figures_of_whole_yamls_are_those_of_the_model_graph(name):
    model, layers = Model(name), infer_shapes(load_spec(name), imgsz=128)
    profile = profile_layers(model, 128, rounds=1)
    assert [(layer.all.parameters, layer.all.flops) for layer in profile.layers] == [
        (layer.stats.parameters, layer.stats.flops) for layer in layers
    ]
    assert [layer.shape for layer in profile.layers[:-1]] == [
        " x ".join(map(str, layer.shape)) for layer in layers[:-1]
    ]
    assert (
        profile.layers[-1].shape == f"{model.head.na * sum((128 // int(stride)) ** 2 for stride in model.stride)} x 85"
    )
    assert profile.notes == () and "n/a" not in render(profile)


def test_attention_inside_c3s_is_separated_from_the_c3():
    plain, attended = (profile_layers(Model(f"yolov5n{end}.yaml"), 64, rounds=1) for end in ("", "_C3CBAM"))
    assert [layer.index for layer in attended.layers if layer.attention.parameters] == [2, 4, 6, 8]
    assert attended.attention.parameters == attended.all.parameters - plain.all.parameters == 1_876_715 - 1_872_157
    assert attended.attention.flops == attended.all.flops - plain.all.flops
    assert plain.attention.parameters == plain.attention.milliseconds == 0 and "attention: none" in render(plain)
    assert attended.all.kept > plain.all.kept
    assert [type(module).__name__ for module in attention_modules(TransformerBlock(8, 8))] == ["MultiheadAttention"]
    assert [type(module).__name__ for module in attention_modules(MobileNetV3Block(8, 8, 16, se=True))] == [
        "SqueezeExcitation"
    ]
    assert not attention_modules(MobileNetV3Block(8, 8, 16, se=False))


def test_a_zero_gate_does_not_hide_the_block():
    model = Model(with_block(-1, 1, "CBAM", []) | {"attention_start": "identity"})
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert isinstance(model.model[4], IdentityStart) and not model.model[4].gate.any()
    opened, closed = for_inference(model), for_inference(model, open_gates=False)
    assert any(isinstance(module, CBAM) for module in opened.modules())
    assert not any(isinstance(module, CBAM) for module in closed.modules())
    assert not model.model[4].gate.any() and model.training
    with torch.no_grad():  # fused and not: 1e-4 is 800 roundings of float32
        torch.testing.assert_close(closed(image)[0], model.eval()(image)[0], atol=1e-4, rtol=1e-4)
    profile = profile_layers(model.train(), 64, rounds=1)
    assert profile.attention.parameters == 2 * 64 * 4 + 98 + 64


def test_measuring_leaves_the_model_alone(small):
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    profile_layers(small, 64, rounds=1)
    training_peak(small, 64, 2)
    assert small.training and all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())


def test_what_cannot_be_measured_is_reported(monkeypatch, small):
    monkeypatch.setitem(sys.modules, "thop", None)
    profile = profile_layers(small, 64, rounds=1)
    assert profile.thop is None and all(layer.thop is None for layer in profile.layers)
    assert "n/a" in render(profile) and "not measured: thop's count: import of thop halted" in render(profile)


# ---- the command ----


def test_command_with_a_yaml_of_the_user(tmp_path, capsys):
    from models.graph.architecture import render_yaml as as_text

    path = tmp_path / "mine.yaml"
    path.write_text(as_text(insert_block(read_yaml("yolov5n.yaml"), "SEAttention", [8])))
    assert main(["--cfg", str(path), "--imgsz", "60", "90", "--device", "cpu", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "is not a multiple of the largest stride 32; using 64 96" in out and "one image of 64 x 96 on cpu" in out
    row = next(line for line in out.splitlines() if line.startswith("9 ")).split()
    assert row[:7] == ["9", "-1", "SEAttention", "256", "x", "2", "x"] and row[8] == "8,192" and row[-1] == "%"
    assert "attention (9 SEAttention): 8,192 parameters (0.4 %)" in out


def test_command_with_weights(real, capsys):
    weights = str(real("weights/yolov5n.pt"))
    assert main(["--weights", weights, "--imgsz", "64", "--rounds", "1"]) == 0
    assert main(["--cfg", "yolov5n_CBAM.yaml", "--weights", weights, "--imgsz", "64", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "1,872,157" in out and "1,880,447" in out and "attention (9 CBAM): 8,290 parameters" in out


@pytest.mark.parametrize(
    "flags, said",
    [
        ([], "nothing to profile: give --cfg with a model yaml, or --weights with a checkpoint"),
        (["--cfg", "yolov5n.yml"], "did you mean yolov5n.yaml"),
        (
            ["--cfg", "yolov5n.yaml", "--imgsz", "1", "2", "3"],
            "expected the side of a square in pixels, or height and width",
        ),
        (["--cfg", "yolov5n.yaml", "--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--weights", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
    ],
)
def test_command_says_what_is_wrong(flags, said, capsys):
    assert main(flags) == 2
    assert said in capsys.readouterr().err


def test_command_names_a_block_that_fails_at_the_size(tmp_path, capsys, monkeypatch):
    from models import registry

    monkeypatch.setattr(registry, "_entries", registered())

    @register()
    class Fixed(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x):
            return x + self.table

    path = tmp_path / "mine.yaml"
    path.write_text(
        "nc: 3\ndepth_multiple: 1.0\nwidth_multiple: 1.0\nanchors: 3\nbackbone:\n  - [-1, 1, Conv, [8, 6, 32, 0]]\n"
        "  - [-1, 1, Fixed, []]\nhead:\n  - [[1], 1, Detect, [nc, anchors]]\n"
    )
    assert main(["--cfg", str(path), "--imgsz", "256"]) == 2
    assert "does not run on images of 256 x 256: The size of tensor" in capsys.readouterr().err
