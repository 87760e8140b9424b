"""C2PSA: half of the channels go through self-attention and a small MLP, the other half bypasses both.

Paper: Wang, Chen, Liu, Chen, Lin, Han, Ding, "YOLOv10: Real-Time End-to-End Object Detection", NeurIPS 2024,
https://arxiv.org/abs/2405.14458, section 3.2 and figure 3c (partial self-attention); YOLO11 stacks `n` of
its blocks under the name C2PSA.

    a, b = halves of Conv(x)
    n times:  b = b + BN(W_o (attention(b) + BN(DWConv_3x3(v))))
              b = b + BN(W_2 SiLU(BN(W_1 b)))             twice as wide inside
    y    = Conv([a, b])                                   Conv: 1x1, BN, SiLU
    attention(b): softmax over j of q_i . k_j / sqrt(d_k), v_j of d channels per head, d_k = d / 2; q, k, v = BN(W b)

How ours differs from the circulating copies: there are hidden / 64 heads, or the largest number below that divides, and
never none (copies divide by zero below 64 channels); the values keep their map, so the positional convolution needs no
reshaping; written from the equations.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat, nn

from models.arguments import SHARE, RowForm
from models.attention.ops.numerics import require_number, require_positive, resolve_divisor
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.layers import Conv
from models.recording import record_softmax
from models.registry import Scale, WiringPlan, register, same_width

HEAD_WIDTH = 64  # the paper's


def _wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[]`, `[c]` or `[c, e, heads]` -> C2PSA(c_in, repeats, e, heads): the row's repeats count the blocks inside."""
    plan = same_width(channels, 1, scale, args)
    return WiringPlan((plan.args[0], repeats, *plan.args[1:]), plan.channels_out)


class PositionedAttention(nn.Module):
    """Self-attention with a positional convolution: (B, channels, H, W) to the same shape, any H and W.

    Keys are half as wide as values; a depth-wise convolution of the values is added.

    Args:
        channels: Channels of the map.
        heads: A divisor of `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        key_width = max(channels // heads // 2, 1)
        self.heads = heads
        self.scale = key_width**-0.5
        self.widths = (heads * key_width, heads * key_width, channels)
        self.qkv = Conv(channels, sum(self.widths), act=False)
        self.position = Conv(channels, channels, 3, groups=channels, act=False)
        self.project = Conv(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map of `x` (B, channels, H, W)."""
        query, key, value = self.qkv(x).split(self.widths, dim=1)
        tokens = [to_tokens(each, self.heads) for each in (query, key, value)]
        record_softmax(self, "softmax of q . k / sqrt(d_k)", tokens[0], tokens[1], x.shape[2:], self.scale)
        attended = attend(*tokens, scale=self.scale)
        return self.project(to_map(attended, x.shape[-2:]) + self.position(value))


class AttentionBlock(nn.Module):
    """Attention, then an MLP of two 1x1 convolutions, each with a residual: (B, channels, H, W) to the same shape.

    Args:
        channels: Channels of the map.
        heads: A divisor of `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = PositionedAttention(channels, heads)
        self.mlp = nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


@register(_wiring, cost="quadratic", form=RowForm(wired=2, kinds={"e": SHARE}), shows=("attention",))
class C2PSA(nn.Module):
    """Partial self-attention, `n` blocks on a part of the channels: (B, c1, H, W) to the same shape, any H and W.

    `n` blocks work on c1 * e channels, and as many bypass them; `heads` is a 64th of that by default, or the largest
    number below that divides it, at least 1.

    Args:
        c1: Channels of the map.
        n: Number of blocks.
        e: Share of `c1` on each of the two branches, above 0 and at most 1.
        heads: Attention heads of each block.
    """

    def __init__(self, c1: int, n: int = 1, e: float = 0.5, heads: int | None = None) -> None:
        super().__init__()
        require_positive("C2PSA", c1=c1, n=n)
        require_number("C2PSA", "e", e, above=0, most=1, such_as=0.5)
        hidden = max(1, int(c1 * e))
        heads = resolve_divisor("C2PSA", "heads", heads, hidden, wanted=hidden // HEAD_WIDTH, of="attended channels")
        self.heads = n * heads  # N x N attention maps
        self.split = Conv(c1, 2 * hidden)
        self.blocks = nn.Sequential(*(AttentionBlock(hidden, heads) for _ in range(n)))
        self.merge = Conv(2 * hidden, c1)

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, c1, H, W)."""
        around, through = self.split(x).chunk(2, dim=1)
        return self.merge(cat((around, self.blocks(through)), dim=1))
