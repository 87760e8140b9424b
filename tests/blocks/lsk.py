"""LSKblock."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import convolution, pointwise, sigmoid
from models.attention.lsk import LSKblock


def slow_lsk(block, x):
    """Both branches concatenated, as in the paper, and every convolution tap by tap."""
    near = convolution(block.conv0, x)
    far = convolution(block.conv_spatial, near)
    parts = [pointwise(block.conv1, near), pointwise(block.conv2, far)]
    joined = torch.cat(parts, 1)
    pooled = torch.stack((joined.sum(1) / joined.shape[1], joined.max(1).values), 1)
    share = sigmoid(convolution(block.conv_squeeze, pooled))
    return pointwise(block.conv, sum(part * share[:, index, None] for index, part in enumerate(parts))) * x


CASES = {
    "LSKblock": BlockCase(
        oracles={"6 channels": Oracle(lambda: LSKblock(6), slow_lsk, 6, sizes=((1, 1), (2, 3), (7, 5), (4, 21)))},
        counts={64: 11_334, 128: 34_758, 512: 433_350, 1024: 1_652_934},
        golden={"LSKblock": Golden(lambda: LSKblock(32))},
        refused={(33,): "multiple of 2", (0,): "multiple of 2"},
    )
}
