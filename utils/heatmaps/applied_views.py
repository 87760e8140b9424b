"""What attention blocks applied, as arrays to draw: bars, overlays, matrices, arrows and kernels of one image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.recording import AppliedAttention

MOST_OVERLAYS = 8  # panels of one record: more cannot be read
MOST_ARROWS = 24  # along a side
NAMED_BARS = 5


@dataclass(frozen=True)
class AppliedView:
    """One panel.

    Attributes:
        form: "bars", "overlay", "matrix", "arrows" or "kernel".
        title: What it shows.
        values: Of bars (n,) by falling value; of an overlay (h, w) over the network input; of a matrix (c, c), row q
            being the channel that takes; of arrows (n, 4) y, x, dy, dx as shares of the network input's height and
            width; of a kernel (k, k).
        labels: Of bars: the names of the first `NAMED_BARS`, such as "#12".
        at_query: Whether the panel is about the query point.
    """

    form: str
    title: str
    values: np.ndarray
    labels: tuple[str, ...] = ()
    at_query: bool = False


def views_of(
    shown: AppliedAttention, query: tuple[float, float] | None = None, input_size: tuple[int, int] | None = None
) -> list[AppliedView]:
    """Return the panels of a record of one image.

    Args:
        shown: The record; its batch is one image.
        query: (y, x) of a point as shares of the network input's height and width; None for means over all positions.
        input_size: (H, W) of the map that enters the block, in which offsets count; None if it is `shown.size`.

    Returns:
        One panel or more.
    """
    values = shown.values[0].detach().to("cpu", torch.float32)
    place = None if query is None else cell_of(query, shown.size)
    if shown.kind == "offsets":
        return _offsets(values, shown, place, input_size or shown.size)
    if shown.kind == "attention":
        return _attention(values, shown, place)
    plain: dict[str, Callable[[Tensor], list[AppliedView]]] = {
        "gate": lambda gate: _gate(gate, shown.size),
        "maps": _maps,
        "channels": _channels,
        "branches": lambda share: _branches(share, shown.size),
    }
    return plain[shown.kind](values) if shown.kind in plain else _kernels(values, place)


def cell_of(point: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
    """Return the (row, column) of a map in which a point lies.

    Args:
        point: (y, x), 0..1 of the area that the map covers.
        size: (H, W) of the map.

    Returns:
        A position of the map.
    """
    row, column = (min(max(int(share * side), 0), side - 1) for share, side in zip(point, size, strict=True))
    return row, column


def _bars(title: str, values: Tensor, word: str = "#") -> AppliedView:
    order = values.argsort(descending=True, stable=True)
    labels = tuple(f"{word}{index}" for index in order[:NAMED_BARS].tolist())
    return AppliedView("bars", title, values[order].numpy(), labels)


def _overlay(title: str, values: Tensor, size: tuple[int, int], at_query: bool = False) -> AppliedView:
    return AppliedView("overlay", title, values.expand(*size).numpy().copy(), (), at_query)


def _gate(values: Tensor, size: tuple[int, int]) -> list[AppliedView]:
    channels, height, width = values.shape
    is_spatial = height * width > 1
    if channels == 1:
        return [_overlay("gate", values[0], size) if is_spatial else _bars("gate", values.flatten())]
    means = values.mean((1, 2))
    by_channel = _bars("channels by rank" + ", mean over positions" * is_spatial, means)
    if is_spatial and float(means.max() - means.min()) <= 1e-5 * float(means.abs().max()):
        return [_overlay("mean over channels", values.mean(0), size)]  # a softmax over positions: no rank to show
    return [_overlay("mean over channels", values.mean(0), size), by_channel] if is_spatial else [by_channel]


def _attention(values: Tensor, shown: AppliedAttention, place: tuple[int, int] | None) -> list[AppliedView]:
    if place is None:
        by_head, title = _received(values, shown), "mean over queries"
    else:
        row = place[0] * shown.size[1] + place[1]
        by_head, title = _scattered(values[:, row], None if shown.keys is None else shown.keys[row], shown), "query"
    at_query = place is not None
    heads = len(by_head)
    mean = _overlay(
        f"{title}, mean of {heads} heads" if heads > 1 else title, by_head.mean(0), shown.key_size, at_query
    )
    each = [
        _overlay(f"{title}, head {head}", by_head[head], shown.key_size, at_query)
        for head in range(min(heads, MOST_OVERLAYS - 1))
    ]
    return [mean, *(each if heads > 1 else [])]


def _scattered(weights: Tensor, keys: Tensor | None, shown: AppliedAttention) -> Tensor:
    """(heads, H, W) of the weights (heads, K) of one query; a key outside the map is left out."""
    if keys is None:
        return weights.reshape(-1, *shown.key_size)
    cells = math.prod(shown.key_size)
    at = keys.to("cpu").masked_fill(keys.to("cpu") < 0, cells)
    return weights.new_zeros(len(weights), cells + 1).index_add_(1, at, weights)[:, :cells].reshape(-1, *shown.key_size)


def _received(values: Tensor, shown: AppliedAttention) -> Tensor:
    """(heads, H, W): how much each key gets, the mean over all queries."""
    heads, queries, _ = values.shape
    if shown.keys is None:
        return values.mean(1).reshape(heads, *shown.key_size)
    keys = shown.keys.to("cpu").flatten()
    return _scattered(values.reshape(heads, -1) / queries, keys, shown)


def _maps(values: Tensor) -> list[AppliedView]:
    """The mean of all maps, and those that vary most over the positions."""
    count, size = len(values), (values.shape[1], values.shape[2])
    if count == 1:
        return [_overlay("map", values[0], size)]
    spread = values.flatten(1).std(1, correction=0)
    first = spread.argsort(descending=True, stable=True)[: MOST_OVERLAYS - 1].sort().values.tolist()
    others = f"\nbeside it the {len(first)} that vary most" if len(first) < count else ""
    mean = _overlay(f"mean of {count} maps{others}", values.mean(0), size)
    return [mean, *(_overlay(f"map {index}", values[index], size) for index in first)]


def _channels(values: Tensor) -> list[AppliedView]:
    heads = len(values)
    mean = AppliedView(
        "matrix", f"mean of {heads} heads" if heads > 1 else "channel by channel", values.mean(0).numpy()
    )
    each = [
        AppliedView("matrix", f"head {head}", values[head].numpy()) for head in range(min(heads, MOST_OVERLAYS - 1))
    ]
    return [mean, *(each if heads > 1 else [])]


def _branches(values: Tensor, size: tuple[int, int]) -> list[AppliedView]:
    count, channels, height, width = values.shape
    views = [
        AppliedView("bars", "mean share of each branch", values.mean((1, 2, 3)).numpy(), tuple(map(str, range(count))))
    ]
    if height * width > 1:
        views += [
            _overlay(f"branch {index}", values[index].mean(0), size) for index in range(min(count, MOST_OVERLAYS))
        ]
    elif channels > 1:
        views += [_bars(f"branch {index}: channels by rank", values[index].flatten()) for index in range(min(count, 4))]
    return views


def _offsets(
    values: Tensor, shown: AppliedAttention, place: tuple[int, int] | None, input_size: tuple[int, int]
) -> list[AppliedView]:
    """Arrows from the places of the samples: the mean over the points, or all points of the query."""
    size, unit = shown.size, torch.tensor(input_size, dtype=values.dtype).view(1, 2, 1, 1)
    shares = values / unit
    starts = torch.tensor([_center((row, column), size) for row in range(size[0]) for column in range(size[1])])
    starts = starts.to(values.dtype).view(1, *size, 2).permute(0, 3, 1, 2).expand(len(values), -1, -1, -1)
    if shown.places is not None:
        starts = starts + shown.places.to("cpu", values.dtype) / unit
    length = values.norm(dim=1).mean(0)
    overlay = _overlay("mean length in pixels of the block's input", length, size)
    if place is not None:
        moves = shares[:, :, place[0], place[1]]
        arrows = torch.cat((starts[:, :, place[0], place[1]], moves), 1)
        return [AppliedView("arrows", f"{len(moves)} points of the query", arrows.numpy(), (), True), overlay]
    steps = [max(math.ceil(side / MOST_ARROWS), 1) for side in size]
    mean = torch.cat((starts.mean(0), shares.mean(0)))
    rows = [
        mean[:, row, column].tolist()
        for row in range(steps[0] // 2, size[0], steps[0])
        for column in range(steps[1] // 2, size[1], steps[1])
    ]
    return [AppliedView("arrows", f"mean of {len(values)} points", np.array(rows, np.float32)), overlay]


def _center(place: Sequence[int], size: Sequence[int]) -> list[float]:
    return [(index + 0.5) / side for index, side in zip(place, size, strict=True)]


def _kernels(values: Tensor, place: tuple[int, int] | None) -> list[AppliedView]:
    """The kernels of the groups at the query, or their means; and how far each position's are from the mean."""
    groups, taps = values.shape[:2]
    side = math.isqrt(taps)
    at_query = place is not None
    chosen = values.mean((2, 3)) if place is None else values[:, :, place[0], place[1]]
    title = "query" if at_query else "mean over positions"
    first = range(min(groups, MOST_OVERLAYS - 2))
    grids = [
        AppliedView(
            "kernel", f"{title}, group {group} of {groups}", chosen[group].reshape(side, side).numpy(), (), at_query
        )
        for group in first
    ]
    mean = AppliedView(
        "kernel", f"{title}, mean of {groups} groups", chosen.mean(0).reshape(side, side).numpy(), (), at_query
    )
    differs = (values - values.mean((2, 3), keepdim=True)).norm(dim=1).mean(0)
    title = f"distance from the mean, {float(differs.min()):.2g} to {float(differs.max()):.2g}"  # no bar of its own
    overlay = _overlay(title, differs, (values.shape[2], values.shape[3]))
    return [*([mean] if groups > 1 else []), *grids, overlay]
