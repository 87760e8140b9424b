"""TSSA: token statistics self-attention, which weights each head's channels by their second moments.

Paper: Wu, Ding, Lu, Pai, Zhang, Yu, Ma, Haeffele, "Token Statistics Transformer: Linear-Time Attention via Variational
Rate Reduction", ICLR 2025, https://arxiv.org/abs/2412.17810, the token statistics self-attention operator and its
algorithm 1.

    w      = W x                                            the only projection; heads of d channels, N positions
    Pi_hi  = softmax over heads(temp_h sum_c w_hci^2 / sum_j w_hcj^2)     which head a position belongs to
    m_hc   = sum_i Pi_hi w_hci^2 / (sum_i Pi_hi + 1e-8)      the head's second moment of channel c
    y_hci  = -Pi_hi w_hci / (1 + m_hc)
    out    = x + W_o y + b_o

No position is compared with another: cost and memory grow with N C.

How ours differs from the circulating copies: maps of any size in place of tokens; the squares, their sums and the
softmax are in float32 at least, and the squares are divided by their sum without a square root between; the input is
added, as around the attention in the paper (the minus sign is its step down the coding rate).
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_flag, resolve_divisor, upcast
from models.attention.ops.softmax_attention import project
from models.recording import is_recording, record
from models.registry import register


@register(shows=("maps", "gate"))
class TSSA(nn.Module):
    """Token statistics self-attention with a residual: (B, dim, H, W) to the same shape, any H and W.

    `num_heads` divides `dim`, by default the largest number up to 8 that does; with one head every position belongs to
    it.

    Args:
        dim: Channels of the map.
        num_heads: Attention heads.
        qkv_bias: Whether the projection has a bias.
    """

    def __init__(self, dim: int, num_heads: int | None = None, qkv_bias: bool = False) -> None:
        super().__init__()
        require_flag("TSSA", qkv_bias=qkv_bias)
        self.num_heads = num_heads = resolve_divisor("TSSA", "num_heads", num_heads, dim, wanted=8)
        self.qkv = nn.Linear(dim, dim, bias=qkv_bias)
        self.temp = nn.Parameter(torch.ones(num_heads, 1))
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + W_o y + b_o of the map `x` (B, dim, H, W)."""
        projected = project(self.qkv, x)
        features = upcast(projected).flatten(2).unflatten(1, (self.num_heads, -1))  # w: (B, heads, d, N)
        squares = features.square()
        # the sums and what is added to them are multiplied by powers of two: an exporter takes up to 1e-8 for zero
        shares = squares * (2.0**60 / (squares.sum(3, keepdim=True) * 2.0**60).clamp(min=2.0**60 * 1e-24))
        belongs = torch.softmax(shares.sum(2) * upcast(self.temp), dim=1).unsqueeze(2)  # Pi: (B, heads, 1, N)
        moments = 16 * (belongs * squares).sum(3, keepdim=True) / (16 * belongs.sum(3, keepdim=True) + 16 * 1e-8)
        if is_recording():
            size = x.shape[2:]
            record(self, "maps", "membership Pi of the heads", belongs.squeeze(2).unflatten(2, size), size)
            record(self, "gate", "gate 1 / (1 + m) of w", (1 / (1 + moments)).flatten(1, 2).unsqueeze(3), size)
        steps = -(features * belongs) / (1 + moments)
        return x + project(cast(nn.Linear, self.to_out[0]), steps.to(projected.dtype).reshape(x.shape))
