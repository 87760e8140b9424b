"""The detection head: raw maps in training, decoded boxes in evaluation; anchors, strides and the bias prior."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from models.registry import register
from utils.errors import ModelError
from utils.log import LOGGER
from utils.types import HeadGeometry

_MAX_CACHED_GRIDS = 64  # map sizes whose cell coordinates are kept

HeadOutput = list[Tensor] | tuple[Tensor, list[Tensor]]  # raw maps in training, (decoded, raw maps) in evaluation


@register("detection")
class Detect(nn.Module):
    """Anchor-based head of YOLOv3 to v5 over maps (B, channels[l], H/s_l, W/s_l) of increasing stride s_l.

    Args:
        nc: Number of classes.
        anchors: One row [w, h, w, h, ...] in pixels per level, or a number of anchors per level: square placeholders
            until they are fitted (`placeholder_anchors`).
        channels: Channels of each level's map.

    Attributes:
        nc: Number of classes.
        no: Outputs per anchor, 5 + nc.
        nl: Number of levels.
        na: Number of anchors per level.
        anchors: Buffer (nl, na, 2) of widths and heights, in grid units after `set_strides`.
        strides: Pixels per grid cell of each level; empty before `set_strides`.
        placeholder_anchors: Whether the anchors are still to be fitted.
        m: One 1x1 convolution per level.
    """

    anchors: Tensor
    strides: tuple[float, ...]

    def __init__(self, nc: int, anchors: int | Sequence[Sequence[float]], channels: Sequence[int] = ()):
        super().__init__()
        self.nc = nc
        self.no = nc + 5
        self.nl = len(channels)
        self.placeholder_anchors = isinstance(anchors, int)
        self.na = anchors if isinstance(anchors, int) else len(anchors[0]) // 2
        pixels = torch.zeros(self.nl, self.na, 2) if isinstance(anchors, int) else _anchor_table(anchors, self.nl)
        self.register_buffer("anchors", pixels)
        self.m = nn.ModuleList(nn.Conv2d(width, self.na * self.no, 1) for width in channels)
        self.strides = ()
        self._grids: dict[tuple, Tensor] = {}

    def set_strides(self, strides: Sequence[float]) -> None:
        """Set the strides of the maps in pixels, convert the anchors to grid units and set the bias prior.

        Raises:
            ModelError: If the strides do not increase.
        """
        if any(after <= before for before, after in pairwise(strides)):
            raise ModelError(
                f"its inputs' strides must increase, got {', '.join(f'{stride:g}' for stride in strides)}; "
                f"list the sources from the largest map to the smallest"
            )
        self.strides = tuple(float(stride) for stride in strides)
        if self.placeholder_anchors:
            sizes = 4 * torch.tensor(self.strides).view(-1, 1) * 2 ** (torch.arange(self.na) / self.na)
            self.set_anchors(sizes[..., None].expand(-1, -1, 2))
            self.placeholder_anchors = True
        else:
            self.set_anchors(self.anchors)
        self.initialize_biases()

    @property
    def stride(self) -> Tensor:
        """(nl,) pixels per grid cell."""
        return torch.tensor(self.strides)

    @property
    def geometry(self) -> HeadGeometry:
        """Anchors in grid units, strides and number of classes."""
        return HeadGeometry(self.anchors, torch.tensor(self.strides, device=self.anchors.device), self.nc)

    @torch.no_grad()
    def set_anchors(self, pixels: Tensor | np.ndarray) -> None:
        """Replace the anchors by (nl, na, 2) or (nl*na, 2) widths and heights in pixels.

        The order of levels is reversed if areas decrease while strides increase. Areas are compared in pixels: in
        grid units all levels are alike.
        """
        sizes = torch.as_tensor(pixels, dtype=torch.float32, device=self.anchors.device).reshape(self.nl, -1, 2)
        areas = sizes.prod(-1).mean(-1)
        if self.nl > 1 and not areas.is_meta and areas[0] > areas[-1]:
            LOGGER.info("Reversing anchor order: the largest anchors belong to the largest stride")
            sizes = sizes.flip(0)
        self.anchors = (sizes / sizes.new_tensor(self.strides).view(-1, 1, 1)).to(self.anchors.dtype)
        self.placeholder_anchors = False

    @torch.no_grad()
    def initialize_biases(self) -> None:
        """Set the prior of an untrained head: 8 objects per image of 640 pixels, classes equally likely.

        Source: Lin et al., Focal Loss, 2017, section 4.1.
        """
        for conv, stride in zip(self.m, self.strides, strict=True):
            bias = conv.get_parameter("bias").view(self.na, self.no)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.nc - 0.999999))

    def forward(self, maps: list[Tensor]) -> HeadOutput:
        """Return raw maps (B, na, H, W, 5+nc) in training, (decoded, raw maps) in evaluation.

        decoded: (B, N, 5+nc) of xywh in pixels, objectness and class probabilities, at least float32.
        """
        raw = []
        for conv, features in zip(self.m, maps, strict=True):
            B, _, H, W = features.shape
            raw.append(conv(features).view(B, self.na, self.no, H, W).permute(0, 1, 3, 4, 2))
        if self.training:
            return [values.contiguous() for values in raw]
        if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            raw = [values.contiguous() for values in raw]
            return torch.cat([self._decode(level, values) for level, values in enumerate(raw)], 1), raw
        return self._decode_in_place(raw), raw

    def _decode_in_place(self, raw: Sequence[Tensor]) -> Tensor:
        """Decode all levels by the arithmetic of `_decode` within the result (B, N, 5+nc): nothing is copied."""
        counts = [maps[0, ..., 0].numel() for maps in raw]
        dtype = torch.promote_types(raw[0].dtype, torch.float32)
        decoded = raw[0].new_empty(raw[0].shape[0], sum(counts), self.no, dtype=dtype)
        levels = [part.view(maps.shape) for part, maps in zip(decoded.split(counts, 1), raw, strict=True)]
        for values, maps in zip(levels, raw, strict=True):
            values.copy_(maps)
        decoded.sigmoid_()
        for values, anchors, stride in zip(levels, self.anchors, self.strides, strict=True):
            values[..., 0:2].mul_(2).add_(self._grid(values)).mul_(stride)
            sides = (anchors.to(dtype) * stride).view(1, self.na, 1, 1, 2)
            values[..., 2:4].mul_(2).pow_(2).mul_(sides)
        return decoded

    def _decode(self, level: int, raw: Tensor) -> Tensor:
        """Decode (B, na, H, W, 5+nc) logits to (B, na*H*W, 5+nc); half precision cannot hold pixel coordinates."""
        if raw.dtype in (torch.float16, torch.bfloat16):
            raw = raw.float()
        stride = self.strides[level]
        anchors = (self.anchors[level].to(raw.dtype) * stride).view(1, self.na, 1, 1, 2)
        values = raw.sigmoid()
        xy = (2 * values[..., 0:2] + self._grid(raw)) * stride
        wh = (2 * values[..., 2:4]) ** 2 * anchors
        return torch.cat((xy, wh, values[..., 4:]), -1).view(raw.shape[0], -1, self.no)

    def _grid(self, raw: Tensor) -> Tensor:
        """Return cell coordinates minus a half, (1, 1, H, W, 2) in x, y; cached unless a graph is being exported."""
        _, _, H, W, _ = raw.shape
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return _cell_grid(H, W, raw)
        key = (H, W, raw.device, raw.dtype)
        if key not in self._grids:
            if len(self._grids) >= _MAX_CACHED_GRIDS:
                self._grids.clear()
            with torch.inference_mode(False):  # so that a later pass with gradients may use it
                self._grids[key] = _cell_grid(H, W, raw)
        return self._grids[key]


def _cell_grid(H: int, W: int, like: Tensor) -> Tensor:
    """Return cell coordinates minus a half, (1, 1, H, W, 2) in x, y, of the type and on the device of `like`."""
    rows = torch.arange(H, device=like.device, dtype=like.dtype)
    columns = torch.arange(W, device=like.device, dtype=like.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return (torch.stack((x, y), -1) - 0.5).view(1, 1, H, W, 2)


def _anchor_table(anchors: Sequence[Sequence[float]], levels: int) -> Tensor:
    """Return anchors as (levels, na, 2) pixels. Raises ValueError if the rows do not fit."""
    if len(anchors) != levels:
        raise ValueError(f"anchors has {len(anchors)} rows for {levels} inputs; one row of w,h pairs per input")
    if len({len(row) for row in anchors}) != 1 or len(anchors[0]) % 2 or not anchors[0]:
        raise ValueError(
            f"every row of anchors needs the same number of w,h pairs, got {[len(row) for row in anchors]} numbers"
        )
    if not all(side > 0 for row in anchors for side in row):
        raise ValueError("anchors are widths and heights in pixels and must be above 0")
    return torch.tensor(anchors, dtype=torch.float32).view(levels, -1, 2)
