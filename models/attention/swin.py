"""WindowAttention: self-attention within windows, then within windows shifted by half a window.

Paper: Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, "Swin Transformer: Hierarchical Vision Transformer using Shifted
Windows", ICCV 2021, https://arxiv.org/abs/2103.14030, equation 3 without its MLPs, and equation 4.

    z' = z  + W-MSA(LN(z))          windows of w x w positions from the top left
    y  = z' + SW-MSA(LN(z'))        windows shifted by floor(w / 2) down and right
    MSA in a window: sum over j of softmax over j of (q_i . k_j / sqrt(d) + B(position i - position j)) times v_j

B is a table of (2w - 1)^2 relative positions per head. One block is the paper's pair, because it is the pair that
carries information from window to window; with `shift_size` it is one attention alone.

How ours differs from the published code: a map of any size is padded, shifted and masked in the forward pass, nothing
is bound to a resolution. Padded positions are masked out (theirs take part as zeros). Positions that the shift wraps
round the edge are masked by the index of the window that they come from. Along an axis that one window covers nothing
is shifted. Names inside an attention are the published ones; the index of relative positions is not in checkpoints.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from models.arguments import RowForm, whole_kind
from models.attention.ops.numerics import require_flag, require_positive, resolve_divisor
from models.attention.ops.sizes import at_most, ceil_divide, is_known, roll
from models.attention.ops.windows import from_windows, pad_to_multiple, to_windows
from models.norms import ChannelNorm
from models.recording import is_recording, record, softmax_weights
from models.registry import register
from utils.errors import ModelError

HEAD_CHANNELS = 32  # of the paper
PADDING = -1  # window index of padded positions; 0 is the partial window before the first


class WindowMSA(nn.Module):
    """Multi-head self-attention in windows, shifted or not: (B, dim, H, W) to the same shape, any H and W.

    Args:
        dim: Channels of the map.
        window_size: Side of a window in positions.
        num_heads: A divisor of `dim`, by default dim / 32.
        shift_size: Positions by which the windows are shifted, from 0, below `window_size`.
        qkv_bias: Whether the projections of q, k and v have biases.
    """

    relative_position_index: Tensor

    def __init__(
        self, dim: int, window_size: int, num_heads: int | None = None, shift_size: int = 0, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        require_positive("WindowMSA", dim=dim, window_size=window_size)
        require_flag("WindowMSA", qkv_bias=qkv_bias)
        self.num_heads = resolve_divisor("WindowMSA", "num_heads", num_heads, dim, wanted=dim // HEAD_CHANNELS)
        if isinstance(shift_size, bool) or shift_size not in range(window_size):
            raise ModelError(
                f"WindowMSA: shift_size {shift_size!r} must be 0 to {window_size - 1}, less than the window"
            )
        self.window_size, self.shift_size = window_size, shift_size
        reach = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.empty(reach * reach, self.num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(window_size), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, C, H, W)."""
        side, (height, width) = self.window_size, x.shape[-2:]
        shifts = [self._shift(length) for length in (height, width)]
        padded = pad_to_multiple(x, side, side)
        moved = roll(padded, [-shift for shift in shifts], (2, 3))
        windows = to_windows(moved, side, side)  # (B, n, L, C)
        attended = self._attend(windows, self._bias(x, shifts, windows.shape[1]), x.shape[2:], shifts)
        joined = from_windows(attended, side, side, *padded.shape[-2:])
        return roll(joined, shifts, (2, 3))[..., :height, :width]

    def _shift(self, length: int) -> int:
        """Return the shift along an axis: none if one window holds it."""
        if not self.shift_size:
            return 0
        return at_most(ceil_divide(length, self.window_size) - 1, 1) * self.shift_size

    def _attend(self, windows: Tensor, bias: Tensor, size: Sequence[int], shifts: list[int]) -> Tensor:
        """Return the attention inside each of (B, n, L, C) windows with a bias (n * heads, L, L).

        Windows and heads share one axis, so that a fused kernel uses one bias for all images.
        """
        count = windows.shape[1]
        qkv = self.qkv(windows).unflatten(3, (3, self.num_heads, -1))  # (B, n, L, 3, h, d)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each (B, n * h, L, d)
        if is_recording():
            weights = softmax_weights(query, key, query.shape[3] ** -0.5, bias.to(query.dtype))
            self._record(weights.unflatten(1, (count, -1)), size, shifts)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype).unsqueeze(0))
        return self.proj(attended.unflatten(1, (count, -1)).transpose(2, 3).flatten(3))

    def _record(self, weights: Tensor, size: Sequence[int], shifts: list[int]) -> None:
        """Record the weights inside windows, (B, n, h, L, L), by the positions of the map that they belong to."""
        side, (height, width) = self.window_size, size
        numbers = torch.arange(1, height * width + 1, device=weights.device).view(1, 1, height, width)
        moved = roll(pad_to_multiple(numbers, side, side), [-shift for shift in shifts], (2, 3))
        positions = to_windows(moved, side, side)[0, :, :, 0] - 1  # (n, L), -1 for padding
        query_order = positions.flatten().argsort()[-height * width :]  # the padding comes first and is left out
        by_query = weights.transpose(1, 2).flatten(2, 3)[:, :, query_order]  # (B, h, N, L)
        keys = positions.repeat_interleave(side * side, 0)[query_order]
        label = "SW-MSA, shifted windows" if any(shifts) else "W-MSA, regular windows"
        record(self, "attention", label, by_query, size, keys)

    def _bias(self, x: Tensor, shifts: list[int], count: int) -> Tensor:
        """Return B for each of `count` windows, minus infinity between positions of different origin: (n * h, L, L)."""
        side = self.window_size
        table = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = table.t().unflatten(1, (side * side, -1)).expand(count, -1, -1, -1)  # (n, h, L, L)
        if not is_known(*x.shape[-2:]) or any(shifts) or x.shape[2] % side or x.shape[3] % side:
            row, column = (
                _window_indices(length, side, shift, x.device)
                for length, shift in zip(x.shape[-2:], shifts, strict=True)
            )
            origins = (
                row[:, None] * (column.shape[0] + 3) + column
            )  # one number per pair of a row's and a column's index
            origins = to_windows(origins[None, None], side, side)[0, :, :, 0]  # (n, L)
            apart = origins[:, :, None] != origins[:, None]
            bias = bias.masked_fill(apart.unsqueeze(1), float("-inf"))
        return bias.flatten(0, 1)


@register(cost="windowed", form=RowForm(kinds={"shift_size": whole_kind("shift", 0, 64)}), shows=("attention",))
class WindowAttention(nn.Module):
    """Window attention and shifted window attention, each with a residual: (B, dim, H, W) to the same shape.

    `shift_size` None is regular windows, then windows shifted by half; a number is one attention in windows shifted by
    it. `num_heads` divides `dim`, by default dim / 32.

    Args:
        dim: Channels of the map.
        window_size: Side of a window in positions.
        num_heads: Attention heads.
        shift_size: Positions by which windows are shifted, from 0, below `window_size`.
        qkv_bias: Whether the projections of q, k and v have biases.
    """

    def __init__(
        self,
        dim: int,
        window_size: int = 7,
        num_heads: int | None = None,
        shift_size: int | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        require_positive("WindowAttention", dim=dim, window_size=window_size)
        shifts = (0, window_size // 2) if shift_size is None else (shift_size,)
        self.norms = nn.ModuleList(ChannelNorm(dim) for _ in shifts)
        self.attentions = nn.ModuleList(WindowMSA(dim, window_size, num_heads, shift, qkv_bias) for shift in shifts)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, dim, H, W) plus each attention in turn."""
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            x = x + attention(norm(x))
        return x


def _relative_position_index(side: int) -> Tensor:
    """Return (L, L), L = side^2: the row of the bias table for each pair of a window's positions."""
    position = torch.arange(side)
    offset = position[:, None] - position + side - 1  # (side, side) in [0, 2 side - 2]
    rows = offset[:, None, :, None] * (2 * side - 1)
    return (rows + offset[None, :, None, :]).reshape(side * side, side * side)


def _window_indices(length: int, side: int, shift: int, device: torch.device) -> Tensor:
    """Return the index of the shifted window that each cell of an axis lies in, after padding and shifting it.

    0 for cells that the shift wraps round, PADDING for padded ones.
    """
    position = torch.arange(ceil_divide(length, side) * side, device=device)
    index = (position + (side - shift)) // side
    return roll(index.masked_fill(position >= length, PADDING), [-shift], [0])
