"""Each attention block against the slow, literal reading of its equations in float64, and against the reference figures."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.attention import CBAM, MHSA, ACmix, CoTAttention, DoubleAttentionLayer
from models.attention.acmix import reflect
from models.attention.mhsa import interpolate

SIZES = [(1, 1), (2, 3), (7, 5), (4, 9)]
BUILDERS = {
    "CoTAttention": lambda: CoTAttention(64, 3),
    "DoubleAttentionLayer": lambda: DoubleAttentionLayer(32, 32, 3),
    "DoubleAttentionLayer_reconstruct": lambda: DoubleAttentionLayer(32, 16, 8, reconstruct=True),
    "ACmix": lambda: ACmix(32, 32, kernel_att=7, head=4, kernel_conv=3),
    "MHSA": lambda: MHSA(32, width=12, height=20, heads=4),
    "CBAM": lambda: CBAM(64, ratio=16, kernel_size=7),
}


def batch_norm(norm, maps):
    column = (1, -1, 1, 1)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (maps - norm.running_mean.view(column)) * scale.view(column) + norm.bias.view(column)


def silu(value):
    return value / (1 + torch.exp(-value))


def pointwise(conv, maps):
    out = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], maps)
    return out if conv.bias is None else out + conv.bias.view(1, -1, 1, 1)


def slow_cot(block, x):
    """All k*k logits a channel, their mean, an explicit softmax over positions."""
    key_conv, key_norm = block.key_embed[0], block.key_embed[1]
    static = silu(batch_norm(key_norm, F.conv2d(x, key_conv.weight, padding=block.kernel_size // 2, groups=4)))
    values = batch_norm(block.value_embed[1], pointwise(block.value_embed[0], x))
    reduce, norm, _, expand = block.attention_embed
    logits = pointwise(expand, silu(batch_norm(norm, pointwise(reduce, torch.cat([static, x], 1)))))
    batch, channels, height, width = x.shape
    logits = logits.view(batch, channels, block.kernel_size**2, height, width).mean(2)
    weights = torch.exp(logits - logits.amax((2, 3), keepdim=True))
    return static + weights / weights.sum((2, 3), keepdim=True) * values


def slow_double_attention(block, x):
    """Gather and distribute as the paper's sums, one image, descriptor and position at a time."""
    batch, _, height, width = x.shape
    feature, look, take = (pointwise(conv, x).flatten(2) for conv in (block.convA, block.convB, block.convV))
    out = torch.zeros(batch, feature.shape[1], height * width, dtype=x.dtype)
    for image in range(batch):
        descriptors = []
        for row in look[image]:
            share = torch.exp(row - row.max())
            descriptors.append((feature[image] * share / share.sum()).sum(1))
        for place in range(height * width):
            share = torch.exp(take[image, :, place] - take[image, :, place].max())
            out[image, :, place] = sum(part * each for part, each in zip(share / share.sum(), descriptors, strict=True))
    out = out.view(batch, -1, height, width)
    return pointwise(block.conv_reconstruct, out) if block.reconstruct else out


def bounce(index, length):
    """Reflect an index into [0, length) without repeating the edge, as often as it takes."""
    while length > 1 and not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
    return index if length > 1 else 0


def slow_acmix(block, x):
    """Equation by equation: the attention path with explicit neighbours and the whole position term, the convolution
    path with explicit mixtures and shifts."""
    query, key, value = (pointwise(conv, x) for conv in (block.conv1, block.conv2, block.conv3))
    batch, channels, height, width = query.shape
    heads, dim, reach, step = block.head, block.head_dim, block.kernel_att // 2, block.stride
    xs = [2 * column / (width - 1) - 1 if width > 1 else -1.0 for column in range(width)]
    ys = [2 * row / (height - 1) - 1 if height > 1 else -1.0 for row in range(height)]
    grid = torch.tensor([[xs for _ in ys], [[each] * width for each in ys]], dtype=x.dtype)
    encoding = pointwise(block.conv_p, grid[None])[0]  # (d, H, W)
    rows, columns = range(0, height, step), range(0, width, step)
    attended = torch.zeros(batch, channels, len(rows), len(columns), dtype=x.dtype)
    for image in range(batch):
        for head in range(heads):
            own = slice(head * dim, (head + 1) * dim)
            q, k, v = query[image, own], key[image, own], value[image, own]
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    near = [(bounce(row + block.dilation * dy, height), bounce(column + block.dilation * dx, width))
                            for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
                    logits = torch.stack([(q[:, row, column] / math.sqrt(dim) *
                                           (k[:, a, b] + encoding[:, row, column] - encoding[:, a, b])).sum() for a, b in near])
                    share = torch.exp(logits - logits.max())
                    neighbours = torch.stack([v[:, a, b] for a, b in near])
                    attended[image, own, i, j] = (share[:, None] / share.sum() * neighbours).sum(0)
    return block.rate1 * attended + block.rate2 * slow_shift(block, query, key, value)


def slow_shift(block, query, key, value):
    batch, channels, height, width = query.shape
    parts = torch.stack((query, key, value), 1).view(batch, 3 * block.head, block.head_dim, height, width)
    mixed = torch.einsum("tp,bpdhw->bdthw", block.fc.weight[:, :, 0, 0], parts)  # (B, d, taps, H, W)
    reach = block.kernel_conv // 2
    padded = F.pad(mixed.flatten(1, 2), (reach,) * 4).view(batch, block.head_dim, -1, height + 2 * reach, width + 2 * reach)
    weight = block.dep_conv.weight.view(block.head_dim, block.head, -1, block.kernel_conv, block.kernel_conv)
    out = 0
    for row in range(block.kernel_conv):
        for column in range(block.kernel_conv):
            moved = padded[..., row : row + height : block.stride, column : column + width : block.stride]
            out = out + torch.einsum("dht,bdtyx->bdhyx", weight[..., row, column], moved)
    return out.flatten(1, 2)


def slow_mhsa(block, x):
    """The N x N logits of content and position, made and added one by one."""
    batch, channels, height, width = x.shape
    split = (batch, block.heads, channels // block.heads, height * width)
    query, key, value = (pointwise(conv, x).view(split) for conv in (block.query, block.key, block.value))
    tables = []
    for table, size in ((block.rel_w, (height, 1)), (block.rel_h, (1, width))):
        maps = table.flatten(1, 2)
        tables.append(F.interpolate(maps, size=size, mode="bilinear", align_corners=False).unflatten(1, split[1:3]))
    position = (tables[0] + tables[1]).flatten(3)[0]  # (heads, d, N)
    logits = torch.einsum("bhdi,bhdj->bhij", query, key) + torch.einsum("hdi,bhdj->bhij", position, query)
    weights = torch.exp(logits - logits.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhij,bhdj->bhdi", weights, value).reshape(x.shape)


def slow_cbam(block, x):
    """Both branches of the channel gate apart, and the 7 x 7 convolution as windows."""
    fc1, fc2 = block.channel_attention.fc1, block.channel_attention.fc2
    pooled = [x.sum((2, 3), keepdim=True) / x[0, 0].numel(), x.flatten(2).max(2).values[..., None, None]]
    branches = [pointwise(fc2, pointwise(fc1, each).clamp(min=0)) for each in pooled]
    x = x / (1 + torch.exp(-branches[0] - branches[1]))
    kernel = block.spatial_attention.conv.weight
    stacked = torch.stack((x.max(1).values, x.sum(1) / x.shape[1]), 1)
    windows = F.unfold(stacked, kernel.shape[-1], padding=kernel.shape[-1] // 2)
    logits = (kernel.flatten(1) @ windows).view(x.shape[0], 1, *x.shape[2:])
    return x / (1 + torch.exp(-logits))


CASES = {
    "cot": (lambda: CoTAttention(8), slow_cot),
    "cot of kernel 5": (lambda: CoTAttention(12, 5), slow_cot),
    "double attention": (lambda: DoubleAttentionLayer(8, 12, 3), slow_double_attention),
    "double attention, reconstructed": (lambda: DoubleAttentionLayer(8, 6, 4, True), slow_double_attention),
    "acmix": (lambda: ACmix(8, 8), slow_acmix),
    "acmix, widening, stride 2": (lambda: ACmix(8, 12, kernel_att=5, head=2, stride=2), slow_acmix),
    "acmix, dilation 2, kernels 3 and 5": (lambda: ACmix(6, 8, kernel_att=3, kernel_conv=5, dilation=2), slow_acmix),
    "mhsa": (lambda: MHSA(8, 14, 14, 4), slow_mhsa),
    "mhsa of small tables": (lambda: MHSA(8, 3, 4, 2), slow_mhsa),
    "cbam": (lambda: CBAM(16), slow_cbam),
    "cbam of ratio 4 and kernel 3": (lambda: CBAM(16, 4, 3), slow_cbam),
}


def randomised(block, generator):
    """The block in float64 with random parameters and running statistics, in evaluation mode."""
    block = block.double().eval()
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else 0.5 * drawn)
    return block


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_equals_its_equations(case, size):
    build, slow = CASES[case]
    generator = torch.Generator().manual_seed(5)
    block = randomised(build(), generator)
    channels = next(conv.in_channels for conv in block.modules() if isinstance(conv, torch.nn.Conv2d))
    x = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = slow(block, x)
        torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-10)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("case", ["cot", "double attention, reconstructed", "acmix", "mhsa of small tables", "cbam"])
def test_gradients_equal_those_of_the_equations(case):
    """The short cuts (averaged weights, a dropped constant, concatenated features) are exact for training too."""
    build, slow = CASES[case]
    generator = torch.Generator().manual_seed(6)
    block = randomised(build(), generator)
    channels = next(conv.in_channels for conv in block.modules() if isinstance(conv, torch.nn.Conv2d))
    x = torch.randn(2, channels, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in block.named_parameters()]
    wanted = [x, *block.parameters()]
    pull = torch.randn(block(x).shape, generator=generator, dtype=torch.float64)
    fast = torch.autograd.grad((block(x) * pull).sum(), wanted)
    literal = torch.autograd.grad((slow(block, x) * pull).sum(), wanted)
    for name, ours, theirs in zip(["x", *names], fast, literal, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", BUILDERS)
def test_equals_the_reference_figures(name, golden, fill):
    facts = golden("attention.json")[name]
    block = BUILDERS[name]()
    assert {key: list(value.shape) for key, value in block.state_dict().items()} == facts["state_dict"]
    assert sum(parameter.numel() for parameter in block.parameters()) == facts["parameters"]
    fill.fill_(block, facts["seed"]).eval()
    with torch.no_grad():
        output = block(fill.tensor_input(facts["input_name"], facts["input_shape"], facts["seed"])).numpy()
    expected = golden(f"attention_{name}.npz")["output"]
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < 1e-4


def test_reflection_equals_torch_where_torch_can_and_bounces_where_it_cannot():
    maps = torch.arange(20.0).view(1, 1, 4, 5)
    assert torch.equal(reflect(maps, 3), F.pad(maps, (3, 3, 3, 3), mode="reflect"))
    line = torch.tensor([[1.0, 2.0, 3.0]])  # one row: columns bounce to and fro, the row repeats
    assert reflect(line, 4)[0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3]
    assert reflect(line, 4).shape == (9, 11)


def test_interpolation_equals_torch_and_leaves_its_own_size_alone():
    table = torch.randn(2, 3, 14, generator=torch.Generator().manual_seed(0))
    assert interpolate(table, 14) is table
    for length in (1, 5, 13, 15, 40):
        torch.testing.assert_close(interpolate(table, length), F.interpolate(table, length, mode="linear", align_corners=False))


def test_acmix_starts_as_its_paper_says():
    block = ACmix(16, 16)
    assert block.rate1.item() == block.rate2.item() == 0.5
    for kernel in block.dep_conv.weight:  # (9, 3, 3): input t reaches the output moved by shift t
        assert torch.equal(kernel.flatten(1), torch.eye(9))


def test_cbam_multiplies_once_a_stage():
    """A gate is below one and the product of the input with two gates is linear in size: doubling a constant
    gate's input doubles the output, which the tutorials' squares would not."""
    block = CBAM(16)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    x = torch.randn(1, 16, 5, 5)
    torch.testing.assert_close(block(x), x / 4)


def test_descriptors_bound_the_rank_of_double_attention():
    out = DoubleAttentionLayer(16, 16, 3)(torch.randn(1, 16, 9, 9)).flatten(2)[0]
    assert torch.linalg.matrix_rank(out, atol=1e-5) <= 3
