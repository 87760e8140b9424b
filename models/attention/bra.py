"""BRA: each region of the map picks the few regions that matter to it and attends to their positions.

Paper: Zhu, Wang, Ke, Zhang, Lau, "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
https://arxiv.org/abs/2303.08810, equations 3 to 7.

    q, k, v  = W_qkv x + b                     cut into at most n_win x n_win regions
    q^r, k^r = means of q and k over each region
    I^r      = the topk regions s of largest q^r . k^s       takes no gradient
    o        = softmax over the positions of the regions I^r of (q . k C^-1/2) times v       head by head
    y        = W_o (o + LePE(v)) + b_o         LePE: depth-wise convolution of side_dwconv^2

As in the published code the logits are scaled by the root of all C channels, not of a head's.

How ours differs from the circulating copies: theirs need maps that n_win divides; here the regions are equal and as
large as n_win asks, the map is padded to whole regions, and padding is neither in a mean nor among the keys. A map with
fewer rows or columns than n_win has as many regions as it has rows or columns; `topk` is at most the number of regions.
Regions are ranked in float32. The convolution is 5 x 5 as in the paper's models (their default: 3 x 3).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from models.arguments import KERNEL, RowForm, whole_kind
from models.attention.ops.numerics import autocast_disabled, require_odd, require_positive, resolve_divisor, upcast
from models.attention.ops.sizes import at_most, ceil_divide
from models.attention.ops.windows import from_windows, pad_to_multiple, to_windows
from models.recording import is_recording, record, softmax_weights
from models.registry import register

HEAD_CHANNELS = 32  # of the paper


@register(
    cost="windowed",
    form=RowForm(kinds={"topk": whole_kind("regions", 1, 64), "side_dwconv": KERNEL}),
    shows=("attention",),
)
class BRA(nn.Module):
    """Bi-level routing attention: (B, dim, H, W) to the same shape, any H and W.

    `num_heads` divides `dim`, by default dim / 32.

    Args:
        dim: Channels of the map.
        num_heads: Attention heads.
        n_win: Regions along each side, at most.
        topk: Regions that each region attends to, at most.
        side_dwconv: Kernel of the positional convolution on the values, odd.
    """

    def __init__(
        self, dim: int, num_heads: int | None = None, n_win: int = 7, topk: int = 4, side_dwconv: int = 5
    ) -> None:
        super().__init__()
        require_positive("BRA", dim=dim, n_win=n_win, topk=topk)
        require_odd("BRA", "side_dwconv", side_dwconv)
        self.num_heads = resolve_divisor("BRA", "num_heads", num_heads, dim, wanted=dim // HEAD_CHANNELS)
        self.n_win, self.topk, self.scale = n_win, topk, dim**-0.5
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.lepe = nn.Conv2d(dim, dim, side_dwconv, padding=side_dwconv // 2, groups=dim)
        self.wo = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, dim, H, W)."""
        channels, (height, width) = x.shape[1], x.shape[-2:]
        rows, columns = (ceil_divide(length, self.n_win) for length in (height, width))  # of a region
        qkv = self.qkv(x)
        padded = pad_to_multiple(qkv, rows, columns)
        regions = to_windows(padded, rows, columns)  # (B, R, L, 3C)
        inside = None
        if padded is not qkv:
            ones = pad_to_multiple(torch.ones_like(x[:1, :1]), rows, columns)
            inside = to_windows(ones, rows, columns)[0, :, :, 0]
        routes = self._route(regions.detach(), inside)  # (B, R, topk)
        if is_recording():
            self._record(regions, routes, x.shape[2:])
        attended = self._attend(regions, routes, inside)  # (B, R, L, C)
        joined = from_windows(attended, rows, columns, *padded.shape[-2:])[..., :height, :width]
        return self.wo(joined + self.lepe(qkv[:, 2 * channels :]))

    def _route(self, regions: Tensor, inside: Tensor | None) -> Tensor:
        """Return the regions that each region attends to: (B, R, topk). `inside` (R, L) is zero on padding."""
        query, key = (upcast(each).sum(2) for each in regions.chunk(3, dim=3)[:2])  # padding is zero
        if inside is not None:
            size = upcast(inside).sum(1, keepdim=True)
            query, key = query / size, key / size
        with autocast_disabled(query):
            affinity = query @ key.transpose(1, 2)  # a common size of the regions does not change the ranks
        return affinity.topk(at_most(affinity.shape[2], self.topk), dim=2).indices

    def _attend(self, regions: Tensor, routes: Tensor, inside: Tensor | None) -> Tensor:
        """Return each region's attention to the positions of its routes: (B, R, L, 3C) to (B, R, L, C)."""
        batch, count, size, _ = regions.shape
        query, pair = regions.tensor_split((regions.shape[3] // 3,), dim=3)
        image = torch.arange(batch, device=regions.device).view(-1, 1, 1)
        gathered = pair[image, routes].flatten(2, 3)  # keys and values: (B, R, topk * L, 2C)
        key, value = (self._heads(half) for half in gathered.chunk(2, dim=3))
        mask = None
        if inside is not None:
            mask = inside[routes].flatten(2).flatten(0, 1)[:, None, None].bool()  # (B * R, 1, 1, n)
        attended = scaled_dot_product_attention(self._heads(query), key, value, attn_mask=mask, scale=self.scale)
        return attended.transpose(1, 2).reshape(batch, count, size, -1)

    def _record(self, regions: Tensor, routes: Tensor, size: Sequence[int]) -> None:
        """Record the weights of all positions in the regions that a position's own is routed to, in any image.

        Args:
            regions: (B, R, L, 3C).
            routes: (B, R, topk).
            size: (H, W) of the map.
        """
        batch, count, length, _ = regions.shape
        (height, width), device = size, regions.device
        rows, columns = (ceil_divide(side, self.n_win) for side in size)
        numbers = torch.arange(1, height * width + 1, device=device).view(1, 1, height, width)
        positions = to_windows(pad_to_multiple(numbers, rows, columns), rows, columns)[0, :, :, 0] - 1  # -1: padding
        picked = torch.zeros(batch, count, count, dtype=torch.bool, device=device).scatter(2, routes, True)
        in_any = picked.any(0)  # images share the keys of a record; another image's have no weight
        most = min(batch * routes.shape[2], count)
        near = in_any.int().argsort(dim=1, descending=True)[:, :most]  # (R, U)
        used = picked.gather(2, near.expand(batch, -1, -1))  # (B, R, U)
        query, key = (
            self._heads(each) for each in (regions.chunk(3, 3)[0], regions.chunk(3, 3)[1][:, near].flatten(2, 3))
        )
        keys = positions[near].masked_fill(~used.any(0)[..., None], -1).flatten(1)  # (R, U * L)
        seen = used.repeat_interleave(length, 2) & (keys >= 0)  # (B, R, U * L)
        weights = softmax_weights(query, key, self.scale, seen.flatten(0, 1)[:, None, None])
        by_query = weights.unflatten(0, (batch, count)).transpose(1, 2).flatten(2, 3)  # (B, heads, R * L, U * L)
        order = positions.flatten().argsort()[-height * width :]  # padding comes first and is left out
        by_region = keys.repeat_interleave(length, 0)
        record(self, "attention", "attention to the routed regions I^r", by_query[:, :, order], size, by_region[order])

    def _heads(self, tokens: Tensor) -> Tensor:
        """Return (B, R, n, C) as (B * R, heads, n, d)."""
        return tokens.flatten(0, 1).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
