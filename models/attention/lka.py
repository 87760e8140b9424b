"""LKA: a gate from a large kernel that is decomposed into three small convolutions.

Paper: Guo, Lu, Liu, Cheng, Hu, "Visual Attention Network", Computational Visual Media 2023,
https://arxiv.org/abs/2202.09741, section 3, "Large Kernel Attention".

    a = W (D_7x7,d3 * (D_5x5 * x))     D: depth-wise, d3: dilation 3, W: 1x1 convolution over channels
    y = a * x                          product per channel and position

Together the depth-wise ones reach 23 x 23 positions. All three have biases and zeros outside the
map; nothing bounds the gate.

How ours differs from the circulating copies: W's bias starts at one instead of zero, so the gate
starts around one and a network that was trained without the block starts close to its old output.
Theirs starts around zero and passes about a sixth of the input's standard deviation. State dict and
arithmetic are the published ones.
"""

from torch import Tensor, nn

from models.attention.ops.numerics import require_positive
from models.recording import record
from models.registry import register


@register(shows=("gate",))
class LKA(nn.Module):
    """Large kernel attention, gate times input: (B, dim, H, W) to the same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        require_positive("LKA", dim=dim)
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        nn.init.ones_(self.conv1.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return a * x."""
        gate = self.conv1(self.conv_spatial(self.conv0(x)))
        record(self, "gate", "attention a of the large kernel", gate, x.shape[2:])
        return gate * x
