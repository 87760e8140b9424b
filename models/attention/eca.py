"""ECAAttention: a gate per channel from the means of its neighboring channels.

Paper: Wang, Wu, Zhu, Li, Zuo, Hu, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
CVPR 2020, https://arxiv.org/abs/1910.03151, sections 3.2 and 3.3.

    z = mean over positions of x                      (B, C)
    s = sigmoid(conv1d_k(z))                          one kernel of k taps slides along the channels, zeros outside
    k = |log2(C) / gamma + b / gamma|, made odd       (whole part, plus one if that is even)
    y = s * x

How ours differs from the circulating copies: they take k = 3 at every width unless the caller computes k; here the
default is the paper's k (3 at 64 channels, 5 from 128 to 1280), and a number that is given is used unchanged.
"""

import math

import torch
from torch import Tensor, nn

from models.arguments import FACTOR, RowForm, number_kind
from models.attention.ops.numerics import require_number, require_odd, require_positive
from models.recording import record
from models.registry import register


def adaptive_kernel(block: str, channels: int, gamma: float, b: float) -> int:
    """Return the paper's k: odd, growing with the logarithm of the number of channels.

    Args:
        block: The block's name, for the error.
        channels: The map's channels.
        gamma: Divisor of the logarithm, above zero.
        b: What is added to the logarithm.

    Returns:
        The kernel along the channels.

    Raises:
        ModelError: `gamma` or `b` is no such number.
    """
    require_number(block, "gamma", gamma, above=0, such_as=2)
    require_number(block, "b", b, such_as=1)
    whole = int(abs((math.log2(channels) + b) / gamma))
    return whole if whole % 2 else whole + 1


@register(
    form=RowForm(
        kinds={"gamma": FACTOR, "b": number_kind("summand", -16, 16, including=True)},
        elsewhere={"k_size": "computed from the width; the published class alone takes {k_size: 3}"},
    ),
    shows=("gate",),
)
class ECAAttention(nn.Module):
    """Efficient channel attention, each channel times its gate: (B, channel, H, W) to the same shape.

    `k_size` is odd; None is the paper's k for this number of channels, computed with `gamma` and `b`.

    Args:
        channel: Channels of the map.
        k_size: Kernel along the channels.
        gamma: Divisor of the paper's formula, above zero.
        b: Summand of the paper's formula.
    """

    def __init__(self, channel: int, k_size: int | None = None, gamma: float = 2, b: float = 1) -> None:
        super().__init__()
        require_positive("ECAAttention", channel=channel)
        adaptive = adaptive_kernel("ECAAttention", channel, gamma, b)
        taps = adaptive if k_size is None else k_size
        require_odd("ECAAttention", "k_size", taps)
        self.conv = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return s * x."""
        gate = torch.sigmoid(self.conv(x.mean((2, 3)).unsqueeze(1)))  # (B, 1, C)
        gate = gate.squeeze(1)[:, :, None, None]
        record(self, "gate", "channel gate s", gate, x.shape[2:])
        return x * gate
