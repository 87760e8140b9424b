"""DLKA: large kernel attention whose depth-wise kernels look where the map tells them to.

Paper: Azad, Niggemeier, Huettemann, Kazerouni, Khodapanah Aghdam, Velichko, Bagci, Merhof, "Beyond
Self-Attention: Deformable Large Kernel Attention for Medical Image Segmentation", WACV 2024,
https://arxiv.org/abs/2309.00121, section 3.

    o = O * x                                         (2 k^2, H, W): a step (down, right) for each tap
    D(x)_p = sum over taps t of w_t x(p + d t + o_t)  depth-wise; x(.) bilinear, zeros outside the map
    a = W D_7x7,d=3(D_5x5(x)),   y = a * x            W: 1x1 convolution over channels

O is a dense convolution of the kernel and dilation d that it steers, and holds nearly all of the
parameters. D has no bias.

How ours differs from the circulating copies: the steps start at zero, so the block starts as an
LKA, where theirs start anywhere; W's bias starts at one instead of zero, so the gate starts around
one and not around zero; bfloat16, for which the sampling operator has no kernel, is sampled in
float32. The operator's gradient is not reproducible on a GPU.
"""

from torch import Tensor, nn
from torchvision.ops import DeformConv2d, deform_conv2d

from models.attention.ops.numerics import require_odd, require_positive, wide
from models.registry import register


class DeformConv(nn.Module):
    """DeformConv(channels, kernel_size, dilation=1): a depth-wise convolution of (B, channels, H, W) to the same
    shape, each tap displaced by a step that depends on the position.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        require_positive("DeformConv", channels=channels, dilation=dilation)
        require_odd("DeformConv", "kernel_size", kernel_size)
        reach = dilation * (kernel_size // 2)
        self.offset_net = nn.Conv2d(channels, 2 * kernel_size**2, kernel_size, padding=reach, dilation=dilation)
        nn.init.zeros_(self.offset_net.weight)
        nn.init.zeros_(self.offset_net.bias)
        self.deform_conv = DeformConv2d(
            channels, channels, kernel_size, padding=reach, dilation=dilation, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return D(x) in the type of `x`, whatever types autocast gives the steps."""
        steps, sampled = self.offset_net(x), self.deform_conv
        out = deform_conv2d(
            wide(x),
            wide(steps).to(wide(x).dtype),
            wide(sampled.weight),
            None,
            padding=sampled.padding,
            dilation=sampled.dilation,
        )
        return out.to(x.dtype)


@register()
class DLKA(nn.Module):
    """DLKA(dim): (B, dim, H, W) to the same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        require_positive("DLKA", dim=dim)
        self.conv0 = DeformConv(dim, 5)
        self.conv_spatial = DeformConv(dim, 7, dilation=3)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        nn.init.ones_(self.conv1.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a * x."""
        return self.conv1(self.conv_spatial(self.conv0(x))) * x
