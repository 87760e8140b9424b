"""GlobalContext: one weighted mean of the map, transformed and given to every position.

Paper: Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and
Beyond", ICCV workshops 2019, https://arxiv.org/abs/1904.11492, equation 5.

    c   = sum over j of softmax over positions(W_k x)_j x_j        (C), pooling "att"; or the mean, "avg"
    t   = W_v2 ReLU(LN(W_v1 c))                                    hidden width C * ratio
    z_i = x_i + t                                                  "channel_add"
    z_i = x_i * sigmoid(t)                                         "channel_mul"; both: x_i * sigmoid(t) + t'

How ours differs from the circulating copies: W_k has no bias, which softmax ignores; the hidden width
never falls below 8, as layer norm over one or two values would blank the transform. The last
convolution of "channel_add" starts at zero, so the block starts as the identity.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn, sigmoid

from models.arguments import SHARE, RowForm, choice_kind
from models.attention.ops.numerics import reduced_width, require_choice, require_number, require_positive, softmax
from models.identity_start import ZeroInitResidual
from models.norms import ChannelNorm
from models.recording import is_recording, record
from models.registry import register

FUSIONS = ("channel_add", "channel_mul")


@register(
    form=RowForm(
        kinds={
            "ratio": SHARE,
            "pooling_type": choice_kind("pooling", ("att", "avg")),
            "fusion_types": choice_kind("fusion", FUSIONS),
        }
    ),
    shows=("maps", "gate"),
)
class GlobalContext(ZeroInitResidual):
    """Global context block, one pooled vector fused into every position: (B, inplanes, H, W) to the same shape.

    `fusion_types` is "channel_add", "channel_mul" or a list of both.

    Args:
        inplanes: Channels of the map.
        ratio: Ratio of the hidden width to channels, above 0 and at most 1; the width is at least 8.
        pooling_type: "att", a learned weighted mean, or "avg", the mean.
        fusion_types: How the vector is fused.
    """

    gate_parameter = "channel_add_conv.3.weight"
    conv_mask: nn.Conv2d | None
    channel_add_conv: nn.Sequential | None
    channel_mul_conv: nn.Sequential | None
    opening: nn.Parameter | None

    def __init__(
        self,
        inplanes: int,
        ratio: float = 1 / 16,
        pooling_type: str = "att",
        fusion_types: str | Sequence[str] = "channel_add",
    ) -> None:
        super().__init__()
        require_positive("GlobalContext", inplanes=inplanes)
        require_number("GlobalContext", "ratio", ratio, above=0, most=1, such_as=0.0625)
        require_choice("GlobalContext", "pooling_type", pooling_type, ("att", "avg"))
        fusions = list(fusion_types) if isinstance(fusion_types, list | tuple) else [fusion_types]
        for fusion in fusions or [None]:
            require_choice("GlobalContext", "fusion_types", fusion, FUSIONS)
        hidden = reduced_width(inplanes, 1 / ratio, least=8)
        self.conv_mask = nn.Conv2d(inplanes, 1, 1, bias=False) if pooling_type == "att" else None
        self.channel_add_conv = _transform(inplanes, hidden) if "channel_add" in fusions else None
        self.channel_mul_conv = _transform(inplanes, hidden) if "channel_mul" in fusions else None
        self.opening = None
        if self.channel_add_conv is not None:
            nn.init.zeros_(self.channel_add_conv.get_parameter("3.weight"))
            nn.init.zeros_(self.channel_add_conv.get_parameter("3.bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return z for the map `x` (B, inplanes, H, W)."""
        context = self._context(x)
        out = x
        if self.channel_mul_conv is not None:
            gate = self._gate(self.channel_mul_conv(context))
            record(self, "gate", "channel gate sigmoid(t)", gate, x.shape[2:])
            out = x * gate
        return out if self.channel_add_conv is None else out + self.channel_add_conv(context)

    def start_as_identity(self) -> None:
        """Give "channel_mul" a zero-initialized parameter that opens its gate; "channel_add" starts at zero already."""
        super().start_as_identity()
        if self.channel_mul_conv is not None:
            self.opening = nn.Parameter(self.channel_mul_conv.get_parameter("3.bias").new_zeros(1))
            self.gate_parameter = "opening"

    def _gate(self, logits: Tensor) -> Tensor:
        gate = sigmoid(logits)
        return gate if self.opening is None else 1 + self.opening * (gate - 1)

    def _context(self, x: Tensor) -> Tensor:
        """Return c: (B, inplanes, 1, 1)."""
        if self.conv_mask is None:
            if is_recording():
                share = torch.full_like(x[:, :1], 1 / (x.shape[2] * x.shape[3]))
                record(self, "maps", "average pooling", share, x.shape[2:])
            return x.mean((2, 3), keepdim=True)
        weights = softmax(self.conv_mask(x).flatten(2), dim=2)  # (B, 1, N)
        if is_recording():
            record(self, "maps", "attention pooling, softmax(W_k x)", weights.unflatten(2, x.shape[2:]), x.shape[2:])
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


def _transform(channels: int, hidden: int) -> nn.Sequential:
    """Return W_v2 ReLU(LN(W_v1 .))."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), ChannelNorm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1)
    )
