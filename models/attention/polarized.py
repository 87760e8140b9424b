"""Polarized self-attention: a gate per channel and a gate per position, each attending along the other axis.

Paper: Liu, Liu, Fan, Huang, "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021,
https://arxiv.org/abs/2107.00782, section 3.1.

    channel gate   g_c = sigmoid(LN(W_z (W_v x) softmax over positions(W_q x)))           (B, C, 1, 1)
    position gate  g_s = sigmoid(softmax over channels(avg(U_q x)) . (U_v x))             (B, 1, H, W)
    parallel       y = g_c x + g_s x
    sequential     y = g_s(x') x'  with  x' = g_c(x) x

W_v, U_q, U_v lead to C / 2 channels, W_q to one.

How ours differs from the circulating copies: the arithmetic and the names are those of the copies that follow the
paper. The authors' published parallel module takes its softmax after the product and has no norm, which leaves a
gate of 0.5 everywhere; it is not reproduced. An odd width is allowed, its half is rounded down.

Exact short cuts: both softmaxes sum to one, so W_v and U_v, biases included, move behind the weighted sums:
(W_v x) a = W_v (x a) and b . (U_v x) = (b U_v) . x. Nothing of size C / 2 * H * W is made.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_positive, softmax
from models.recording import record
from models.registry import register


class PolarizedGates(nn.Module):
    """The two gates and their parameters, for `channel` channels and maps of any size."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        require_positive(type(self).__name__, channel=channel)
        half = max(1, channel // 2)
        self.ch_wv = nn.Conv2d(channel, half, 1)
        self.ch_wq = nn.Conv2d(channel, 1, 1)
        self.ch_wz = nn.Conv2d(half, channel, 1)
        self.ln = nn.LayerNorm(channel)
        self.sp_wv = nn.Conv2d(channel, half, 1)
        self.sp_wq = nn.Conv2d(channel, half, 1)

    def channel_gate(self, x: Tensor) -> Tensor:
        """Return g_c (B, C, 1, 1) of the map `x` (B, C, H, W)."""
        share = softmax(self.ch_wq(x).flatten(2), dim=2)  # (B, 1, N)
        pooled = x.flatten(2) @ share.transpose(1, 2)  # x a: (B, C, 1)
        mixed = self.ch_wz(self.ch_wv(pooled.unsqueeze(3))).flatten(1)  # (B, C)
        gate = torch.sigmoid(self.ln(mixed))[:, :, None, None]
        record(self, "gate", "channel gate g_c", gate, x.shape[2:])
        return gate

    def position_gate(self, x: Tensor) -> Tensor:
        """Return g_s (B, 1, H, W) of the map `x` (B, C, H, W)."""
        share = softmax(self.sp_wq(x.mean((2, 3), keepdim=True)).flatten(2).transpose(1, 2), dim=2)  # (B, 1, C/2)
        direction = share @ self.sp_wv.weight.flatten(1)  # b U_v: (B, 1, C)
        offset = share @ cast(Tensor, self.sp_wv.bias).unsqueeze(1)  # (B, 1, 1)
        gate = torch.sigmoid(direction @ x.flatten(2) + offset).unflatten(2, x.shape[-2:])
        record(self, "gate", "position gate g_s", gate, x.shape[2:])
        return gate


@register(shows=("gate",))
class ParallelPolarizedSelfAttention(PolarizedGates):
    """Polarized self-attention, gates in parallel: (B, channel, H, W) to the same shape, any H and W.

    Both gates are computed from the input and added.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return g_c x + g_s x."""
        return (self.channel_gate(x) + self.position_gate(x)) * x


@register(shows=("gate",))
class SequentialPolarizedSelfAttention(PolarizedGates):
    """Polarized self-attention, gates in sequence: (B, channel, H, W) to the same shape, any H and W.

    The position gate is computed from the map that the channel gate leaves.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return g_s x' with x' = g_c x."""
        gated = self.channel_gate(x) * x
        return self.position_gate(gated) * gated
