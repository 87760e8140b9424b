"""GatherExcite."""

import torch

from blocks import BlockCase, Oracle
from blocks.literal import batch_norm, convolution, pointwise, relu, sigmoid
from models.attention.gather_excite import GatherExcite


def nearest(gate, height, width):
    """Each position takes the cell that it falls into when the cells are spread over the map."""
    rows = [i * gate.shape[2] // height for i in range(height)]
    columns = [j * gate.shape[3] // width for j in range(width)]
    return torch.stack([torch.stack([gate[:, :, i, j] for j in columns], 2) for i in rows], 2)


def slow_means(block, x):
    """GE-theta-minus: the mean of the positions within extent - 1 of every extent-th position."""
    extent, (height, width) = block.extent, x.shape[2:]
    cells = []
    for row in range(0, height, extent):
        for column in range(0, width, extent):
            near = [
                x[:, :, i, j]
                for i in range(height)
                for j in range(width)
                if abs(i - row) < extent and abs(j - column) < extent
            ]
            cells.append(sum(near) / len(near))
    gathered = torch.stack(cells, 2).unflatten(2, (-(-height // extent), -(-width // extent)))
    return x * sigmoid(nearest(gathered, height, width))


def slow_learned(block, x):
    """GE-theta: each depth-wise convolution tap by tap."""
    gathered = x
    for step, (conv, norm) in enumerate(zip(block.gather.convs, block.gather.norms, strict=True)):
        gathered = batch_norm(norm, convolution(conv, relu(gathered) if step else gathered))
    return x * sigmoid(nearest(gathered, *x.shape[2:]))


def slow_mlp(block, gathered):
    return pointwise(block.mlp[2], relu(pointwise(block.mlp[0], gathered)))


def slow_squeeze(block, x):
    """The mean of the map, then the two 1x1 convolutions."""
    return x * sigmoid(slow_mlp(block, x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])))


def resized(table, length, axis):
    """Linear interpolation cell by cell, cell centers aligned, the edges held."""
    own, cells = table.shape[axis], []
    for index in range(length):
        place = min(max((index + 0.5) * own / length - 0.5, 0), own - 1)
        low = min(int(place), own - 1)
        high = min(low + 1, own - 1)
        cells.append(table.select(axis, low) * (1 - (place - low)) + table.select(axis, high) * (place - low))
    return torch.stack(cells, axis)


def slow_global(block, x):
    """GE-theta-plus: a table as large as the map; at its own size, a depth-wise convolution without padding."""
    weight, (height, width) = block.gather.weight[:, 0], x.shape[2:]
    scale = weight[0].numel() / (height * width)
    table = weight if (height, width) == weight.shape[1:] else scale * resized(resized(weight, height, 1), width, 2)
    gathered = x.new_zeros(*x.shape[:2], 1, 1)
    for i in range(height):
        for j in range(width):
            gathered = gathered + (table[:, i, j] * x[:, :, i, j])[..., None, None]
    return x * sigmoid(slow_mlp(block, batch_norm(block.gather.norm, gathered)))


def rebuilt_gather_excite(block, x, records):
    """The input times the shown gate."""
    return x * records[0].values


CASES = {
    "GatherExcite": BlockCase(
        oracles={
            "theta, extent 8": Oracle(lambda: GatherExcite(6), slow_learned, 6, sizes=((1, 1), (7, 5), (13, 18))),
            "theta, extent 2": Oracle(lambda: GatherExcite(6, extent=2), slow_learned, 6),
            "theta minus, extent 2": Oracle(lambda: GatherExcite(6, False, 2), slow_means, 6),
            "theta minus, extent 4": Oracle(
                lambda: GatherExcite(6, False, 4), slow_means, 6, sizes=((1, 1), (3, 2), (9, 13))
            ),
            "theta minus, global, plus": Oracle(lambda: GatherExcite(6, False, 0, True, 2), slow_squeeze, 6),
            "theta, global, plus": Oracle(
                lambda: GatherExcite(6, True, 0, True, 2, 5), slow_global, 6, sizes=((1, 1), (5, 5), (7, 5), (4, 9))
            ),
        },
        counts={64: 2_112, 512: 16_896, 1024: 33_792},
        rebuilt=rebuilt_gather_excite,
        refused={
            (32, True, 3): "power of two",
            (32, True, 1): "power of two",
            (32, True, -2): "power of two",
            (32, True, 0, True, 0): "reduction",
        },
    )
}
