"""A deformable depth-wise convolution made of bilinear samples, one row of the kernel at a time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import grid_sample, pad

from models.attention.ops.numerics import records_gradients
from models.attention.ops.sizes import is_known


@dataclass(frozen=True)
class Taps:
    """Where the taps of a kernel lie.

    Attributes:
        kernel: Side of the kernel, odd.
        dilation: Distance of two taps in positions, before the offsets.
        size: (H, W) of the map.
        padded: (H', W'), the next powers of two, or the size if that is a symbol. With powers of two a location p is
            sampled at exactly p: its normalized form (2 p + 1) / H' - 1 is a float without rounding if p is a whole
            number, so the offset's gradient there is the one to the right of the kink, as at every other location.
    """

    kernel: int
    dilation: int
    size: tuple[int, int]
    padded: tuple[int, int]

    def grid(self, offsets: Tensor, row: int) -> Tensor:
        """Return the normalized locations (B, k H, W, 2) of a kernel row's taps, one map after the other.

        Args:
            offsets: (B, k^2, 2, H, W), down and right per tap.
            row: Of the kernel.

        Returns:
            Right, then down, in -1..1 across the padded map.
        """
        (height, width), (rows, columns), reach = self.size, self.padded, self.kernel // 2
        own = offsets[:, row * self.kernel : (row + 1) * self.kernel]
        steps = (torch.arange(self.kernel, device=own.device, dtype=own.dtype) - reach) * self.dilation
        down = torch.arange(height, device=own.device, dtype=own.dtype)[:, None] + (row - reach) * self.dilation
        right = torch.arange(width, device=own.device, dtype=own.dtype) + steps[:, None, None]
        y = (2 * (own[:, :, 0] + down) + 1) / rows - 1
        x = (2 * (own[:, :, 1] + right) + 1) / columns - 1
        return torch.stack((x, y), -1).flatten(1, 2)


def deformable_depthwise(x: Tensor, offsets: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Return sum over taps t of w_t x(p + d t + o_t), x(.) bilinear and zero outside the map.

    Args:
        x: (B, C, H, W), float32 or float64.
        offsets: (B, 2 k^2, H, W) of the same type, down and right per tap.
        weight: (C, 1, k, k) of the same type.
        dilation: d, the distance of two taps before the offsets.

    Returns:
        (B, C, H, W).
    """
    height, width = x.shape[2:]
    rows, columns = _power_of_two(height), _power_of_two(width)
    taps = Taps(weight.shape[-1], dilation, (height, width), (rows, columns))
    padded = pad(x, (0, columns - width, 0, rows - height)) if is_known(height, width) else x
    offsets = offsets.unflatten(1, (-1, 2))
    if records_gradients(padded, offsets, weight):
        return _Deformed.apply(padded, offsets, weight, taps)
    return _weigh_samples(padded, offsets, weight, taps)


def _power_of_two(side: int) -> int:
    """The next power of two; the side itself if it is a symbol."""
    return 1 << (side - 1).bit_length() if is_known(side) else side


def _weigh_samples(padded: Tensor, offsets: Tensor, weight: Tensor, taps: Taps) -> Tensor:
    height, width = taps.size
    total = padded.new_zeros((*padded.shape[:2], height, width))
    for row in range(taps.kernel):
        samples = _samples(padded, taps.grid(offsets, row), taps)
        for column in range(taps.kernel):
            total = torch.addcmul(total, samples[:, :, column], weight[:, 0, row, column, None, None])
    return total


def _samples(padded: Tensor, grid: Tensor, taps: Taps) -> Tensor:
    """(B, C, k, H, W)."""
    return grid_sample(padded, grid, align_corners=False).unflatten(2, (taps.kernel, -1))


class _Deformed(torch.autograd.Function):
    """`_weigh_samples`, whose backward samples again: autograd would keep every sample, k^2 maps."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, offsets: Tensor, weight: Tensor, taps: Taps) -> Tensor:
        ctx.save_for_backward(padded, offsets, weight)
        ctx.taps = taps
        return _weigh_samples(padded, offsets, weight, taps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (padded, offsets, weight), taps = ctx.saved_tensors, ctx.taps
        of_padded, of_offsets, of_weight = torch.zeros_like(padded), torch.empty_like(offsets), torch.empty_like(weight)
        rows, columns = taps.padded
        for row in range(taps.kernel):
            grid = taps.grid(offsets, row)
            for column, sample in enumerate(_samples(padded, grid, taps).unbind(2)):
                of_weight[:, 0, row, column] = (sample * gradient).sum((0, 2, 3))
            shares = (gradient[:, :, None] * weight[:, 0, row, :, None, None]).flatten(2, 3)
            # 0, 0: bilinear, zeros outside
            of_map, of_grid = torch.ops.aten.grid_sampler_2d_backward(shares, padded, grid, 0, 0, False, [True, True])
            of_padded += of_map
            of_right, of_down = of_grid.unflatten(1, (taps.kernel, -1)).unbind(-1)
            own = of_offsets[:, row * taps.kernel : (row + 1) * taps.kernel]
            own[:, :, 0], own[:, :, 1] = of_down * (2 / rows), of_right * (2 / columns)
        return of_padded, of_offsets, of_weight, None
