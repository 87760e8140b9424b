"""DLKA: large kernel attention whose depth-wise kernels sample at offsets predicted from the map.

Paper: Azad, Niggemeier, Huettemann, Kazerouni, Khodapanah Aghdam, Velichko, Bagci, Merhof, "Beyond
Self-Attention: Deformable Large Kernel Attention for Medical Image Segmentation", WACV 2024,
https://arxiv.org/abs/2309.00121, section 3.

    o = O * x                                         (2 k^2, H, W): an offset (down, right) per tap
    D(x)_p = sum over taps t of w_t x(p + d t + o_t)  depth-wise; x(.) bilinear, zeros outside the map
    a = W D_7x7,d=3(D_5x5(x)),   y = a * x            W: 1x1 convolution over channels

O is a dense convolution with the kernel and dilation d of the D that it steers, and holds nearly all
of the parameters. D has no bias.

How ours differs from the circulating copies: the offsets start at zero, so the block starts as an
LKA (theirs start at random); W's bias starts at one instead of zero, so the gate starts around
one and not around zero; half precision is sampled in float32. The gradient of sampling is not
reproducible on a GPU.
"""

import math

import torch
from torch import Tensor, nn

from models.attention.ops.deformable_convolution import deformable_depthwise
from models.attention.ops.numerics import require_odd, require_positive, upcast
from models.recording import is_recording, record
from models.registry import register


class TapWeights(nn.Module):
    """The weights of a depth-wise convolution under the name that state dicts give them: (channels, 1, k, k)."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))


class DeformConv(nn.Module):
    """Depth-wise convolution, each tap moved by an offset per position: (B, channels, H, W) to the same shape.

    Args:
        channels: Channels of the map.
        kernel_size: Odd.
        dilation: Distance of two taps before the offsets.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        require_positive("DeformConv", channels=channels, dilation=dilation)
        require_odd("DeformConv", "kernel_size", kernel_size)
        reach = dilation * (kernel_size // 2)
        self.offset_net = nn.Conv2d(channels, 2 * kernel_size**2, kernel_size, padding=reach, dilation=dilation)
        nn.init.zeros_(self.offset_net.weight)
        nn.init.zeros_(self.offset_net.get_parameter("bias"))
        self.deform_conv = TapWeights(channels, kernel_size)
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Return D(x) in the type of `x`, whatever types autocast gives the offsets."""
        offsets, full = self.offset_net(x), upcast(x)
        weight = upcast(self.deform_conv.weight)
        if is_recording():
            side = weight.shape[-1]
            moves = upcast(offsets).unflatten(1, (-1, 2))
            steps = (torch.arange(side, device=moves.device, dtype=moves.dtype) - side // 2) * self.dilation
            places = torch.cartesian_prod(steps, steps)[:, :, None, None]  # of the taps, around the position
            record(self, "offsets", f"offsets of the {side} x {side} taps", moves, x.shape[2:], places=places)
        out = deformable_depthwise(full, upcast(offsets).to(full.dtype), weight, self.dilation)
        return out.to(x.dtype)


@register(shows=("offsets", "gate"))
class DLKA(nn.Module):
    """Deformable large kernel attention, gate times input: (B, dim, H, W) to the same shape."""

    nondeterministic = "grid_sample"  # its gradient adds up in any order on CUDA

    def __init__(self, dim: int) -> None:
        super().__init__()
        require_positive("DLKA", dim=dim)
        self.conv0 = DeformConv(dim, 5)
        self.conv_spatial = DeformConv(dim, 7, dilation=3)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        nn.init.ones_(self.conv1.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return a * x."""
        gate = self.conv1(self.conv_spatial(self.conv0(x)))
        record(self, "gate", "attention a", gate, x.shape[2:])
        return gate * x
