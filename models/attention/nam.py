"""NAMAttention: the scales of a batch norm weight the channels.

Paper: Liu, Shao, Teng, Hoffmann, "NAM: Normalization-based Attention Module", NeurIPS 2021 workshop,
https://arxiv.org/abs/2111.12419, equation 2.

    w_c = |gamma_c| / sum over channels of |gamma|
    y   = sigmoid(w * BN(x)) * x                      gamma, beta: of that batch norm

The channel half, as released; the absolute values are the release's. Before training every w_c is 1/C, so the gate is
close to one half.

How ours differs from the circulating copies: they detach w from the gradient, here it is trained as part of the
equation (the outputs are the same); gammas that are all zero give w = 0, not NaN. The norm is the attention itself, so
`fuse` leaves it.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_positive, upcast
from models.norms import BatchNorm
from models.recording import record
from models.registry import register


class NAMChannelAttention(nn.Module):
    """Gate from a batch norm and its scales, times input: (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn2 = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return sigmoid(w * BN(x)) * x."""
        size = upcast(self.bn2.weight).abs()
        share = size / size.sum().clamp(min=torch.finfo(size.dtype).eps)  # no less: its inverse is in the gradient
        gate = torch.sigmoid(share.to(x.dtype)[:, None, None] * self.bn2(x))
        record(self, "gate", "gate M_c = sigmoid(w BN(x))", gate, x.shape[2:])
        return gate * x


@register(shows=("gate",))
class NAMAttention(nn.Module):
    """Normalization-based channel attention: (B, channels, H, W) to the same shape.

    Each value times its gate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive("NAMAttention", channels=channels)
        self.Channel_Att = NAMChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map of `x` (B, channels, H, W)."""
        return self.Channel_Att(x)
