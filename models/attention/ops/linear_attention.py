"""What the linear attentions share: their sums in full precision."""

from torch import Tensor

from models.attention.ops.numerics import full_precision, wide


def linear_attention(query: Tensor, key: Tensor, value: Tensor, epsilon: float) -> Tensor:
    """Return sum_j (q_i . k_j) v_j / N over mean_j (q_i . k_j) + epsilon, in at least float32.

    query, key: (..., d, N), not negative; value: (..., e, N); the result is (..., e, N). The sums over j are taken
    first, so the work grows with N d e and no N x N map is made.
    """
    query, key, value = wide(query), wide(key), wide(value)
    with full_precision(query):
        memory = value @ (key / key.shape[-1]).transpose(-1, -2)  # (..., e, d)
        norm = key.mean(-1).unsqueeze(-2) @ query  # (..., 1, N)
        return memory @ query / (norm + epsilon)
