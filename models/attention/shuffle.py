"""ShuffleAttention (SA-Net): half of each group is gated per channel, half per position, then channels are shuffled.

Paper: Zhang, Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021,
https://arxiv.org/abs/2102.00240, equations 1 to 3.

    each of G groups is split in two halves of C / 2G channels, a and b
    a' = sigmoid(w1 * mean over positions(a) + b1) * a         w1, b1 per channel
    b' = sigmoid(w2 * GroupNorm(b) + b2) * b                   GroupNorm with one channel per group
    y  = shuffle in two([a', b'] of all groups)

The G groups share their parameters (3 C / G in all). Weights start at 0 and biases at 1, so both
gates are sigmoid(1) = 0.73 at the start.

How ours differs from the circulating copies: the parameters are trained (v6.1's optimizer misses
them, because none is called weight or bias, and the block stays a constant factor 0.73); G is by
default the largest number up to 8 that fits (theirs fails unless 2G divides C); a 1 x 1 map
and one group can be trained.
"""

import torch
from torch import Tensor, nn

from models.arguments import ArgumentKind, RowForm, is_whole
from models.attention.ops.numerics import require_multiple, resolve_divisor
from models.recording import is_recording, record
from models.registry import register

HALF_GROUPS = ArgumentKind(
    "groups",
    lambda value, channels: is_whole(value) and value >= 1 and channels % (2 * value) == 0,
    lambda channels: f"a divisor of {channels // 2}, half of the channels",
    whole=True,
)


@register(
    form=RowForm(
        kinds={"G": HALF_GROUPS},
        orders=(("reduction",), ("reduction", "G")),
    ),
    shows=("gate",),
)
class ShuffleAttention(nn.Module):
    """Shuffle attention: (B, channel, H, W) to the same shape.

    2G divides `channel`; by default `G` is 8 or the most below it that does.

    Args:
        channel: Channels of the map.
        G: Groups of channels.
    """

    def __init__(self, channel: int, G: int | None = None) -> None:  # noqa: N803 - the paper's symbol
        super().__init__()
        require_multiple("ShuffleAttention", channel, 2, "halves")
        self.G = resolve_divisor("ShuffleAttention", "G", G, channel // 2, wanted=8, of="channels of a half")
        half = channel // (2 * self.G)
        self.gn = nn.GroupNorm(half, half)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated halves of all groups, shuffled."""
        by_channel, by_position = x.unflatten(1, (self.G, 2, -1)).unbind(2)  # each (B, G, C/2G, H, W)
        channel_gate, spatial_gate = self._channel_gate(by_channel), self._spatial_gate(by_position)
        if is_recording():  # in the order of the channels that arrive; the other half's factor is one
            ones = torch.ones_like(channel_gate)
            gate = torch.stack((channel_gate, ones), 2).flatten(1, 3)
            record(self, "gate", "channel gate of the first half of each group", gate, x.shape[2:])
            gate = torch.stack((torch.ones_like(spatial_gate), spatial_gate), 2).flatten(1, 3)
            record(self, "gate", "spatial gate of the second half of each group", gate, x.shape[2:])
        gated = torch.stack((channel_gate * by_channel, spatial_gate * by_position), 2)
        halves = gated.flatten(1, 3).unflatten(1, (2, -1))  # (B, 2, C/2, H, W)
        return halves.transpose(1, 2).flatten(1, 2)

    def _channel_gate(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.cweight * features.mean((3, 4), keepdim=True) + self.cbias)

    def _spatial_gate(self, features: Tensor) -> Tensor:
        # torch.group_norm, not the layer: the layer refuses the single value of one group at 1 x 1 in training.
        norm = self.gn
        normal = torch.group_norm(features.flatten(0, 1), norm.num_groups, norm.weight, norm.bias, norm.eps)
        return torch.sigmoid(self.sweight * normal + self.sbias).to(features.dtype).unflatten(0, features.shape[:2])
