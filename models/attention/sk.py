"""SKAttention: branches of different kernel sizes, mixed channel by channel.

Paper: Li, Wang, Hu, Yang, "Selective Kernel Networks", CVPR 2019, https://arxiv.org/abs/1903.06586,
equations 1 to 6.

    U_m = ReLU(BN(Conv_m(x)))                     split: one map per branch
    s   = mean over positions(sum of U_m)         fuse
    z   = ReLU(BN(W s))                           d = max(C / r, L) numbers
    a_m = softmax over branches m of A_m z        select: C numbers per branch
    y   = sum of a_m * U_m

By default the paper's block: two branches, 3x3 and 3x3 with dilation 2 (its 5x5), both in 32 groups
(or the most that divide the width), r = 16, L = 32, no biases but the norms'.

How ours differs from the circulating copies: theirs are dense 1x1, 3x3, 5x5 and 7x7 convolutions
with biases and a linear z: 84 C^2 parameters, 88 million at 1024 channels. Naming `kernels`, as
SKAttention(C, [1, 3, 5, 7], r), builds exactly that, with their keys. `fuse()` folds the branches' norms.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.arguments import RowForm, whole_kind
from models.attention.ops.numerics import reduced_width, require_odd_list, require_positive, resolve_divisor, softmax
from models.layers import fold_norm
from models.norms import BatchNorm
from models.recording import is_recording, record
from models.registry import register

GROUPS = 32  # the paper's G


class SelectiveBranch(nn.Module):
    """Convolution, batch norm, ReLU: (B, channels, H, W) to the same shape.

    Args:
        channels: Channels of the map.
        kernel: Odd.
        dilation: Of the convolution.
        groups: Of the convolution.
        bias: Whether the convolution has one.
    """

    bn: nn.BatchNorm2d | None

    def __init__(self, channels: int, kernel: int, dilation: int, groups: int, bias: bool) -> None:
        super().__init__()
        reach = kernel // 2 * dilation
        self.conv = nn.Conv2d(channels, channels, kernel, padding=reach, dilation=dilation, groups=groups, bias=bias)
        self.bn = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return relu(features if self.bn is None else self.bn(features))

    def fuse(self) -> None:
        """Fold the norm into the convolution, once."""
        if self.bn is not None:
            self.conv, self.bn = fold_norm(self.conv, self.bn), None


@register(
    form=RowForm(
        kinds={"L": whole_kind("least length", 1, 1024)},
        elsewhere={
            "kernels": "the paper's two grouped branches; forks' dense ones, 84 C^2 parameters, are "
            "{kernels: [1, 3, 5, 7]}"
        },
    ),
    shows=("branches",),
)
class SKAttention(nn.Module):
    """Selective kernel attention: (B, channel, H, W) to the same shape.

    `kernels` is None for the paper's two grouped branches, or a list of odd sizes for the branches of the circulating
    form; z has max(channel / reduction, L) numbers; `group` of the branches' convolutions divides `channel`, by default
    32 or the most below it in the paper's form, 1 if kernels are given.

    Args:
        channel: Channels of the map.
        kernels: Kernel sizes of the branches.
        reduction: Ratio of channels to the length of z.
        group: Groups of the branches' convolutions.
        L: Smallest length of z.
    """

    def __init__(
        self,
        channel: int,
        kernels: Sequence[int] | None = None,
        reduction: int = 16,
        group: int | None = None,
        L: int = 32,
    ) -> None:  # noqa: N803 - the paper's symbol
        super().__init__()
        require_positive("SKAttention", channel=channel, reduction=reduction, L=L)
        branches = _branches(kernels)
        as_published = kernels is None
        group = resolve_divisor("SKAttention", "group", group, channel, wanted=GROUPS if as_published else 1)
        hidden = reduced_width(channel, reduction, least=L)
        self.convs = nn.ModuleList(
            SelectiveBranch(channel, kernel, dilation, group, not as_published) for kernel, dilation in branches
        )
        self.fc = nn.Linear(channel, hidden, bias=not as_published)
        self.norm = BatchNorm(hidden) if as_published else None
        self.fcs = nn.ModuleList(nn.Linear(hidden, channel, bias=not as_published) for _ in branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps, mixed by their selection weights."""
        maps = [branch(x) for branch in self.convs]
        pooled = sum(features.mean((2, 3)) for features in maps)  # the mean of the sum, without the sum's map
        context = self._context(pooled)
        logits = torch.stack([select(context) for select in self.fcs])  # (M, B, C)
        weights = softmax(logits, dim=0)[..., None, None]
        if is_recording():
            record(self, "branches", "selection weights of the kernels", weights.transpose(0, 1), x.shape[2:])
        mixed = weights[0] * maps[0]
        for weight, features in zip(weights[1:], maps[1:], strict=True):
            mixed = torch.addcmul(mixed, weight.to(mixed.dtype), features.to(mixed.dtype))
        return mixed

    def _context(self, pooled: Tensor) -> Tensor:
        context = self.fc(pooled)
        return context if self.norm is None else relu(self.norm(context[..., None, None])).flatten(1)


def _branches(kernels: Sequence[int] | None) -> list[tuple[int, int]]:
    """Return (kernel, dilation) of each branch."""
    if kernels is None:
        return [(3, 1), (3, 2)]
    require_odd_list("SKAttention", "kernels", kernels, such_as=[1, 3, 5, 7])
    return [(kernel, 1) for kernel in kernels]
