"""Strip: a gate from a square kernel followed by a long row kernel and a long column kernel.

Paper: Yuan, Zheng, Li, Liu, Liu, Li, Hou, Cheng, "Strip R-CNN: Large Strip Convolution for Remote
Sensing Object Detection", 2025, https://arxiv.org/abs/2501.03775, section 3, the strip module.

    a = W (D_{k2 x k1} * (D_{k1 x k2} * (D_5x5 * x)))   D: depth-wise, W: 1x1 convolution over channels
    y = a * x                                           k1 = 1, k2 = 19

This is the gating part of the network's block, without the GELU, projections and residual around
it. All convolutions have biases and zeros outside the map; nothing bounds the gate.

How ours differs from the circulating copies: W's bias starts at one instead of zero, so the gate
starts around one and not around zero.
"""

from torch import Tensor, nn

from models.arguments import KERNEL, RowForm
from models.attention.ops.numerics import require_odd, require_positive
from models.recording import record
from models.registry import register


@register(form=RowForm(kinds={"k1": KERNEL, "k2": KERNEL}), shows=("gate",))
class Strip(nn.Module):
    """Large strip convolution gate, gate times input: (B, dim, H, W) to the same shape.

    Odd kernels.

    Args:
        dim: Channels of the map.
        k1: Short side of the strips.
        k2: Long side of the strips.
    """

    def __init__(self, dim: int, k1: int = 1, k2: int = 19) -> None:
        super().__init__()
        require_positive("Strip", dim=dim)
        require_odd("Strip", "k1", k1)
        require_odd("Strip", "k2", k2)
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial1 = nn.Conv2d(dim, dim, (k1, k2), padding=(k1 // 2, k2 // 2), groups=dim)
        self.conv_spatial2 = nn.Conv2d(dim, dim, (k2, k1), padding=(k2 // 2, k1 // 2), groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        nn.init.ones_(self.conv1.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return a * x."""
        gate = self.conv1(self.conv_spatial2(self.conv_spatial1(self.conv0(x))))
        record(self, "gate", "attention a of the strips", gate, x.shape[2:])
        return gate * x
