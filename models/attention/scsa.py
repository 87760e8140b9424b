"""SCSA: gates along rows and columns by kernels of four sizes, then self-attention between channels.

Paper: Si, Xu, Zhu, Zhang, Dong, Chen, Li, "SCSA: Exploring the Synergistic Effects Between Spatial and Channel
Attention", Neurocomputing 2025, https://arxiv.org/abs/2407.05128, sections on shared multi-semantic spatial and
progressive channel-wise self-attention.

    x_h, x_w = means of x over columns, over rows                          (C, H), (C, W), in four quarters of channels
    g_h      = sigmoid(GN_4([DWConv1d_3, _5, _7, _9 of one quarter each](x_h)))     g_w: the same convolutions, own norm
    x_s      = x * g_h * g_w
    z        = GN_1(mean of x_s over windows of 7 x 7);   q, k, v = a z per channel
    y        = softmax over channels(q k^T / sqrt(d)) v                     heads of d channels
    out      = x_s * sigmoid(mean of y over the windows)

How ours differs from the circulating copies: theirs refuses maps smaller than the window; here the window is cut to
the map. Heads are the largest number up to 8 that divides the channels. As published, rows and columns after the
last whole window are not seen by the channel attention.

Exact short cut: the mean over windows goes through the product, so it is taken of v.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from models.arguments import WINDOW, RowForm, either_kind, whole_kind
from models.attention.ops.numerics import (
    require_flag,
    require_multiple,
    require_odd_list,
    require_positive,
    resolve_divisor,
    softmax,
)
from models.attention.ops.sizes import at_least, at_most, is_known
from models.recording import record
from models.registry import register
from utils.errors import ModelError


@register(
    form=RowForm(kinds={"window_size": either_kind(WINDOW, whole_kind("whole map", -1, -1))}),
    shows=("gate", "channels"),
)
class SCSA(nn.Module):
    """Spatial gates, then channel self-attention: (B, dim, H, W) to the same shape, any H and W.

    `dim` is a multiple of 4; `head_num` divides it, by default the largest number up to 8 that does; `window_size` -1
    takes the whole map as one window.

    Args:
        dim: Channels of the map.
        head_num: Heads of the channel attention.
        window_size: Side of the pooling windows in positions.
        group_kernel_sizes: Four odd kernels, one per quarter of the channels.
        qkv_bias: Whether the projections of q, k and v have biases.
    """

    def __init__(
        self,
        dim: int,
        head_num: int | None = None,
        window_size: int = 7,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        require_multiple("SCSA", dim, 4, "quarters")
        head_num = resolve_divisor("SCSA", "head_num", head_num, dim, wanted=8)
        require_flag("SCSA", qkv_bias=qkv_bias)
        if window_size != -1:
            require_positive("SCSA", window_size=window_size)
        require_odd_list("SCSA", "group_kernel_sizes", group_kernel_sizes, such_as=[3, 5, 7, 9])
        if len(group_kernel_sizes) != 4:
            raise ModelError(
                f"SCSA: group_kernel_sizes must be four odd numbers such as [3, 5, 7, 9], got {group_kernel_sizes!r}"
            )
        self.head_num, self.window_size, self.scaler = head_num, window_size, (dim // head_num) ** -0.5
        self.local_dwc, self.global_dwc_s, self.global_dwc_m, self.global_dwc_l = (
            nn.Conv1d(dim // 4, dim // 4, size, padding=size // 2, groups=dim // 4) for size in group_kernel_sizes
        )
        self.norm_h = nn.GroupNorm(4, dim)
        self.norm_w = nn.GroupNorm(4, dim)
        self.norm = nn.GroupNorm(1, dim)
        self.q = nn.Conv2d(dim, dim, 1, groups=dim, bias=qkv_bias)
        self.k = nn.Conv2d(dim, dim, 1, groups=dim, bias=qkv_bias)
        self.v = nn.Conv2d(dim, dim, 1, groups=dim, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x_s times the gate of its channels, for the map `x` (B, dim, H, W)."""
        rows = self._gate(x.mean(3), self.norm_h).unsqueeze(3)  # (B, C, H, 1)
        columns = self._gate(x.mean(2), self.norm_w).unsqueeze(2)  # (B, C, 1, W)
        record(self, "gate", "gate of rows g_h", rows, x.shape[2:])
        record(self, "gate", "gate of columns g_w", columns, x.shape[2:])
        gated = x * rows * columns
        gate = self._channel_gate(gated)
        record(self, "gate", "channel gate", gate, x.shape[2:])
        return gated * gate

    def _gate(self, profile: Tensor, norm: nn.GroupNorm) -> Tensor:
        """Return the gate of a profile (B, C, L)."""
        convolutions = (self.local_dwc, self.global_dwc_s, self.global_dwc_m, self.global_dwc_l)
        mixed = cat([conv(part) for conv, part in zip(convolutions, profile.chunk(4, 1), strict=True)], 1)
        return torch.sigmoid(norm(mixed))

    def _channel_gate(self, maps: Tensor) -> Tensor:
        """Return the gate of every channel (B, C, 1, 1) of the maps (B, C, H, W)."""
        pooled = self.norm(self._window_means(maps))
        heads = (self.head_num, -1)
        query, key = (conv(pooled).flatten(2).unflatten(1, heads) for conv in (self.q, self.k))  # (B, heads, d, n)
        value = self.v(pooled).mean((2, 3)).unflatten(1, heads).unsqueeze(3)  # (B, heads, d, 1)
        attention = softmax(query @ key.transpose(2, 3) * self.scaler, dim=3)  # (B, heads, d, d)
        record(self, "channels", "softmax over channels", attention, maps.shape[2:])
        return torch.sigmoid((attention @ value).flatten(1, 2).unsqueeze(3))

    def _window_means(self, maps: Tensor) -> Tensor:
        """Return the means of whole windows, (B, C, h, w); rows and columns that are left over are in none."""
        if self.window_size == -1:
            return maps.mean((2, 3), keepdim=True)
        height, width = maps.shape[-2:]
        if is_known(height, width):
            return F.avg_pool2d(maps, (min(self.window_size, height), min(self.window_size, width)))
        side = self.window_size  # a map that is smaller is one window: it is padded with zeros, which count in its mean
        padded = F.pad(maps, (0, at_least(side - width, 0), 0, at_least(side - height, 0)))
        return F.avg_pool2d(padded, side) * (side / at_most(height, side)) * (side / at_most(width, side))
