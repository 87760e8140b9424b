"""MCA: a gate along each of channels, height and width, averaged.

Paper: Yu, Zhang, Cheng, Song, Tang, "MCA: Multidimensional collaborative attention in deep convolutional
neural networks for image recognition", Engineering Applications of Artificial Intelligence 126 (2023) 107079,
section 3. For each axis a of the map, mean and standard deviation over the other two:

    p_a = (mean + std) / 2 + sigmoid(alpha_a) mean + sigmoid(beta_a) std      squeeze
    G_a = sigmoid(Conv_k(p_a))                                                excitation: 1-D, along a
    y   = (G_C * x + G_H * x + G_W * x) / 3                                   integration

k is 3 along height and width; along the channels it is round(|log2 C - 1| / 1.5), made odd downwards.
The standard deviation is that of a sample (N - 1), as in the authors' code; over one value it is
not defined and taken as zero.

How ours differs from the circulating copies: theirs permute the map and back for every gate; here each
gate is broadcast along its axis and the map multiplied once. A 1 x 1 map gives numbers (theirs NaN).
alpha and beta start at 0.5, the mean of the uniform draw that theirs start from.
Not the "moment channel attention" of the same letters.
"""

import math

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_odd, require_positive
from models.recording import record
from models.registry import register


class MCAGate(nn.Module):
    """The gate of a map along one of its axes, by a 1-D convolution of `k_size` taps, an odd number."""

    def __init__(self, k_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, (1, k_size), padding=(0, k_size // 2), bias=False)
        self.weight = nn.Parameter(torch.full((2,), 0.5))  # alpha, beta

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """Return the gate along `axis`.

        Args:
            x: (B, C, H, W).
            axis: 1, 2 or 3.

        Returns:
            (B, C, 1, 1), (B, 1, H, 1) or (B, 1, 1, W), in (0, 1).
        """
        others = [each for each in (1, 2, 3) if each != axis]
        values = x.shape[others[0]] * x.shape[others[1]]
        std, mean = torch.std_mean(x, others, correction=min(1, values - 1), keepdim=True)
        alpha, beta = torch.sigmoid(self.weight)
        squeezed = (0.5 + alpha) * mean + (0.5 + beta) * std
        logits = self.conv(squeezed.flatten(1)[:, None, None])  # (B, 1, 1, length of the axis)
        return torch.sigmoid(logits).view(mean.shape)


def _channel_kernel(channels: int) -> int:
    """Return the paper's kernel along the channels: 3 up to 256, then 5, for the usual widths."""
    kernel = round(abs((math.log2(channels) - 1) / 1.5))
    return max(1, kernel if kernel % 2 else kernel - 1)


@register(shows=("gate",))
class MCA(nn.Module):
    """Multidimensional collaborative attention, x times the mean of three gates: (B, inp, H, W) to the same shape.

    12 + k_size parameters. `k_size`, that of the gate along the channels, is odd; None computes it from the number of
    channels.

    Args:
        inp: Channels of the map.
        k_size: Taps of the gate along the channels.
    """

    def __init__(self, inp: int, k_size: int | None = None) -> None:
        super().__init__()
        require_positive("MCA", inp=inp)
        k_size = _channel_kernel(inp) if k_size is None else k_size
        require_odd("MCA", "k_size", k_size)
        self.c_hw = MCAGate(k_size)
        self.h_cw = MCAGate(3)
        self.w_hc = MCAGate(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the mean of its three gates."""
        channels, rows, columns = self.c_hw(x, 1), self.h_cw(x, 2), self.w_hc(x, 3)
        record(self, "gate", "gate of channels G_C, one of three that are averaged", channels, x.shape[2:])
        record(self, "gate", "gate of rows G_H, one of three that are averaged", rows, x.shape[2:])
        record(self, "gate", "gate of columns G_W, one of three that are averaged", columns, x.shape[2:])
        gate = channels + rows + columns
        return gate / 3 * x
