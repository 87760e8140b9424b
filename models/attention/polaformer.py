"""PolaFormer: linear attention that keeps the negative halves of queries and keys.

Paper: Meng, Luo, Li, Wu, Jiang, Zhang, "PolaFormer: Polarity-aware Linear Attention for Vision Transformers",
ICLR 2025, https://arxiv.org/abs/2501.15061, sections on polarity-aware attention and on learnable power functions.

    q, g, k, v   = W_q x, W_g x, W_k x + position, W_v x;   q and k divided by softplus(scale)
    q+, q-       = ReLU(q)^p, ReLU(-q)^p,   k+, k- likewise,   p = 1 + alpha sigmoid(power) per channel
    same_i       = sum_j ([q+, q-]_i . [k+, k-]_j) v1_j   over the sum of its weights      v = [v1, v2] per head
    opposite_i   = sum_j ([q-, q+]_i . [k+, k-]_j) v2_j   over the sum of its weights
    out          = x + W_o (([same, opposite] + DWConv5x5(v)) * g) + b_o

How ours differs from the circulating copies: any H and W; theirs takes one square map with a position table
(`num_patches` asks for a table, which is interpolated); the powers and sums are in float32 at least; the input is
added, as around every attention of the paper, so that a trained network survives the insertion.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, cat, nn
from torch.nn.functional import relu, softplus

from models.arguments import FACTOR, SIDE, RowForm, either_kind, list_kind, whole_kind
from models.attention.ops.linear_attention import linear_attention, record_linear_attention
from models.attention.ops.numerics import (
    largest_divisor,
    require_flag,
    require_multiple,
    require_number,
    require_odd,
    resolve_divisor,
    upcast,
)
from models.attention.ops.positions import parse_position_grid, position_maps
from models.attention.ops.softmax_attention import project
from models.recording import record
from models.registry import register


@register(
    form=RowForm(
        kinds={
            "num_patches": either_kind(whole_kind("positions", 1, 2**16), list_kind("size", SIDE)),
            "alpha": FACTOR,
        }
    ),
    shows=("attention", "gate"),
)
class PolaFormer(nn.Module):
    """Polarity-aware linear attention with a residual: (B, dim, H, W) to the same shape, any H and W.

    `num_patches` is the size of a learned position table, [rows, columns] or the number of positions; `num_heads`
    divides `dim` into heads of an even width, by default the largest number up to 8 that does.

    Args:
        dim: Channels of the map.
        num_patches: Size of the position table; None for no table.
        num_heads: Attention heads.
        qkv_bias: Whether the projections have biases.
        kernel_size: Of the depth-wise convolution of the values, odd.
        alpha: Range of the learned powers, which lie between 1 and 1 + alpha; above zero.
    """

    def __init__(
        self,
        dim: int,
        num_patches: int | Sequence[int] | None = None,
        num_heads: int | None = None,
        qkv_bias: bool = True,
        kernel_size: int = 5,
        alpha: float = 4,
    ) -> None:
        super().__init__()
        require_multiple("PolaFormer", dim, 2, "halves of the values")
        num_heads = resolve_divisor("PolaFormer", "num_heads", num_heads, dim, wanted=largest_divisor(dim // 2, 8))
        require_multiple("PolaFormer", dim, 2 * num_heads, "halves of heads")
        require_flag("PolaFormer", qkv_bias=qkv_bias)
        require_odd("PolaFormer", "kernel_size", kernel_size)
        require_number("PolaFormer", "alpha", alpha, above=0, such_as=4)
        self.num_heads, self.head_dim, self.alpha = num_heads, dim // num_heads, alpha
        self.qg = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dwc = nn.Conv2d(self.head_dim, self.head_dim, kernel_size, padding=kernel_size // 2, groups=self.head_dim)
        self.power = nn.Parameter(torch.zeros(1, num_heads, 1, self.head_dim))
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        self.grid: tuple[int, int] | None = None
        self.positional_encoding: nn.Parameter | None = None
        if num_patches is not None:
            count, self.grid = parse_position_grid("PolaFormer", num_patches)
            self.positional_encoding = nn.Parameter(torch.zeros(1, count, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + W_o ((attention + DWConv(v)) * g) + b_o of the map `x` (B, dim, H, W)."""
        query, gate = project(self.qg, x).chunk(2, 1)
        key, value = project(self.kv, x).chunk(2, 1)
        if self.positional_encoding is not None:
            key = key + position_maps(self.positional_encoding, self.grid, x.shape[-2:]).to(key.dtype)
        attended = self._attend(query, key, value).to(value.dtype).reshape(x.shape)
        record(self, "gate", "gate g of the attended values", gate, x.shape[2:])
        local = self.dwc(value.reshape(-1, self.head_dim, *x.shape[-2:])).reshape(x.shape)  # the heads share one kernel
        return x + project(self.proj, (attended + local) * gate)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention of same and of opposite signs to one half of the values each: (B, heads, d, N)."""
        query_plus, query_minus = self.polarities(query)
        keys = cat(self.polarities(key), 2)  # (B, heads, 2d, N)
        same, opposite = self._heads(value).chunk(2, 2)
        alike, unlike = cat((query_plus, query_minus), 2), cat((query_minus, query_plus), 2)
        size = query.shape[2:]
        record_linear_attention(self, "same-signed attention", alike, keys, size, epsilon=1e-6)
        record_linear_attention(self, "opposite-signed attention", unlike, keys, size, epsilon=1e-6)
        return cat(
            (
                linear_attention(alike, keys, same, epsilon=1e-6),
                linear_attention(unlike, keys, opposite, epsilon=1e-6),
            ),
            2,
        )

    def polarities(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return ReLU(u)^p and ReLU(-u)^p of queries or keys, each (B, heads, d, N), in float32 at least."""
        scale = softplus(upcast(self.scale)).transpose(1, 2).unsqueeze(3)
        scaled = self._heads(upcast(maps) / scale)
        power = 1 + self.alpha * torch.sigmoid(upcast(self.power)).transpose(2, 3)  # (1, heads, d, 1)
        return relu(scaled) ** power, relu(-scaled) ** power

    def _heads(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W) as (B, heads, d, N)."""
        return maps.flatten(2).unflatten(1, (self.num_heads, self.head_dim))
