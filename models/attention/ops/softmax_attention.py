"""Softmax attention that blocks share: maps as tokens per head, and fused attention over all pairs of tokens."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention


def project(linear: nn.Linear, maps: Tensor) -> Tensor:
    """Return `linear` applied at every position, without turning the map into tokens.

    Args:
        linear: C to C_out.
        maps: (B, C, H, W).

    Returns:
        (B, C_out, H, W).
    """
    return conv2d(maps, linear.weight[:, :, None, None], linear.bias)


def to_tokens(maps: Tensor, heads: int = 1) -> Tensor:
    """Return a map as tokens per head, row by row.

    Args:
        maps: (B, C, H, W).
        heads: A divisor of C.

    Returns:
        (B, heads, N, C / heads), N = H*W.
    """
    return maps.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def to_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Return tokens per head as a map; the inverse of `to_tokens`.

    Args:
        tokens: (B, heads, N, d).
        size: (H, W) with H*W = N.

    Returns:
        (B, heads * d, H, W).
    """
    return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, tuple(size))


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Return softmax(scale * query key^T + bias) value.

    The narrower of keys and values is padded with zeros, which changes nothing, and each token is contiguous: without
    both, torch's fused kernels do not apply and N x N logits are held.

    Args:
        query: (B, heads, N, d).
        key: (B, heads, n, d).
        value: (B, heads, n, e).
        scale: Factor of the logits.
        bias: Added to the logits; broadcasts to (B, heads, N, n).

    Returns:
        (B, heads, N, e).
    """
    width = value.shape[-1]
    widest = max(query.shape[-1], width)
    query, key, value = (_pad_channels(tokens, widest) for tokens in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)[..., :width]


def _pad_channels(tokens: Tensor, width: int) -> Tensor:
    missing = width - tokens.shape[-1]
    return (pad(tokens, (0, missing)) if missing else tokens).contiguous()
