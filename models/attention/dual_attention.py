"""DualAttention: positions attend to positions and channels to channels, side by side.

Paper: Fu, Liu, Tian, Li, Bao, Fang, Lu, "Dual Attention Network for Scene Segmentation" (DANet), CVPR 2019,
https://arxiv.org/abs/1809.02983, equations 1 to 4 and figures 2 and 3.

    P, Q = two maps ReLU(BN(Conv_3x3(x)))                       C / 4 channels
    position: E_i = alpha * sum over j of softmax over j of (W_q P_i) . (W_k P_j) times W_v P_j  +  P_i
    channel:  F_c = beta  * sum over d of softmax over d of -(Q_c . Q_d) times Q_d              +  Q_c
    y = SiLU(BN(Conv_1x1(ReLU(BN(Conv_3x3(E))) + ReLU(BN(Conv_3x3(F))))))   back to C channels

alpha and beta start at zero; W_q, W_k: an eighth of the channels, at least 8.

How ours differs from the circulating copies: these are the network's two branches with their convolutions; what the
tutorials call DANet is `DoubleAttentionLayer`, and another copy takes one map size only and ignores its arguments. The
sign in the channel branch is the released code's (it subtracts the products from their maximum): with the
paper's equation 3 a channel's product with itself outweighs all others, and F is Q again. The network's last
convolution makes class scores; here it has YOLOv5's norm and activation and returns to C channels.

Exact short cut: the maximum that the released code subtracts from is the same for all d, so softmax ignores it.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import autocast_disabled, reduced_width, require_positive, upcast
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.layers import Conv
from models.recording import is_recording, record, record_softmax
from models.registry import register


class PositionAttention(nn.Module):
    """Position attention E of a map: (B, channels, H, W) to the same shape, any H and W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = reduced_width(channels, 8, least=8)
        self.query_conv = nn.Conv2d(channels, hidden, 1)
        self.key_conv = nn.Conv2d(channels, hidden, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = [to_tokens(project(x)) for project in (self.query_conv, self.key_conv, self.value_conv)]
        record_softmax(self, "position attention S", tokens[0], tokens[1], x.shape[2:])
        return self.gamma * to_map(attend(*tokens), x.shape[-2:]) + x


class ChannelAttention(nn.Module):
    """Channel attention F of a map: (B, C, H, W) to the same shape, any C, H and W."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        with autocast_disabled(x):  # sums over all positions leave the range of half precision
            rows = upcast(x).flatten(2)  # (B, C, N)
            attention = torch.softmax(-rows @ rows.transpose(1, 2), dim=2)
        if is_recording():
            record(self, "channels", "channel attention X", attention.unsqueeze(1), x.shape[2:])
        return self.gamma * (attention.to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[-2:]) + x


@register(cost="quadratic", shows=("attention", "channels"))
class DualAttention(nn.Module):
    """Position and channel attention side by side: (B, in_channels, H, W) to the same shape, any H and W.

    The branches have in_channels / reduction channels, at least 8.

    Args:
        in_channels: Channels of the map.
        reduction: Ratio of channels to the width of the branches.
    """

    heads = 1  # N x N attention maps

    def __init__(self, in_channels: int, reduction: int = 4) -> None:
        super().__init__()
        require_positive("DualAttention", in_channels=in_channels, reduction=reduction)
        inner = reduced_width(in_channels, reduction, least=8)
        self.position = _branch(in_channels, inner, PositionAttention(inner))
        self.channel = _branch(in_channels, inner, ChannelAttention())
        self.project = Conv(inner, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, in_channels, H, W)."""
        return self.project(self.position(x) + self.channel(x))


def _branch(channels: int, inner: int, attention: nn.Module) -> nn.Sequential:
    """Return a 3x3 convolution to `inner` channels, the attention, and another 3x3 convolution."""
    return nn.Sequential(
        Conv(channels, inner, 3, act=nn.ReLU(inplace=True)), attention, Conv(inner, inner, 3, act=nn.ReLU(inplace=True))
    )
