"""SCSA."""

import math

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import group_norm, sigmoid, softmax
from models.attention.scsa import SCSA


def slow_profile_gate(block, profile, norm):
    """Four quarters of channels, each convolved with its own kernel along the axis, with zeros outside."""
    quarter, length = profile.shape[1] // 4, profile.shape[2]
    rows = []
    for number, conv in enumerate((block.local_dwc, block.global_dwc_s, block.global_dwc_m, block.global_dwc_l)):
        reach = conv.kernel_size[0] // 2
        for c in range(quarter):
            values = profile[:, number * quarter + c]
            rows.append(
                torch.stack(
                    [
                        conv.bias[c]
                        + sum(
                            conv.weight[c, 0, tap] * values[:, i + tap - reach]
                            for tap in range(2 * reach + 1)
                            if 0 <= i + tap - reach < length
                        )
                        for i in range(length)
                    ],
                    1,
                )
            )
    return sigmoid(group_norm(norm, torch.stack(rows, 1)))


def scaled(conv, maps):
    out = maps * conv.weight.reshape(1, -1, 1, 1)
    return out if conv.bias is None else out + conv.bias.reshape(1, -1, 1, 1)


def slow_scsa(block, x):
    """Gates of rows and columns, means of whole windows, softmax over channels, mean over the windows."""
    batch, channels, height, width = x.shape
    rows = slow_profile_gate(block, x.sum(3) / width, block.norm_h)
    columns = slow_profile_gate(block, x.sum(2) / height, block.norm_w)
    gated = x * rows[:, :, :, None] * columns[:, :, None, :]
    tall, wide = ((side if block.window_size == -1 else min(block.window_size, side)) for side in (height, width))
    windows = torch.stack(
        [
            torch.stack(
                [
                    gated[:, :, a * tall : (a + 1) * tall, b * wide : (b + 1) * wide].mean((2, 3))
                    for b in range(width // wide)
                ],
                2,
            )
            for a in range(height // tall)
        ],
        2,
    )
    normed = group_norm(block.norm, windows)
    query, key, value = (scaled(conv, normed).flatten(2) for conv in (block.q, block.k, block.v))
    dim, gates = channels // block.head_num, torch.zeros(batch, channels, dtype=x.dtype)
    for image in range(batch):
        for c in range(channels):
            own = range(c // dim * dim, c // dim * dim + dim)
            logits = torch.stack([(query[image, c] * key[image, other]).sum() / math.sqrt(dim) for other in own])
            gates[image, c] = sum(
                part * value[image, other] for part, other in zip(softmax(logits, 0), own, strict=True)
            ).mean()
    return gated * sigmoid(gates)[:, :, None, None]


def rebuilt_scsa(block, x, records):
    """The input times its three gates; the last one is made of the weights that are shown between channels."""
    rows, columns, between, channel = (shown.values for shown in records)
    assert [shown.kind for shown in records] == ["gate", "gate", "channels", "gate"]
    gated = x * rows * columns
    value = block.v(block.norm(block._window_means(gated))).flatten(2).unflatten(1, (block.head_num, -1))
    torch.testing.assert_close(sigmoid((between @ value).mean(3)).flatten(1)[:, :, None, None], channel)
    return gated * channel


CASES = {
    "SCSA": BlockCase(
        oracles={
            "windows of 3": Oracle(lambda: SCSA(8, head_num=2, window_size=3), slow_scsa, 8),
            "window 7, with bias": Oracle(
                lambda: SCSA(16, qkv_bias=True), slow_scsa, 16, sizes=((1, 1), (7, 5), (15, 8))
            ),
            "one window, other kernels": Oracle(
                lambda: SCSA(12, head_num=3, window_size=-1, group_kernel_sizes=(1, 3, 5, 11)), slow_scsa, 12
            ),
        },
        counts={channels: 16 * channels for channels in (64, 128, 512)},
        golden={"SCSA": Golden(lambda: SCSA(64, head_num=8, window_size=7))},
        spread="three gates that start near one half",
        rebuilt=rebuilt_scsa,
        refused={
            (30,): "multiple of 4",
            (32, 5): "one of 1, 2, 4",
            (32, 8, 0): "window_size",
            (32, 8, 7, (3, 5, 7)): "four odd",
            (32, 8, 7, (3, 5, 7, 8)): "group_kernel_sizes",
        },
    )
}
