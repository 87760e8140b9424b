"""DAttentionBaseline: every position attends to the same few sampling locations, which offsets move over the map.

Paper: Xia, Pan, Song, Li, Huang, "Vision Transformer with Deformable Attention", CVPR 2022,
https://arxiv.org/abs/2201.00520, section 3.2; and DAT++, https://arxiv.org/abs/2309.01430.

    q      = W_q x                                       heads of d channels; n_groups share the channels
    offset = s tanh(W_off GELU(LN(DW_ksize(q_g)))) / (size of the grid - 1)    one per group and reference point
    p      = reference point + offset                    in [-1, 1] over the map; a grid of stride `stride`
    x~     = x_g sampled at p, bilinearly, zero outside
    k, v   = W_k x~, W_v x~
    h_i    = sum over n of softmax over n of (q_i . k_n / sqrt(d) + B((position i - p_n) / 2)) times v_n
    y      = W_o (h + LePE(q)) + b_o

B reads a table of relative positions at continuous offsets (`dwc_pe` False); LePE is a depth-wise 3 x 3
convolution of q (`dwc_pe` True). Either takes maps of any size; the table spans the map, whatever its size.

As in the published code: the reference points lie at 0.5 ... H - 0.5 over H - 1, up to half a cell low and right, so
the last ones lie outside the map; `offset_range_factor` s below zero leaves the offsets free and clamps p to the map.

How ours differs from the published code: it returns the map alone; a grid of one row or column is not divided by
zero; sampling locations and samples are computed in float32 under half precision, in which a coordinate on a map of 80
has no fraction left; LePE is the default, as it needs no size and lets fused kernels never hold the logits; heads and
groups follow the width. The variants `no_off`, `fixed_pe` (tied to one size) and `log_cpb` are left out. The gradient
of the sampling is not reproducible on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from models.arguments import SIDE, WIDTH, RowForm, list_kind, number_kind
from models.attention.ops.numerics import (
    require_flag,
    require_number,
    require_odd,
    require_positive,
    resolve_divisor,
    upcast,
)
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.attention.ops.windows import pad_to_multiple
from models.norms import ChannelNorm
from models.recording import is_recording, record, record_softmax
from models.registry import register
from utils.errors import ModelError

HEAD_CHANNELS = 32  # of the paper
TABLE_SIDE = 20  # side of the map that a position table covers unless q_size is given: P5 at 640


class OffsetNorm(nn.Module):
    """Layer norm over the channels, under the published name `norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@register(
    cost="quadratic",
    form=RowForm(
        kinds={
            "offset_range_factor": number_kind("factor", -1, 16, including=True),
            "q_size": list_kind("size", SIDE),
            "n_head_channels": WIDTH,
        },
        orders=(("q_size",), ("q_size", "n_heads"), ("q_size", "n_heads", "n_groups")),
        elsewhere={"offset_range_factor": "forks take {offset_range_factor: 4}"},
    ),
    shows=("offsets", "attention"),
)
class DAttentionBaseline(nn.Module):
    """Deformable attention: (B, dim, H, W) to the same shape, any H and W.

    `n_heads` is by default dim / 32, or dim / n_head_channels; `n_groups` divides it, by default half of it; `q_size`
    is the (H, W) whose relative positions the table holds one by one, interpolated for other sizes.

    Args:
        dim: Channels of the map.
        n_heads: Attention heads.
        n_groups: Groups of channels, each with its own offsets.
        stride: Distance of two reference points in positions.
        offset_range_factor: Largest offset in reference points; below zero, offsets are free and locations clamped.
        ksize: Kernel of the convolution that predicts the offsets, odd.
        use_pe: Whether there is a position term.
        dwc_pe: Whether that is a depth-wise convolution of the queries or a table.
        q_size: Size of the map that the table covers, 20 x 20 unless given.
        n_head_channels: Channels per head, a divisor of `dim`, in place of `n_heads`.
    """

    nondeterministic = "grid_sample"  # its gradient adds up in any order on CUDA
    rpe_table: nn.Conv2d | nn.Parameter | None

    def __init__(
        self,
        dim: int,
        n_heads: int | None = None,
        n_groups: int | None = None,
        stride: int = 1,
        offset_range_factor: float = 2,
        ksize: int = 3,
        use_pe: bool = True,
        dwc_pe: bool = True,
        q_size: tuple[int, int] | None = None,
        n_head_channels: int | None = None,
    ) -> None:
        super().__init__()
        require_positive("DAttentionBaseline", dim=dim, stride=stride)
        require_odd("DAttentionBaseline", "ksize", ksize)
        self.heads = _resolve_heads(dim, n_heads, n_head_channels)
        self.groups = resolve_divisor(
            "DAttentionBaseline", "n_groups", n_groups, self.heads, wanted=self.heads // 2, of="heads"
        )
        require_flag("DAttentionBaseline", use_pe=use_pe, dwc_pe=dwc_pe)
        require_number("DAttentionBaseline", "offset_range_factor", offset_range_factor, such_as=2)
        self.stride, self.ksize, self.offset_range_factor = stride, ksize, offset_range_factor
        self.scale = (dim // self.heads) ** -0.5
        height, width = _table_sides(q_size)
        share = dim // self.groups
        padding = 0 if ksize == stride else ksize // 2
        self.conv_offset = nn.Sequential(
            nn.Conv2d(share, share, ksize, stride, padding, groups=share),
            OffsetNorm(share),
            nn.GELU(),
            nn.Conv2d(share, 2, 1, bias=False),
        )
        self.proj_q, self.proj_k = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.proj_v, self.proj_out = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.rpe_table = None
        if use_pe and dwc_pe:
            self.rpe_table = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        elif use_pe:
            self.rpe_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, height, width), std=0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, dim, H, W)."""
        size = x.shape[-2:]
        projected = self.proj_q(x)
        locations = self._sampling_locations(projected)  # (B * groups, h, w, 2)
        sampled = self._sample(x, locations)
        query, key, value = (
            to_tokens(maps, self.heads) for maps in (projected, self.proj_k(sampled), self.proj_v(sampled))
        )
        bias = None
        if isinstance(self.rpe_table, nn.Parameter):
            bias = self._position_bias(self.rpe_table, locations, size).to(projected.dtype)
        if is_recording():
            self._record_offsets(locations, size)
            label, grid = "attention to the sampled points", sampled.shape[2:]
            record_softmax(self, label, query, key, size, self.scale, bias, grid)
        attended = to_map(attend(query, key, value, scale=self.scale, bias=bias), size)
        if isinstance(self.rpe_table, nn.Module):
            attended = attended + self.rpe_table(projected)
        return self.proj_out(attended)

    def _sampling_locations(self, query: Tensor) -> Tensor:
        """Return each group's sampling locations: (B * groups, h, w, 2) as y, x over [-1, 1], in float32 at least."""
        grouped = query.reshape(-1, query.shape[1] // self.groups, *query.shape[-2:])
        if self.ksize == self.stride:  # no reference point less for a size that does not divide
            grouped = pad_to_multiple(grouped, self.stride, self.stride)
        offsets = upcast(self.conv_offset(grouped)).permute(0, 2, 3, 1)
        height, width = offsets.shape[1:3]
        references = _reference_points(height, width, 0.5, offsets)
        if self.offset_range_factor < 0:
            return (references + offsets).clamp(-1, 1)
        reach = torch.stack((offsets.new_full((), 1 / max(height - 1, 1)), offsets.new_full((), 1 / max(width - 1, 1))))
        return references + offsets.tanh() * reach * self.offset_range_factor

    def _record_offsets(self, locations: Tensor, size: Sequence[int]) -> None:
        """Record how far samples lie from their reference points, in pixels of a map of `size`."""
        grid = locations.shape[1:3]
        pixels = torch.tensor([max(length - 1, 0) / 2 for length in size], device=locations.device)  # of one unit
        pixels = pixels.to(locations.dtype)
        references = _reference_points(grid[0], grid[1], 0.5, locations)
        moved = (locations - references) * pixels
        by_group = moved.permute(0, 3, 1, 2).unflatten(0, (-1, self.groups))  # (B, groups, 2, h, w)
        cells = torch.tensor(size, device=pixels.device) / torch.tensor(grid, device=pixels.device)
        centers = _positions(grid[0], grid[1], 0.5, locations) * cells.to(pixels.dtype) - 0.5  # in pixels
        places = ((references + 1) * pixels - centers).permute(2, 0, 1)[None]
        label = "offsets of each group from the reference points"
        record(self, "offsets", label, by_group, grid, places=places)

    def _sample(self, x: Tensor, locations: Tensor) -> Tensor:
        """Return each group's channels of `x` (B, C, H, W) at its own locations: (B, C, h, w)."""
        grouped = upcast(x.reshape(-1, x.shape[1] // self.groups, *x.shape[-2:])).to(locations.dtype)
        sampled = grid_sample(grouped, locations.flip(3), mode="bilinear", padding_mode="zeros", align_corners=True)
        return sampled.reshape(x.shape[0], x.shape[1], *locations.shape[1:3]).to(x.dtype)

    def _position_bias(self, table: Tensor, locations: Tensor, size: torch.Size) -> Tensor:
        """Return the table read at half the offset from each location to each position: (B, heads, N, n)."""
        positions = _reference_points(size[0], size[1], 0.0, locations).flatten(0, 1)  # (N, 2)
        relative = (positions[:, None] - locations.flatten(1, 2)[:, None]) / 2  # (B * groups, N, n, 2)
        tables = upcast(table).to(locations.dtype).unflatten(0, (self.groups, -1))  # (groups, heads / groups, ., .)
        tables = tables.repeat(locations.shape[0] // self.groups, 1, 1, 1)
        bias = grid_sample(tables, relative.flip(3), mode="bilinear", padding_mode="zeros", align_corners=True)
        return bias.reshape(-1, self.heads, *relative.shape[1:3])


def _reference_points(height: int, width: int, start: float, like: Tensor) -> Tensor:
    """Return (height, width, 2) of y and x: start, start + 1, ... over the last index, scaled to [-1, 1].

    In the type and on the device of `like`. A single row or column with start 0.5 lies in the middle.
    """
    axes = [
        (torch.arange(length, dtype=like.dtype, device=like.device) + start) / max(length - 1, 1) * 2 - 1
        for length in (height, width)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=2)


def _positions(height: int, width: int, start: float, like: Tensor) -> Tensor:
    """Return (height, width, 2) of y and x: start, start + 1, ... In the type and on the device of `like`."""
    axes = [torch.arange(length, dtype=like.dtype, device=like.device) + start for length in (height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=2)


def _resolve_heads(dim: int, heads: int | None, head_channels: int | None) -> int:
    """Return the number of heads that the two arguments ask of `dim` channels, or the default."""
    if head_channels is not None:
        resolve_divisor("DAttentionBaseline", "n_head_channels", head_channels, dim, wanted=HEAD_CHANNELS)
        if heads not in (None, dim // head_channels):
            raise ModelError(
                f"DAttentionBaseline: {heads} heads of {head_channels} channels are not {dim} channels; "
                f"leave one of them out"
            )
        return dim // head_channels
    return resolve_divisor("DAttentionBaseline", "n_heads", heads, dim, wanted=dim // HEAD_CHANNELS)


def _table_sides(size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the sides of a table that holds the relative positions of a map of `size`; ModelError if it is no size."""
    if size is not None and not (isinstance(size, list | tuple) and len(size) == 2):
        raise ModelError(f"DAttentionBaseline: q_size must be a list [height, width], such as [20, 20], got {size!r}")
    height, width = size or (TABLE_SIDE, TABLE_SIDE)
    require_positive("DAttentionBaseline", q_size_height=height, q_size_width=width)
    return 2 * height - 1, 2 * width - 1
