"""MLCA: ECA's gate for the whole map and for each cell of a coarse grid, blended.

Paper: Wan, Lu, Shen, Xie, Yang, "Mixed local channel attention for object detection", Engineering
Applications of Artificial Intelligence 123 (2023) 106442, section 3.

    P     = mean of x in each cell of a 5 x 5 grid (cells overlap if 5 does not divide the side)
    L     = sigmoid(Conv_k(P, cell after cell: C numbers each, one sequence of 25 C))
    G     = sigmoid(Conv_k(mean of P over the cells: C numbers))
    y     = unpool((1 - a) G + a L) * x,   a = 0.5      each position: the mean of the cells it lies in
    k     = (log2 C + b) / gamma, made odd upwards      as in ECA

The 1-D convolution of L runs from the last channels of a cell into the first of the next one, as in
the published module.

How ours differs from the circulating copies: pooling and unpooling are products with two small matrices
of cell means instead of adaptive pooling to and fro: the same numbers, any map down to 1 x 1, a
reproducible gradient on GPUs, and no operation that exporters refuse.
"""

import torch
from torch import Tensor, nn

from models.arguments import FACTOR, WINDOW, RowForm, number_kind
from models.attention.eca import adaptive_kernel
from models.attention.ops.numerics import require_number, require_positive
from models.attention.ops.pooling import cell_mean_matrix
from models.recording import record
from models.registry import register


@register(
    form=RowForm(
        kinds={
            "local_size": WINDOW,
            "gamma": FACTOR,
            "b": number_kind("summand", -16, 16, including=True),
            "local_weight": number_kind("share", 0, 1, including=True),
        }
    ),
    shows=("gate",),
)
class MLCA(nn.Module):
    """Mixed local channel attention: (B, in_size, H, W) to the same shape.

    `in_size` is the number of channels; `local_size` counts the cells along each side; `gamma` and `b` give the kernel
    size from the number of channels; `local_weight` is the local gate's share, in [0, 1].

    Args:
        in_size: Channels of the map.
        local_size: Cells along each side of the grid.
        gamma: Divisor of the formula for k, above zero.
        b: Summand of the formula for k.
        local_weight: Share of the local gate.
    """

    def __init__(
        self, in_size: int, local_size: int = 5, gamma: float = 2, b: float = 1, local_weight: float = 0.5
    ) -> None:
        super().__init__()
        require_positive("MLCA", in_size=in_size, local_size=local_size)
        require_number("MLCA", "local_weight", local_weight, least=0, most=1, such_as=0.5)
        kernel = adaptive_kernel("MLCA", in_size, gamma, b)
        self.local_size, self.local_weight = local_size, local_weight
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.conv_local = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x times its blended gate."""
        H, W = x.shape[-2:]
        cells = self.local_size
        pooled = cell_mean_matrix(cells, H, x) @ (x @ cell_mean_matrix(cells, W, x).t())  # (B, C, cells, cells)
        gate = torch.lerp(self._global_gate(pooled), self._local_gate(pooled), self.local_weight)
        spread = cell_mean_matrix(H, cells, x) @ gate @ cell_mean_matrix(W, cells, x).t()  # (B, C, H, W)
        record(self, "gate", "global and local gate, blended", spread, x.shape[2:])
        return spread * x

    def _local_gate(self, pooled: Tensor) -> Tensor:
        sequence = (
            pooled.flatten(2).transpose(1, 2).flatten(1).unsqueeze(1)
        )  # (B, 1, cells * cells * C), cell after cell
        logits = self.conv_local(sequence).view(pooled.shape[0], -1, pooled.shape[1])
        return torch.sigmoid(logits).transpose(1, 2).unflatten(2, pooled.shape[2:])

    def _global_gate(self, pooled: Tensor) -> Tensor:
        logits = self.conv(pooled.mean((2, 3)).unsqueeze(1))  # (B, 1, C)
        return torch.sigmoid(logits).transpose(1, 2).unsqueeze(3).expand_as(pooled)
