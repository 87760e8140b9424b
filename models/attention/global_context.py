"""GlobalContext: one weighted mean of the map, transformed and given to every position.

Paper: Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and
Beyond", ICCV workshops 2019, https://arxiv.org/abs/1904.11492, equation 5.

    c   = sum over j of softmax over positions(W_k x)_j x_j        (C), pooling "att"; or the mean, "avg"
    t   = W_v2 ReLU(LN(W_v1 c))                                    hidden width C * ratio
    z_i = x_i + t                                                  "channel_add"
    z_i = x_i * sigmoid(t)                                         "channel_mul"; both: x_i * sigmoid(t) + t'

How ours differs from the circulating copies: W_k has no bias, which softmax ignores; the hidden width
never falls below 8, where layer norm over one or two values would blank the transform. The last
convolution of "channel_add" starts at zero, so the block starts as the identity.
"""

from collections.abc import Sequence

from torch import Tensor, nn, sigmoid

from models.attention.ops.numerics import reduced, require_choice, require_number, require_positive, softmax
from models.identity_start import OpensItself
from models.norms import ChannelNorm
from models.registry import register

FUSIONS = ("channel_add", "channel_mul")


@register()
class GlobalContext(OpensItself):
    """GlobalContext(inplanes, ratio=1/16, pooling_type="att", fusion_types="channel_add"): (B, inplanes, H, W) to the
    same shape, any H and W. fusion_types: "channel_add", "channel_mul" or a list of both.
    """

    def __init__(
        self,
        inplanes: int,
        ratio: float = 1 / 16,
        pooling_type: str = "att",
        fusion_types: str | Sequence[str] = "channel_add",
    ) -> None:
        super().__init__()
        require_positive("GlobalContext", inplanes=inplanes)
        require_number(
            "GlobalContext", "ratio", ratio, above=0, most=1, such_as=0.0625
        )  # the hidden width by the width
        require_choice("GlobalContext", "pooling_type", pooling_type, ("att", "avg"))
        fusions = list(fusion_types) if isinstance(fusion_types, list | tuple) else [fusion_types]
        for fusion in fusions or [None]:
            require_choice("GlobalContext", "fusion_types", fusion, FUSIONS)
        hidden = reduced(inplanes, 1 / ratio, least=8)
        self.conv_mask = nn.Conv2d(inplanes, 1, 1, bias=False) if pooling_type == "att" else None
        self.channel_add_conv = _transform(inplanes, hidden) if "channel_add" in fusions else None
        self.channel_mul_conv = _transform(inplanes, hidden) if "channel_mul" in fusions else None
        self.opening: nn.Parameter | None = None
        if self.channel_add_conv is not None:
            nn.init.zeros_(self.channel_add_conv[-1].weight)
            nn.init.zeros_(self.channel_add_conv[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return z for the map `x` (B, inplanes, H, W)."""
        context = self._context(x)
        out = x if self.channel_mul_conv is None else x * self._gate(context)
        return out if self.channel_add_conv is None else out + self.channel_add_conv(context)

    def start_as_identity(self) -> None:
        """Put the gate of "channel_mul" behind an opening that is zero at the start; "channel_add" starts at zero already."""
        super().start_as_identity()
        if self.channel_mul_conv is not None:
            self.opening = nn.Parameter(self.channel_mul_conv[-1].bias.new_zeros(1))

    @property
    def opens_by(self) -> str:
        """The opening of "channel_mul", or the last convolution of "channel_add"."""
        return "channel_add_conv.3.weight" if self.opening is None else "opening"

    def _gate(self, context: Tensor) -> Tensor:
        gate = sigmoid(self.channel_mul_conv(context))
        return gate if self.opening is None else 1 + self.opening * (gate - 1)

    def _context(self, x: Tensor) -> Tensor:
        """c: (B, inplanes, 1, 1)."""
        if self.conv_mask is None:
            return x.mean((2, 3), keepdim=True)
        weights = softmax(self.conv_mask(x).flatten(2), dim=2)  # (B, 1, N)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


def _transform(channels: int, hidden: int) -> nn.Sequential:
    """W_v2 ReLU(LN(W_v1 c))."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), ChannelNorm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1)
    )
