"""CoordAtt: coordinate attention, a gate per row and a gate per column of every channel.

Paper: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
https://arxiv.org/abs/2103.02907, equations 4 to 9.

    z_h = mean of x over columns (C, H),  z_w = mean of x over rows (C, W)
    f   = h_swish(BN(Conv_1x1([z_h, z_w])))           (m, H + W), m = max(8, C / r)
    g_h = sigmoid(Conv_1x1(f_h)),  g_w = sigmoid(Conv_1x1(f_w))
    y(c, i, j) = x(c, i, j) * g_h(c, i) * g_w(c, j)

How ours differs from the circulating copies: they let `oup` differ from `inp`, which no product can take; here that is
an error.
Means are taken without pooling modules, so the module stores no size. Keys are theirs: conv1 has a bias, which batch
norm takes away again. `fuse` folds that norm.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.arguments import RowForm
from models.attention.ops.numerics import require_positive
from models.layers import fold_norm
from models.norms import BatchNorm
from models.recording import record
from models.registry import Scale, WiringPlan, register, same_width
from utils.errors import ModelError

MIN_CHANNELS = 8  # of the shared descriptor


def _wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[...]`, `[c, ...]` or `[c, c, ...]` -> CoordAtt(c_in, c_in, ...).

    The reduction is the first number that is no width.
    """
    plan = same_width(channels, repeats, scale, args)
    c_in, *rest = plan.args
    return WiringPlan((c_in, c_in, *rest), c_in, repeats)


@register(_wiring, form=RowForm(wired=2), shows=("gate",))
class CoordAtt(nn.Module):
    """Coordinate attention, a gate per row times a gate per column: (B, inp, H, W) to the same shape.

    Args:
        inp: Channels of the map.
        oup: None or `inp`, kept for the published argument order.
        reduction: Ratio of channels to the width of the shared descriptor, which is at least 8.
    """

    def __init__(self, inp: int, oup: int | None = None, reduction: int = 32) -> None:
        super().__init__()
        require_positive("CoordAtt", inp=inp, reduction=reduction)
        if oup not in (None, inp):
            raise ModelError(
                f"CoordAtt: its gates multiply the input, so oup must be inp = {inp}, got {oup!r}; "
                f"the reduction is the third argument"
            )
        hidden = max(MIN_CHANNELS, inp // reduction)
        self.conv1 = nn.Conv2d(inp, hidden, 1)
        self.bn1: nn.Module = BatchNorm(hidden)
        self.conv_h = nn.Conv2d(hidden, inp, 1)
        self.conv_w = nn.Conv2d(hidden, inp, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the gate of its row and the gate of its column."""
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)  # (B, C, H, 1), (B, C, W, 1)
        shared = F.hardswish(self.bn1(self.conv1(torch.cat((rows, columns), 2))))
        of_rows, of_columns = shared.split(x.shape[2:], 2)
        row_gate = torch.sigmoid(self.conv_h(of_rows))
        column_gate = torch.sigmoid(self.conv_w(of_columns)).transpose(2, 3)
        record(self, "gate", "gate of rows g_h", row_gate, x.shape[2:])
        record(self, "gate", "gate of columns g_w", column_gate, x.shape[2:])
        return x * row_gate * column_gate

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into the shared convolution, once."""
        if isinstance(self.bn1, BatchNorm):
            self.conv1, self.bn1 = fold_norm(self.conv1, self.bn1), nn.Identity()
