"""CAS: convolutional additive self-attention: queries and keys are gated and added, not multiplied by each other.

Paper: Zhang, Li, Zhou, Han, Wang, "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient
Mobile Applications", 2024, https://arxiv.org/abs/2408.03703, section "Convolutional Additive Self-attention".

    q, k, v = W x
    S(u)    = u * sigmoid(w . ReLU(BN(DWConv3x3(u))))    a gate per position
    C(u)    = u * sigmoid(W_c mean over positions(u))     a gate per channel
    Phi(u)  = C(S(u))
    out     = x + DWConv3x3(DWConv3x3(Phi(q) + Phi(k)) * v)

How ours differs from the circulating copies: the depth-wise convolution before the batch norm has no bias, which the
norm would take away; the input is added, as around every mixer of the paper.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_flag, require_positive
from models.layers import Conv
from models.recording import record
from models.registry import register


class ContextGate(nn.Module):
    """Phi of queries or keys: (B, dim, H, W) to the same shape.

    Args:
        dim: Channels of the map.
        of: What the maps are, for records.
    """

    def __init__(self, dim: int, of: str) -> None:
        super().__init__()
        self.of = of
        self.local = Conv(dim, dim, 3, groups=dim, act=nn.ReLU())
        self.position = nn.Conv2d(dim, 1, 1, bias=False)
        self.channel = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return C(S(maps))."""
        spatial = torch.sigmoid(self.position(self.local(maps)))
        record(self, "gate", f"spatial gate S of {self.of}", spatial, maps.shape[2:])
        maps = maps * spatial
        channel = torch.sigmoid(self.channel(maps.mean((2, 3), keepdim=True)))
        record(self, "gate", f"channel gate C of {self.of}", channel, maps.shape[2:])
        return maps * channel


@register(shows=("gate",))
class CAS(nn.Module):
    """Additive self-attention with a residual: (B, dim, H, W) to the same shape, any H and W.

    `attn_bias` is that of q, k and v.

    Args:
        dim: Channels of the map.
        attn_bias: Whether the projections of q, k and v have biases.
    """

    def __init__(self, dim: int, attn_bias: bool = False) -> None:
        super().__init__()
        require_positive("CAS", dim=dim)
        require_flag("CAS", attn_bias=attn_bias)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=attn_bias)
        self.oper_q = ContextGate(dim, "q")
        self.oper_k = ContextGate(dim, "k")
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + DWConv(DWConv(Phi(q) + Phi(k)) * v) of the map `x` (B, dim, H, W)."""
        query, key, value = self.qkv(x).chunk(3, 1)
        context = self.dwc(self.oper_q(query) + self.oper_k(key))
        record(self, "gate", "factor of v: DWConv(Phi(q) + Phi(k))", context, x.shape[2:])
        return x + self.proj(context * value)
