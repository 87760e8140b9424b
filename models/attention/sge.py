"""SpatialGroupEnhance (SGE): each group of channels is gated by how much each position resembles the group's mean.

Paper: Li, Hu, Yang, "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
Networks", https://arxiv.org/abs/1905.09646, equations 1 to 5. For each group of C / G channels:

    g   = mean over positions of x_i                         the group's semantic vector
    c_i = g . x_i                                            one number per position
    n_i = (c_i - mean of c) / (std of c + 1e-5)
    y_i = sigmoid(w n_i + b) * x_i                           w, b: one pair per group

w and b start at 0 (the gate at one half), as in the circulating copies; the authors' code starts b at 1.
The standard deviation is that of a sample (N - 1), as theirs; at one position it is not defined and taken as zero.

How ours differs from the circulating copies: the first argument is the width of the input and
`groups` the second; groups are reduced to what divides the width; a 1 x 1 map gives numbers (theirs
NaN); dot products and standard deviation are computed in float32 if the model is in half precision.
"""

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import resolve_divisor, upcast
from models.recording import is_recording, record
from models.registry import register

EPS = 1e-5


@register(shows=("gate",))
class SpatialGroupEnhance(nn.Module):
    """Spatial group-wise enhancement, each group times its gate: (B, c_in, H, W) to the same shape.

    `groups` divides `c_in`; by default it is 8 or the most below it that does.

    Args:
        c_in: Channels of the map.
        groups: Groups of channels.
    """

    def __init__(self, c_in: int, groups: int | None = None) -> None:
        super().__init__()
        self.groups = resolve_divisor("SpatialGroupEnhance", "groups", groups, c_in, wanted=8)
        self.weight = nn.Parameter(torch.zeros(1, self.groups, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, self.groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return every group of `x` times its gate."""
        grouped = x.unflatten(1, (self.groups, -1))  # (B, G, C/G, H, W)
        gate = torch.sigmoid(self.weight * self._resemblance(grouped) + self.bias)  # (B, G, H, W)
        gate = gate.to(x.dtype).unsqueeze(2)
        if is_recording():  # a group's gate for each of its channels
            record(self, "gate", "gate of each group", gate.expand_as(grouped).flatten(1, 2), x.shape[2:])
        return (gate * grouped).flatten(1, 2)

    def _resemblance(self, grouped: Tensor) -> Tensor:
        """Return the standardized dot product of each position with its group's mean, (B, G, H, W)."""
        values = upcast(grouped)
        dots = (values * values.mean((3, 4), keepdim=True)).sum(2)
        positions = dots.shape[2] * dots.shape[3]
        spread = dots.std((2, 3), correction=min(1, positions - 1), keepdim=True)
        return (dots - dots.mean((2, 3), keepdim=True)) / (spread + EPS)
