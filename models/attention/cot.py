"""CoTAttention: contextual transformer attention, in the form the YOLO tutorials circulate.

Paper: Li, Yao, Pan, Mei, "Contextual Transformer Networks for Visual Recognition",
https://arxiv.org/abs/2107.12292.

    K1 = act(BN(Conv_kxk,groups=4(x)))                       static context
    V  = BN(Conv_1x1(x))                                     values
    L  = Conv_1x1(act(BN(Conv_1x1([K1, x]))))                k*k logits per channel and position
    K2 = softmax over all H*W positions(mean of the k*k L) * V
    y  = K1 + K2

The paper aggregates V over k x k neighbors with L as a dynamic kernel, has no softmax and
fuses K1 and K2 by a gate; this class keeps the tutorials' operator, and their state-dict
keys, so that their checkpoints load. K2 is about V / (H*W): it fades on large maps.

Exact short cut: the mean of a 1x1 convolution's outputs is the 1x1 convolution with the mean
of its weights, so the k*k logits are never made; weights are averaged at every forward pass
and each of them gets its gradient.
"""

from typing import cast

from torch import Tensor, cat, nn
from torch.nn import functional as F

from models.attention.ops.numerics import require_multiple, require_odd, softmax
from models.norms import BatchNorm
from models.recording import record
from models.registry import register

GROUPS = 4  # of the context convolution, in the paper and in the tutorials


@register(shows=("gate",))
class CoTAttention(nn.Module):
    """Contextual transformer attention as in the tutorials: (B, dim, H, W) to the same shape, any H and W.

    `dim` is a multiple of 4.

    Args:
        dim: Channels of the map.
        kernel_size: Of the static context, odd.
    """

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__()
        require_odd("CoTAttention", "kernel_size", kernel_size)
        require_multiple("CoTAttention", dim, GROUPS, "groups")
        self.dim = dim
        self.kernel_size = kernel_size
        hidden = 2 * dim // 4
        self.key_embed = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=GROUPS, bias=False),
            BatchNorm(dim),
            nn.SiLU(),
        )
        self.value_embed = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), BatchNorm(dim))
        self.attention_embed = nn.Sequential(
            nn.Conv2d(2 * dim, hidden, 1, bias=False),
            BatchNorm(hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, kernel_size * kernel_size * dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return K1 + K2 of the map `x` (B, dim, H, W)."""
        static = self.key_embed(x)
        values = self.value_embed(x)
        logits = self._mean_logits(cat([static, x], dim=1))  # (B, dim, H, W)
        attention = softmax(logits.flatten(2), dim=-1).view_as(logits)
        record(self, "gate", "softmax over positions, the factor of V", attention, x.shape[2:])
        return static + attention * values

    def _mean_logits(self, context: Tensor) -> Tensor:
        reduce, norm, activation, expand = self.attention_embed
        taps = self.kernel_size * self.kernel_size
        weight = cast(Tensor, expand.weight).unflatten(0, (self.dim, taps)).mean(1)  # (dim, hidden, 1, 1)
        bias = cast(Tensor, expand.bias).unflatten(0, (self.dim, taps)).mean(1)
        return F.conv2d(activation(norm(reduce(context))), weight, bias)
