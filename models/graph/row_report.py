"""What the numbers of a row became: one line per row of an attention block, and the numbers that are implausible.

A C3Attention is reported by the block in its bottlenecks.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from models.arguments import Argument, shorten
from models.c3_attention import C3Attention, plan_inner_block
from models.graph.spec import LayerRow, ModelSpec
from models.registry import Entry, WiringPlan, count_wired


@dataclass(frozen=True)
class BlockRow:
    """An attention block of a row, and how it is built.

    Attributes:
        row: The row.
        entry: The block; that in the bottlenecks of a C3Attention.
        plan: How it is built.
        channels: Channels that arrive at it.
    """

    row: LayerRow
    entry: Entry
    plan: WiringPlan
    channels: int

    def describe(self) -> str:
        """Return what each number became: "layer 9 CBAM: ratio 16, kernel_size 7"."""
        inner = f" {self.entry.name}" * (self.entry.name != self.row.block)
        parts = [f"{name} {shorten(value)}" for name, value in self._widths()]
        parts += [self._describe_argument(argument, value) for argument, value in self._values()]
        return f"layer {self.row.index} {self.row.block}{inner}: {', '.join(parts) or 'no arguments'}"

    def implausible(self) -> Iterator[tuple[Argument, str]]:
        """Yield (argument, what is wrong) of each value outside its argument's range."""
        for argument, value in self._values():
            if value is not argument.default and not argument.fits(value, self.channels):
                yield (
                    argument,
                    f"{argument.name} {shorten(value)} is no plausible {argument.kind.name}, "
                    f"which is {argument.kind.describe_range(self.channels)}",
                )

    def _values(self) -> list[tuple[Argument, Any]]:
        bound = self.entry.bind(self.plan)
        return [(argument, bound[argument.name]) for argument in self.entry.arguments]

    def _widths(self) -> list[tuple[str, Any]]:
        """Return the arguments between the channels that arrive and those of the row, such as an output width."""
        wired = count_wired(self.entry.form, self.entry.wiring_name)
        names = list(inspect.signature(self.entry.cls).parameters)[:wired]
        return list(zip(names, self.plan.args, strict=False))[1:]

    def _describe_argument(self, argument: Argument, value: Any) -> str:
        is_default = value is argument.default or type(value) is type(argument.default) and value == argument.default
        note = self.entry.form.elsewhere.get(argument.name) if is_default else None
        text = f"{argument.name} {'by default' if value is None else shorten(value)}"
        return f"{text} ({note})" if note else text


def read_block_row(row: LayerRow, entry: Entry, spec: ModelSpec, channels: Sequence[int]) -> BlockRow | None:
    """Return the attention block of a row.

    Args:
        row: The row.
        entry: Its block.
        spec: The model yaml that it is a row of.
        channels: Channels of each source.

    Returns:
        The block, None if the row's is no attention.

    Raises:
        ValueError: If the arguments do not fit.
    """
    is_c3 = issubclass(entry.cls, C3Attention)
    if not (entry.inserted or is_c3):
        return None
    plan = entry.plan(channels, spec.scale.repeats(row.repeats), spec.scale, row.args)
    return BlockRow(row, *plan_inner_block(plan)) if is_c3 else BlockRow(row, entry, plan, channels[0])
