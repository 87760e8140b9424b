"""BoT: the bottleneck transformer block, a residual bottleneck with self-attention for its 3x3 convolution.

Paper: Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani, "Bottleneck Transformers for Visual Recognition",
CVPR 2021, https://arxiv.org/abs/2101.11605, figures 3 and 4; relative positions as in Shaw, Uszkoreit,
Vaswani, https://arxiv.org/abs/1803.02155, equations 2 and 4.

    u       = ReLU(BN(W_in x))                   C -> C / expansion channels
    q, k, v = W_q u, W_k u, W_v u                heads of d channels, no biases
    l(i, j) = q_i . (k_j + r_{j-i}) / sqrt(d),   r_{j-i} = rel_h[row of j - row of i] + rel_w[column of j - column of i]
    a_i     = sum over j of softmax over j of l(i, j) times v_j
    y       = x + BN(W_out ReLU(BN(a)))          the scale of the last BN starts at zero

How ours differs from the tutorials' copies, which `MHSA` keeps: the position of j relative to i meets the
query of i (theirs are absolute, r_i . q_j), the logits are divided by sqrt(d), and there is the block around
the attention, without which its output fades on large maps. Any map size: offsets beyond the tables, which reach over
maps of `height` x `width`, take the table's last row, as Shaw et al. clip them; offsets keep their meaning in cells
whatever the map's size. As in v6.1's bottlenecks no activation follows the sum.

Exact short cut: q_i . rel_h[y_j - y_i] depends on the row of j only, so it is a feature of the query, one for each
row of the map, that meets the one-hot row of j as a feature of the key; the same for columns. All three terms are
one fused attention over concatenated features, and the N x N logits are not held.
"""

import torch
from torch import Tensor, cat, einsum, nn
from torch.nn.functional import one_hot

from models.attention.ops.numerics import divisor, reduced, require_positive
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.identity_start import OpensItself
from models.layers import Conv
from models.norms import BatchNorm
from models.registry import register


class RelativeAttention(nn.Module):
    """RelativeAttention(channels, height, width, heads): (B, channels, H, W) to the same shape, any H and W, with
    tables of the offsets within `height` x `width` shared by the heads.
    """

    def __init__(self, channels: int, height: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        dim = channels // heads
        self.scale = dim**-0.5
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.rel_h = nn.Parameter(torch.randn(2 * height - 1, dim) * self.scale)
        self.rel_w = nn.Parameter(torch.randn(2 * width - 1, dim) * self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, channels, H, W)."""
        height, width = x.shape[-2:]
        query, key, value = (to_tokens(project(x), self.heads) for project in (self.query, self.key, self.value))
        query = query * self.scale
        grid = query.unflatten(2, (height, width))  # (B, heads, H, W, d)
        to_rows = einsum("bnyxd,yjd->bnyxj", grid, relative(self.rel_h, height).to(grid.dtype)).flatten(
            2, 3
        )  # (B, heads, N, H)
        to_columns = einsum("bnyxd,xjd->bnyxj", grid, relative(self.rel_w, width).to(grid.dtype)).flatten(2, 3)
        places = one_hot_places(height, width, key).expand(*key.shape[:2], -1, -1)  # (B, heads, N, H + W)
        return to_map(attend(cat((query, to_rows, to_columns), 3), cat((key, places), 3), value), (height, width))


def relative(table: Tensor, length: int) -> Tensor:
    """Return r (length, length, d) with r[i, j] the row of `table` (2n - 1, d) for the offset j - i, clipped to n - 1."""
    reach = table.shape[0] // 2
    places = torch.arange(length, device=table.device)
    return table[(places - places.unsqueeze(1)).clamp(-reach, reach) + reach]


def one_hot_places(height: int, width: int, like: Tensor) -> Tensor:
    """Return (N, H + W): the one-hot row, then the one-hot column of each position, in the type of `like`."""
    places = torch.arange(height * width, device=like.device)
    return cat((one_hot(places // width, height), one_hot(places % width, width)), 1).to(like.dtype)


@register(cost="quadratic")
class BoT(OpensItself):
    """BoT(n_dims, width=20, height=20, heads=None, expansion=4): (B, n_dims, H, W) to the same shape, any H and W.

    width, height: the map whose offsets the tables hold (20 x 20 is P5 of a 640 x 640 picture); heads: 4, or the
    largest number below that divides the inner width; expansion: n_dims by the inner width.
    """

    opens_by = "expand.bn.weight"

    def __init__(
        self, n_dims: int, width: int = 20, height: int = 20, heads: int | None = None, expansion: int = 4
    ) -> None:
        super().__init__()
        require_positive("BoT", n_dims=n_dims, width=width, height=height, expansion=expansion)
        inner = reduced(n_dims, expansion, least=8)
        self.heads = divisor("BoT", "heads", heads, inner, wanted=4, of="inner channels")
        self.contract = Conv(n_dims, inner, act=nn.ReLU(inplace=True))
        self.attention = RelativeAttention(inner, height, width, self.heads)
        self.norm = BatchNorm(inner)
        self.act = nn.ReLU(inplace=True)
        self.expand = Conv(inner, n_dims, act=False)
        nn.init.zeros_(self.expand.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, n_dims, H, W)."""
        return x + self.expand(self.act(self.norm(self.attention(self.contract(x)))))
