"""Dense attention that several blocks share: maps cut into heads of tokens, and every token looking at every other."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


def to_tokens(maps: Tensor, heads: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, heads, N, C / heads), N = H*W row by row."""
    return maps.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def to_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """(B, heads, N, d) -> (B, heads * d, H, W); the inverse of `to_tokens`."""
    return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, tuple(size))


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """Return softmax(scale * query key^T) value for tokens (B, heads, N, d); `value` may have another width.

    The narrower side is filled with zeros, which changes nothing, and each token lies in one piece: without both,
    torch's fused kernels stand aside and N x N logits are held."""
    keys, width = query.shape[-1], value.shape[-1]
    query, key = (pad(each, (0, max(width - keys, 0))).contiguous() for each in (query, key))
    value = pad(value, (0, max(keys - width, 0))).contiguous()
    return scaled_dot_product_attention(query, key, value, scale=scale)[..., :width]
