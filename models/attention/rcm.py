"""RCM: a gate of rectangular regions from the means of rows and columns, then a small MLP.

Paper: Ni, Chen, Zhai, Tang, Wang, "Context-Guided Spatial Feature Reconstruction for Efficient
Semantic Segmentation" (CGRSeg), ECCV 2024, https://arxiv.org/abs/2405.06228, section 3,
"Rectangular Self-Calibration Module".

    m(i, j) = mean of row i of x + mean of column j of x               per channel
    a = sigmoid(D_{k x 1} * ReLU(BN(D_{1 x k} * m)))                   D: depth-wise, k = 11
    r = a * (D_3x3 * x)                                                rectangular self-calibration attention
    y = x + W_2 GELU(W_1 BN(r))                                        1x1 convolutions, C to 2 C to C

How ours differs from the circulating copies: many return r alone, and some take an even square
kernel, which makes the map grow by one; here it is the whole module, and an even kernel is an
error. The authors' code also scales the added branch by weights that start at 1e-6; the paper's
equations and this block do not. The convolution before the first norm has no bias, which the norm
would cancel. Zeros outside the map.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from models.attention.ops.numerics import require_odd, require_positive
from models.layers import Conv
from models.norms import BatchNorm
from models.recording import record
from models.registry import register


class RCA(nn.Module):
    """Rectangular self-calibration attention r: (B, dim, H, W) to the same shape.

    Args:
        dim: Channels of the map.
        band_kernel_size: Length of the row and column kernels, odd.
        square_kernel_size: Of the convolution that is gated, odd.
    """

    def __init__(self, dim: int, band_kernel_size: int = 11, square_kernel_size: int = 3) -> None:
        super().__init__()
        require_odd("RCM", "band_kernel_size", band_kernel_size)
        require_odd("RCM", "square_kernel_size", square_kernel_size)
        self.local = nn.Conv2d(dim, dim, square_kernel_size, padding=square_kernel_size // 2, groups=dim)
        self.rows = Conv(dim, dim, (1, band_kernel_size), groups=dim, act=nn.ReLU())
        self.columns = nn.Conv2d(dim, dim, (band_kernel_size, 1), padding=(band_kernel_size // 2, 0), groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return r = a * (D_3x3 * x)."""
        means = x.mean(3, keepdim=True) + x.mean(2, keepdim=True)  # (B, dim, H, 1) + (B, dim, 1, W)
        gate = torch.sigmoid(self.columns(self.rows(means)))
        record(self, "gate", "rectangular self-calibration gate a", gate, x.shape[2:])
        return gate * self.local(x)


@register(shows=("gate",))
class RCM(nn.Module):
    """Rectangular self-calibration module with a residual: (B, dim, H, W) to the same shape.

    Odd kernels. `mlp_ratio` is the ratio of the MLP's hidden width to `dim`.

    Args:
        dim: Channels of the map.
        band_kernel_size: Length of the row and column kernels.
        square_kernel_size: Of the convolution that is gated.
        mlp_ratio: Ratio of the MLP's hidden width to channels, a whole number.
    """

    def __init__(self, dim: int, band_kernel_size: int = 11, square_kernel_size: int = 3, mlp_ratio: int = 2) -> None:
        super().__init__()
        require_positive("RCM", dim=dim, mlp_ratio=mlp_ratio)
        self.attention = RCA(dim, band_kernel_size, square_kernel_size)
        self.norm = BatchNorm(dim)
        self.fc1 = nn.Conv2d(dim, dim * mlp_ratio, 1)
        self.fc2 = nn.Conv2d(dim * mlp_ratio, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + W_2 GELU(W_1 BN(r))."""
        return x + self.fc2(gelu(self.fc1(self.norm(self.attention(x)))))
