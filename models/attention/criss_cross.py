"""CrissCross: every position attends to its row and its column; after two rounds it has seen the whole map.

Paper: Huang, Wang, Huang, Huang, Wei, Liu, "CCNet: Criss-Cross Attention for Semantic Segmentation",
ICCV 2019, https://arxiv.org/abs/1811.11721, equations 1 and 2 and section 3.3.

    d(u, i) = Q_u . K_i          for the H + W - 1 positions i in the row or the column of u
    H'_u    = gamma * sum over i of softmax over i of d(u, i) times V_i  +  H_u
    applied `recurrence` times with the same weights; Q, K: C / 8 channels, V: C

gamma, which starts at zero, is the published code's and not in the equations: the block starts as the
identity.

How ours differs from the circulating copies: two rounds, as in the paper; the copies insert
one, after which a position has seen its cross only; u itself, which lies in its row and in its column,
is counted once by a mask in the map's type and on its device; Q and K never have less than 8 channels.
The bias of K, which softmax ignores, is kept for the published count.
"""

import torch
from torch import Tensor, cat, einsum, nn

from models.arguments import RowForm
from models.attention.ops.numerics import autocast_disabled, reduced_width, require_positive, softmax, upcast
from models.identity_start import ZeroInitResidual
from models.recording import is_recording, record
from models.registry import register


@register(
    cost="windowed",
    form=RowForm(elsewhere={"recurrence": "the paper's two; a single pass is {recurrence: 1}"}),
    shows=("attention",),
)
class CrissCross(ZeroInitResidual):
    """Criss-cross attention with a residual: (B, in_dim, H, W) to the same shape, any H and W.

    Args:
        in_dim: Channels of the map.
        recurrence: Rounds, which share their weights.
        reduction: Ratio of channels to the width of queries and keys, which is at least 8.
    """

    gate_parameter = "gamma"

    def __init__(self, in_dim: int, recurrence: int = 2, reduction: int = 8) -> None:
        super().__init__()
        require_positive("CrissCross", in_dim=in_dim, recurrence=recurrence, reduction=reduction)
        self.recurrence = recurrence
        hidden = reduced_width(in_dim, reduction, least=8)
        self.query_conv = nn.Conv2d(in_dim, hidden, 1)
        self.key_conv = nn.Conv2d(in_dim, hidden, 1)
        self.value_conv = nn.Conv2d(in_dim, in_dim, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return H' of the last round for the map `x` (B, in_dim, H, W)."""
        for done in range(self.recurrence):
            x = self.gamma * self._gathered(x, done + 1) + x
        return x

    def _gathered(self, x: Tensor, turn: int) -> Tensor:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        height = x.shape[2]
        rows = torch.arange(height, device=x.device)
        itself = rows[:, None, None] == rows  # (H, 1, H), over the columns W
        with autocast_disabled(x):  # products without 1/sqrt(d) leave the range of half precision
            query, key = upcast(query), upcast(key)
            along_column = einsum("bdij,bdkj->bijk", query, key).masked_fill(itself, -torch.inf)  # (B, H, W, H)
            along_row = einsum("bdij,bdik->bijk", query, key)  # (B, H, W, W)
        weights = softmax(cat((along_column, along_row), dim=3), dim=3).to(value.dtype)
        if is_recording():
            self._record(weights, turn)
        return einsum("bijk,bckj->bcij", weights[..., :height], value) + einsum(
            "bijk,bcik->bcij", weights[..., height:], value
        )

    def _record(self, weights: Tensor, turn: int) -> None:
        """Record the weights of a round, (B, H, W, H + W): a position's column, in which it has no weight, and row."""
        height, width = weights.shape[1:3]
        places = torch.arange(height * width, device=weights.device).view(height, width)
        of_columns = places.t().expand(height, -1, -1)  # (H, W, H)
        of_rows = places.unsqueeze(1).expand(-1, width, -1)  # (H, W, W)
        keys = cat((of_columns, of_rows), 2).flatten(0, 1)
        by_query = weights.flatten(1, 2).unsqueeze(1)  # (B, 1, N, H + W)
        record(self, "attention", f"criss-cross attention A of round {turn}", by_query, (height, width), keys)
