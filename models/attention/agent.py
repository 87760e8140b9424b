"""Agent: a few agent tokens attend to the whole map, then every position attends to the agents.

Paper: Han, Ye, Han, Xia, Pan, Wan, Song, Huang, "Agent Attention: On the Integration of Softmax and Linear Attention",
ECCV 2024, https://arxiv.org/abs/2312.08874, section "Agent Attention".

    q, k, v = W x                                    heads of d channels
    A       = q averaged over a grid of cells         n agents per head (agent_num, 49: a grid of 7 x 7)
    V_A     = softmax over positions(A k^T / sqrt(d)) v
    y       = softmax over agents(q A^T / sqrt(d)) V_A + DWConv3x3(v)
    out     = x + W_o y + b_o

How ours differs from the circulating copies: no bias tables (theirs are six, four of them tied to one window size),
so any H and W; a side shorter than the grid has one agent per row or column; the pooling is a product with cell
weights, whose gradient is reproducible on every device; the input is added, as around every attention of the paper.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from models.arguments import RowForm, whole_kind
from models.attention.ops.numerics import require_flag, require_positive, resolve_divisor
from models.attention.ops.pooling import cell_mean_matrix
from models.attention.ops.sizes import at_most
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.recording import is_recording, record, softmax_weights
from models.registry import register
from utils.errors import ModelError


@register(
    form=RowForm(
        kinds={"agent_num": whole_kind("agents", 1, 1024), "num_patches": whole_kind("positions", 49, 2**16)},
        orders=(("num_patches",), ("num_patches", "num_heads")),
    ),
    shows=("maps",),
)
class Agent(nn.Module):
    """Agent attention with a residual: (B, dim, H, W) to the same shape, any H and W.

    `num_heads` divides `dim`, by default the largest number up to 8 that does; `agent_num` is a square.

    Args:
        dim: Channels of the map.
        num_heads: Attention heads.
        qkv_bias: Whether the projections of q, k and v have biases.
        agent_num: Agents per head, at most.
    """

    def __init__(self, dim: int, num_heads: int | None = None, qkv_bias: bool = False, agent_num: int = 49) -> None:
        super().__init__()
        require_positive("Agent", dim=dim, agent_num=agent_num)
        require_flag("Agent", qkv_bias=qkv_bias)
        self.num_heads = resolve_divisor("Agent", "num_heads", num_heads, dim, wanted=8)
        self.side, self.scale = math.isqrt(agent_num), (dim // self.num_heads) ** -0.5
        if self.side**2 != agent_num:
            raise ModelError(
                f"Agent: agent_num {agent_num} is no square grid; use {self.side**2} or {(self.side + 1) ** 2}"
            )
        self.q = nn.Conv2d(dim, dim, 1, bias=qkv_bias)
        self.kv = nn.Conv2d(dim, 2 * dim, 1, bias=qkv_bias)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + W_o (agent attention + DWConv(v)) + b_o of the map `x` (B, dim, H, W)."""
        query = self.q(x)
        key, value = self.kv(x).chunk(2, 1)
        agents = _cell_means(query, self.side)
        query, agents, key, tokens = (to_tokens(maps, self.num_heads) for maps in (query, agents, key, value))
        if is_recording():
            self._record(query, agents, key, x.shape[2:])
        gathered = attend(agents, key, tokens, scale=self.scale)  # (B, heads, n, d)
        attended = attend(query, agents, gathered, scale=self.scale)  # (B, heads, N, d)
        return x + self.proj(to_map(attended, x.shape[-2:]) + self.dwc(value))

    def _record(self, query: Tensor, agents: Tensor, key: Tensor, size: Sequence[int]) -> None:
        """Record both softmax maps of all agents, head by head."""
        seen = softmax_weights(agents, key, self.scale)  # (B, heads, n, N)
        taken = softmax_weights(query, agents, self.scale).transpose(2, 3)
        record(self, "maps", "agent aggregation: where each agent looks", seen.flatten(1, 2).unflatten(2, size), size)
        record(self, "maps", "agent broadcast: what each position takes", taken.flatten(1, 2).unflatten(2, size), size)


def _cell_means(maps: Tensor, side: int) -> Tensor:
    """Return the means of (B, C, H, W) over a grid of at most side x side cells."""
    rows, columns = (cell_mean_matrix(at_most(length, side), length, maps) for length in maps.shape[-2:])
    return rows @ maps @ columns.t()
