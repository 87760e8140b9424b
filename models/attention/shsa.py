"""SHSA: single-head attention on a part of the channels; the rest is concatenated and mixed in afterwards.

Paper: Yun, Ro, "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design", CVPR 2024,
https://arxiv.org/abs/2401.16456, section "Single-Head Self-Attention".

    x_a, x_r = the first `pdim` channels, the others
    q, k, v  = BN(W GN(x_a))                         qk_dim, qk_dim and pdim channels; GN: one group
    y_a      = softmax over positions(q^T k / sqrt(qk_dim)) v
    out      = x + BN(W_o ReLU([y_a, x_r]))

How ours differs from the circulating copies: `pdim` is computed from the channels (3/14 of them, the paper's
1/4.67, in steps of 8 and at least 8); the attention is one fused call, so no N x N map is held if there is a
kernel for it; the input is added, as around every attention of the paper. The last batch norm's weight starts at zero
as published: the block starts as the identity.
"""

from torch import Tensor, cat, nn

from models.arguments import WIDTH, RowForm
from models.attention.ops.numerics import require_positive
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.identity_start import ZeroInitResidual
from models.layers import Conv
from models.recording import record_softmax
from models.registry import register
from utils.errors import ModelError


@register(cost="quadratic", form=RowForm(kinds={"qk_dim": WIDTH, "pdim": WIDTH}), shows=("attention",))
class SHSA(ZeroInitResidual):
    """Single-head self-attention with a residual: (B, dim, H, W) to the same shape, any H and W.

    `pdim` of the channels attend, by default 3/14 of them in steps of 8.

    Args:
        dim: Channels of the map.
        qk_dim: Channels of queries and keys.
        pdim: Channels that attend, 1 to `dim`.
    """

    gate_parameter = "proj.1.bn.weight"
    heads = 1  # N x N attention maps

    def __init__(self, dim: int, qk_dim: int = 16, pdim: int | None = None) -> None:
        super().__init__()
        pdim = min(dim, max(8, 8 * round(dim * 3 / 14 / 8))) if pdim is None else pdim
        require_positive("SHSA", dim=dim, qk_dim=qk_dim, pdim=pdim)
        if pdim > dim:
            raise ModelError(f"SHSA: pdim {pdim} is more than the {dim} channels that arrive; use 1 to {dim}")
        self.qk_dim, self.pdim = qk_dim, pdim
        self.pre_norm = nn.GroupNorm(1, pdim)
        self.qkv = Conv(pdim, 2 * qk_dim + pdim, act=False)
        self.proj = nn.Sequential(nn.ReLU(), Conv(dim, dim, act=False))
        nn.init.zeros_(self.proj.get_parameter("1.bn.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + BN(W_o ReLU([attended, rest])) of the map `x` (B, dim, H, W)."""
        part, rest = x.split((self.pdim, x.shape[1] - self.pdim), 1)
        widths = (self.qk_dim, self.qk_dim, self.pdim)
        tokens = [to_tokens(maps) for maps in self.qkv(self.pre_norm(part)).split(widths, 1)]
        record_softmax(self, "softmax of the single head", tokens[0], tokens[1], x.shape[2:], self.qk_dim**-0.5)
        attended = to_map(attend(*tokens, scale=self.qk_dim**-0.5), x.shape[-2:])
        return x + self.proj(cat((attended.to(rest.dtype), rest), 1))
