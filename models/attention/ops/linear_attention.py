"""Linear attention, which several blocks share: sums over positions in full precision."""

from torch import Tensor

from models.attention.ops.numerics import autocast_disabled, upcast


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
