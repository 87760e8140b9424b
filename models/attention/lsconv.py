"""LSConv: a large kernel predicts, for every position, the small kernel that aggregates its neighbors.

Paper: Wang, Chen, Lin, Han, Ding, "LSNet: See Large, Focus Small", CVPR 2025, https://arxiv.org/abs/2503.23135,
section "LS (Large-Small) convolution".

    P(x)  = W_3 . DWConv7x7 . W_1 x             perception on half the channels: each with BN, ReLU behind W_1 and W_3
    w     = GN(W_4 P(x) + b_4)                  3 x 3 numbers per position and group of channels; GN: a group per kernel
    a_ci  = sum over the 3 x 3 neighbors j of i: w_{g(c), j - i}(i) x_cj       g(c): c's group of neighboring channels
    out   = x + BN(a)

How ours differs from the circulating copies: theirs aggregates in a Triton kernel for one maker's GPUs; here it is nine
shifted products on views of one padded map, on any device. A group is of neighboring channels: 8 of them, or the most
below 8 that divide the channels.
"""

from torch import Tensor, nn

from models.arguments import KERNEL, RowForm
from models.attention.ops.neighbourhood import neighbors, weighted_sum
from models.attention.ops.numerics import require_odd, resolve_divisor
from models.layers import Conv
from models.norms import BatchNorm
from models.recording import record
from models.registry import register


class LargeKernelPerception(nn.Module):
    """Small kernels predicted by a large one: (B, dim, H, W) to (B, dim / groups, sks * sks, H, W).

    Args:
        dim: Channels of the map.
        lks: Large kernel, odd.
        sks: Side of the predicted kernels, odd.
        groups: Channels that share a predicted kernel.
    """

    def __init__(self, dim: int, lks: int, sks: int, groups: int) -> None:
        super().__init__()
        hidden, kernels = max(dim // 2, 1), dim // groups
        self.cv1 = Conv(dim, hidden, act=nn.ReLU())
        self.cv2 = Conv(hidden, hidden, lks, groups=hidden, act=False)
        self.cv3 = Conv(hidden, hidden, act=nn.ReLU())
        self.cv4 = nn.Conv2d(hidden, sks * sks * kernels, 1)
        self.norm = nn.GroupNorm(kernels, sks * sks * kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Return w of the map `x`."""
        kernels = self.norm(self.cv4(self.cv3(self.cv2(self.cv1(x)))))
        return kernels.unflatten(1, (self.norm.num_groups, -1))


@register(form=RowForm(kinds={"lks": KERNEL, "sks": KERNEL}), shows=("kernels",))
class LSConv(nn.Module):
    """Large-small convolution with a residual: (B, dim, H, W) to the same shape, any H and W.

    `lks` and `sks` are the large and the small kernel; `groups` is the number of channels that share a small kernel, a
    divisor of `dim`, by default the largest up to 8.

    Args:
        dim: Channels of the map.
        lks: Large kernel, odd.
        sks: Small kernel, odd.
        groups: Channels per small kernel.
    """

    def __init__(self, dim: int, lks: int = 7, sks: int = 3, groups: int | None = None) -> None:
        super().__init__()
        groups = resolve_divisor("LSConv", "groups", groups, dim, wanted=8)
        require_odd("LSConv", "lks", lks)
        require_odd("LSConv", "sks", sks)
        self.groups, self.sks = groups, sks
        self.lkp = LargeKernelPerception(dim, lks, sks, groups)
        self.bn = BatchNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + BN(a) of the map `x` (B, dim, H, W)."""
        kernels = self.lkp(x)
        record(self, "kernels", "small kernels w", kernels, x.shape[2:])
        gathered = weighted_sum(kernels, neighbors(x.unflatten(1, (-1, self.groups)), self.sks))
        return x + self.bn(gathered.flatten(1, 2))
