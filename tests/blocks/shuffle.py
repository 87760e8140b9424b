"""ShuffleAttention."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import sigmoid
from models.attention.shuffle import ShuffleAttention


def slow_shuffle(block, x):
    """Channel by channel: which half of which group it is in, its gate, and where the shuffle puts it."""
    channels, half = x.shape[1], x.shape[1] // (2 * block.G)
    out = torch.zeros_like(x)
    for image in range(x.shape[0]):
        for channel in range(channels):
            features, own = x[image, channel], channel % half
            mean = features.sum() / features.numel()
            if channel // half % 2 == 0:
                gate = sigmoid(block.cweight[0, own, 0, 0] * mean + block.cbias[0, own, 0, 0])
            else:
                spread = ((features - mean) ** 2).sum() / features.numel()
                normal = (features - mean) / (spread + block.gn.eps).sqrt() * block.gn.weight[own] + block.gn.bias[own]
                gate = sigmoid(block.sweight[0, own, 0, 0] * normal + block.sbias[0, own, 0, 0])
            first = channel < channels // 2  # the halves of the whole map alternate
            out[image, 2 * channel if first else 2 * (channel - channels // 2) + 1] = gate * features
    return out


def rebuilt_shuffle(block, x, records):
    """The input times both gates, then the halves of the channels in turn."""
    channel, spatial = (shown.values for shown in records)
    assert ((channel == 1) | (spatial == 1)).all()
    first, second = (x * channel * spatial).chunk(2, 1)
    return torch.stack((first, second), 2).flatten(1, 2)


CASES = {
    "ShuffleAttention": BlockCase(
        oracles={
            "3 groups": Oracle(lambda: ShuffleAttention(12, 3), slow_shuffle, 12),
            "8 by default": Oracle(lambda: ShuffleAttention(32), slow_shuffle, 32),
            "one group, one channel a half": Oracle(lambda: ShuffleAttention(2, G=1), slow_shuffle, 2),
        },
        counts={16: 6, 64: 24, 256: 96, 512: 192, 1024: 384},  # 3 C / 8
        golden={"ShuffleAttention": Golden(lambda: ShuffleAttention(64, G=8))},
        delayed={"gn.weight": "sweight starts at zero", "gn.bias": "sweight starts at zero"},
        rebuilt=rebuilt_shuffle,
        refused={
            (48, 64): "24 channels of a half, got 64; use one of 1, 2, 3",
            (32, 0): "one of 1, 2, 4",
            (7,): "multiple of 2",
        },
    )
}
