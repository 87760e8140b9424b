"""What the linear attentions share: their sums in full precision, position tables for any map, Linear layers on maps."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.arithmetic import require_positive, wide
from models.attention.mhsa import interpolate


def project(linear: nn.Linear, maps: Tensor) -> Tensor:
    """Return `linear` applied to every position of (B, C, H, W), without turning the map into tokens."""
    return F.conv2d(maps, linear.weight[:, :, None, None], linear.bias)


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which autocast leaves matrix products in the type of their factors."""
    if x.device.type == "meta":  # shapes only: autocast does not know the device
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def linear_attention(query: Tensor, key: Tensor, value: Tensor, epsilon: float) -> Tensor:
    """Return sum_j (q_i . k_j) v_j / N over mean_j (q_i . k_j) + epsilon, in at least float32.

    query, key: (..., d, N), not negative; value: (..., e, N); the result is (..., e, N). The sums over j are taken
    first, so the work grows with N d e and no N x N map is made."""
    query, key, value = wide(query), wide(key), wide(value)
    with full_precision(query):
        memory = value @ (key / key.shape[-1]).transpose(-1, -2)  # (..., e, d)
        norm = key.mean(-1).unsqueeze(-2) @ query  # (..., 1, N)
        return memory @ query / (norm + epsilon)


def position_grid(block: str, num_patches: int | Sequence[int]) -> tuple[int, tuple[int, int] | None]:
    """Return the number of positions of a table and its (rows, columns), None where only the number is known.
    Raises ModelError for what is neither a number nor a pair of them."""
    if isinstance(num_patches, int):
        require_positive(block, num_patches=num_patches)
        return num_patches, None
    sides: list[Any] = list(num_patches) if isinstance(num_patches, Sequence) and len(num_patches) == 2 else [num_patches] * 2
    require_positive(block, **{"num_patches' rows": sides[0], "num_patches' columns": sides[1]})
    return sides[0] * sides[1], (sides[0], sides[1])


def position_maps(table: Tensor, grid: tuple[int, int] | None, size: Sequence[int]) -> Tensor:
    """Return a table (1, rows * columns, C) as maps (1, C, H, W), interpolated linearly to `size`.

    A table of which only the number of positions is known is used as it stands on maps of that many positions;
    elsewhere it is taken to be the most nearly square grid."""
    count, (H, W) = table.shape[1], size
    if grid is None:
        grid = (H, W) if H * W == count else squarest(count)
    maps = table.transpose(1, 2).unflatten(2, grid)
    return interpolate(interpolate(maps, W).transpose(2, 3), H).transpose(2, 3)


def squarest(count: int) -> tuple[int, int]:
    """Return the two factors of `count` that differ least, the smaller one first."""
    rows = next(number for number in range(int(count**0.5), 0, -1) if count % number == 0)
    return rows, count // rows
