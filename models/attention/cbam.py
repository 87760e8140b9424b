"""CBAM: a gate per channel, then a gate per position.

Paper: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018,
https://arxiv.org/abs/1807.06521, equations 1 to 3.

    M_c(F) = sigmoid(W_2 ReLU(W_1 avg(F)) + W_2 ReLU(W_1 max(F)))      over positions, (B, C, 1, 1)
    M_s(F) = sigmoid(Conv_7x7([max over channels, mean over channels]))  (B, 1, H, W)
    F'  = M_c(F) * F
    F'' = M_s(F') * F'

How ours differs from the tutorials: theirs overwrite the input by the gate and multiply by the
input again after each stage, so the output grows with a power of the input; here each stage
multiplies once, as the paper says. Parameters and their names are theirs (no biases, no norm).
The hidden width never falls to zero on few channels. The maximum is `amax`, whose gradient is
reproducible and shared among ties.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.arguments import RowForm
from models.attention.ops.numerics import require_odd, require_positive
from models.recording import record
from models.registry import register


class ChannelAttentionModule(nn.Module):
    """Channel gate, each channel times its own: (B, c1, H, W) to the same shape.

    Args:
        c1: Channels of the map.
        reduction: Ratio of channels to the hidden width, which is at least 1.
    """

    def __init__(self, c1: int, reduction: int = 4) -> None:
        super().__init__()
        require_positive("ChannelAttentionModule", c1=c1, reduction=reduction)
        hidden = max(1, c1 // reduction)
        self.fc1 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, c1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return M_c(x) * x. fc2 has no bias, so it runs once, on the sum of both hidden layers."""
        mean = x.mean((2, 3), keepdim=True)
        peak = x.amax((2, 3), keepdim=True)
        gate = torch.sigmoid(self.fc2(relu(self.fc1(mean)) + relu(self.fc1(peak))))
        record(self, "gate", "channel gate M_c", gate, x.shape[2:])
        return gate * x


class spatial_attention(nn.Module):  # noqa: N801 - the tutorials' name
    """Spatial gate, each position times its own: (B, C, H, W) to the same shape; `kernel_size` is odd."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        require_odd("spatial_attention", "kernel_size", kernel_size)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return M_s(x) * x."""
        mean = x.mean(1, keepdim=True)
        peak = x.amax(1, keepdim=True)
        gate = torch.sigmoid(self.conv(torch.cat((peak, mean), dim=1)))
        record(self, "gate", "spatial gate M_s", gate, x.shape[2:])
        return gate * x


@register(form=RowForm(orders=(("kernel_size",),)), shows=("gate",))
class CBAM(nn.Module):
    """Channel gate, then spatial gate: (B, c1, H, W) to the same shape.

    Args:
        c1: Channels of the map.
        ratio: Ratio of channels to the hidden width of the channel gate, which is at least 1.
        kernel_size: Of the spatial gate, odd.
    """

    def __init__(self, c1: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        require_positive("CBAM", c1=c1, ratio=ratio)
        self.channel_attention = ChannelAttentionModule(c1, ratio)
        self.spatial_attention = spatial_attention(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return M_s(F') * F' with F' = M_c(x) * x."""
        return self.spatial_attention(self.channel_attention(x))
