"""TripletAttention: a gate for each pair of axes, averaged.

Paper: Misra, Nalamada, Arasanipalai, Hou, "Rotate to Attend: Convolutional Triplet Attention Module",
WACV 2021, https://arxiv.org/abs/2010.03045, section 3 (Z-pool, three branches, their average).

    Z_a(x) = [max over axis a, mean over axis a]          two maps over the other two axes
    G_a    = sigmoid(BN(Conv_7x7(Z_a)))                    one map, broadcast along a
    y      = (G_H * x + G_W * x + G_C * x) / 3

How ours differs from the circulating copies: theirs permute the map, gate it and permute it back, two
copies of the whole map per branch; here each gate is computed on its own pooled axes and broadcast,
and the map is multiplied once. Same parameters and keys, same result. The maximum is `amax`, whose
gradient is reproducible and shared among ties; a single position can be trained.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_odd, require_positive
from models.layers import Conv
from models.recording import record
from models.registry import register


class AttentionGate(nn.Module):
    """The gate of a map along one of its axes, by a convolution of `kernel_size`, an odd number."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = Conv(2, 1, kernel_size, act=False)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """Return the gate that is broadcast along `axis`.

        Args:
            x: (B, C, H, W).
            axis: 1, 2 or 3.

        Returns:
            The shape of `x` with length 1 along `axis`, in (0, 1).
        """
        pooled = torch.stack((x.amax(axis), x.mean(axis)), dim=1)  # (B, 2, the other two axes)
        return torch.sigmoid(self.conv(pooled)).squeeze(1).unsqueeze(axis)


@register(shows=("gate",))
class TripletAttention(nn.Module):
    """Triplet attention, x times the mean of three gates: (B, c_in, H, W) to the same shape.

    300 parameters at any width.

    Args:
        c_in: Channels of the map.
        kernel_size: Of each gate's convolution, odd.
    """

    def __init__(self, c_in: int, kernel_size: int = 7) -> None:
        super().__init__()
        require_positive("TripletAttention", c_in=c_in)
        require_odd("TripletAttention", "kernel_size", kernel_size)
        self.cw = AttentionGate(kernel_size)  # over channels and columns: pooled along H
        self.hc = AttentionGate(kernel_size)  # over rows and channels: pooled along W
        self.hw = AttentionGate(kernel_size)  # over rows and columns: pooled along C

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the mean of its three gates."""
        rotated_hc = x.transpose(1, 2)  # (B, H, C, W): a view, so that the branch's convolution sees rows by channels
        of_columns, of_rows, of_positions = self.cw(x, 2), self.hc(rotated_hc, 3).transpose(1, 2), self.hw(x, 1)
        record(self, "gate", "gate of channels and columns, one of three that are averaged", of_columns, x.shape[2:])
        record(self, "gate", "gate of channels and rows, one of three that are averaged", of_rows, x.shape[2:])
        record(self, "gate", "gate of positions, one of three that are averaged", of_positions, x.shape[2:])
        gate = of_columns + of_rows + of_positions
        return gate / 3 * x
