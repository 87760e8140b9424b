"""SKAttention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import batch_norm, convolution, relu, softmax
from models.attention.sk import SKAttention


def dense(layer, values):
    out = torch.einsum("oi,bi->bo", layer.weight, values)
    return out if layer.bias is None else out + layer.bias


def slow_sk(block, x):
    """Split, fuse, select; the branches' sum is made, and every weight multiplies its branch."""
    maps = [relu(batch_norm(branch.bn, convolution(branch.conv, x))) for branch in block.convs]
    total = torch.stack(maps).sum(0)
    context = dense(block.fc, total.sum((2, 3)) / x[0, 0].numel())
    if block.norm is not None:
        context = relu(batch_norm(block.norm, context))
    weights = softmax(torch.stack([dense(each, context) for each in block.fcs]), 0)
    return torch.einsum("mbc,mbchw->bchw", weights, torch.stack(maps))


def published(channels):
    """Two 3x3 convolutions in groups and their norms, the squeeze with its norm, two selections."""
    groups = max(each for each in range(1, 33) if channels % each == 0)
    hidden = max(32, channels // 16)
    return 2 * (9 * channels**2 // groups + 2 * channels) + channels * hidden + 2 * hidden + 2 * hidden * channels


def rebuilt_sk(block, x, records):
    """The branches' maps, mixed by the shares that are shown."""
    share = records[0].values
    assert share.shape == (len(x), len(block.convs), x.shape[1], 1, 1)
    torch.testing.assert_close(share.sum(1), torch.ones_like(share[:, 0]))
    return sum(share[:, index] * branch(x) for index, branch in enumerate(block.convs))


CASES = {
    "SKAttention": BlockCase(
        oracles={
            "the paper's": Oracle(lambda: SKAttention(8, L=4), slow_sk, 8),
            "the paper's, 2 groups": Oracle(lambda: SKAttention(6, group=2), slow_sk, 6),
            "four dense branches": Oracle(lambda: SKAttention(6, [1, 3, 5, 7], 2, 1, 3), slow_sk, 6),
        },
        counts={48: published(48), 64: 8_768, 80: published(80), 512: published(512), 1024: published(1024)},
        golden={"SKAttention": Golden(lambda: SKAttention(32, kernels=[1, 3, 5, 7], reduction=8, group=1, L=32))},
        rebuilt=rebuilt_sk,
        refused={
            (32, (2, 3)): "odd",
            (32, ()): "list",
            (32, 3): "list",
            (32, None, 16, 5): "one of 1, 2, 4",
            (32, None, 0): "reduction",
        },
    )
}
