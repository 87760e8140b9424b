"""HAT: window attention and channel attention side by side.

Paper: Chen, Wang, Zhou, Qiao, Dong, "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023,
https://arxiv.org/abs/2205.04437, section 3.2, the hybrid attention block (HAB).

    n = LN(x)
    m = x + (S)W-MSA(n) + conv_scale CAB(n)
    y = m + MLP(LN(m))
    CAB(n) = g * u,   u = Conv_3x3(GELU(Conv_3x3(n))) with C / compress_ratio channels between,
             g = sigmoid(W_2 ReLU(W_1 avg(u)))        with C / squeeze_factor channels between

(S)W-MSA is Swin's attention in (shifted) windows with relative positions (models/attention/swin.py).

How ours differs from the circulating copies: those paste the whole super-resolution network, patch embedding and
upsampler included, bound to one size; this is the block. Maps of any size are padded, shifted and masked. The inner
widths are at least 8 and 4, where theirs reach zero below 30 channels. The window is 8 (theirs: 16, for large images),
the MLP widens by 2. The paper's overlapping cross-attention is a block of its own between groups and is not part of it.
"""

from torch import Tensor, nn

from models.arguments import REDUCTION, SHARE, RowForm, whole_kind
from models.attention.ops.numerics import require_number, require_positive
from models.attention.swin import WindowMSA
from models.norms import ChannelNorm
from models.recording import record
from models.registry import register

MIN_COMPRESSED, MIN_SQUEEZED = 8, 4  # channels


class ChannelAttentionBlock(nn.Module):
    """CAB, two 3x3 convolutions and a gate per channel: (B, dim, H, W) to the same shape.

    Args:
        dim: Channels of the map.
        compress_ratio: Ratio of channels to the width between the convolutions, which is at least 8.
        squeeze_factor: Ratio of channels to the hidden width of the gate, which is at least 4.
    """

    def __init__(self, dim: int, compress_ratio: int, squeeze_factor: int) -> None:
        super().__init__()
        inner, squeezed = max(MIN_COMPRESSED, dim // compress_ratio), max(MIN_SQUEEZED, dim // squeeze_factor)
        self.cab = nn.Sequential(nn.Conv2d(dim, inner, 3, padding=1), nn.GELU(), nn.Conv2d(inner, dim, 3, padding=1))
        self.gate = nn.Sequential(nn.Conv2d(dim, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, dim, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return g * u of the map `x`."""
        mixed = self.cab(x)
        gate = self.gate(mixed.mean((2, 3), keepdim=True))
        record(self, "gate", "channel gate g of CAB", gate, x.shape[2:])
        return gate * mixed


@register(
    cost="windowed",
    form=RowForm(
        kinds={
            "shift_size": whole_kind("shift", 0, 64),
            "compress_ratio": REDUCTION,
            "squeeze_factor": REDUCTION,
            "conv_scale": SHARE,
        }
    ),
    shows=("attention", "gate"),
)
class HAT(nn.Module):
    """Hybrid attention block: (B, dim, H, W) to the same shape, any H and W.

    `num_heads` divides `dim`, by default dim / 32; `shift_size` shifts the windows, as every second block of the paper
    does by half a window.

    Args:
        dim: Channels of the map.
        num_heads: Heads of the window attention.
        window_size: Side of a window in positions.
        shift_size: Positions by which windows are shifted, below `window_size`.
        compress_ratio: Ratio of channels to the width inside the channel attention block, which is at least 8.
        squeeze_factor: Ratio of channels to the hidden width of its gate, which is at least 4.
        conv_scale: Factor of the channel attention block.
        mlp_ratio: Ratio of the MLP's hidden width to channels.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        window_size: int = 8,
        shift_size: int = 0,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2,
    ) -> None:
        super().__init__()
        require_positive(
            "HAT", dim=dim, window_size=window_size, compress_ratio=compress_ratio, squeeze_factor=squeeze_factor
        )
        require_number("HAT", "conv_scale", conv_scale, such_as=0.01)
        require_number("HAT", "mlp_ratio", mlp_ratio, above=0, such_as=2)
        self.conv_scale = conv_scale
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)
        self.attn = WindowMSA(dim, window_size, num_heads, shift_size)
        self.conv_block = ChannelAttentionBlock(dim, compress_ratio, squeeze_factor)
        hidden = max(1, int(dim * mlp_ratio))
        self.mlp = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return y of the map `x` (B, dim, H, W)."""
        normed = self.norm1(x)
        mixed = x + self.attn(normed) + self.conv_scale * self.conv_block(normed)
        return mixed + self.mlp(self.norm2(mixed))
