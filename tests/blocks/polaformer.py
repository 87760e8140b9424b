"""PolaFormer."""

import torch

from blocks import BlockCase, Oracle
from blocks.focused_linear import linear, slow_weighted, table_maps
from blocks.literal import applied, convolution, maps_of, sigmoid, tokens
from models.attention.polaformer import PolaFormer


def slow_polaformer(block, x):
    """The paper's equations, one image, head, query and key at a time."""
    batch, channels, height, width = x.shape
    dim, half, out = block.head_dim, block.head_dim // 2, torch.zeros_like(x)
    scale = torch.log(1 + torch.exp(block.scale[0, 0]))
    places = [(row, column) for row in range(height) for column in range(width)]
    position = table_maps(block, (height, width)) if block.positional_encoding is not None else x.new_zeros(x.shape[1:])
    for image in range(batch):
        tokens = [x[image, :, a, b] for a, b in places]
        queries = [linear(block.qg, token)[:channels] / scale for token in tokens]
        gates = torch.stack([linear(block.qg, token)[channels:] for token in tokens], 1).reshape(x.shape[1:])
        keys = [
            (linear(block.kv, token)[:channels] + position[:, a, b]) / scale
            for token, (a, b) in zip(tokens, places, strict=True)
        ]
        values = [linear(block.kv, token)[channels:] for token in tokens]
        parts = []
        for head in range(block.num_heads):
            own, power = slice(head * dim, (head + 1) * dim), 1 + block.alpha * sigmoid(block.power[0, head, 0])
            plus, minus = ([each[own].mul(sign).clamp(min=0) ** power for each in queries] for sign in (1, -1))
            known = [torch.cat([each[own].mul(sign).clamp(min=0) ** power for sign in (1, -1)]) for each in keys]
            mine = [each[own] for each in values]
            alike, unlike = (
                [torch.cat(pair) for pair in zip(first, second, strict=True)]
                for first, second in ((plus, minus), (minus, plus))
            )
            same = slow_weighted(alike, known, [each[:half] for each in mine])
            other = slow_weighted(unlike, known, [each[half:] for each in mine])
            attended = torch.stack([torch.cat(pair) for pair in zip(same, other, strict=True)], 1)
            local = convolution(block.dwc, torch.stack(mine, 1).reshape(1, dim, height, width))[0]
            parts.append(attended.reshape(dim, height, width) + local)
        mixed = torch.cat(parts) * gates
        out[image] = torch.stack([linear(block.proj, mixed[:, a, b]) for a, b in places], 1).reshape(x.shape[1:])
    return x + out


def rebuilt_polaformer(block, x, records):
    """A half of each head's values weighted as shown for the same signs, the other for opposite ones; then the gate."""
    same, opposite, gate = records
    value = block.kv(x.movedim(1, 3)).movedim(3, 1).chunk(2, 1)[1]
    alike, unlike = tokens(value, block.num_heads).chunk(2, 3)
    attended = maps_of(torch.cat((applied(same, alike), applied(opposite, unlike)), 3), x)
    local = block.dwc(value.reshape(-1, block.head_dim, *x.shape[2:])).reshape(x.shape)
    return x + block.proj(((attended + local) * gate.values).movedim(1, 3)).movedim(3, 1)


CASES = {
    "PolaFormer": BlockCase(
        oracles={
            "two heads": Oracle(lambda: PolaFormer(8, num_heads=2), slow_polaformer, 8),
            "a table of 3 x 2, alpha 2, kernel 3": Oracle(
                lambda: PolaFormer(8, [3, 2], num_heads=4, qkv_bias=False, kernel_size=3, alpha=2), slow_polaformer, 8
            ),
        },
        counts={channels: 5 * channels**2 + 7 * channels + 26 * channels // 8 for channels in (64, 512)},
        rebuilt=rebuilt_polaformer,
        refused={
            (30, None, 4): "one of 1, 2, 3",
            (31,): "multiple of 2",
            (32, 0): "num_patches",
            (32, None, 4, True, 4): "kernel_size",
            (32, None, 4, True, 5, 0): "alpha",
        },
    )
}
