"""Squeeze-and-excitation: a gate per channel from the mean of every channel; and its one-layer form.

SEAttention: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507,
equations 2 to 4.

    z = mean over positions of x                      (B, C)
    s = sigmoid(W_2 ReLU(W_1 z))                      W_1: C/r x C, W_2: C x C/r
    y = s * x

ESE: Lee, Park, "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020,
https://arxiv.org/abs/1911.06667, the effective squeeze-excitation (eSE) of VoVNetV2.

    y = hard_sigmoid(W z + b) * x                     W: C x C, so no channel information is lost in between;
                                                  the hard sigmoid is the release's, the text writes a sigmoid

How ours differs from the circulating copies: the hidden width of SEAttention is C/r rounded and never zero, where
theirs becomes zero below r channels and leaves a constant gate. Keys are theirs (no biases in SEAttention).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention.ops.numerics import reduced_width, require_positive
from models.recording import record
from models.registry import register


def excitation(channels: int, reduction: int) -> nn.Sequential:
    """Return W_2 ReLU(W_1 .) on (B, channels), without the sigmoid.

    Args:
        channels: Channels of the map.
        reduction: Ratio of channels to the hidden width, which is at least 1.

    Returns:
        The two linear layers without biases, ReLU between them.
    """
    hidden = reduced_width(channels, reduction)
    return nn.Sequential(nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False))


@register(shows=("gate",))
class SEAttention(nn.Module):
    """Squeeze-and-excitation: (B, channel, H, W) to the same shape.

    Each channel times its gate.

    Args:
        channel: Channels of the map.
        reduction: Ratio of channels to the hidden width, which is at least 1.
    """

    def __init__(self, channel: int, reduction: int = 16) -> None:
        super().__init__()
        require_positive("SEAttention", channel=channel, reduction=reduction)
        self.fc = excitation(channel, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Return s * x."""
        gate = torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]
        record(self, "gate", "excitation s", gate, x.shape[2:])
        return x * gate


@register(shows=("gate",))
class ESE(nn.Module):
    """Effective squeeze-and-excitation: (B, channels, H, W) to the same shape.

    The one-layer form: each channel times its gate, a hard sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive("ESE", channels=channels)
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return hard_sigmoid(W z + b) * x."""
        gate = F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))
        record(self, "gate", "effective excitation A_eSE", gate, x.shape[2:])
        return x * gate
