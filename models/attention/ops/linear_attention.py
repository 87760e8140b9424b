"""Linear attention, which several blocks share: sums over positions in full precision."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.attention.ops.numerics import autocast_disabled, upcast
from models.recording import cells_within, is_recording, record, sum_in_cells


def linear_attention(query: Tensor, key: Tensor, value: Tensor, epsilon: float, factor: float = 1) -> Tensor:
    """Return sum_j (q_i . k_j) v_j / N over mean_j (q_i . k_j) + epsilon / factor, in float32 at least.

    The sums over j are taken first, so the work grows with N d e and no N x N attention map is made.

    Args:
        query: (..., d, N), not negative.
        key: (..., d, N), not negative.
        value: (..., e, N).
        epsilon: What is added to `factor` times the mean weight of a query before the division.
        factor: A power of two by which numerator and denominator, with `epsilon`, are multiplied (`lifting_factor`).

    Returns:
        The attended values, (..., e, N).
    """
    query, key, value = upcast(query), upcast(key), upcast(value)
    with autocast_disabled(query):
        memory = value @ (key / key.shape[-1]).transpose(-1, -2)  # (..., e, d)
        mean = key.mean(-1).unsqueeze(-2)  # (..., 1, d)
        if factor != 1:
            memory, mean = memory * factor, mean * factor
        return memory @ query / (mean @ query + epsilon)


def record_linear_attention(
    block: nn.Module,
    label: str,
    query: Tensor,
    key: Tensor,
    size: Sequence[int],
    epsilon: float,
    factor: float = 1,
) -> None:
    """Record the weights that `linear_attention` applies and never holds, if somebody records.

    They are N x N per head. On a map for which these are more than `recording.MOST_WEIGHTS`, keys are joined in cells,
    of which the weights are summed: the record's `grid` is then that of the cells.

    Args:
        block: The module that applies them.
        label: The paper's name for them.
        query: (B, heads, d, N), as `linear_attention` takes it.
        key: (B, heads, d, N).
        size: (H, W) of the map.
        epsilon: As `linear_attention` takes it.
        factor: As `linear_attention` takes it.
    """
    if not is_recording():
        return
    query, key = upcast(query.detach()), upcast(key.detach())
    grid = cells_within(size, query.shape[1] * query.shape[3])
    with autocast_disabled(query):
        total = factor * key.mean(-1).unsqueeze(-2) @ query + epsilon  # (B, heads, 1, N)
        key = factor * sum_in_cells(key.unflatten(-1, tuple(size)), grid).flatten(-2) / key.shape[-1]
        weights = query.transpose(-2, -1) @ key / total.transpose(-2, -1)
    record(block, "attention", label, weights, size, grid=grid)
