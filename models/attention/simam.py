"""SimAM: a gate per channel and position without parameters: how far a value deviates from its channel's mean.

Paper: Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
ICML 2021, https://proceedings.mlr.press/v139/yang21o.html, equations 5 and 6.

    d = (x - mean)^2,  v = sum of d / (N - 1)         over the N = H*W positions of a channel
    1 / e* = d / (4 (v + lambda)) + 1/2
    y = sigmoid(1 / e*) * x

N - 1 is the released form, which checkpoints were trained with; the paper's variance divides by N.

How ours differs from the circulating copies: they divide by zero on a 1 x 1 map and give NaN; there d is zero, so the
gate is sigmoid(1/2). Squares are summed in float32 at least. The first argument, the channels, is ignored and may be
left out if the class is called by hand.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_number, upcast
from models.recording import record
from models.registry import register


@register(shows=("gate",))
class SimAM(nn.Module):
    """Parameter-free attention, each value times its gate: (B, C, H, W) to the same shape.

    No parameters. `e_lambda` is the regularizer, above zero.

    Args:
        channels: Ignored; yaml rows pass it.
        e_lambda: What is added to the variance.
    """

    def __init__(self, channels: int | None = None, e_lambda: float = 1e-4) -> None:
        super().__init__()
        require_number("SimAM", "e_lambda", e_lambda, above=0, such_as=1e-4)
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        """Return sigmoid(1 / e*) * x."""
        values = upcast(x)
        deviation = (values - values.mean((2, 3), keepdim=True)).square()
        freedom = max(x.shape[2] * x.shape[3] - 1, 1)
        variance = deviation.sum((2, 3), keepdim=True) / freedom
        gate = torch.sigmoid(deviation / (4 * (variance + self.e_lambda)) + 0.5)
        record(self, "gate", "gate sigmoid(1 / e*)", gate, x.shape[2:])
        return x * gate.to(x.dtype)

    def extra_repr(self) -> str:
        return f"e_lambda={self.e_lambda:g}"
