"""FocusedLinearAttention: linear attention whose feature map turns queries and keys towards their strongest channel.

Paper: Han, Pan, Han, Song, Huang, "FLatten Transformer: Vision Transformer using Focused Linear Attention",
ICCV 2023, https://arxiv.org/abs/2308.00442, section "Focused Linear Attention".

    u      = (ReLU(.) + 1e-6) / softplus(scale)          of q and of k + position
    phi(u) = |u| u^p / |u^p|                              norms over all C channels, p = focusing_factor
    y_i    = phi(q_i) sum_j phi(k_j)^T v_j / (phi(q_i) . sum_j phi(k_j)) + DWConv(v)_i      per head
    out    = W_o y + b_o

How ours differs from the tutorials: theirs takes tokens of one square window (side = int(sqrt(N))) with an absolute
position table of that size; ours takes maps of any size, has no table unless `num_patches` is given, and interpolates
it for other sizes. phi and the sums are computed in float32 at least, with the powers taken of u / max(u) (exact: phi
does not change), whereas the published cube overflows half precision at 41. As published nothing is added to the input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from models.arguments import FACTOR, SIDE, RowForm, either_kind, list_kind, whole_kind
from models.attention.ops.linear_attention import linear_attention, record_linear_attention
from models.attention.ops.numerics import require_flag, require_number, require_odd, resolve_divisor, upcast
from models.attention.ops.positions import parse_position_grid, position_maps
from models.attention.ops.softmax_attention import project
from models.registry import register


@register(
    form=RowForm(
        kinds={
            "num_patches": either_kind(whole_kind("positions", 1, 2**16), list_kind("size", SIDE)),
            "focusing_factor": FACTOR,
        }
    ),
    shows=("attention",),
)
class FocusedLinearAttention(nn.Module):
    """Focused linear attention: (B, dim, H, W) to the same shape, any H and W.

    `num_patches` is the size of a learned position table, [rows, columns] or the number of positions; `num_heads`
    divides `dim`, by default the largest number up to 8 that does.

    Args:
        dim: Channels of the map.
        num_patches: Size of the position table; None for no table.
        num_heads: Attention heads.
        qkv_bias: Whether the projections of q, k and v have biases.
        focusing_factor: The power p, above zero.
        kernel_size: Of the depth-wise convolution of the values, odd.
    """

    def __init__(
        self,
        dim: int,
        num_patches: int | Sequence[int] | None = None,
        num_heads: int | None = None,
        qkv_bias: bool = True,
        focusing_factor: float = 3,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        num_heads = resolve_divisor("FocusedLinearAttention", "num_heads", num_heads, dim, wanted=8)
        require_flag("FocusedLinearAttention", qkv_bias=qkv_bias)
        require_number("FocusedLinearAttention", "focusing_factor", focusing_factor, above=0, such_as=3)
        require_odd("FocusedLinearAttention", "kernel_size", kernel_size)
        self.num_heads, self.head_dim, self.focusing_factor = num_heads, dim // num_heads, focusing_factor
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dwc = nn.Conv2d(self.head_dim, self.head_dim, kernel_size, padding=kernel_size // 2, groups=self.head_dim)
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        self.grid: tuple[int, int] | None = None
        self.positional_encoding: nn.Parameter | None = None
        if num_patches is not None:
            count, self.grid = parse_position_grid("FocusedLinearAttention", num_patches)
            self.positional_encoding = nn.Parameter(torch.zeros(1, count, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return W_o (attention + DWConv(v)) + b_o of the map `x` (B, dim, H, W)."""
        query = project(self.q, x)
        key, value = project(self.kv, x).chunk(2, 1)
        if self.positional_encoding is not None:
            key = key + position_maps(self.positional_encoding, self.grid, x.shape[-2:]).to(key.dtype)
        query, key, tokens = (self._heads(maps) for maps in (self.focus(query), self.focus(key), value))
        record_linear_attention(self, "phi(q) . phi(k), normalized", query, key, x.shape[2:], epsilon=1e-6)
        attended = linear_attention(query, key, tokens, epsilon=1e-6).to(value.dtype)
        local = self.dwc(value.reshape(-1, self.head_dim, *x.shape[-2:]))  # the heads share one kernel
        return project(self.proj, attended.reshape(x.shape) + local.reshape(x.shape))

    def focus(self, maps: Tensor) -> Tensor:
        """Return phi of queries or keys (B, C, H, W), in float32 at least."""
        scale = softplus(upcast(self.scale)).transpose(1, 2).unsqueeze(3)
        maps = (relu(upcast(maps)) + 1e-6) / scale
        powers = (maps / maps.amax(1, keepdim=True).detach()) ** self.focusing_factor  # only their direction counts
        return powers * (maps.norm(dim=1, keepdim=True) / powers.norm(dim=1, keepdim=True))

    def _heads(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W) as (B, heads, d, N)."""
        return maps.flatten(2).unflatten(1, (self.num_heads, self.head_dim))
