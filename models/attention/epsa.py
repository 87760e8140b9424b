"""EPSA: convolutions of four kernel sizes, each channel weighted against the same channel at the other sizes.

Paper: Zhang, Zu, Lu, Zou, Meng, "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional
Neural Network", ACCV 2022, https://arxiv.org/abs/2105.14447, section 3 (its PSA module).

    F_i   = Conv_{k_i}(x), C -> C / 4, in G_i groups        k = 3, 5, 7, 9 and G = 1, 4, 8, 16
    Z_i   = sigmoid(W_2 ReLU(W_1 mean over positions(F_i)))  one squeeze-and-excitation for all scales
    att_i = softmax over the four scales of Z_i
    y     = [att_0 * F_0, att_1 * F_1, att_2 * F_2, att_3 * F_3]

How ours differs from the circulating copies: scales are concatenated in the paper's order, the smallest
kernel first (the authors' code has them in reverse: a permutation of the output channels); any width that
is a multiple of 4 can be built, with as many groups up to 4, 8, 16 as divide C / 4, where theirs needs
multiples of 64; W_1 leaves C / 64 numbers but at least 8, so that the gate of few channels does not depend
on one ReLU (equal from 512 channels on). Registered as EPSA because PSA also names polarized, point-wise
and position-sensitive attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.arguments import RowForm, list_kind, whole_kind
from models.attention.ops.numerics import (
    reduced_width,
    require_multiple,
    require_odd_list,
    require_positive,
    resolve_divisor,
    softmax,
)
from models.recording import record
from models.registry import register
from utils.errors import ModelError

GROUPS = (1, 4, 8, 16)
LEAST_HIDDEN = 8


class SEWeight(nn.Module):
    """Channel gate of a map: (B, channels, H, W) to (B, channels, 1, 1).

    Args:
        channels: Channels of the map.
        reduction: Ratio of channels to the hidden width, which is at least 8.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = reduced_width(channels, reduction, least=LEAST_HIDDEN)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(relu(self.fc1(x.mean((2, 3), keepdim=True)))))


@register(
    form=RowForm(
        kinds={"conv_groups": list_kind("groups", whole_kind("groups", 1, 64))},
        orders=(("conv_kernels", "stride"), ("conv_kernels", "stride", "conv_groups")),
    ),
    shows=("branches",),
)
class EPSA(nn.Module):
    """Pyramid squeeze attention, scales weighted per channel: (B, inplans, H, W) to the same shape.

    `conv_kernels` are odd, as many as divide `inplans`; `conv_groups` holds one number per kernel, which divides the
    scale's width inplans / len(conv_kernels), by default the largest up to 1, 4, 8 and 16 that do.

    Args:
        inplans: Channels of the map.
        conv_kernels: One kernel size per scale.
        conv_groups: Groups of each scale's convolution.
        reduction: Ratio of a scale's channels to the hidden width of the gate, which is at least 8.
    """

    def __init__(
        self,
        inplans: int,
        conv_kernels: Sequence[int] = (3, 5, 7, 9),
        conv_groups: Sequence[int] | None = None,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        require_positive("EPSA", inplans=inplans, reduction=reduction)
        require_odd_list("EPSA", "conv_kernels", conv_kernels, such_as=[3, 5, 7, 9])
        require_multiple("EPSA", inplans, len(conv_kernels), "scales")
        width = inplans // len(conv_kernels)
        groups = _groups(width, len(conv_kernels), conv_groups)
        self.convs = nn.ModuleList(
            nn.Conv2d(inplans, width, kernel, padding=kernel // 2, groups=group, bias=False)
            for kernel, group in zip(conv_kernels, groups, strict=True)
        )
        self.se = SEWeight(width, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scales side by side, each times its attention."""
        scales = [conv(x) for conv in self.convs]
        gates = torch.stack([self.se(features) for features in scales], dim=1)  # (B, S, C/S, 1, 1)
        attention = softmax(gates, dim=1)
        record(self, "branches", "att_i, the share of each scale", attention, x.shape[2:])
        return attention.flatten(1, 2) * torch.cat(scales, dim=1)


def _groups(width: int, scales: int, wanted: Sequence[int] | None) -> list[int]:
    """Return the number of groups of each scale's convolution."""
    given = [None] * scales if wanted is None else wanted
    if not isinstance(given, list | tuple) or len(given) != scales:
        raise ModelError(
            f"EPSA: conv_groups must be a list of {scales} numbers, one for each kernel, or left out, got {given!r}"
        )
    return [
        resolve_divisor(
            "EPSA", "conv_groups", group, width, GROUPS[min(index, len(GROUPS) - 1)], of="channels of a scale"
        )
        for index, group in enumerate(given)
    ]
