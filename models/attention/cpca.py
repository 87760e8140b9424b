"""CPCA: a gate per channel first, then a gate per channel and position from strips of three lengths.

Paper: Huang, Chen, Zou, Lu, Chen, "Channel prior convolutional attention for medical image
segmentation", Computers in Biology and Medicine 2024, https://arxiv.org/abs/2306.05196, section 3.

    f = GELU(W x)
    c = sigmoid(M(mean f)) + sigmoid(M(max f))         over positions; M = W_2 ReLU(W_1 .), c in (0, 2)
    f = c * f
    s_0 = D_5x5 * f,   s_k = D_{k x 1} * (D_{1 x k} * s_0)   for k = 7, 11, 21; D: depth-wise
    y = W (W (s_0 + s_7 + s_11 + s_21) * f)

One 1x1 convolution W is used all three times, as in the authors' code. All convolutions have
biases and zeros outside the map; the second gate is not bounded.

How ours differs from the circulating copies: W starts by He's rule instead of torch's, under which
three passes through W and two products leave a twelfth of the input's standard deviation; the maximum is
`amax`, whose gradient is reproducible and shared among ties; the hidden width of M never falls to
zero.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from models.arguments import REDUCTION, RowForm
from models.attention.ops.numerics import require_positive
from models.recording import record
from models.registry import register


class ChannelPrior(nn.Module):
    """Channel gate c of a map: (B, channels, H, W) to (B, channels, 1, 1), in (0, 2).

    Args:
        channels: Channels of the map.
        hidden: Width between the two layers of M.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return torch.sigmoid(self.fc2(relu(self.fc1(mean)))) + torch.sigmoid(self.fc2(relu(self.fc1(peak))))


@register(form=RowForm(kinds={"channelAttention_reduce": REDUCTION}), shows=("gate",))
class CPCA(nn.Module):
    """Channel gate, then a gate from strip convolutions: (B, channels, H, W) to the same shape.

    Args:
        channels: Channels of the map.
        channelAttention_reduce: Ratio of channels to the hidden width of the channel gate, which is at least 1.
    """

    def __init__(self, channels: int, channelAttention_reduce: int = 4) -> None:  # noqa: N803 - the published name
        super().__init__()
        require_positive("CPCA", channels=channels, channelAttention_reduce=channelAttention_reduce)
        self.ca = ChannelPrior(channels, max(1, channels // channelAttention_reduce))
        self.dconv5_5 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.dconv1_7 = _strip(channels, 1, 7)
        self.dconv7_1 = _strip(channels, 7, 1)
        self.dconv1_11 = _strip(channels, 1, 11)
        self.dconv11_1 = _strip(channels, 11, 1)
        self.dconv1_21 = _strip(channels, 1, 21)
        self.dconv21_1 = _strip(channels, 21, 1)
        self.conv = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        features = gelu(self.conv(x))
        channel = self.ca(features)
        record(self, "gate", "channel gate c", channel, x.shape[2:])
        features = channel * features
        near = self.dconv5_5(features)
        strips = (
            self.dconv7_1(self.dconv1_7(near))
            + self.dconv11_1(self.dconv1_11(near))
            + self.dconv21_1(self.dconv1_21(near))
        )
        spatial = self.conv(near + strips)
        record(self, "gate", "spatial gate per channel", spatial, x.shape[2:])
        return self.conv(spatial * features)


def _strip(channels: int, height: int, width: int) -> nn.Conv2d:
    """Return a depth-wise convolution of height x width, both odd, that keeps the map's size."""
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)
