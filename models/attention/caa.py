"""CAA: a gate from the surroundings, by a long row kernel and a long column kernel.

Paper: Cai, Lai, Wang, Wang, Sun, Yao, "Poly Kernel Inception Network for Remote Sensing Detection"
(PKINet), CVPR 2024, https://arxiv.org/abs/2403.06258, section 3, "Context Anchor Attention".

    f = SiLU(BN(W_1 mean_7x7(x)))                      W: 1x1 convolutions, no bias
    f = D_{k x 1} * (D_{1 x k} * f)                    depth-wise, with biases
    y = sigmoid(SiLU(BN(W_2 f))) * x

Outside the map there are zeros for the convolutions and for the mean, which always divides by 49.

How ours differs from the circulating copies: the authors' module returns the gate alone and leaves
the product to the block around it; this one, as most copies do, returns gate times input. The
authors lengthen k from stage to stage (11, 13, ...); here it is 11 unless the row says otherwise.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from models.attention.ops.numerics import require_odd, require_positive
from models.layers import Conv
from models.recording import record
from models.registry import register


@register(shows=("gate",))
class CAA(nn.Module):
    """Context anchor attention, gate times input: (B, ch, H, W) to the same shape.

    Odd kernels.

    Args:
        ch: Channels of the map.
        h_kernel_size: Length of the row kernel.
        v_kernel_size: Length of the column kernel.
    """

    def __init__(self, ch: int, h_kernel_size: int = 11, v_kernel_size: int = 11) -> None:
        super().__init__()
        require_positive("CAA", ch=ch)
        require_odd("CAA", "h_kernel_size", h_kernel_size)
        require_odd("CAA", "v_kernel_size", v_kernel_size)
        self.conv1 = Conv(ch, ch)
        self.h_conv = nn.Conv2d(ch, ch, (1, h_kernel_size), padding=(0, h_kernel_size // 2), groups=ch)
        self.v_conv = nn.Conv2d(ch, ch, (v_kernel_size, 1), padding=(v_kernel_size // 2, 0), groups=ch)
        self.conv2 = Conv(ch, ch)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate times x."""
        context = self.conv1(avg_pool2d(x, 7, stride=1, padding=3))
        context = self.conv2(self.v_conv(self.h_conv(context)))
        gate = torch.sigmoid(context)
        record(self, "gate", "context anchor attention A", gate, x.shape[2:])
        return gate * x
