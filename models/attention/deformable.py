"""DAttentionBaseline: every position attends to the same few points of the map, which move to where they are wanted.

Paper: Xia, Pan, Song, Li, Huang, "Vision Transformer with Deformable Attention", CVPR 2022,
https://arxiv.org/abs/2201.00520, section 3.2; and DAT++, https://arxiv.org/abs/2309.01430.

    q      = W_q x                                       heads of d channels; n_groups share the channels
    offset = s tanh(W_off GELU(LN(DW_ksize(q_g)))) / (size of the grid - 1)    one a group and grid point, stride `stride`
    p      = grid point + offset                         in [-1, 1] over the map
    x~     = x_g sampled at p, bilinearly, zero outside
    k, v   = W_k x~, W_v x~
    h_i    = sum over points n of softmax over n of (q_i . k_n / sqrt(d) + B((place of i - p_n) / 2)) times v_n
    y      = W_o (h + LePE(q)) + b_o

B reads a table of relative positions at a continuous place (`dwc_pe` False); LePE is a depth-wise 3 x 3
convolution of q (`dwc_pe` True). Either takes maps of any size; the table spans the map, whatever its size.

As in the published code: the grid points lie at 0.5 ... H - 0.5 over H - 1, up to half a cell low and right, so
the last ones lie outside the map; `offset_range_factor` s below zero leaves the offsets free and clamps p to the map.

How ours differs from the published code: it returns the map alone; a grid of one row or column is not divided by
zero; places and samples are worked out in float32 under half precision, where a place of a map of 80 has no
fraction left; LePE is the default, as it needs no size and lets fused kernels never hold the logits; heads and groups
follow the width. The variants `no_off`, `fixed_pe` (tied to one size) and `log_cpb` are left out. The gradient of the
sampling is not reproducible on a GPU.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from models.attention.ops.numerics import divisor, require_flag, require_number, require_odd, require_positive, wide
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.attention.ops.windows import pad_to_multiple
from models.norms import ChannelNorm
from models.registry import register
from utils.errors import ModelError

HEAD_CHANNELS = 32  # of the paper
TABLE = 20  # map size that a table is made for unless q_size says otherwise: P5 at 640


class OffsetNorm(nn.Module):
    """Layer norm over the channels, under the published name `norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@register(cost="quadratic")
class DAttentionBaseline(nn.Module):
    """DAttentionBaseline(dim, n_heads=None, n_groups=None, stride=1, offset_range_factor=2, ksize=3, use_pe=True,
    dwc_pe=True, q_size=None, n_head_channels=None): (B, dim, H, W) to the same shape, any H and W.

    n_heads: by default dim / 32, or dim / n_head_channels; n_groups divides it, by default half of it; q_size:
    (H, W) whose relative positions the table holds one by one; it is read in between for other sizes.
    """

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
        self.heads = head_count(dim, n_heads, n_head_channels)
        self.groups = divisor(
            "DAttentionBaseline", "n_groups", n_groups, self.heads, wanted=self.heads // 2, of="heads"
        )
        require_flag("DAttentionBaseline", use_pe=use_pe, dwc_pe=dwc_pe)
        require_number("DAttentionBaseline", "offset_range_factor", offset_range_factor, such_as=2)
        self.stride, self.ksize, self.offset_range_factor = stride, ksize, offset_range_factor
        self.scale = (dim // self.heads) ** -0.5
        height, width = table_size(q_size)
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
        self.rpe_table: nn.Module | nn.Parameter | None = None
        if use_pe and dwc_pe:
            self.rpe_table = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        elif use_pe:
            self.rpe_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, height, width), std=0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, dim, H, W)."""
        query = self.proj_q(x)
        places = self._places(query)  # (B * groups, h, w, 2)
        sampled = self._sample(x, places)
        tokens = [to_tokens(maps, self.heads) for maps in (query, self.proj_k(sampled), self.proj_v(sampled))]
        table = isinstance(self.rpe_table, nn.Parameter)
        bias = self._bias(places, x.shape[-2:]).to(query.dtype) if table else None
        attended = to_map(attend(*tokens, self.scale, bias), x.shape[-2:])
        if isinstance(self.rpe_table, nn.Module):
            attended = attended + self.rpe_table(query)
        return self.proj_out(attended)

    def _places(self, query: Tensor) -> Tensor:
        """Where each group's points lie: (B * groups, h, w, 2) as y, x over [-1, 1], at least in float32."""
        grouped = query.reshape(-1, query.shape[1] // self.groups, *query.shape[-2:])
        if self.ksize == self.stride:
            grouped = pad_to_multiple(
                grouped, self.stride, self.stride
            )  # no point less for a size that does not divide
        offset = wide(self.conv_offset(grouped)).permute(0, 2, 3, 1)
        height, width = offset.shape[1:3]
        grid = lattice(height, width, 0.5, offset)
        if self.offset_range_factor < 0:
            return (grid + offset).clamp(-1, 1)
        reach = torch.stack((offset.new_full((), 1 / max(height - 1, 1)), offset.new_full((), 1 / max(width - 1, 1))))
        return grid + offset.tanh() * reach * self.offset_range_factor

    def _sample(self, x: Tensor, places: Tensor) -> Tensor:
        """Each group's channels of `x` (B, C, H, W) at its own places: (B, C, h, w)."""
        grouped = wide(x.reshape(-1, x.shape[1] // self.groups, *x.shape[-2:])).to(places.dtype)
        sampled = grid_sample(grouped, places.flip(3), mode="bilinear", padding_mode="zeros", align_corners=True)
        return sampled.reshape(x.shape[0], x.shape[1], *places.shape[1:3]).to(x.dtype)

    def _bias(self, places: Tensor, size: torch.Size) -> Tensor:
        """The table read at half the way from each point to each position: (B, heads, N, n)."""
        whence = lattice(size[0], size[1], 0.0, places).flatten(0, 1)  # (N, 2)
        way = (whence[:, None] - places.flatten(1, 2)[:, None]) / 2  # (B * groups, N, n, 2)
        table = wide(self.rpe_table).to(places.dtype).unflatten(0, (self.groups, -1))  # (groups, heads / groups, ., .)
        tables = table.repeat(places.shape[0] // self.groups, 1, 1, 1)
        read = grid_sample(tables, way.flip(3), mode="bilinear", padding_mode="zeros", align_corners=True)
        return read.reshape(-1, self.heads, *way.shape[1:3])


def lattice(height: int, width: int, start: float, like: Tensor) -> Tensor:
    """Return (height, width, 2) of y and x: start, start + 1, ... over the last index, brought to [-1, 1], in the type
    and on the device of `like`. A single row or column with start 0.5 lies in the middle.
    """
    axes = [
        (torch.arange(length, dtype=like.dtype, device=like.device) + start) / max(length - 1, 1) * 2 - 1
        for length in (height, width)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=2)


def head_count(dim: int, heads: int | None, head_channels: int | None) -> int:
    """Return the number of heads that the two arguments ask of `dim` channels, or the one that suits them."""
    if head_channels is not None:
        divisor("DAttentionBaseline", "n_head_channels", head_channels, dim, wanted=HEAD_CHANNELS)
        if heads not in (None, dim // head_channels):
            raise ModelError(
                f"DAttentionBaseline: {heads} heads of {head_channels} channels are not {dim} channels; "
                f"leave one of them out"
            )
        return dim // head_channels
    return divisor("DAttentionBaseline", "n_heads", heads, dim, wanted=dim // HEAD_CHANNELS)


def table_size(size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the sides of a table that holds the relative positions of a map of `size`. Raises ModelError for no size."""
    if size is not None and not (isinstance(size, list | tuple) and len(size) == 2):
        raise ModelError(f"DAttentionBaseline: q_size must be a list [height, width], such as [20, 20], got {size!r}")
    height, width = size or (TABLE, TABLE)
    require_positive("DAttentionBaseline", q_size_height=height, q_size_width=width)
    return 2 * height - 1, 2 * width - 1
