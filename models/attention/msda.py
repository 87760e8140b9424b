"""MSDA: sliding-window attention over 3 x 3 neighbors, each share of the heads with its own dilation.

Paper: Jiao, Tang, Lin, Gao, Ma, Wang, Zheng, "DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition",
IEEE TMM 2023, https://arxiv.org/abs/2302.01791, section III-A and B.

    q, k, v = W_qkv x                           heads of d = C / num_heads channels, an equal share for each dilation r
    h_p = sum over the kernel_size^2 neighbors o of softmax over o of (q_p . k_{p + r o} / sqrt(d)) times v_{p + r o}
    y   = W_o [h of all heads] + b_o

As in the published code, a neighbor outside the map is a zero: it takes its share of the softmax and adds nothing.

How ours differs from the circulating copies: theirs write their result into their input, so the caller's map is
overwritten and training in float32 fails; theirs are channels-last. Their own defaults (8 heads, 3
dilations) do not divide; here dilations and heads follow the width. Neighbors are views of one padded map; no
kernel_size^2 copies of keys and values are held.
"""

from collections.abc import Sequence

from torch import Tensor, cat, nn

from models.arguments import DILATION, RowForm, either_kind, list_kind
from models.attention.ops.neighbourhood import neighbor_positions, neighborhood_weights, neighbors, weighted_sum
from models.attention.ops.numerics import (
    largest_divisor,
    require_flag,
    require_multiple,
    require_odd,
    require_positive,
    resolve_divisor,
)
from models.attention.ops.softmax_attention import project
from models.recording import is_recording, record
from models.registry import register
from utils.errors import ModelError


@register(
    cost="windowed",
    form=RowForm(
        kinds={"dilation": either_kind(list_kind("dilations", DILATION), DILATION)},
        orders=(("num_heads", "qkv_bias"),),
    ),
    shows=("attention",),
)
class MSDA(nn.Module):
    """Multi-scale dilated attention: (B, dim, H, W) to the same shape, any H and W.

    `dilation` is a list, by default [1, 2, 3, 4] if 4 divides `dim`, else [1, 2], else [1]; `num_heads`, by default up
    to 8, is a multiple of their number and divides `dim`.

    Args:
        dim: Channels of the map.
        num_heads: Attention heads.
        kernel_size: Side of the neighborhood, odd.
        dilation: Distances of two neighbors, one per share of the heads.
        qkv_bias: Whether the projections of q, k and v have biases.
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
        self.dilation = _resolve_dilations(dim, dilation)
        shares = len(self.dilation)
        require_multiple("MSDA", dim, shares, "dilations")
        require_flag("MSDA", qkv_bias=qkv_bias)
        wanted = shares * largest_divisor(dim // shares, 8 // shares)
        heads = resolve_divisor("MSDA", "num_heads", num_heads, dim, wanted)
        if heads % shares:
            raise ModelError(f"MSDA: {heads} heads do not divide among {shares} dilations; use a multiple of {shares}")
        self.kernel_size, self.num_heads, self.head_dim = kernel_size, heads, dim // heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, dim, H, W)."""
        queries, keys, values = (part.chunk(len(self.dilation), dim=1) for part in self.qkv(x).chunk(3, dim=1))
        shares = zip(queries, keys, values, self.dilation, strict=True)
        return project(self.proj, cat([self._attend(*share) for share in shares], dim=1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, dilation: int) -> Tensor:
        """Return the attention of the heads of one dilation: three (B, c, H, W) to (B, c, H, W)."""
        query, key, value = (maps.unflatten(1, (-1, self.head_dim)) for maps in (query, key, value))  # (B, h, d, H, W)
        keys, values = (neighbors(maps, self.kernel_size, dilation) for maps in (key, value))
        weights = neighborhood_weights(query * self.head_dim**-0.5, keys)
        if is_recording():
            at = neighbor_positions(key, self.kernel_size, dilation)
            label = f"softmax over the neighbors of dilation {dilation}"
            record(self, "attention", label, weights.flatten(3).transpose(2, 3), key.shape[-2:], at)
        return weighted_sum(weights, values).flatten(1, 2)


def _resolve_dilations(dim: int, wanted: Sequence[int] | int | None) -> tuple[int, ...]:
    """Return the dilations asked for, or those that suit `dim` channels; ModelError unless all are positive."""
    if wanted is None:
        return next(tuple(range(1, number + 1)) for number in (4, 2, 1) if dim % number == 0)
    chosen = (wanted,) if isinstance(wanted, int) else tuple(wanted) if isinstance(wanted, list | tuple) else ()
    if not chosen:
        raise ModelError(f"MSDA: dilation must be a list of positive integers such as [1, 2], got {wanted!r}")
    for each in chosen:
        require_positive("MSDA", dilation=each)
    return chosen
