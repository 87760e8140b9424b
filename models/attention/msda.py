"""MSDA: sliding-window attention over 3 x 3 neighbours, each share of the heads at a spread of its own.

Paper: Jiao, Tang, Lin, Gao, Ma, Wang, Zheng, "DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition",
IEEE TMM 2023, https://arxiv.org/abs/2302.01791, section III-A and B.

    q, k, v = W_qkv x                           heads of d = C / num_heads channels, an equal share for each dilation r
    h_p = sum over the kernel_size^2 neighbours o of softmax over o of (q_p . k_{p + r o} / sqrt(d)) times v_{p + r o}
    y   = W_o [h of all heads] + b_o

As in the published code, a neighbour outside the map is a zero: it takes its share of the softmax and gives nothing.

How ours differs from the circulating copies: theirs write their result into their input, so the caller's map is
overwritten and training in float32 fails; theirs take and give channels last. Their own defaults (8 heads, 3
dilations) do not divide; here dilations and heads follow the width. Neighbours are views of one padded map, no
kernel_size^2-fold copy of keys and values is held.
"""

from collections.abc import Sequence

from torch import Tensor, cat, nn

from models.attention.ops.neighbourhood import attend_near, neighbours
from models.attention.ops.numerics import (
    divisor,
    fitting,
    require_flag,
    require_multiple,
    require_odd,
    require_positive,
)
from models.attention.ops.softmax_attention import project
from models.registry import register
from utils.errors import ModelError


@register(cost="windowed")
class MSDA(nn.Module):
    """MSDA(dim, num_heads=None, kernel_size=3, dilation=None, qkv_bias=False): (B, dim, H, W) to the same shape, any
    H and W. `dilation` is a list, by default [1, 2, 3, 4] where 4 divides `dim`, else [1, 2], else [1]; `num_heads`,
    by default up to 8, is a multiple of their number and divides `dim`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        kernel_size: int = 3,
        dilation: Sequence[int] | int | None = None,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        require_positive("MSDA", dim=dim)
        require_odd("MSDA", "kernel_size", kernel_size)
        self.dilation = dilations(dim, dilation)
        shares = len(self.dilation)
        require_multiple("MSDA", dim, shares, "dilations")
        require_flag("MSDA", qkv_bias=qkv_bias)
        heads = divisor("MSDA", "num_heads", num_heads, dim, wanted=shares * fitting(dim // shares, 8 // shares))
        if heads % shares:
            raise ModelError(f"MSDA: {heads} heads do not divide among {shares} dilations; use a multiple of {shares}")
        self.kernel_size, self.num_heads, self.head_dim = kernel_size, heads, dim // heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, dim, H, W)."""
        shares = [part.chunk(len(self.dilation), dim=1) for part in self.qkv(x).chunk(3, dim=1)]
        attended = [self._attend(*share, dilation) for *share, dilation in zip(*shares, self.dilation, strict=True)]
        return project(self.proj, cat(attended, dim=1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, dilation: int) -> Tensor:
        """The heads of one dilation: three (B, c, H, W) to (B, c, H, W)."""
        query, key, value = (maps.unflatten(1, (-1, self.head_dim)) for maps in (query, key, value))  # (B, h, d, H, W)
        keys, values = (neighbours(maps, self.kernel_size, dilation) for maps in (key, value))
        return attend_near(query * self.head_dim**-0.5, keys, values).flatten(1, 2)


def dilations(dim: int, wanted: Sequence[int] | int | None) -> tuple[int, ...]:
    """Return the dilations asked for, or those that suit `dim` channels. Raises ModelError unless all are positive."""
    if wanted is None:
        return next(tuple(range(1, number + 1)) for number in (4, 2, 1) if dim % number == 0)
    chosen = (wanted,) if isinstance(wanted, int) else tuple(wanted) if isinstance(wanted, list | tuple) else ()
    if not chosen:
        raise ModelError(f"MSDA: dilation must be a list of positive integers such as [1, 2], got {wanted!r}")
    for each in chosen:
        require_positive("MSDA", dilation=each)
    return chosen
