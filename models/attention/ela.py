"""ELA: a gate per row and a gate per column, each from a one-dimensional convolution.

Paper: Xu, Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024,
https://arxiv.org/abs/2403.01123, section 3.

    z_h(i) = mean of row i of x,   z_w(j) = mean of column j of x        per channel
    y_h = sigmoid(GN_h(F_h * z_h)),   y_w = sigmoid(GN_w(F_w * z_w))     F: 1-D convolutions, no bias
    y(i, j) = x(i, j) * y_h(i) * y_w(j)

The default is the paper's ELA-B: kernel 7, depth-wise (groups = C), a group norm of 16 groups. Its
other forms are ELA(C, 5, C, 32) = ELA-T, ELA(C, 5, C // 8) = ELA-S, ELA(C, 7, C // 8) = ELA-L.

How ours differs from the circulating copies: theirs share one convolution and one norm between
rows and columns, and some make the convolution dense with kernel 1, which sees no neighbor at
all; here, as in the equations, each axis has its own. If 16 groups do not divide C, the default
is the largest number that does. A group of a single value (a map of one row) is normalized to
zero, so the gate there is the sigmoid of the norm's bias.
"""

import torch
from torch import Tensor, nn

from models.arguments import GROUPS, RowForm
from models.attention.ops.numerics import require_odd, resolve_divisor
from models.recording import record
from models.registry import register


@register(form=RowForm(kinds={"num_group": GROUPS}), shows=("gate",))
class ELA(nn.Module):
    """Efficient local attention, a gate per row times a gate per column: (B, in_channels, H, W) to the same shape.

    `groups` of the convolutions (None: in_channels) and `num_group` of the norms (None: 16, or the most below that
    fit) divide `in_channels`; `kernel_size` is odd.

    Args:
        in_channels: Channels of the map.
        kernel_size: Of the 1-D convolutions.
        groups: Of the 1-D convolutions.
        num_group: Of the group norms.
    """

    def __init__(
        self, in_channels: int, kernel_size: int = 7, groups: int | None = None, num_group: int | None = None
    ) -> None:
        super().__init__()
        require_odd("ELA", "kernel_size", kernel_size)
        groups = resolve_divisor("ELA", "groups", groups, in_channels, wanted=in_channels)
        num_group = resolve_divisor("ELA", "num_group", num_group, in_channels, wanted=16)
        self.conv_h, self.conv_w = (
            nn.Conv1d(in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
            for _ in range(2)
        )
        self.gn_h, self.gn_w = nn.GroupNorm(num_group, in_channels), nn.GroupNorm(num_group, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x * y_h * y_w."""
        rows = _gate(self.conv_h(x.mean(3)), self.gn_h)  # (B, C, H)
        columns = _gate(self.conv_w(x.mean(2)), self.gn_w)  # (B, C, W)
        row_gate, column_gate = rows.unsqueeze(3), columns.unsqueeze(2)
        record(self, "gate", "gate of rows y_h", row_gate, x.shape[2:])
        record(self, "gate", "gate of columns y_w", column_gate, x.shape[2:])
        return x * row_gate * column_gate


def _gate(line: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Return sigmoid(GN(line)) of (B, C, L)."""
    # torch.group_norm, not the layer: the layer refuses a group of one value
    return torch.sigmoid(torch.group_norm(line, norm.num_groups, norm.weight, norm.bias, norm.eps))
