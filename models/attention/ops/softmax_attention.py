"""Dense attention that several blocks share: maps cut into heads of tokens, and every token looking at every other."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention


def project(linear: nn.Linear, maps: Tensor) -> Tensor:
    """Return `linear` applied to every position of (B, C, H, W), without turning the map into tokens."""
    return conv2d(maps, linear.weight[:, :, None, None], linear.bias)


def to_tokens(maps: Tensor, heads: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, heads, N, C / heads), N = H*W row by row."""
    return maps.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def to_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """(B, heads, N, d) -> (B, heads * d, H, W); the inverse of `to_tokens`."""
    return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, tuple(size))


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Return softmax(scale * query key^T + bias) value for tokens (B, heads, N, d); `value` may have another width.

    The narrower side is filled with zeros, which changes nothing, and each token lies in one piece: without both,
    torch's fused kernels stand aside and N x N logits are held.
    """
    width = value.shape[-1]
    widest = max(query.shape[-1], width)
    query, key, value = (_widened(tokens, widest) for tokens in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)[..., :width]


def _widened(tokens: Tensor, width: int) -> Tensor:
    missing = width - tokens.shape[-1]
    return (pad(tokens, (0, missing)) if missing else tokens).contiguous()
