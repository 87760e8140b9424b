"""Sea_Attention."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from blocks import BlockCase, Golden, Oracle
from blocks.literal import applied, batch_norm, convolution, hard_sigmoid, maps_of, silu, softmax, tokens
from models.attention.sea import Sea_Attention


def relu6(value):
    return value.clamp(0, 6)


def slow_layer(layer, maps):
    return batch_norm(layer.bn, convolution(layer.c, maps))


def slow_line(block, query, key, value):
    """Attention along the last axis of (B, C, L), head by head and position by position."""
    heads, length = block.num_heads, query.shape[2]
    dim, wide = query.shape[1] // heads, value.shape[1] // heads
    out = torch.zeros_like(value)
    for head in range(heads):
        own, held = slice(head * dim, (head + 1) * dim), slice(head * wide, (head + 1) * wide)
        for place in range(length):
            logits = torch.stack([(query[:, own, place] * key[:, own, other]).sum(1) for other in range(length)], 1)
            share = softmax(logits / math.sqrt(dim), 1)
            out[:, held, place] = sum(share[:, other, None] * value[:, held, other] for other in range(length))
    return out


def slow_sea(block, x, act=relu6):
    query, key, value = (slow_layer(layer, x) for layer in (block.to_q, block.to_k, block.to_v))

    def position(layer, length):
        return F.interpolate(layer.pos_embed, length, mode="linear", align_corners=False)

    (height, width), gate = x.shape[-2:], value
    rows = slow_line(
        block,
        query.sum(3) / width + position(block.pos_emb_rowq, height),
        key.sum(3) / width + position(block.pos_emb_rowk, height),
        value.sum(3) / width,
    )
    columns = slow_line(
        block,
        query.sum(2) / height + position(block.pos_emb_columnq, width),
        key.sum(2) / height + position(block.pos_emb_columnk, width),
        value.sum(2) / height,
    )
    gate = gate + slow_layer(block.proj_encode_row[1], act(rows[:, :, :, None]))
    gate = gate + slow_layer(block.proj_encode_column[1], act(columns[:, :, None, :]))
    detail = slow_layer(block.pwconv, act(slow_layer(block.dwconv, torch.cat((query, key, value), 1))))
    return hard_sigmoid(slow_layer(block.proj[1], act(gate))) * detail


def count(dim):
    heads = min(8, max(1, dim // 16))
    keys, values = 16 * heads, 32 * heads
    both = 2 * keys + values
    convolutions = dim * both + values * dim + 2 * values**2 + 9 * both + both * dim
    norms = 2 * (both + dim + 2 * values + both + dim)
    return convolutions + norms + 4 * 16 * keys


def rebuilt_sea(block, x, records):
    """The gate times the detail branch; the gate is made of the weights along rows and columns that are shown."""
    along_rows, along_columns, gate = records
    query, key, value = block.to_q(x), block.to_k(x), block.to_v(x)
    rows = maps_of(applied(along_rows, tokens(value.mean(3, keepdim=True), block.num_heads)), value.mean(3, True))
    columns = maps_of(applied(along_columns, tokens(value.mean(2, keepdim=True), block.num_heads)), value.mean(2, True))
    axial = block.proj_encode_row(rows) + block.proj_encode_column(columns)
    torch.testing.assert_close(hard_sigmoid(block.proj(value + axial)), gate.values)
    return gate.values * block.pwconv(block.act(block.dwconv(torch.cat((query, key, value), 1))))


CASES = {
    "Sea_Attention": BlockCase(
        oracles={
            "two heads": Oracle(lambda: Sea_Attention(8, 3, 2), slow_sea, 8),
            "ratio 1, SiLU": Oracle(
                lambda: Sea_Attention(6, 4, 1, 1, "SiLU"), lambda block, x: slow_sea(block, x, silu), 6
            ),
        },
        counts={64: 81_920, **{dim: count(dim) for dim in (16, 64, 256, 1024)}},
        golden={
            "Sea_Attention": Golden(
                lambda: Sea_Attention(64, key_dim=16, num_heads=4, attn_ratio=2, activation=nn.ReLU6)
            )
        },
        delayed={
            name: "behind the norm of `proj`, which starts at zero"
            for name in (
                "proj.1.c.weight",
                "proj_encode_row.1.c.weight",
                "proj_encode_row.1.bn.weight",
                "proj_encode_row.1.bn.bias",
                "proj_encode_column.1.c.weight",
                "proj_encode_column.1.bn.weight",
                "proj_encode_column.1.bn.bias",
                "pos_embed",
            )
        },
        rebuilt=rebuilt_sea,
        refused={(32, 0): "key_dim", (32, 16, 0): "num_heads", (32, 16, 4, 2, "Relu"): "ReLU6"},
    )
}
