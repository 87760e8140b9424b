"""WindowAttention."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, layer_norm, maps_of, softmax, tokens
from models.attention.swin import WindowAttention


def slow_window_msa(block, x):
    """Position by position: each attends to the positions whose shifted window is its own."""
    batch, channels, height, width = x.shape
    side, heads = block.window_size, block.num_heads
    dim = channels // heads
    down, right = (block.shift_size if length > side else 0 for length in (height, width))
    out = torch.einsum("oc,bchw->bohw", block.qkv.weight, x)
    out = out if block.qkv.bias is None else out + block.qkv.bias.view(1, -1, 1, 1)
    query, key, value = out.split(channels, 1)
    table = block.relative_position_bias_table.view(2 * side - 1, 2 * side - 1, heads)
    places = [(row, column) for row in range(height) for column in range(width)]
    mixed = torch.zeros_like(x)
    for row, column in places:
        near = [
            (a, b)
            for a, b in places
            if (a - down) // side == (row - down) // side and (b - right) // side == (column - right) // side
        ]
        for head in range(heads):
            own = slice(head * dim, (head + 1) * dim)
            logits = torch.stack(
                [
                    (query[:, own, row, column] * key[:, own, a, b]).sum(1) / math.sqrt(dim)
                    + table[row - a + side - 1, column - b + side - 1, head]
                    for a, b in near
                ],
                1,
            )
            share = softmax(logits, 1)
            mixed[:, own, row, column] = sum(share[:, at, None] * value[:, own, a, b] for at, (a, b) in enumerate(near))
    return torch.einsum("oc,bchw->bohw", block.proj.weight, mixed) + block.proj.bias.view(1, -1, 1, 1)


def slow_window_attention(block, x):
    for norm, attention in zip(block.norms, block.attentions, strict=True):
        x = x + slow_window_msa(attention, layer_norm(norm, x, 1))
    return x


def heads_of(dim):
    return next(number for number in range(max(1, dim // 32), 0, -1) if dim % number == 0)


SIZES = ((1, 1), (2, 3), (7, 5), (4, 9), (6, 6))


def rebuilt_window_msa(block, x, shown):
    """The values at the shown positions, weighted as shown."""
    value = block.qkv(x.movedim(1, 3)).movedim(3, 1).chunk(3, 1)[2]
    return block.proj(maps_of(applied(shown, tokens(value, block.num_heads)), x).movedim(1, 3)).movedim(3, 1)


def rebuilt_window_attention(block, x, records):
    for norm, attention, shown in zip(block.norms, block.attentions, records, strict=True):
        x = x + rebuilt_window_msa(attention, norm(x), shown)
    return x


CASES = {
    "WindowAttention": BlockCase(
        oracles={
            "windows of 3, the pair": Oracle(lambda: WindowAttention(6, 3, 2), slow_window_attention, 6, SIZES),
            "windows of 4 moved by 1, no bias": Oracle(
                lambda: WindowAttention(4, 4, 1, 1, False), slow_window_attention, 4, (*SIZES, (9, 8))
            ),
            "windows of 7 in place": Oracle(
                lambda: WindowAttention(8, shift_size=0), slow_window_attention, 8, ((1, 1), (7, 8))
            ),
        },
        counts={dim: 2 * (4 * dim**2 + 4 * dim + 2 * dim + 169 * heads_of(dim)) for dim in (16, 64, 512)},
        rebuilt=rebuilt_window_attention,
        refused={(32, 0): "window_size", (32, 7, 5): "one of 1, 2, 4", (32, 7, 4, 7): "0 to 6"},
    )
}
