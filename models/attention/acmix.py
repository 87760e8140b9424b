"""ACmix: one set of 1x1 projections feeding a local self-attention and a shift convolution.

Paper: Pan, Ge, Lu, Song, Chen, Huang, Huang, "On the Integration of Self-Attention and
Convolution", CVPR 2022, https://arxiv.org/abs/2111.14556, equations 8 to 14.

    q, k, v = W_q x, W_k x, W_v x                      heads of d = C_out / head channels
    attention: a(p, o) = softmax over o of (q_p / sqrt(d)) . (k_{p+o} + e_p - e_{p+o})
               att_p   = sum over the kernel_att^2 neighbors o of a(p, o) v_{p+o}
               e = conv_p of the (x, y) position in [-1, 1]^2; borders by reflection
    convolution: kernel_conv^2 mixtures (fc) of the q, k, v heads, each moved by its own shift
               (dep_conv, initialized to the one-hot shifts)
    y = rate1 * att + rate2 * conv,   rate1 = rate2 = 0.5 at the start

How ours differs from the tutorials: the tutorials print no forward pass and no helpers; here the
rates really start at 0.5; a map may have any height and width (reflection goes to and fro if
the border is wider than the map, and a stride gives ceil(H / stride)); `dilation` spreads the
neighbors and does not only enlarge the border; positions take the map's type and device. As in
the published code, and so in its checkpoints, the shift convolution has no bias.

Exact short cuts: (q_p / sqrt(d)) . e_p is the same for all neighbors of p, so softmax ignores it
and the position term is one subtraction, k - e, before the neighbors are visited; neighbors are
visited offset by offset on views of one padded map, so the kernel_att^2 copies that an unfold of
k, v and e would make are never held.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, cat, nn

from models.arguments import KERNEL, RowForm
from models.attention.ops.neighbourhood import Neighborhood, neighborhood_weights, weighted_sum
from models.attention.ops.numerics import require_odd, require_positive, resolve_divisor
from models.attention.ops.sizes import at_least, is_known
from models.recording import is_recording, record
from models.registry import Scale, WiringPlan, one_source, register


def _wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[]`, `[c_out, ...]` or the tutorials' `[c_in, c_out, ...]` -> ACmix(c_in, c_out, ...).

    Widths are even and kernels odd, which tells `[c_in, c_out]` from `[c_out, kernel_att]`.
    """
    c_in, rest = one_source(channels), list(args)
    if (
        not all(isinstance(each, int) and not isinstance(each, bool) for each in rest)
        or rest
        and (rest[0] < 1 or rest[0] % 2)
    ):
        raise ValueError(f"expects [c_out, kernel_att, ...], integers of which the first is an even width, got {rest}")
    c_out = scale(rest.pop(0)) if rest else c_in
    if rest and rest[0] % 2 == 0:
        declared = args[0]
        if c_in not in (declared, scale(declared)):
            raise ValueError(
                f"is given {declared} channels ({scale(declared)} at this width_multiple) but {c_in} arrive"
            )
        c_out = rest.pop(0) if c_in != scale(declared) else scale(rest.pop(0))
    if repeats > 1 and c_out != c_in:
        raise ValueError(f"cannot be repeated {repeats} times while it maps {c_in} channels to {c_out}")
    return WiringPlan((c_in, c_out, *rest), c_out, repeats)


@register(
    _wiring, form=RowForm(wired=2, kinds={"kernel_att": KERNEL, "kernel_conv": KERNEL}), shows=("attention", "branches")
)
class ACmix(nn.Module):
    """Local self-attention plus shift convolution over shared 1x1 projections.

    (B, in_planes, H, W) to (B, out_planes, ceil(H/stride), ceil(W/stride)); `head` divides `out_planes`.

    Args:
        in_planes: Channels of the map.
        out_planes: Channels of the result.
        kernel_att: Side of the attention's neighborhood, odd.
        head: Attention heads.
        kernel_conv: Kernel of the convolution path, odd.
        stride: Of both paths.
        dilation: Distance of two neighbors in the attention path.
    """

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        kernel_att: int = 7,
        head: int = 4,
        kernel_conv: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        require_positive("ACmix", in_planes=in_planes, out_planes=out_planes, stride=stride, dilation=dilation)
        require_odd("ACmix", "kernel_att", kernel_att)
        require_odd("ACmix", "kernel_conv", kernel_conv)
        self.head = resolve_divisor("ACmix", "head", head, out_planes, wanted=4)
        self.head_dim = out_planes // self.head
        self.kernel_att, self.kernel_conv = kernel_att, kernel_conv
        self.stride, self.dilation = stride, dilation
        taps = kernel_conv * kernel_conv
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))
        self.conv1 = nn.Conv2d(in_planes, out_planes, 1)
        self.conv2 = nn.Conv2d(in_planes, out_planes, 1)
        self.conv3 = nn.Conv2d(in_planes, out_planes, 1)
        self.conv_p = nn.Conv2d(2, self.head_dim, 1)
        self.fc = nn.Conv2d(3 * self.head, taps, 1, bias=False)
        self.dep_conv = nn.Conv2d(
            taps * self.head_dim, out_planes, kernel_conv, stride, kernel_conv // 2, groups=self.head_dim, bias=False
        )
        with torch.no_grad():  # output o of a group is the sum of its `taps` inputs, input t moved by shift t
            shifts = torch.eye(taps).view(taps, kernel_conv, kernel_conv)
            self.dep_conv.weight.copy_(shifts.expand_as(self.dep_conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return rate1 * attention + rate2 * convolution of the map `x` (B, in_planes, H, W)."""
        query, key, value = self.conv1(x), self.conv2(x), self.conv3(x)
        attended = self._attend(query, key, value)
        convolved = self._convolve(query, key, value)
        if is_recording():
            rates = torch.stack((self.rate1, self.rate2)).view(1, 2, 1, 1, 1).expand(x.shape[0], -1, -1, -1, -1)
            record(self, "branches", "rates alpha of attention, beta of convolution", rates, attended.shape[2:])
        return self.rate1 * attended + self.rate2 * convolved

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = (self.head, self.head_dim)
        query = query[:, :, :: self.stride, :: self.stride].unflatten(1, heads) * self.head_dim**-0.5
        position = self.conv_p(_coordinates(key))  # (1, d, H, W), shared by the heads
        border = self.dilation * (self.kernel_att // 2)
        key = reflect_pad(key.unflatten(1, heads) - position.unsqueeze(1), border)  # (B, head, d, H+2b, W+2b)
        value = reflect_pad(value.unflatten(1, heads), border)
        keys, values = (
            Neighborhood(maps, self.kernel_att, self.dilation, query.shape[-2:], self.stride) for maps in (key, value)
        )
        weights = neighborhood_weights(query, keys)
        if is_recording():
            self._record(weights, position.shape[2:], border)
        return weighted_sum(weights, values).flatten(1, 2)  # (B, C_out, h, w), head-major

    def _record(self, weights: Tensor, grid: Sequence[int], border: int) -> None:
        """Record the weights (B, head, taps, h, w) of neighbors in a map of size `grid`, reflected at its borders."""
        height, width = grid
        places = reflect_pad(torch.arange(height * width, device=weights.device).view(height, width), border)
        near = Neighborhood(places, self.kernel_att, self.dilation, weights.shape[-2:], self.stride).gather()
        by_query = weights.flatten(3).transpose(2, 3)  # (B, head, h * w, taps)
        size, keys = weights.shape[-2:], near.flatten(1).t()
        record(self, "attention", "local self-attention A", by_query, size, keys, grid)

    def _convolve(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, _, height, width = query.shape
        heads = [each.reshape(batch, self.head, self.head_dim, height * width) for each in (query, key, value)]
        mixed = self.fc(cat(heads, dim=1))  # (B, kernel_conv^2, d, H*W)
        mixed = mixed.transpose(1, 2).reshape(batch, -1, height, width)  # d groups of kernel_conv^2 channels
        return self.dep_conv(mixed)


def _coordinates(like: Tensor) -> Tensor:
    """Return the (1, 2, H, W) map of x and y in [-1, 1], in the type and on the device of `like` (B, C, H, W)."""
    height, width = like.shape[-2:]
    column, row = (_from_minus_one_to_one(length, like) for length in (width, height))
    return torch.stack((column.expand(height, width), row.unsqueeze(1).expand(height, width))).unsqueeze(0)


def _from_minus_one_to_one(length: int, like: Tensor) -> Tensor:
    """Return torch.linspace(-1, 1, length) of a length that may be a symbol."""
    if is_known(length):
        return torch.linspace(-1.0, 1.0, length, dtype=like.dtype, device=like.device)
    return torch.arange(length, dtype=like.dtype, device=like.device) * (2 / at_least(length - 1, 1)) - 1


def reflect_pad(maps: Tensor, border: int) -> Tensor:
    """Return maps padded on all sides by reflection that does not repeat the edge.

    If the border exceeds the map, the reflection runs to and fro. A single row or column is repeated.

    Args:
        maps: (..., H, W).
        border: Positions added on each side, from 0.

    Returns:
        (..., H + 2 border, W + 2 border).
    """
    for axis in (-2, -1):
        length = maps.shape[axis]
        period = at_least(2 * (length - 1), 1)
        # from -border on, plus a multiple of the period: exporters do not divide negative numbers as torch does
        index = torch.arange(length + 2 * border, device=maps.device) + border * (period - 1)
        index = index.remainder(torch.full_like(index, period))
        maps = maps.index_select(axis, torch.minimum(index, period - index))
    return maps
