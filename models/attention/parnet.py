"""ParNetAttention: two convolutions and a gated skip connection in parallel.

Paper: Goyal, Bochkovskiy, Deng, Koltun, "Non-deep Networks", NeurIPS 2022,
https://arxiv.org/abs/2110.07641, section 3.1 (the RepVGG-SSE block).

    y = SiLU(BN(Conv_1x1(x)) + BN(Conv_3x3(x)) + sigmoid(Conv_1x1(mean over positions(x))) * x)

How ours differs from the circulating copies: `fuse()` makes the two convolutions and their norms
one 3x3 convolution, as the paper does for inference; theirs never do, and run both. Parameters and
keys are theirs, with convolution biases that the following norm cancels in training.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention.ops.numerics import require_positive
from models.layers import fold_norm
from models.norms import BatchNorm
from models.recording import record
from models.registry import register


@register(shows=("gate",))
class ParNetAttention(nn.Module):
    """ParNet block with skip-squeeze-excitation: (B, channel, H, W) to the same shape.

    11 channel^2 + 7 channel parameters.
    """

    conv1x1: nn.Sequential | None
    conv3x3: nn.Sequential | nn.Conv2d

    def __init__(self, channel: int) -> None:
        super().__init__()
        require_positive("ParNetAttention", channel=channel)
        self.sse = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channel, channel, 1), nn.Sigmoid())
        self.conv1x1 = nn.Sequential(nn.Conv2d(channel, channel, 1), BatchNorm(channel))
        self.conv3x3 = nn.Sequential(nn.Conv2d(channel, channel, 3, padding=1), BatchNorm(channel))

    def forward(self, x: Tensor) -> Tensor:
        """Return SiLU of the sum of both convolutions and the gated map."""
        features = self.conv3x3(x)
        if self.conv1x1 is not None:
            features = features + self.conv1x1(x)
        gate = self.sse(x)
        record(self, "gate", "skip-squeeze-excitation gate of x", gate, x.shape[2:])
        return F.silu(torch.addcmul(features, gate.to(features.dtype), x.to(features.dtype)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the two convolutions and their norms into one 3x3 convolution, once; exact in evaluation."""
        if self.conv1x1 is None or isinstance(self.conv3x3, nn.Conv2d):
            return
        point, merged = _fold(self.conv1x1), _fold(self.conv3x3)
        merged.weight[:, :, 1:2, 1:2] += point.weight  # a 1x1 kernel is the center of a 3x3 one
        merged.get_parameter("bias").add_(point.get_parameter("bias"))
        self.conv1x1, self.conv3x3 = None, merged


def _fold(layers: nn.Sequential) -> nn.Conv2d:
    """Return a convolution and its norm as one convolution."""
    return fold_norm(cast(nn.Conv2d, layers[0]), cast(nn.BatchNorm2d, layers[1]))
