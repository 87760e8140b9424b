"""TSSA."""

import torch

from blocks import BlockCase, Oracle
from blocks.focused_linear import linear
from blocks.literal import softmax
from models.attention.tssa import TSSA


def slow_tssa(block, x):
    """Membership, moments and step of every head, channel and position as the paper's sums."""
    batch, channels, height, width = x.shape
    dim, positions, out = channels // block.num_heads, height * width, torch.zeros_like(x)
    for image in range(batch):
        tokens = x[image].flatten(1)
        w = torch.stack([linear(block.qkv, tokens[:, i]) for i in range(positions)], 1)
        owns = [range(head * dim, (head + 1) * dim) for head in range(block.num_heads)]
        member = []
        for i in range(positions):
            logits = [
                block.temp[head, 0] * sum((w[c, i] / (w[c] ** 2).sum().sqrt()) ** 2 for c in own)
                for head, own in enumerate(owns)
            ]
            member.append(softmax(torch.stack(logits), 0))
        steps = torch.zeros_like(w)
        for head, own in enumerate(owns):
            for c in own:
                mass = sum(each[head] for each in member) + 1e-8
                moment = sum(member[i][head] * w[c, i] ** 2 for i in range(positions)) / mass
                steps[c] = torch.stack([-member[i][head] * w[c, i] / (1 + moment) for i in range(positions)])
        out[image] = torch.stack([linear(block.to_out[0], steps[:, i]) for i in range(positions)], 1).reshape(
            x.shape[1:]
        )
    return x + out


def rebuilt_tssa(block, x, records):
    """The projected map times its gate and the membership of its heads, subtracted."""
    member, gate = (shown.values for shown in records)
    torch.testing.assert_close(member.sum(1), torch.ones_like(member[:, 0]))
    steps = block.qkv(x.movedim(1, 3)).movedim(3, 1) * gate
    steps = -(steps.unflatten(1, (block.num_heads, -1)) * member.unsqueeze(2)).flatten(1, 2)
    return x + block.to_out(steps.movedim(1, 3)).movedim(3, 1)


CASES = {
    "TSSA": BlockCase(
        oracles={
            "four heads": Oracle(lambda: TSSA(8, num_heads=4), slow_tssa, 8),
            "two heads of three, with bias": Oracle(lambda: TSSA(6, num_heads=2, qkv_bias=True), slow_tssa, 6),
        },
        counts={channels: 2 * channels**2 + channels + 8 for channels in (64, 512)},
        rebuilt=rebuilt_tssa,
        refused={(30, 4): "one of 1, 2, 3", (32, 0): "num_heads"},
    )
}
