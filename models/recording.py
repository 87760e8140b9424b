"""What attention blocks apply to a map, recorded while they run: gates, attention weights, offsets, kernels.

A block hands what it applies to `record`, which does nothing unless a `recording()` is open. What is shown is therefore
what was applied, in the same pass; nothing is computed a second time but the softmax weights that fused kernels never
hold, and those only while somebody records (`is_recording`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOST_WEIGHTS = 2**26  # that are recorded of one pass and image, 256 MiB in float32

# Kind of record -> the shape of its values. B images, C channels, H x W positions.
KINDS = {
    "gate": "broadcasts to (B, C, H, W): a factor of the map, per channel, per position or both",
    "attention": "(B, heads, Q, K): the weight of key k for the position q, row by row; sums to 1 over K if softmax",
    "maps": "(B, M, H, W): weights of positions in M sums over the map, or of M units at each position",
    "channels": "(B, heads, c, c): the weight of channel k for channel q of a head",
    "branches": "broadcasts to (B, M, C, H, W): the share of each of M branches; sums to 1 over M if softmax",
    "offsets": "(B, points, 2, H, W): (y, x) that each sample lies away from its place (see `places`), in "
    "pixels of the block's input",
    "kernels": "(B, G, k*k, H, W): the kernel applied at each position, one per group of channels",
}


@dataclass(frozen=True)
class AppliedAttention:
    """What a block applied in one pass.

    Attributes:
        block: The module that applied it.
        kind: One of `KINDS`, which says the shape of `values`.
        label: The paper's name for it, such as "channel gate M_c".
        values: Detached.
        size: (H, W) of the positions that queries, gates or kernels belong to.
        keys: For the kind "attention" only: (Q, K) positions of each query's keys in a map of size `grid`, row by row,
            and -1 for a key outside of it; None if the keys are all positions of `grid`, row by row.
        grid: (H, W) of the keys; None if it is `size`.
        places: For the kind "offsets" only: the (y, x) from the center of a position to the place that a sample's
            offset starts from, in pixels of the block's input; broadcasts to (points, 2, H, W). None if all start at
            the centers.
    """

    block: nn.Module
    kind: str
    label: str
    values: Tensor
    size: tuple[int, int]
    keys: Tensor | None = None
    grid: tuple[int, int] | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}: one of {', '.join(KINDS)}")

    @property
    def key_size(self) -> tuple[int, int]:
        """(H, W) of the map that the keys belong to."""
        return self.size if self.grid is None else self.grid


_records: list[AppliedAttention] | None = None


def is_recording() -> bool:
    """Return whether somebody records: only then is it worth computing what a pass does not need."""
    return _records is not None


@contextmanager
def recording() -> Iterator[list[AppliedAttention]]:
    """Record what blocks apply while the context is open, in the order of the passes.

    One recording at a time in a process, on networks that run eagerly.

    Yields:
        The list that fills.

    Raises:
        RuntimeError: If one is open already.
    """
    global _records
    if _records is not None:
        raise RuntimeError("a recording is open already")
    _records = []
    try:
        yield _records
    finally:
        _records = None


def record(
    block: nn.Module,
    kind: str,
    label: str,
    values: Tensor,
    size: Sequence[int],
    keys: Tensor | None = None,
    grid: Sequence[int] | None = None,
    places: Tensor | None = None,
) -> None:
    """Record what `block` applies, if somebody records. The arguments are those of `AppliedAttention`.

    Args:
        block: The module that applies it.
        kind: One of `KINDS`.
        label: The paper's name for it.
        values: What is applied; a copy is kept.
        size: (H, W) of the positions.
        keys: (Q, K) positions of each query's keys, of the kind "attention".
        grid: (H, W) of the keys' map.
        places: Where each sample's offset starts from the center of its position, of the kind "offsets".
    """
    if _records is None:
        return
    kept = values.detach().clone()
    at, starts = (None if each is None else each.detach().clone() for each in (keys, places))
    rows, columns = (int(side) for side in size)
    key_size = None if grid is None else (int(grid[0]), int(grid[1]))
    _records.append(AppliedAttention(block, kind, label, kept, (rows, columns), at, key_size, starts))


def record_softmax(
    block: nn.Module,
    label: str,
    query: Tensor,
    key: Tensor,
    size: Sequence[int],
    scale: float = 1.0,
    bias: Tensor | None = None,
    grid: Sequence[int] | None = None,
) -> None:
    """Record the weights of all keys that `attend` applies and never holds, if somebody records.

    They are N x n per head. On maps for which these are more than `MOST_WEIGHTS`, keys are joined in cells, of which
    the weights are summed: the record's `grid` is then that of the cells.

    Args:
        block: The module that applies them.
        label: The paper's name for them.
        query: (B, heads, N, d).
        key: (B, heads, n, d).
        size: (H, W) of the queries, N = H*W.
        scale: Factor of the logits.
        bias: Added to the logits; broadcasts to (B, heads, N, n).
        grid: (H, W) of the keys if it is not `size`.
    """
    if _records is None:
        return
    of_keys = size if grid is None else grid
    cells = cells_within(of_keys, query.shape[1] * query.shape[2])
    if cells == tuple(of_keys):
        record(block, "attention", label, softmax_weights(query, key, scale, bias), size, grid=grid)
        return
    at_once = max(1, MOST_WEIGHTS // (4 * query.shape[0] * query.shape[1] * key.shape[2]))  # queries
    parts = []
    for start in range(0, query.shape[2], at_once):
        rows = slice(start, start + at_once)
        own = bias if bias is None or bias.shape[-2] == 1 else bias[..., rows, :]
        weights = softmax_weights(query[:, :, rows], key, scale, own).unflatten(3, tuple(of_keys))
        parts.append(sum_in_cells(weights, cells).flatten(3))
    record(block, "attention", label, torch.cat(parts, 2), size, grid=cells)


def cells_within(size: Sequence[int], rows: int) -> tuple[int, int]:
    """Return the finest even grid of cells of a map of which `rows` weights each are at most `MOST_WEIGHTS`.

    Args:
        size: (H, W) of the map.
        rows: Weights of each cell: one per head and query.

    Returns:
        (h, w); the size itself if it is not too large.
    """
    (height, width), side = size, 1
    while rows * ((height + side - 1) // side) * ((width + side - 1) // side) > MOST_WEIGHTS and side < height + width:
        side += 1
    return (height + side - 1) // side, (width + side - 1) // side


def sum_in_cells(maps: Tensor, cells: Sequence[int]) -> Tensor:
    """Return maps summed in the cells of an even grid: row i of H lies in cell i h // H.

    Args:
        maps: (..., H, W).
        cells: (h, w) of the grid.

    Returns:
        (..., h, w).
    """
    of_rows, of_columns = (
        (torch.arange(length, device=maps.device) * count // length)[:, None] == torch.arange(count, device=maps.device)
        for length, count in zip(maps.shape[-2:], cells, strict=True)
    )
    with torch.autocast(maps.device.type, enabled=False):
        return of_rows.to(maps.dtype).t() @ maps @ of_columns.to(maps.dtype)


def softmax_weights(query: Tensor, key: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Return the weights that `attend` applies, which its fused kernel never holds; for records only.

    Args:
        query: (B, heads, N, d).
        key: (B, heads, n, d).
        scale: Factor of the logits.
        bias: Added to the logits, or a mask of booleans, False where a key is hidden; broadcasts to (B, heads, N, n).

    Returns:
        (B, heads, N, n) softmax(scale * query key^T + bias), at least float32.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        logits = scale * query.detach().to(dtype) @ key.detach().to(dtype).transpose(-2, -1)
    if bias is not None:
        hidden = bias.dtype == torch.bool
        logits = logits.masked_fill(~bias, -torch.inf) if hidden else logits + bias.detach().to(dtype)
    return logits.softmax(-1)
