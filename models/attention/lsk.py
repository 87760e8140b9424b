"""LSKblock: every position selects between a medium and a large kernel.

Paper: Li, Hou, Zheng, Cheng, Yang, Li, "Large Selective Kernel Network for Remote Sensing Object
Detection", ICCV 2023, https://arxiv.org/abs/2303.09030, sections 3.2 and 3.3.

    t_1 = D_5x5 * x,   t_2 = D_7x7,d3 * t_1            depth-wise, d3: dilation 3; they reach 5 and 23
    u_i = W_i t_i                                      1x1 convolutions to C / 2 channels
    S = sigmoid(Conv_7x7([mean, max over the channels of [u_1, u_2]]))     (2, H, W)
    a = W (S_1 * u_1 + S_2 * u_2),   y = a * x         W: 1x1 convolution back to C channels

This is the selection part of the network's block, without the GELU, projections and residual
around it. All convolutions have biases and zeros outside the map; nothing bounds the gate a.

How ours differs from the circulating copies: W's bias starts at one instead of zero, so the gate
starts around one and not around zero. State dict and arithmetic are the published ones. u_1 and u_2
are never joined into one map: the mean and the maximum over both are taken from those of each.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_multiple
from models.recording import is_recording, record
from models.registry import register


@register(shows=("branches", "gate"))
class LSKblock(nn.Module):
    """Large selective kernel attention, gate times input: (B, dim, H, W) to the same shape.

    `dim` is even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        require_multiple("LSKblock", dim, 2, "halves")
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim // 2, 1)
        self.conv2 = nn.Conv2d(dim, dim // 2, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(dim // 2, dim, 1)
        nn.init.ones_(self.conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return a * x."""
        near = self.conv0(x)
        far = self.conv_spatial(near)
        near, far = self.conv1(near), self.conv2(far)  # u_1, u_2: (B, dim / 2, H, W)
        mean = (near.mean(1, keepdim=True) + far.mean(1, keepdim=True)) / 2
        peak = torch.maximum(near.amax(1, keepdim=True), far.amax(1, keepdim=True))
        share = torch.sigmoid(self.conv_squeeze(torch.cat((mean, peak), dim=1)))  # S: (B, 2, H, W)
        gate = self.conv(near * share[:, :1] + far * share[:, 1:])
        if is_recording():
            record(self, "branches", "selection S of the kernels 5 and 23", share.unsqueeze(2), x.shape[2:])
            record(self, "gate", "attention a of the selected kernels", gate, x.shape[2:])
        return gate * x
