"""Position tables for maps of any size: interpolated linearly, by a product whose gradient is reproducible."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.attention.ops.numerics import require_positive
from models.attention.ops.sizes import is_known


def interpolate(table: Tensor, length: int) -> Tensor:
    """Return `table` interpolated linearly to `length` cells, cell centers aligned.

    Written as a product with hat functions, whose gradient is reproducible on every device.

    Args:
        table: (..., n).
        length: Number of cells of the result.

    Returns:
        (..., length); the table itself if it is known to have that length.
    """
    own = table.shape[-1]
    if is_known(length) and own == length:
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)  # half precision places a cell too coarsely
    cells = torch.arange(own, dtype=dtype, device=table.device)
    centers = (torch.arange(length, dtype=dtype, device=table.device) + 0.5) * (own / length) - 0.5
    hats = (1 - (centers.clamp(0, own - 1) - cells.unsqueeze(1)).abs()).clamp(min=0)  # (n, length)
    return table @ hats.to(table.dtype)


def interpolate_map(table: Tensor, size: Sequence[int]) -> Tensor:
    """Return `table` interpolated linearly along both axes.

    Args:
        table: (..., h, w).
        size: (H, W) of the result.

    Returns:
        (..., H, W).
    """
    height, width = size
    return interpolate(interpolate(table, width).transpose(-2, -1), height).transpose(-2, -1)


def parse_position_grid(block: str, num_patches: int | Sequence[int]) -> tuple[int, tuple[int, int] | None]:
    """Return the number of positions of a table and its (rows, columns), None if only the number is known.

    Args:
        block: The block's name, for the error.
        num_patches: A number of positions, or [rows, columns].

    Returns:
        (positions, grid).

    Raises:
        ModelError: `num_patches` is neither a number nor a pair of them.
    """
    if isinstance(num_patches, int):
        require_positive(block, num_patches=num_patches)
        return num_patches, None
    is_pair = isinstance(num_patches, list | tuple) and len(num_patches) == 2
    sides: list[Any] = list(num_patches) if is_pair else [num_patches] * 2
    require_positive(block, **{"num_patches' rows": sides[0], "num_patches' columns": sides[1]})
    return sides[0] * sides[1], (sides[0], sides[1])


def position_maps(table: Tensor, grid: tuple[int, int] | None, size: Sequence[int]) -> Tensor:
    """Return a position table as maps, interpolated linearly to `size`.

    A table of which only the number of positions is known is used unchanged on maps of that many positions; on
    others it is taken to be the most nearly square grid.

    Args:
        table: (1, rows * columns, C).
        grid: (rows, columns) of the table, or None.
        size: (H, W) of the maps.

    Returns:
        (1, C, H, W).
    """
    count, (H, W) = table.shape[1], size
    if grid is None:
        grid = (H, W) if is_known(H, W) and count == H * W else _most_square_grid(count)
    return interpolate_map(table.transpose(1, 2).unflatten(2, grid), size)


def _most_square_grid(count: int) -> tuple[int, int]:
    """Return the two factors of `count` that differ least, the smaller one first."""
    rows = next(number for number in range(int(count**0.5), 0, -1) if count % number == 0)
    return rows, count // rows
