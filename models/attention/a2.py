"""A2: the double attention block of the paper, added to its input.

Paper: Chen, Kalantidis, Li, Yan, Feng, "A^2-Nets: Double Attention Networks", NeurIPS 2018,
https://arxiv.org/abs/1810.11579, equations 2 to 6 and figure 1.

    y = x + W_R Z + b_R          Z = G V as in `DoubleAttentionLayer`, with c_m = c_n = C / 4

How ours differs from the tutorials' copies, which `DoubleAttentionLayer` keeps: they leave the residual and
W_R out and take c_n = 3, so that every position of the output is a mixture of three vectors; others call
softmax without an axis and normalize over the batch. W_R starts at zero, so the block starts as the identity.
"""

from torch import Tensor, nn

from models.arguments import WIDTH, RowForm
from models.attention.double_attention import DoubleAttentionLayer
from models.attention.ops.numerics import reduced_width, require_positive
from models.identity_start import ZeroInitResidual
from models.registry import register


@register(form=RowForm(kinds={"c_m": WIDTH, "c_n": WIDTH}), shows=("maps",))
class A2(ZeroInitResidual, DoubleAttentionLayer):
    """Double attention of the paper with its residual: (B, in_channels, H, W) to the same shape, any H and W.

    `c_m` and `c_n` are in_channels / 4 (at least 8) unless given.

    Args:
        in_channels: Channels of the map.
        c_m: Length of a descriptor.
        c_n: Number of descriptors.
    """

    gate_parameter = "conv_reconstruct.weight"

    def __init__(self, in_channels: int, c_m: int | None = None, c_n: int | None = None) -> None:
        require_positive("A2", in_channels=in_channels)
        quarter = reduced_width(in_channels, 4, least=8)
        c_m, c_n = (quarter if given is None else given for given in (c_m, c_n))
        require_positive("A2", c_m=c_m, c_n=c_n)
        super().__init__(in_channels, c_m, c_n, reconstruct=True)
        nn.init.zeros_(self.conv_reconstruct.weight)
        nn.init.zeros_(self.conv_reconstruct.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, in_channels, H, W)."""
        return x + super().forward(x)
