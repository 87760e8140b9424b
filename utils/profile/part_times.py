"""Where the time of a step goes, by part: a clock with named parts, and the table of its steps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from utils.device import synchronize
from utils.profile.components import attention_modules, layers_of

OTHER = "other"


@dataclass
class PartClock:
    """Divides the time of each step among its parts; a part's time leaves out that of the parts inside it.

    On a GPU the host waits for the device at each change of part, so that a part has the time of its own work.

    Attributes:
        device: Where the work is done.
        now: Returns seconds.
        is_traced: Also mark the parts in a trace of torch's profiler.
        steps: Seconds by part of each step that has ended.
    """

    device: torch.device
    now: Callable[[], float] = time.perf_counter
    is_traced: bool = False
    steps: list[dict[str, float]] = field(default_factory=list)
    _current: dict[str, float] = field(default_factory=dict)
    _open: list[tuple[str, Any]] = field(default_factory=list)
    _since: float = 0.0

    @property
    def is_inside(self) -> bool:
        """Whether a step has begun."""
        return bool(self._open)

    def begin_step(self) -> None:
        """Begin a step; what is no part of it counts as "other"."""
        if self.is_inside:  # of an epoch that was broken off
            self.drop_step()
        self._current = {}
        self._since = self._read()
        self._push(OTHER)

    def end_step(self) -> None:
        """End the step and keep its times."""
        while self._open:
            self.leave()
        self.steps.append(self._current)

    def drop_step(self) -> None:
        """End the step without keeping it."""
        self.end_step()
        self.steps.pop()

    def enter(self, part: str) -> None:
        """Begin a part."""
        self._add()
        self._push(part)

    def leave(self) -> None:
        """End the part that was begun last."""
        self._add()
        _, mark = self._open.pop()
        if mark is not None:
            mark.__exit__(None, None, None)

    def rename(self, part: str) -> None:
        """End the part that was begun last and begin another in its place."""
        self.leave()
        self._push(part)

    def move(self, seconds: dict[str, float]) -> None:
        """Give time that was counted as "other" to parts that were timed elsewhere."""
        self._add()
        for part, value in seconds.items():
            self._current[part] = self._current.get(part, 0.0) + value
            self._current[OTHER] = self._current.get(OTHER, 0.0) - value

    def seconds(self, prefix: str) -> float:
        """Return the seconds so far of the current step's parts whose name begins with `prefix`."""
        return sum(value for part, value in self._current.items() if part.startswith(prefix))

    def _push(self, part: str) -> None:
        mark = None
        if self.is_traced:
            mark = torch.profiler.record_function(part)
            mark.__enter__()
        self._open.append((part, mark))

    def _add(self) -> None:
        now, (part, _) = self._read(), self._open[-1]
        self._current[part] = self._current.get(part, 0.0) + now - self._since
        self._since = now

    def _read(self) -> float:
        synchronize(self.device)
        return self.now()


def layer_labels(model: nn.Module) -> dict[tuple[int, bool], str]:
    """Return the name of the part that each layer is, and the attention inside it, by component."""
    labels: dict[tuple[int, bool], str] = {}
    for index, layer in enumerate(layers_of(model)):
        block = str(getattr(layer, "type", type(layer).__name__)).rsplit(".", 1)[-1]
        labels[index, False] = f"forward: {block}"
        if any(inner is not layer for inner in attention_modules(layer)):
            labels[index, True] = f"forward: attention in {block}"
    return labels


def render_parts(steps: Sequence[dict[str, float]], order: Sequence[str], unit: str) -> str:
    """Return a table of the mean time of each part.

    Args:
        steps: Seconds by part of each step, at least one.
        order: The parts in the order of the rows; "part: detail" follows its part, "other" comes last.
        unit: What a step is, such as "batch".

    Returns:
        Aligned lines: milliseconds per step, share of the whole, and the slowest step.
    """
    found = {part for step in steps for part in step}
    rows = []
    for part in (*order, OTHER):
        details = sorted((each for each in found if each.startswith(f"{part}: ")), key=lambda each: -_mean(steps, each))
        if part in found or details:
            own = [each for each in (part, *details) if each in found]
            rows.append((part, own))
            rows += [(f"  {each.removeprefix(f'{part}: ')}", [each]) for each in details]
            if details and part in found:
                rows.append(("  between layers", [part]))
    total = sum(_mean(steps, part) for part in found)
    cells = [("part", f"ms per {unit}", "share", "slowest")]
    cells += [_cells(name, [[step.get(part, 0.0) for part in parts] for step in steps], total) for name, parts in rows]
    cells.append(_cells("all", [list(step.values()) for step in steps], total))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    )


def _mean(steps: Sequence[dict[str, float]], part: str) -> float:
    return sum(step.get(part, 0.0) for step in steps) / len(steps)


def _cells(name: str, values: Sequence[Sequence[float]], total: float) -> tuple[str, str, str, str]:
    sums = [sum(each) for each in values]
    mean = sum(sums) / len(sums)
    return name, f"{1000 * mean:.2f}", f"{100 * mean / total if total else 0:.1f} %", f"{1000 * max(sums):.2f}"
