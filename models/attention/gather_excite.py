"""GatherExcite: a gate per channel and neighborhood, from the features around it.

Paper: Hu, Shen, Albanie, Sun, Vedaldi, "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks",
NeurIPS 2018, https://arxiv.org/abs/1810.12348, section 3.

    y = x * sigmoid(interp(f(gather(x))))             interp: nearest, back to (H, W)
    GE-theta-minus (extra_params False): gather = mean over the (2e-1) x (2e-1) window around every e-th position
    GE-theta (extra_params True): gather = log2(e) depth-wise 3x3 convolutions of stride 2, a batch norm behind each and
                                  ReLU between them
    extent e = 0: one value per channel; the mean of the map, or a depth-wise convolution as large as it and batch norm
    f: nothing; or, with use_mlp (GE-theta-plus), 1x1 convolutions C -> C/r -> C with ReLU between

Means count only positions inside the map. GatherExcite(c, False, 0, True) is SEAttention.

How ours differs from the circulating copies: theirs tie the learned global kernel to one map size; ours keeps a table
of `feat_size` x `feat_size` per channel, resized linearly to the map and scaled by the ratio of their areas, which at
its own size is the paper's convolution. The default is GE-theta with extent 8, which has no table.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.arguments import RowForm, choice_kind
from models.attention.ops.numerics import reduced_width, require_flag, require_positive
from models.attention.ops.positions import interpolate_map
from models.norms import BatchNorm
from models.recording import record
from models.registry import register
from utils.errors import ModelError


@register(form=RowForm(kinds={"extent": choice_kind("extent", (0, 2, 4, 8, 16, 32, 64))}), shows=("gate",))
class GatherExcite(nn.Module):
    """Gather-excite, each neighborhood times its gate: (B, channels, H, W) to the same shape, any H and W.

    `extent` is 0 (the whole map) or a power of two from 2 on; `reduction` is that of `use_mlp`; `feat_size` is the side
    of the learned table of extent 0.

    Args:
        channels: Channels of the map.
        extra_params: Whether gathering is learned (GE-theta) or a mean.
        extent: Distance of two gathered positions.
        use_mlp: Whether two 1x1 convolutions follow (GE-theta-plus).
        reduction: Ratio of channels to the hidden width of those.
        feat_size: Side of the table.
    """

    def __init__(
        self,
        channels: int,
        extra_params: bool = True,
        extent: int = 8,
        use_mlp: bool = False,
        reduction: int = 16,
        feat_size: int = 7,
    ) -> None:
        super().__init__()
        require_positive("GatherExcite", channels=channels, reduction=reduction, feat_size=feat_size)
        require_flag("GatherExcite", extra_params=extra_params, use_mlp=use_mlp)
        if type(extent) is not int or extent < 0 or extent == 1 or extent & (extent - 1):
            raise ModelError(
                f"GatherExcite: extent must be 0 (the whole map) or a power of two (2, 4, 8, ...), got {extent!r}"
            )
        self.extent = extent
        self.gather: nn.Module = nn.Identity()
        if extra_params:
            self.gather = LearnedGather(channels, extent) if extent else GlobalGather(channels, feat_size)
        self.mean = not extra_params
        self.mlp: nn.Module = nn.Identity()
        if use_mlp:
            hidden = reduced_width(channels, reduction)
            self.mlp = nn.Sequential(
                nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(interp(f(gather(x))))."""
        gate = torch.sigmoid(self.mlp(_window_means(x, self.extent) if self.mean else self.gather(x)))
        if self.extent:
            gate = F.interpolate(gate, size=x.shape[-2:], mode="nearest")
        record(self, "gate", "gate of what was gathered", gate, x.shape[2:])
        return x * gate


class LearnedGather(nn.Module):
    """Depth-wise convolutions of stride 2: (B, C, H, W) to (B, C, ceil(H / extent), ceil(W / extent)).

    Args:
        channels: Channels of the map, C.
        extent: A power of two from 2 on.
    """

    def __init__(self, channels: int, extent: int) -> None:
        super().__init__()
        steps = range(extent.bit_length() - 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False) for _ in steps)
        self.norms = nn.ModuleList(BatchNorm(channels) for _ in steps)

    def forward(self, x: Tensor) -> Tensor:
        for step, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x if step == 0 else F.relu(x)))
        return x


class GlobalGather(nn.Module):
    """Sum of the map times a learned table of its size, then batch norm: (B, C, H, W) to (B, C, 1, 1).

    Args:
        channels: Channels of the map, C.
        feat_size: Side of the table, which is resized to the map.
    """

    def __init__(self, channels: int, feat_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, feat_size, feat_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # a convolution's own start
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        area = self.weight.shape[-2] * self.weight.shape[-1] / (H * W)
        table = interpolate_map(self.weight, (H, W)) * area  # (C, 1, H, W)
        return self.norm((x * table.squeeze(1)).sum((2, 3), keepdim=True))


def _window_means(x: Tensor, extent: int) -> Tensor:
    """Return the mean over windows of side 2 * extent - 1 around every extent-th position, or over the map for 0."""
    if not extent:
        return x.mean((2, 3), keepdim=True)
    return F.avg_pool2d(x, 2 * extent - 1, extent, padding=extent - 1, count_include_pad=False)
