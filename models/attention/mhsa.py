"""MHSA: the global self-attention of BoTNet, in the form the YOLO tutorials circulate.

Paper: Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani, "Bottleneck Transformers for Visual
Recognition", CVPR 2021, https://arxiv.org/abs/2101.11605, figure 4.

    q, k, v = W_q x, W_k x, W_v x                heads of d = C / heads channels, N = H*W positions
    r_i     = rel_w[row of i] + rel_h[column of i]
    l(i, j) = q_i . k_j + r_i . q_j
    y_i     = sum over j of softmax over j of l(i, j) times v_j

This is the tutorials' arithmetic, so that their checkpoints load: absolute tables, the position
term r_i . q_j (the paper has q_i . r_{j-i}), no 1/sqrt(d), and `rel_w`, of length `width`, along
the map's rows. Theirs takes one map size only; ours interpolates the tables linearly to the size of
the map, and leaves them unchanged at their own size.

Exact short cut: l(i, j) = [q_i, r_i] . [k_j, q_j], so both terms are one
scaled_dot_product_attention over concatenated features, and a fused kernel never holds the N x N
logits.
"""

import torch
from torch import Tensor, cat, nn

from models.attention.ops.numerics import require_positive, resolve_divisor
from models.attention.ops.positions import interpolate
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.recording import record_softmax
from models.registry import register


@register(cost="quadratic", shows=("attention",))
class MHSA(nn.Module):
    """Global self-attention with absolute positions, no residual: (B, n_dims, H, W) to the same shape, any H and W.

    `width` rows and `height` columns is the size of the position tables; `heads` divides `n_dims`.

    Args:
        n_dims: Channels of the map.
        width: Rows of the position tables, as published.
        height: Columns of the position tables, as published.
        heads: Attention heads.
    """

    def __init__(self, n_dims: int, width: int = 14, height: int = 14, heads: int = 4) -> None:
        super().__init__()
        require_positive("MHSA", width=width, height=height, heads=heads)
        self.heads = resolve_divisor("MHSA", "heads", heads, n_dims, wanted=4)
        self.query = nn.Conv2d(n_dims, n_dims, 1)
        self.key = nn.Conv2d(n_dims, n_dims, 1)
        self.value = nn.Conv2d(n_dims, n_dims, 1)
        self.rel_h = nn.Parameter(torch.randn(1, heads, n_dims // heads, 1, height))
        self.rel_w = nn.Parameter(torch.randn(1, heads, n_dims // heads, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, n_dims, H, W)."""
        query, key, value = (to_tokens(project(x), self.heads) for project in (self.query, self.key, self.value))
        position = self._position(x.shape[-2:]).to(query.dtype).expand_as(query)
        query, key = cat((query, position), 3), cat((key, query), 3)
        record_softmax(self, "softmax of content and position", query, key, x.shape[-2:])
        return to_map(attend(query, key, value), x.shape[-2:])

    def _position(self, size: torch.Size) -> Tensor:
        """Return the tables at the size of the map, summed: (1, heads, N, d)."""
        along_rows = interpolate(self.rel_w.squeeze(4), size[0]).unsqueeze(4)  # (1, heads, d, H, 1)
        along_columns = interpolate(self.rel_h.squeeze(3), size[1]).unsqueeze(3)  # (1, heads, d, 1, W)
        return (along_rows + along_columns).flatten(3).transpose(2, 3)
