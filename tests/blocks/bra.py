"""BRA."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import applied, convolution, maps_of, pointwise, softmax, tokens
from models.attention.bra import BRA


def slow_bra(block, x):
    """Region by region and position by position, with lists of positions."""
    batch, channels, height, width = x.shape
    query, key, value = pointwise(block.qkv, x).split(channels, 1)
    tall, broad = (math.ceil(length / min(block.n_win, length)) for length in (height, width))
    regions = {}
    for row in range(height):
        for column in range(width):
            regions.setdefault((row // tall, column // broad), []).append((row, column))
    mixed, dim = torch.zeros_like(x), channels // block.num_heads
    for image in range(batch):

        def mean(maps, places, image=image):
            return sum(maps[image, :, a, b] for a, b in places) / len(places)

        means = {region: mean(key, places) for region, places in regions.items()}
        for places in regions.values():
            own_mean = mean(query, places)
            ranked = sorted(
                regions, key=lambda region, own_mean=own_mean: -float((own_mean * means[region]).sum().detach())
            )
            near = [place for region in ranked[: block.topk] for place in regions[region]]
            for row, column in places:
                for head in range(block.num_heads):
                    own = slice(head * dim, (head + 1) * dim)
                    logits = torch.stack(
                        [(query[image, own, row, column] * key[image, own, a, b]).sum() for a, b in near]
                    )
                    share = softmax(logits / math.sqrt(channels), 0)
                    mixed[image, own, row, column] = sum(
                        share[at] * value[image, own, a, b] for at, (a, b) in enumerate(near)
                    )
    return pointwise(block.wo, mixed + convolution(block.lepe, value))


def rebuilt_bra(block, x, records):
    """The values of the routed regions, weighted as shown."""
    value = pointwise(block.qkv, x).chunk(3, 1)[2]
    attended = maps_of(applied(records[0], tokens(value, block.num_heads)), x)
    return pointwise(block.wo, attended + convolution(block.lepe, value))


CASES = {
    "BRA": BlockCase(
        oracles={
            "3 x 3 regions, 2 of them": Oracle(lambda: BRA(8, 2, 3, 2), slow_bra, 8),
            "7 x 7 regions, one": Oracle(lambda: BRA(6, 3, 7, 1, 3), slow_bra, 6, ((1, 1), (8, 9))),
            "more than there are": Oracle(lambda: BRA(4, 1, 2, 9), slow_bra, 4, ((1, 3), (5, 4))),
        },
        counts={channels: 4 * channels**2 + 30 * channels for channels in (64, 256, 1024)},
        spread="a mean of many positions between two projections at torch's own start; the paper's residual is outside",
        rebuilt=rebuilt_bra,
        refused={
            (32, 5): "one of 1, 2, 4",
            (32, 4, 0): "n_win",
            (32, 4, 7, 0): "topk",
            (32, 4, 7, 4, 4): "side_dwconv",
        },
    )
}
