"""DoubleAttentionLayer: gather the map into a few descriptors, then distribute them to the positions.

Paper: Chen, Kalantidis, Li, Yan, Feng, "A^2-Nets: Double Attention Networks", NeurIPS 2018,
https://arxiv.org/abs/1810.11579, equations 2 to 6.

    A = W_A x + b_A                       (c_m, N), N = H*W
    B = softmax over positions(W_B x)     (c_n, N)   what each descriptor attends to
    V = softmax over descriptors(W_V x)   (c_n, N)   what each position takes
    G = A B^T                             (c_m, c_n) gather
    Z = G V                               (c_m, N)   distribute
    y = W_R Z + b_R                       only with `reconstruct`

As in the tutorials, and unlike the paper, nothing is added to the input, so the output has
rank c_n at most, and without `reconstruct` it has c_m channels. Copies that call softmax without
an axis normalize over the batch; the axes here are the paper's.

Exact short cut: every row of B sums to one, so G = W_A (x B^T) + b_A, and W_R Z = (W_R G) V.
Both convolutions run over c_n columns and not over N positions.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from models.arguments import WIDTH, RowForm, shorten
from models.attention.ops.numerics import require_flag, require_positive, softmax
from models.recording import is_recording, record
from models.registry import Scale, WiringPlan, one_source, register
from models.row_reading import split_keywords


def _wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[c_m, c_n]` -> DoubleAttentionLayer(c_in, c_m * width, c_n) leaves c_m * width.

    `[c_m, c_n, True]` leaves c_in.
    """
    args = _place_keywords(args)
    if len(args) not in (2, 3) or not all(isinstance(each, int) and not isinstance(each, bool) for each in args[:2]):
        raise ValueError(f"expects [c_m, c_n] or [c_m, c_n, reconstruct], such as [128, 3], got {list(args)}")
    c_in, c_m, rest = one_source(channels), scale(args[0]), args[1:]
    c_out = c_in if len(rest) == 2 and rest[1] else c_m
    if repeats > 1 and c_out != c_in:
        raise ValueError(f"cannot be repeated {repeats} times while it maps {c_in} channels to {c_out}")
    return WiringPlan((c_in, c_m, *rest), c_out, repeats)


def _place_keywords(args: Sequence[Any]) -> list[Any]:
    """Return the arguments of a row by position; c_n and reconstruct, which decides the width, may be keywords."""
    positional, keywords = split_keywords(args)
    for place, name in enumerate(("c_n", "reconstruct"), start=1):
        if name in keywords and len(positional) == place:
            positional.append(keywords.pop(name))
    if keywords:
        name = next(iter(keywords))
        reason = "is out of place or given twice" if name in ("c_n", "reconstruct") else "is no argument"
        raise ValueError(f"{shorten(name)} {reason}; its rows are [c_m, c_n] or [c_m, c_n, {{reconstruct: true}}]")
    return positional


@register(_wiring, form=RowForm(wired=2, kinds={"c_n": WIDTH}, reads_keywords=True), shows=("maps",))
class DoubleAttentionLayer(nn.Module):
    """Double attention as in the tutorials, without a residual.

    (B, in_channels, H, W) to (B, c_m, H, W), or back to `in_channels` with `reconstruct`; any H and W.

    Args:
        in_channels: Channels of the map.
        c_m: Length of a descriptor.
        c_n: Number of descriptors, which bounds the rank of the output.
        reconstruct: Whether a 1x1 convolution returns to `in_channels`.
    """

    def __init__(self, in_channels: int, c_m: int, c_n: int, reconstruct: bool = False) -> None:
        super().__init__()
        require_positive("DoubleAttentionLayer", in_channels=in_channels, c_m=c_m, c_n=c_n)
        require_flag("DoubleAttentionLayer", reconstruct=reconstruct)
        self.reconstruct = reconstruct
        self.convA = nn.Conv2d(in_channels, c_m, 1)
        self.convB = nn.Conv2d(in_channels, c_n, 1)
        self.convV = nn.Conv2d(in_channels, c_n, 1)
        if self.reconstruct:
            self.conv_reconstruct = nn.Conv2d(c_m, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return G V, or W_R G V + b_R, for the map `x` (B, in_channels, H, W)."""
        gather = softmax(self.convB(x).flatten(2), dim=2)  # B: (B, c_n, N)
        distribute = softmax(self.convV(x).flatten(2), dim=1)  # V: (B, c_n, N)
        if is_recording():
            size = x.shape[2:]
            record(self, "maps", "gather B: where each descriptor looks", gather.unflatten(2, size), size)
            record(self, "maps", "distribute V: what each position takes", distribute.unflatten(2, size), size)
        summed = x.flatten(2) @ gather.transpose(1, 2)  # x B^T: (B, in_channels, c_n)
        descriptors = self.convA(summed.unsqueeze(3)).squeeze(3)  # G: (B, c_m, c_n)
        if not self.reconstruct:
            return (descriptors @ distribute).unflatten(2, x.shape[-2:])
        weight, bias = self.conv_reconstruct.weight.flatten(1), cast(Tensor, self.conv_reconstruct.bias)
        return (weight @ descriptors @ distribute + bias.unsqueeze(1)).unflatten(2, x.shape[-2:])
