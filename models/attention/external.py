"""ExternalAttention: positions attend not to each other but to a memory that all images share.

Paper: Guo, Liu, Mu, Hu, "Beyond Self-attention: External Attention using Two Linear Layers for Visual
Tasks", TPAMI 2022, https://arxiv.org/abs/2105.02358, equations 5 and 6 and the double normalization of
section 3.2.

    l(i, s) = x_i . M_k(s)                                  memories M_k, M_v of S rows of C
    a(i, s) = exp l(i, s) / sum over positions k of exp l(k, s)
    A(i, s) = a(i, s) / sum over rows t of a(i, t)
    y_i     = x_i + sum over s of A(i, s) M_v(s)

How ours differs from the circulating copies: softmax runs over the positions and the L1 norm over the
memory, on maps (copies for tokens depend on the order of the caller's axes); the paper's residual is part
of the block; no epsilon.

Exact short cut: A(i, .) = softmax over s of (l(i, s) - log sum over k of exp l(k, s)), so no weight
of about 1 / N is ever divided by another.
"""

import torch
from torch import Tensor, nn

from models.arguments import RowForm, whole_kind
from models.attention.ops.numerics import require_positive, softmax, upcast
from models.recording import record
from models.registry import register


@register(form=RowForm(kinds={"S": whole_kind("memory", 1, 4096)}), shows=("maps",))
class ExternalAttention(nn.Module):
    """Attention to a learned memory, with a residual: (B, d_model, H, W) to the same shape, any H and W.

    A memory of S rows.

    Args:
        d_model: Channels of the map.
        S: Rows of the memory.
    """

    def __init__(self, d_model: int, S: int = 64) -> None:  # noqa: N803 - the paper's name
        super().__init__()
        require_positive("ExternalAttention", d_model=d_model, S=S)
        self.mk = nn.Conv2d(d_model, S, 1, bias=False)
        self.mv = nn.Conv2d(S, d_model, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, d_model, H, W)."""
        logits = upcast(self.mk(x)).flatten(2)  # (B, S, N)
        attention = softmax(torch.log_softmax(logits, dim=2), dim=1)
        maps = attention.to(x.dtype).unflatten(2, x.shape[-2:])  # (B, S, H, W)
        record(self, "maps", "attention A to the rows of the memory", maps, x.shape[2:])
        return x + self.mv(maps)
