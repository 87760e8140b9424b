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


def rebuilt_lsk(block, x, records):
    """The input times the gate; the gate is made of the two kernels by the shares that are shown."""
    share, gate = (shown.values for shown in records)
    near = block.conv0(x)
    both = torch.stack((block.conv1(near), block.conv2(block.conv_spatial(near))), 1)
    torch.testing.assert_close(block.conv((share * both).sum(1)), gate)
    return x * gate


CASES = {
    "LSKblock": BlockCase(
        oracles={"6 channels": Oracle(lambda: LSKblock(6), slow_lsk, 6, sizes=((1, 1), (2, 3), (7, 5), (4, 21)))},
        counts={64: 11_334, 128: 34_758, 512: 433_350, 1024: 1_652_934},
        golden={"LSKblock": Golden(lambda: LSKblock(32))},
        rebuilt=rebuilt_lsk,
        refused={(33,): "multiple of 2", (0,): "multiple of 2"},
    )
}
