"""EMA: efficient multi-scale attention, two branches of each channel group that weight each other.

Paper: Ouyang, He, Zhang, Luo, Guo, Zhan, Huang, "Efficient Multi-Scale Attention Module with Cross-Spatial
Learning", ICASSP 2023, https://arxiv.org/abs/2305.13563, section 3. All groups of c = C / factor
channels share the parameters; for each:

    [u; v] = Conv_1x1([mean over W of x; mean over H of x])           one sequence of H + W positions
    X1 = GroupNorm(sigmoid(u) * sigmoid(v) * x)                       one channel per norm group
    X2 = Conv_3x3(x)
    M  = softmax over c(mean X1) . X2 + softmax over c(mean X2) . X1   (1, H, W)
    y  = sigmoid(M) * x

Exact short cut: a norm group is one channel, whose mean after the norm is the norm's bias, so
mean X1 is that bias and is not computed.

How ours differs from the circulating copies: theirs check only that C // factor > 0 and fail at the first
map if factor does not divide C (48 channels and 32); here `factor` is by default the largest of 32, 16,
8, 4, 2, 1 that divides C and leaves groups of 4 channels at least; softmax is in float32 under reduced
precision; one group at 1 x 1 can be trained. Parameters and keys are theirs. The exponential
moving average of weights, `ModelEMA`, has nothing to do with it.
"""

import torch
from torch import Tensor, nn

from models.arguments import GROUPS, RowForm
from models.attention.ops.numerics import resolve_divisor, softmax
from models.recording import is_recording, record
from models.registry import register


def _default_factor(channels: int) -> int:
    """Return the number of groups: the largest of 32 ... 1 that divides `channels` into groups of 4 or more."""
    return next((factor for factor in (32, 16, 8, 4, 2) if channels % factor == 0 and channels >= 4 * factor), 1)


@register(
    form=RowForm(
        kinds={"factor": GROUPS}, elsewhere={"factor": "the largest of 32, 16, 8, 4 that fits; forks take {factor: 8}"}
    ),
    shows=("gate",),
)
class EMA(nn.Module):
    """Efficient multi-scale attention, each group times its gate: (B, channels, H, W) to the same shape.

    `factor`, the number of groups, divides `channels`; None is the largest power of two up to 32 that leaves at least 4
    channels per group.

    Args:
        channels: Channels of the map.
        factor: Number of groups.
    """

    def __init__(self, channels: int, factor: int | None = None) -> None:
        super().__init__()
        factor = _default_factor(channels) if factor is None else factor
        self.factor = resolve_divisor("EMA", "factor", factor, channels, wanted=32)
        width = channels // self.factor
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with every group times its gate."""
        grouped = x.unflatten(1, (self.factor, -1)).flatten(0, 1)  # (B * factor, c, H, W)
        scaled = self._by_rows_and_columns(grouped)
        local = self.conv3x3(grouped)
        share_scaled = softmax(self.gn.bias, dim=0).expand(grouped.shape[0], 1, -1)  # (B * factor, 1, c)
        share_local = softmax(local.mean((2, 3)), dim=1).unsqueeze(1)
        logits = share_scaled @ local.flatten(2) + share_local @ scaled.flatten(2)  # (B * factor, 1, H * W)
        gate = torch.sigmoid(logits).to(x.dtype).unflatten(2, x.shape[2:])
        if is_recording():  # a gate per group of c channels
            each = gate.unflatten(0, (-1, self.factor)).expand(-1, -1, grouped.shape[1], -1, -1).flatten(1, 2)
            record(self, "gate", "gate sigmoid(M) of each group of channels", each, x.shape[2:])
        return (gate * grouped).unflatten(0, (-1, self.factor)).flatten(1, 2)

    def _by_rows_and_columns(self, grouped: Tensor) -> Tensor:
        """Return X1 of (B * factor, c, H, W)."""
        H, W = grouped.shape[-2:]
        rows, columns = grouped.mean(3, keepdim=True), grouped.mean(2).unsqueeze(3)
        logits_rows, logits_columns = self.conv1x1(torch.cat((rows, columns), dim=2)).split((H, W), dim=2)
        gated = torch.sigmoid(logits_rows) * torch.sigmoid(logits_columns).transpose(2, 3) * grouped
        # torch.group_norm, not the layer: the layer refuses the single value of one group at 1 x 1 in training.
        norm = self.gn
        return torch.group_norm(gated, norm.num_groups, norm.weight, norm.bias, norm.eps)
