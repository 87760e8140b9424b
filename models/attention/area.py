"""AreaAttention: self-attention within a few horizontal areas of the map.

Paper: Tian, Ye, Doermann, "YOLOv12: Attention-Centric Real-Time Object Detectors", NeurIPS 2025,
https://arxiv.org/abs/2502.12524, section 3.2 (area attention) and 3.4 (convolutions with norm, the
positional convolution on the values).

    q, k, v = BN(W x)                                  heads of 32 channels
    a_i     = sum over j in the area of i of softmax over j of q_i . k_j / sqrt(d) times v_j
    y       = x + BN(W_o (a + BN(DWConv_5x5(v))))

An area is a run of N / area positions, read row by row: strips of rows.

How ours differs from the circulating copies: N need not be a multiple of `area`; areas have
ceil(N / area) positions and the last may have fewer, which needs no padding and no mask. `area=1` is
attention over the whole map. This is the attention with its residual; the MLP that follows it in YOLOv12's
block is left out, since convolutions follow wherever it is put in. Heads of about 32 channels are chosen
to divide the width; no cast to half precision.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, cat, nn
from torch.nn.functional import pad

from models.arguments import RowForm, whole_kind
from models.attention.ops.numerics import require_positive, resolve_divisor
from models.attention.ops.sizes import ceil_divide, is_known
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.layers import Conv
from models.recording import cells_within, is_recording, record, record_softmax, softmax_weights
from models.registry import register

HEAD_WIDTH = 32  # the paper's


@register(cost="quadratic", form=RowForm(kinds={"area": whole_kind("areas", 1, 64)}), shows=("attention",))
class AreaAttention(nn.Module):
    """Self-attention within areas, with a residual: (B, dim, H, W) to the same shape, any H and W.

    `num_heads` is dim / 32 by default, or the largest number below that divides `dim`; the attention maps of all areas
    together are as large as num_heads / area maps of N x N, rounded up.

    Args:
        dim: Channels of the map.
        num_heads: Attention heads.
        area: Number of areas; 1 is attention over the whole map.
    """

    def __init__(self, dim: int, num_heads: int | None = None, area: int = 4) -> None:
        super().__init__()
        require_positive("AreaAttention", dim=dim, area=area)
        self.num_heads = resolve_divisor("AreaAttention", "num_heads", num_heads, dim, wanted=dim // HEAD_WIDTH)
        self.area = area
        self.heads = -(-self.num_heads // area)  # N x N attention maps that all areas together take
        self.scale = (dim // self.num_heads) ** -0.5
        self.qkv = Conv(dim, 3 * dim, act=False)
        self.position = Conv(dim, dim, 5, groups=dim, act=False)
        self.project = Conv(dim, dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, dim, H, W)."""
        query, key, value = self.qkv(x).chunk(3, dim=1)
        tokens = [to_tokens(each, self.num_heads) for each in (query, key, value)]
        if is_recording():
            self._record(tokens[0], tokens[1], x.shape[2:])
        attended = self._within_areas(*tokens)
        return x + self.project(to_map(attended, x.shape[-2:]) + self.position(value))

    def _record(self, query: Tensor, key: Tensor, size: Sequence[int]) -> None:
        """Record the weights of the keys of each position's own area, (B, heads, N, length); by cells if too many."""
        positions = query.shape[2]
        length = ceil_divide(positions, self.area)
        label = "area attention" if length < positions else "attention over the whole map"
        index = torch.arange(positions, device=query.device)[:, None]
        if cells_within((length, 1), query.shape[1] * positions) != (length, 1):
            areas = index // length
            record_softmax(self, label, query, key, size, self.scale, areas == areas.t())
            return
        parts = [
            softmax_weights(*pair, self.scale)
            for pair in zip(query.split(length, 2), key.split(length, 2), strict=True)
        ]
        weights = cat([pad(part, (0, length - part.shape[3])) for part in parts], 2)
        keys = index // length * length + torch.arange(length, device=query.device)
        record(self, "attention", label, weights, size, keys.masked_fill(keys >= positions, -1))

    def _within_areas(self, *tokens: Tensor) -> Tensor:
        """Attend within each area of query, key and value (B, heads, N, d); equal areas become further heads."""
        positions = tokens[0].shape[2]
        if not is_known(positions):
            return self._within_padded_areas(*tokens)
        length = ceil_divide(positions, self.area)
        equal = positions // length * length
        areas = (
            each[:, :, :equal].unflatten(2, (-1, length)).flatten(1, 2) for each in tokens
        )  # (B, heads * areas, length, d)
        attended = attend(*areas, scale=self.scale).unflatten(1, (self.num_heads, -1)).flatten(2, 3)
        if equal == positions:
            return attended
        return cat((attended, attend(*(each[:, :, equal:] for each in tokens), scale=self.scale)), dim=2)

    def _within_padded_areas(self, *tokens: Tensor) -> Tensor:
        """Do the same for a number of positions that is a symbol: all areas are equal, and a mask hides padding."""
        positions = tokens[0].shape[2]
        length = ceil_divide(positions, self.area)
        missing = self.area * length - positions
        areas = (
            pad(each, (0, 0, 0, missing)).unflatten(2, (self.area, length)).flatten(1, 2) for each in tokens
        )  # (B, heads * areas, length, d)
        index = torch.arange(self.area * length, device=tokens[0].device).unflatten(0, (self.area, 1, length))
        seen = (index < positions) | (
            index[..., :1] >= positions
        )  # an area of padding alone sees itself: no row is empty
        mask = seen.repeat(self.num_heads, 1, 1).unsqueeze(0)  # (1, heads * areas, 1, length)
        attended = attend(*areas, scale=self.scale, bias=mask)
        return attended.unflatten(1, (self.num_heads, self.area)).flatten(2, 3)[:, :, :positions]
