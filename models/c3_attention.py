"""C3Attention: a C3 whose bottlenecks carry a named attention block before their residual is added."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.arguments import RowForm
from models.identity_start import apply_identity_start, fork_rng
from models.layers import C3, Bottleneck
from models.registry import Entry, Scale, WiringPlan, find, register, stacked

EXPANSION = 0.5  # hidden width of a C3 per channel
NEUTRAL = Scale()  # widths inside a C3 are scaled already


class AttentionBottleneck(Bottleneck):
    """1x1 and 3x3 Conv, then the attention block, with a residual: x + A(F(x)), (B, channels, H, W) to the same shape.

    Args:
        channels: Channels of the map.
        attention: A block that keeps its width.
        shortcut: Whether the input is added.
        groups: Of the 3x3 convolution.
        expansion: Ratio of the hidden width to channels.
    """

    attention: nn.Module

    def __init__(
        self, channels: int, attention: nn.Module, shortcut: bool = True, groups: int = 1, expansion: float = 1.0
    ):
        super().__init__(channels, channels, shortcut, groups, expansion)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        features = self.attention(self.cv2(self.cv1(x)))
        return x + features if self.residual else features


def _wiring(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[c_out, "CBAM", ...]` or `[c_out, shortcut, "CBAM", ...]`: what follows the name is the block's own."""
    rest = list(args[1:])
    shortcut = rest.pop(0) if rest and isinstance(rest[0], bool) else True
    if not rest or not isinstance(rest[0], str):
        raise ValueError(
            f'expects [channels, "BLOCK", ...] or [channels, shortcut, "BLOCK", ...], such as [128, "CBAM"], '
            f"got {list(args)}"
        )
    plan = stacked(channels, repeats, scale, args[:1])
    return WiringPlan((*plan.args, shortcut, *rest), plan.channels_out)


@register(_wiring, form=RowForm(wired=4, reads_keywords=True))
class C3Attention(C3):
    """C3 with a registered block in its bottlenecks: (B, c_in, H, W) to (B, c_out, H, W).

    The block follows the 3x3 convolution of each bottleneck, before the residual is added, as SE and CBAM do in a
    residual block (arXiv 1709.01507, figure 3; arXiv 1807.06521, figure 3). State-dict keys are C3's; the block's own
    are under m.<i>.attention.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result; the hidden width is half of it.
        repeats: Number of bottlenecks.
        shortcut: Whether each bottleneck adds its input.
        block: A registered name.
        *args: What a yaml row of the block may have.

    Raises:
        ModelError: The name is unknown.
        ValueError: The block does not keep its width, or its arguments do not fit.
    """

    m: nn.Sequential

    def __init__(self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = True, block: str = "CBAM", *args: Any):
        self.block, self.block_args = find(block), args
        super().__init__(c_in, c_out, repeats, shortcut)

    def _build_branch(self, hidden: int, repeats: int, shortcut: bool, groups: int) -> nn.Module:
        return nn.Sequential(
            *(
                AttentionBottleneck(hidden, _build_block(self.block, hidden, self.block_args), shortcut, groups)
                for _ in range(repeats)
            )
        )

    def start_as_identity(self) -> None:
        """Put each bottleneck's attention behind a zero-initialized gate: the layer starts as a plain C3."""
        for bottleneck in self.m:
            if isinstance(bottleneck, AttentionBottleneck):
                width = bottleneck.cv2.conv.out_channels
                bottleneck.attention = apply_identity_start(bottleneck.attention, width, width)


def plan_inner_block(plan: WiringPlan) -> tuple[Entry, WiringPlan, int]:
    """Return the block in the bottlenecks of a planned C3Attention, how it is built, and the channels it works on."""
    _, c_out, _, _, name, *args = plan.args
    block, hidden = find(name), int(c_out * EXPANSION)
    return block, block.plan([hidden], 1, NEUTRAL, args), hidden


def _build_block(block: Entry, channels: int, args: Sequence[Any]) -> nn.Module:
    """Return a block for `channels` channels, built from a forked random generator."""
    plan = block.plan([channels], 1, NEUTRAL, args)
    if plan.channels_out != channels:
        raise ValueError(
            f"{block.name} maps {channels} channels to {plan.channels_out}; a bottleneck needs a block that keeps them"
        )
    with fork_rng():
        return block.cls(*plan.args, **plan.keywords)
