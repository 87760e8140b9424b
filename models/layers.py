"""The convolutional layers that YOLOv5's yamls are made of: (B, C, H, W) in and out.

State-dict names (conv, bn, cv1, cv2, cv3, m, ...) and the order of constructor arguments are
v6.1's, so that its checkpoints and yamls fit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.norms import BatchNorm
from models.registry import Scale, WiringPlan, no_repeats, register

__all__ = [
    "Bottleneck",
    "BottleneckCSP",
    "C3",
    "C3Ghost",
    "C3SPP",
    "C3TR",
    "Concat",
    "Contract",
    "Conv",
    "CrossConv",
    "DWConv",
    "Expand",
    "Focus",
    "GhostBottleneck",
    "GhostConv",
    "MixConv2d",
    "SPP",
    "SPPF",
    "Sum",
    "TransformerBlock",
    "TransformerLayer",
]

Size = int | Sequence[int]


def _as_size(value: Size) -> int | tuple[int, int]:
    if isinstance(value, int):
        return value
    height, width = value
    return height, width


def _padding(kernel: Size, padding: Size | None) -> int | tuple[int, int]:
    """Return the padding that keeps height and width at stride 1 with an odd kernel, unless one is given."""
    if padding is not None:
        return _as_size(padding)
    return kernel // 2 if isinstance(kernel, int) else _as_size([side // 2 for side in kernel])


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that equals `conv` followed by `norm` in evaluation.

    Computed in float64; keeps dilation, groups, padding mode, device and dtype. Its parameters require no gradient.

    Args:
        conv: With or without a bias.
        norm: With running statistics of as many channels as leave `conv`.

    Returns:
        A new convolution with a bias.
    """
    weight = conv.weight.double()
    mean, var = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    gain = gamma / torch.sqrt(var + norm.eps)
    before = torch.zeros_like(mean) if conv.bias is None else conv.bias.double()
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        _as_size(conv.kernel_size),
        _as_size(conv.stride),
        conv.padding if isinstance(conv.padding, str) else _as_size(conv.padding),
        _as_size(conv.dilation),
        conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    folded.weight = nn.Parameter((weight * gain.view(-1, 1, 1, 1)).to(conv.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter((beta + (before - mean) * gain).to(conv.weight.dtype), requires_grad=False)
    return folded.train(conv.training)


class SiLU(nn.SiLU):
    """SiLU: in place if no gradient is needed, else into a new tensor.

    Autograd needs what came in: in place, it would copy that first, the same memory and one more pass over the map.
    """

    def __init__(self):
        super().__init__(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x, inplace=not torch.is_grad_enabled())


@register("widened")
class Conv(nn.Module):
    """Convolution without bias, batch norm, SiLU.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernel: Side, or (height, width).
        stride: Of both axes, or (vertical, horizontal).
        padding: None for half the kernel, which keeps the size at stride 1 with an odd kernel.
        groups: Of the convolution.
        act: False leaves the activation out, a module replaces it.
    """

    conv: nn.Conv2d
    bn: nn.BatchNorm2d | None
    act: nn.Module

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Size = 1,
        stride: Size = 1,
        padding: Size | None = None,
        groups: int = 1,
        act: bool | nn.Module = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, _as_size(kernel), _as_size(stride), _padding(kernel, padding), groups=groups, bias=False
        )
        self.bn = BatchNorm(c_out)
        self.act = act if isinstance(act, nn.Module) else SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return self.act(features if self.bn is None else self.bn(features))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into the convolution, once."""
        if self.bn is not None:
            self.conv = fold_norm(self.conv, self.bn)
            self.bn = None


@register("widened")
class DWConv(Conv):
    """Depth-wise Conv: as many groups as divide both widths.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernel: Side, or (height, width).
        stride: Of both axes, or (vertical, horizontal).
        act: False leaves the activation out, a module replaces it.
    """

    def __init__(self, c_in: int, c_out: int, kernel: Size = 1, stride: Size = 1, act: bool | nn.Module = True):
        super().__init__(c_in, c_out, kernel, stride, groups=math.gcd(c_in, c_out), act=act)


@register("widened")
class Focus(nn.Module):
    """Space to depth, every 2x2 patch into channels, then a Conv: (B, c_in, H, W) to (B, c_out, H/2, W/2) at stride 1.

    Args:
        c_in: Channels of the map, whose sides are even.
        c_out: Channels of the result.
        kernel: Of the Conv.
        stride: Of the Conv.
        padding: Of the Conv.
        groups: Of the Conv.
        act: Of the Conv.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Size = 1,
        stride: Size = 1,
        padding: Size | None = None,
        groups: int = 1,
        act: bool | nn.Module = True,
    ):
        super().__init__()
        self.conv = Conv(4 * c_in, c_out, kernel, stride, padding, groups, act)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, 1))


@register("widened")
class Bottleneck(nn.Module):
    """1x1 then 3x3 Conv, with a residual: (B, c_in, H, W) to (B, c_out, H, W).

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        shortcut: Whether the input is added if the widths are equal.
        groups: Of the 3x3 convolution.
        expansion: Ratio of the hidden width to `c_out`.
    """

    def __init__(self, c_in: int, c_out: int, shortcut: bool = True, groups: int = 1, expansion: float = 0.5):
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden, c_out, 3, groups=groups)
        self.residual = shortcut and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        features = self.cv2(self.cv1(x))
        return x + features if self.residual else features


@register("widened")
class CrossConv(nn.Module):
    """A 1xk and a kx1 Conv, each with the stride of its own axis: (B, c_in, H, W) to (B, c_out, H/stride, W/stride).

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernel: k, odd.
        stride: Positions per step on both axes.
        groups: Of the second convolution.
        expansion: Ratio of the hidden width to `c_out`.
        shortcut: Whether the input is added if the widths are equal.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        expansion: float = 1.0,
        shortcut: bool = False,
    ):
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, (1, kernel), (1, stride))
        self.cv2 = Conv(hidden, c_out, (kernel, 1), (stride, 1), groups=groups)
        self.residual = shortcut and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        features = self.cv2(self.cv1(x))
        return x + features if self.residual else features


@register("stacked")
class BottleneckCSP(nn.Module):
    """Cross-stage partial network (Wang et al., 2019): bottlenecks on one branch, a 1x1 convolution on the other.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        repeats: Number of bottlenecks.
        shortcut: Whether each bottleneck adds its input.
        groups: Of the bottlenecks' 3x3 convolutions.
        expansion: Ratio of the hidden width to `c_out`.
    """

    def __init__(
        self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = True, groups: int = 1, expansion: float = 0.5
    ):
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = nn.Conv2d(c_in, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c_out, 1)
        self.bn = BatchNorm(2 * hidden)
        self.act = SiLU()
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, groups, 1.0) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(branches)))


@register("stacked")
class C3(nn.Module):
    """BottleneckCSP with three convolutions: (B, c_in, H, W) to (B, c_out, H, W).

    Subclasses override `_build_branch`, which returns the deep branch.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        repeats: Number of bottlenecks.
        shortcut: Whether each bottleneck adds its input.
        groups: Of the bottlenecks' 3x3 convolutions.
        expansion: Ratio of the hidden width to `c_out`.
    """

    m: nn.Module

    def __init__(
        self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = True, groups: int = 1, expansion: float = 0.5
    ):
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(c_in, hidden, 1)
        self.cv3 = Conv(2 * hidden, c_out, 1)
        self.m = self._build_branch(hidden, repeats, shortcut, groups)

    def _build_branch(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        return nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, groups, 1.0) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


@register("stacked")
class C3TR(C3):
    """C3 whose deep branch is a transformer of 4 heads."""

    def _build_branch(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        return TransformerBlock(hidden, hidden, 4, repeats)


@register("stacked")
class C3Ghost(C3):
    """C3 of ghost bottlenecks."""

    def _build_branch(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(hidden, hidden) for _ in range(repeats)))


@register("widened")
class C3SPP(C3):
    """C3 whose deep branch is a spatial pyramid pooling.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernels: Sides of the max pools, odd.
        repeats: Unused, as in v6.1.
        shortcut: Unused, as in v6.1.
        groups: Unused, as in v6.1.
        expansion: Ratio of the hidden width to `c_out`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernels: Sequence[int] = (5, 9, 13),
        repeats: int = 1,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
    ):
        self.kernels = tuple(kernels)
        super().__init__(c_in, c_out, repeats, shortcut, groups, expansion)

    def _build_branch(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        return SPP(hidden, hidden, self.kernels)


@register("widened")
class SPP(nn.Module):
    """Spatial pyramid pooling (He et al., 2014): max pools of several sizes in parallel.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernels: Sides of the max pools, odd.
    """

    def __init__(self, c_in: int, c_out: int, kernels: Sequence[int] = (5, 9, 13)):
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden * (len(kernels) + 1), c_out, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(kernel, 1, kernel // 2) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        features = self.cv1(x)
        return self.cv2(torch.cat((features, *(pool(features) for pool in self.m)), 1))


@register("widened")
class SPPF(nn.Module):
    """SPP((5, 9, 13)) at a lower cost: three pools of one size in sequence cover the same window.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernel: Side of the max pools, odd.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 5):
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(4 * hidden, c_out, 1)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(self.m(levels[-1]))
        return self.cv2(torch.cat(levels, 1))


@register("widened")
class GhostConv(nn.Module):
    """Half the channels by a Conv, the other half from those by a depth-wise 5x5 (Han et al., GhostNet, 2020).

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result, even.
        kernel: Of the first Conv.
        stride: Of the first Conv.
        groups: Of the first Conv.
        act: False leaves the activation out, a module replaces it.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: Size = 1, stride: Size = 1, groups: int = 1, act: bool | nn.Module = True
    ):
        super().__init__()
        half = c_out // 2
        self.cv1 = Conv(c_in, half, kernel, stride, groups=groups, act=act)
        self.cv2 = Conv(half, half, 5, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.cv1(x)
        return torch.cat((primary, self.cv2(primary)), 1)


@register("widened")
class GhostBottleneck(nn.Module):
    """Two ghost convolutions with a residual; stride 2 puts a depth-wise convolution on both branches.

    Args:
        c_in: Channels of the map; equal to `c_out` at stride 1.
        c_out: Channels of the result.
        kernel: Of the depth-wise convolutions, odd.
        stride: 1 or 2.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        hidden, downsamples = c_out // 2, stride == 2
        self.conv = nn.Sequential(
            GhostConv(c_in, hidden),
            DWConv(hidden, hidden, kernel, stride, act=False) if downsamples else nn.Identity(),
            GhostConv(hidden, c_out, act=False),
        )
        self.shortcut = (
            nn.Sequential(DWConv(c_in, c_in, kernel, stride, act=False), Conv(c_in, c_out, act=False))
            if downsamples
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class TransformerLayer(nn.Module):
    """Attention over tokens (L, B, C) without layer norm, then two linear maps, each with a residual.

    Args:
        channels: Of a token, C.
        heads: A divisor of `channels`.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.ma = nn.MultiheadAttention(embed_dim=channels, num_heads=heads)
        self.fc1 = nn.Linear(channels, channels, bias=False)
        self.fc2 = nn.Linear(channels, channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        attended, _ = self.ma(self.q(tokens), self.k(tokens), self.v(tokens), need_weights=False)
        tokens = tokens + attended
        return tokens + self.fc2(self.fc1(tokens))


@register("widened")
class TransformerBlock(nn.Module):
    """Transformer layers over all positions of a map (after Dosovitskiy et al., ViT, 2020).

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        heads: A divisor of `c_out`.
        layers: Number of transformer layers.
    """

    def __init__(self, c_in: int, c_out: int, heads: int = 4, layers: int = 1):
        super().__init__()
        self.conv = Conv(c_in, c_out) if c_in != c_out else None
        self.linear = nn.Linear(c_out, c_out)  # learnable position term
        self.tr = nn.Sequential(*(TransformerLayer(c_out, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (H*W, B, C)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)


@register("widened")
class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes in parallel (Tan and Le, 2019).

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernels: Sides of the kernels, odd.
        stride: Of all convolutions.
        equal_channels: Whether all kernel sizes get the same number of channels or of weights.
    """

    def __init__(
        self, c_in: int, c_out: int, kernels: Sequence[int] = (1, 3), stride: int = 1, equal_channels: bool = True
    ):
        super().__init__()
        widths = _equal_channels(c_out, len(kernels)) if equal_channels else _equal_weights(c_out, kernels)
        if min(widths) < 1:
            raise ValueError(f"{c_out} channels cannot be divided among kernels {list(kernels)}")
        self.m = nn.ModuleList(
            nn.Conv2d(c_in, width, kernel, stride, kernel // 2, groups=math.gcd(c_in, width), bias=False)
            for kernel, width in zip(kernels, widths, strict=True)
        )
        self.bn = BatchNorm(c_out)
        self.act = SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))


def _equal_channels(total: int, parts: int) -> list[int]:
    """Split `total` channels as v6.1 does: channel j goes to floor(j * parts / (total - 1)), the last excepted."""
    owners = [int(channel * (parts - 1e-6) / max(total - 1, 1)) for channel in range(total)]
    return [owners.count(part) for part in range(parts)]


def _equal_weights(total: int, kernels: Sequence[int]) -> list[int]:
    """Split `total` channels so that every kernel size has as many weights: in proportion to 1/k^2."""
    whole = sum(kernel**-2 for kernel in kernels)
    widths = [round(total * kernel**-2 / whole) for kernel in kernels]
    widths[0] += total - sum(widths)
    return widths


@register("concatenated")
class Concat(nn.Module):
    """Concatenate a list of tensors along `dimension`."""

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors, self.d)


def _sum_wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence) -> WiringPlan:
    """`[]`, `[weighted]` or v6.1's `[n, weighted]` -> Sum(number of sources, weighted)."""
    if len(set(channels)) != 1:
        raise ValueError(f"adds maps of one width, but {list(channels)} channels arrive")
    rest = args[1:] if args and isinstance(args[0], int) and not isinstance(args[0], bool) else args
    return WiringPlan((len(channels), *rest), channels[0], no_repeats(repeats))


@register(_sum_wiring)
class Sum(nn.Module):
    """Sum of two or more maps of one shape.

    Args:
        n: Number of maps.
        weighted: Whether all but the first have a learned weight in 0..2.
    """

    def __init__(self, n: int, weighted: bool = False):
        super().__init__()
        self.n = n
        self.w = nn.Parameter(-torch.arange(1.0, n) / 2) if weighted else None

    def forward(self, tensors: list[Tensor]) -> Tensor:
        weights = [1.0] * (self.n - 1) if self.w is None else 2 * torch.sigmoid(self.w)
        total = tensors[0]
        for weight, tensor in zip(weights, tensors[1:], strict=True):
            total = total + weight * tensor
        return total


class _Exchange(nn.Module):
    """Base of layers that exchange size and channels; `gain` is the factor of a side."""

    def __init__(self, gain: int = 2):
        super().__init__()
        self.gain = gain


@register(lambda channels, repeats, scale, args: WiringPlan(tuple(args), channels[0] * (args[0] if args else 2) ** 2))
class Contract(_Exchange):
    """Height and width into channels: (B, C, H, W) -> (B, C*g*g, H/g, W/g)."""

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        g = self.gain
        return x.reshape(B, C, H // g, g, W // g, g).permute(0, 3, 5, 1, 2, 4).reshape(B, C * g * g, H // g, W // g)


@register(lambda channels, repeats, scale, args: WiringPlan(tuple(args), channels[0] // (args[0] if args else 2) ** 2))
class Expand(_Exchange):
    """Channels into height and width: (B, C, H, W) -> (B, C/g/g, H*g, W*g)."""

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        g = self.gain
        return x.reshape(B, g, g, C // g // g, H, W).permute(0, 3, 4, 1, 5, 2).reshape(B, C // g // g, H * g, W * g)
