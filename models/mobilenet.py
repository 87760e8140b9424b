"""The layers of MobileNetV3: the inverted bottleneck with squeeze-and-excitation, and its hard-swish stem.

Paper: Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam, "Searching for MobileNetV3",
ICCV 2019, https://arxiv.org/abs/1905.02244, section 5 and tables 1 and 2.

    hard_swish(u) = u * ReLU6(u + 3) / 6,   hard_sigmoid(u) = ReLU6(u + 3) / 6
    h   = act(BN(W_1 x))                                  left out if the hidden width is that of the input
    h   = act(BN(DWConv_k(h)))
    h   = h * hard_sigmoid(W_b ReLU(W_a mean(h)))           with se: a quarter of the hidden width between
    out = BN(W_2 h), + x if the shape stays

How ours differs from the circulating copies: the gate follows the activation of the depth-wise convolution in
every row (theirs precedes it if there is an expansion) and is the paper's hard sigmoid; the hidden width is
scaled with the others (theirs keeps it at every width_multiple). The rows of the two networks are in
models/hub/yolov5-mobilenetv3-small.yaml and -large.yaml.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.attention.ops.numerics import require_choice, require_odd
from models.layers import Conv
from models.recording import record
from models.registry import Scale, WiringPlan, one_source, register


def gate_width(hidden: int) -> int:
    """Return the width inside the gate: the multiple of 8 nearest to a quarter of `hidden`.

    It is at least 8 and not more than a tenth below the quarter.
    """
    quarter = hidden / 4
    width = max(8, int(quarter + 4) // 8 * 8)
    return width + 8 if width < 0.9 * quarter else width


class SqueezeExcitation(nn.Module):
    """Each channel times its hard-sigmoid gate: (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, gate_width(channels), 1)
        self.fc2 = nn.Conv2d(gate_width(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        gate = nn.functional.hardsigmoid(self.fc2(hidden))
        record(self, "gate", "channel gate of squeeze-and-excitation", gate, x.shape[2:])
        return x * gate


def _activation(hard_swish: bool) -> nn.Module:
    return nn.Hardswish(inplace=True) if hard_swish else nn.ReLU(inplace=True)


def _wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[c_out, hidden, kernel, stride, se, hard_swish]`: `c_out` and `hidden` are scaled by width_multiple."""
    c_in = one_source(channels)
    widths = args[:2]
    if len(args) < 2 or not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in widths):
        raise ValueError(
            f"expects [c_out, hidden, kernel, stride, se, hard_swish], such as [40, 240, 5, 1, True, True], "
            f"got {list(args)}"
        )
    c_out = scale(args[0])
    return WiringPlan((c_in, c_out, scale(args[1]), *args[2:]), c_out, repeats)


@register(_wiring, shows=("gate",))
class MobileNetV3Block(nn.Module):
    """MobileNetV3's inverted bottleneck.

    (B, c_in, H, W) to (B, c_out, ceil(H / stride), ceil(W / stride)). `se`: the gate; `hard_swish`: that or ReLU as the
    activation.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        hidden: Channels of the depth-wise convolution.
        kernel: Of the depth-wise convolution, odd.
        stride: 1 or 2.
        se: Whether there is a squeeze-and-excitation gate.
        hard_swish: Whether the activation is hard-swish or ReLU.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        hidden: int,
        kernel: int = 3,
        stride: int = 1,
        se: bool = False,
        hard_swish: bool = False,
    ) -> None:
        super().__init__()
        require_odd("MobileNetV3Block", "kernel", kernel)
        require_choice("MobileNetV3Block", "stride", stride, (1, 2))
        for name, flag in (("se", se), ("hard_swish", hard_swish)):  # rows of other repositories write 0 and 1
            require_choice("MobileNetV3Block", name, flag, (True, False))
        self.expand = Conv(c_in, hidden, act=_activation(hard_swish)) if hidden != c_in else nn.Identity()
        self.depthwise = Conv(hidden, hidden, kernel, stride, groups=hidden, act=_activation(hard_swish))
        self.se = SqueezeExcitation(hidden) if se else nn.Identity()
        self.project = Conv(hidden, c_out, act=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Return the bottleneck's output for the map `x` (B, c_in, H, W)."""
        features = self.project(self.se(self.depthwise(self.expand(x))))
        return x + features if self.residual else features


@register("widened")
class ConvHardswish(Conv):
    """Convolution without bias, batch norm, hard-swish: MobileNetV3's stem, yaml `[c_out, kernel, stride]`.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernel: Of the convolution, odd.
        stride: Of the convolution.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, act=_activation(hard_swish=True))
