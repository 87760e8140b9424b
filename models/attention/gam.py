"""GAM: a gate from a perceptron over the channels, then one from two 7x7 convolutions, without pooling.

Paper: Liu, Shao, Hoffmann, "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial
Interactions", https://arxiv.org/abs/2112.05561, equations 1 and 2, figures 2 and 3.

    M_c(x) = sigmoid(W_2 ReLU(W_1 x_p + b_1) + b_2)              at each position p, hidden width C / rate
    M_s(x) = sigmoid(BN(Conv_7x7(ReLU(BN(Conv_7x7(x))))))        C -> C / rate -> C
    F' = M_c(x) * x,   y = M_s(F') * F'

By default the convolutions have 4 groups with a channel shuffle between them, the lighter form that
the paper uses in ResNet-50: 6.625 C^2 + 5 C parameters; `groups=1` is the dense form, 25 C^2 + 5 C
(26 million at 1024 channels). On few channels groups are reduced to what divides C and C / rate.

How ours differs from the circulating copies: the channel gate has the sigmoid that the paper draws
(theirs multiply by the perceptron's bare output, which grows with the square of the input); the shuffle
is between the grouped convolutions, so that each group of the second sees all of the first (theirs
shuffle the finished gate, or nothing); turning the map to put channels last is left out, because a
perceptron at each position is a 1x1 convolution. `fuse()` folds the norms.
"""

import math

import torch
from torch import Tensor, nn

from models.arguments import FLAG, RowForm
from models.attention.ops.numerics import reduced_width, require_positive, resolve_divisor
from models.layers import fold_norm
from models.norms import BatchNorm
from models.recording import record
from models.registry import register

KERNEL = 7


class ShuffledGroups(nn.Module):
    """Channel shuffle: the first channel of every group, then the second of every group, and so on."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


@register(
    form=RowForm(
        kinds={"group": FLAG},
        orders=(("group",), ("group", "rate")),
        elsewhere={
            "groups": "four, as the light form; the dense one is {groups: 1}",
            "group": "is groups here: [] is the light form, [{groups: 1}] the dense one",
        },
    ),
    shows=("gate",),
)
class GAM(nn.Module):
    """Channel gate, then spatial gate, without pooling: (B, in_channels, H, W) to the same shape.

    `groups` of the 7x7 convolutions divides in_channels and in_channels / rate; 1 is dense; by default it is 4, or the
    most below that fits.

    Args:
        in_channels: Channels of the map.
        rate: Ratio of channels to the hidden width of both gates.
        groups: Of the 7x7 convolutions.
    """

    def __init__(self, in_channels: int, rate: int = 4, groups: int | None = None) -> None:
        super().__init__()
        require_positive("GAM", in_channels=in_channels, rate=rate)
        hidden = reduced_width(in_channels, rate)
        common = math.gcd(in_channels, hidden)
        groups = resolve_divisor(
            "GAM", "groups", groups, common, wanted=4, of="channels that its layers have in common"
        )
        self.channel_attention = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, in_channels, 1)
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(in_channels, hidden, KERNEL, padding=KERNEL // 2, groups=groups),
            BatchNorm(hidden),
            nn.ReLU(),
            ShuffledGroups(groups) if groups > 1 else nn.Identity(),
            nn.Conv2d(hidden, in_channels, KERNEL, padding=KERNEL // 2, groups=groups),
            BatchNorm(in_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return M_s(F') * F' with F' = M_c(x) * x."""
        channel = torch.sigmoid(self.channel_attention(x))
        record(self, "gate", "channel gate M_c, at each position", channel, x.shape[2:])
        x = channel * x
        spatial = torch.sigmoid(self.spatial_attention(x))
        record(self, "gate", "spatial gate M_s, of each channel", spatial, x.shape[2:])
        return spatial * x

    def fuse(self) -> None:
        """Fold the two norms into their convolutions, once."""
        layers = self.spatial_attention
        for index in (0, 4):
            conv, norm = layers[index], layers[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                layers[index], layers[index + 1] = fold_norm(conv, norm), nn.Identity()
