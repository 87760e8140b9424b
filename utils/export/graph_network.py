"""The network as exporters get it: images in, decoded predictions out, in few operators that every runtime has."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.ensemble import Ensemble
from models.head import Detect
from models.yolo import Model


class GraphNetwork(nn.Module):
    """A detector with its predictions as the one output; several are concatenated, as an ensemble's are.

    Args:
        model: A detector or an ensemble in evaluation mode. It is copied and fused.
        shape: (height, width) of the input in pixels if it is fixed: cells and anchors become constants then.
        half: Compute in half precision, but for the decoding; input and output stay float32.
        taps: Names of modules within `network`, as `named_modules` gives them, whose outputs follow the predictions.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int] | None = None,
        half: bool = False,
        taps: Sequence[str] = (),
    ):
        super().__init__()
        parts = list(model.models) if isinstance(model, Ensemble) else [model]
        self.networks = nn.ModuleList(_with_graph_head(cast("Model", part), shape, half) for part in parts)
        self.dtype = torch.half if half else torch.float32
        self.tapped: list[Any] = []
        for name in taps:
            self.networks[0].get_submodule(name).register_forward_hook(self._keep)
        self.taps = tuple(taps)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return (B, N, 5+nc) xywh pixels, objectness and class probabilities, in float32; then the tapped outputs."""
        if self.taps:
            self.tapped = []
        if images.dtype != self.dtype:
            images = images.to(self.dtype)
        decoded = [network(images) for network in self.networks]
        output = decoded[0] if len(decoded) == 1 else torch.cat(decoded, 1)
        return (output, *self.tapped) if self.taps else output

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def in_float64(self) -> "GraphNetwork":
        """Return a copy that computes in float64, by which float32 is judged; its predictions are float64 too."""
        twin = copy.deepcopy(self).double()
        twin.dtype = torch.float64
        return twin

    def _keep(self, module: nn.Module, inputs: object, output: Any) -> None:
        self.tapped.append(output if isinstance(output, Tensor) else output[0])


class GraphHead(nn.Module):
    """`Detect` in evaluation mode, its levels joined before they are decoded: fewer operators, and none of five axes.

    Args:
        head: The head; its convolutions are shared.
        shape: (height, width) of the network's input in pixels if it is fixed.
    """

    sides: Tensor
    constants: Tensor | None

    def __init__(self, head: Detect, shape: tuple[int, int] | None = None):
        super().__init__()
        self.m = head.m
        self.na, self.no, self.strides = head.na, head.no, head.strides
        self.register_buffer("sides", head.anchors.float() * torch.tensor(head.strides).view(-1, 1, 1))  # (nl, na, 2)
        self.register_buffer("constants", None)
        if shape is not None:
            cells = [(round(shape[0] / stride), round(shape[1] / stride)) for stride in self.strides]
            self.constants = torch.cat(self._table(cells), 1)[None]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return (B, N, no) of maps (B, C, H, W) per level: `Detect`'s decoded output."""
        levels = [conv(features) for conv, features in zip(self.m, maps, strict=True)]
        rows = torch.cat([self._rows(level) for level in levels], 1)
        table = self.constants
        if table is None:
            table = torch.cat(self._table([(level.shape[2], level.shape[3]) for level in levels]), 1)[None]
        corner, step, area = table.split(2, 2)
        values = (rows.float() if rows.dtype == torch.half else rows).sigmoid()
        centers, sides, scores = values.split((2, 2, self.no - 4), 2)
        return torch.cat((centers * step + corner, sides * sides * area, scores), 2)

    def _rows(self, level: Tensor) -> Tensor:
        """(B, na * no, H, W) -> (B, na * H * W, no)."""
        B = level.shape[0]
        return level.flatten(2).view(B, self.na, self.no, -1).transpose(2, 3).reshape(B, -1, self.no)

    def _table(self, cells: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the constants of each row, (N, 2) each, x before y.

        With s the sigmoids: centers are (2 s + cell - 1/2) stride = s (2 stride) + (cell - 1/2) stride, and sides are
        (2 s)^2 anchor = s^2 (4 anchor).
        """
        corners, steps, areas = [], [], []
        for (H, W), stride, anchors in zip(cells, self.strides, self.sides, strict=True):
            rows = torch.arange(H, dtype=anchors.dtype, device=anchors.device)
            columns = torch.arange(W, dtype=anchors.dtype, device=anchors.device)
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            corner = ((torch.stack((x, y), 2) - 0.5) * stride).reshape(1, -1, 2).expand(self.na, -1, 2).reshape(-1, 2)
            corners.append(corner)
            steps.append(torch.full_like(corner, 2 * stride))
            areas.append((4 * anchors[:, None]).expand(-1, H * W, -1).reshape(-1, 2))
        return torch.cat(corners), torch.cat(steps), torch.cat(areas)


def _with_graph_head(model: Model, shape: tuple[int, int] | None, half: bool) -> Model:
    """Return a fused copy of a model whose last layer is a `GraphHead`."""
    model = copy.deepcopy(model).eval().fuse()
    head = model.head
    graph_head = GraphHead(head, shape)
    for name in ("i", "f"):
        setattr(graph_head, name, getattr(head, name))
    model.model[-1] = graph_head
    if half:
        tables = graph_head.sides, graph_head.constants
        model.half()
        graph_head.sides, graph_head.constants = tables  # half precision cannot hold pixel coordinates
    return model
