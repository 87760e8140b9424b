"""BoT: the bottleneck transformer block, a residual bottleneck with self-attention in place of its 3x3 convolution.

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
the attention, without which its output fades on large maps. Any map size: offsets beyond the tables, which cover
maps of `height` x `width`, take the table's last row, as Shaw et al. clip them; offsets keep their meaning in cells
whatever the map's size. As in v6.1's bottlenecks no activation follows the sum.

Exact short cut: q_i . rel_h[y_j - y_i] depends on the row of j only, so it is a feature of the query, one for each
row of the map, that meets the one-hot row of j as a feature of the key; the same for columns. All three terms are
one fused attention over concatenated features, and the N x N logits are not held.
"""

import torch
from torch import Tensor, cat, einsum, nn

from models.attention.ops.numerics import reduced_width, require_positive, resolve_divisor
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.identity_start import ZeroInitResidual
from models.layers import Conv
from models.norms import BatchNorm
from models.recording import record_softmax
from models.registry import register


class RelativeAttention(nn.Module):
    """Self-attention with relative positions: (B, channels, H, W) to the same shape, any H and W.

    Args:
        channels: Channels of the map.
        height: Rows of the map whose offsets the row table holds.
        width: Columns of the map whose offsets the column table holds.
        heads: A divisor of `channels`; the heads share the tables.
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
        by_row, by_column = relative_table(self.rel_h, height), relative_table(self.rel_w, width)
        to_rows = einsum("bnyxd,yjd->bnyxj", grid, by_row.to(grid.dtype)).flatten(2, 3)  # (B, heads, N, H)
        to_columns = einsum("bnyxd,xjd->bnyxj", grid, by_column.to(grid.dtype)).flatten(2, 3)  # (B, heads, N, W)
        one_hots = _one_hot_positions(height, width, key).expand(*key.shape[:2], -1, -1)  # (B, heads, N, H + W)
        query, key = cat((query, to_rows, to_columns), 3), cat((key, one_hots), 3)
        record_softmax(self, "softmax of content and relative position", query, key, x.shape[2:])
        return to_map(attend(query, key, value), (height, width))


def relative_table(table: Tensor, length: int) -> Tensor:
    """Return the table's row for every pair of positions of an axis: r[i, j] for the offset j - i, clipped.

    Args:
        table: (2n - 1, d), the offsets from -(n - 1) to n - 1.
        length: Positions of the axis.

    Returns:
        (length, length, d).
    """
    reach = table.shape[0] // 2
    positions = torch.arange(length, device=table.device)
    return table[(positions - positions.unsqueeze(1)).clamp(-reach, reach) + reach]


def _one_hot_positions(height: int, width: int, like: Tensor) -> Tensor:
    """Return (N, H + W): the one-hot row, then the one-hot column of each position, in the type of `like`."""
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    same_row = rows[:, None, None] == rows  # (H, 1, H)
    same_column = columns[:, None] == columns  # (W, W)
    return cat((same_row.expand(-1, width, -1), same_column.expand(height, -1, -1)), 2).flatten(0, 1).to(like.dtype)


@register(cost="quadratic", shows=("attention",))
class BoT(ZeroInitResidual):
    """Bottleneck transformer block with a residual: (B, n_dims, H, W) to the same shape, any H and W.

    `width` x `height` is the map whose offsets the tables hold (20 x 20 is P5 of a 640 x 640 image); `heads` is 4 by
    default, or the largest number below that divides the inner width, which is n_dims / expansion.

    Args:
        n_dims: Channels of the map.
        width: Columns that the column table covers.
        height: Rows that the row table covers.
        heads: Attention heads.
        expansion: Ratio of `n_dims` to the inner width, which is at least 8.
    """

    gate_parameter = "expand.bn.weight"

    def __init__(
        self, n_dims: int, width: int = 20, height: int = 20, heads: int | None = None, expansion: int = 4
    ) -> None:
        super().__init__()
        require_positive("BoT", n_dims=n_dims, width=width, height=height, expansion=expansion)
        inner = reduced_width(n_dims, expansion, least=8)
        self.heads = resolve_divisor("BoT", "heads", heads, inner, wanted=4, of="inner channels")
        self.contract = Conv(n_dims, inner, act=nn.ReLU(inplace=True))
        self.attention = RelativeAttention(inner, height, width, self.heads)
        self.norm = BatchNorm(inner)
        self.act = nn.ReLU(inplace=True)
        self.expand = Conv(inner, n_dims, act=False)
        nn.init.zeros_(self.expand.get_parameter("bn.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, n_dims, H, W)."""
        return x + self.expand(self.act(self.norm(self.attention(self.contract(x)))))
