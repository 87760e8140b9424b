"""BAM: a gate per channel and position, from a channel branch and a dilated spatial branch.

Paper: Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018, https://arxiv.org/abs/1807.06514,
equations 1 to 4.

    M_c = MLP(mean over positions of x)                          (B, C, 1, 1), C -> C/r -> C
    M_s = Conv_1x1(Conv_3x3,d(Conv_3x3,d(Conv_1x1(x))))          (B, 1, H, W), C -> C/r -> C/r -> C/r -> 1
    y   = x * (1 + sigmoid(M_c + M_s))                r = 16, d = 4

As in the authors' release, batch norm and ReLU follow every hidden layer (the equations put one norm at the end of each
branch); parameter counts are the release's.

How ours differs from the circulating copies: the release multiplies the branches, here they are added as in the paper;
its pooling fails on rectangular maps, and its norm of pooled values on a batch of one. Other copies use dilation 2 in
three layers, without the padding it needs. `fuse` folds the norms.
"""

import torch
from torch import Tensor, nn

from models.arguments import RowForm
from models.attention.ops.numerics import reduced_width, require_positive
from models.layers import fold_norm
from models.norms import BatchNorm
from models.recording import record
from models.registry import register


@register(
    form=RowForm(elsewhere={"num_layers": "forks take three of dilation 2: {dilation: 2, num_layers: 3}"}),
    shows=("gate",),
)
class BAM(nn.Module):
    """Bottleneck attention, x times 1 + its gate: (B, channel, H, W) to the same shape.

    `num_layers` counts the dilated 3x3 convolutions.

    Args:
        channel: Channels of the map.
        reduction: Ratio of channels to the hidden width of both branches.
        dilation: Of the 3x3 convolutions.
        num_layers: Number of the 3x3 convolutions.
    """

    def __init__(self, channel: int, reduction: int = 16, dilation: int = 4, num_layers: int = 2) -> None:
        super().__init__()
        require_positive("BAM", channel=channel, reduction=reduction, dilation=dilation, num_layers=num_layers)
        hidden = reduced_width(channel, reduction)
        dilated = [
            layer
            for _ in range(num_layers)
            for layer in _hidden(nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation))
        ]
        self.channel_att = nn.Sequential(*_hidden(nn.Conv2d(channel, hidden, 1)), nn.Conv2d(hidden, channel, 1))
        self.spatial_att = nn.Sequential(*_hidden(nn.Conv2d(channel, hidden, 1)), *dilated, nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x * (1 + sigmoid(M_c + M_s))."""
        gate = torch.sigmoid(self.channel_att(x.mean((2, 3), keepdim=True)) + self.spatial_att(x))
        record(self, "gate", "attention map M(F), added as F * M(F)", gate, x.shape[2:])
        return torch.addcmul(x, x, gate.to(x.dtype))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold every batch norm into the convolution before it, once."""
        self.channel_att, self.spatial_att = _folded(self.channel_att), _folded(self.spatial_att)


def _hidden(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, BatchNorm(conv.out_channels), nn.ReLU()]


def _folded(layers: nn.Sequential) -> nn.Sequential:
    kept: list[nn.Module] = []
    for layer in layers:
        previous = kept[-1] if kept else None
        if isinstance(layer, BatchNorm) and isinstance(previous, nn.Conv2d):
            kept[-1] = fold_norm(previous, layer)
        else:
            kept.append(layer)
    return nn.Sequential(*kept).train(layers.training)
