"""A page of plots about a dataset: classes, boxes with anchors and strides, image sizes, findings and copies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.config.dataset_spec import SPLITS
from utils.datasets.check.box_fit import BoxFit
from utils.datasets.label_store import LabelStore
from utils.plots.canvas import axis_label, saved_figure
from utils.plots.fonts import class_labels

SPLIT_COLORS = ("#3b6fb6", "#e08a1e", "#4f9d5d", "#8e5bb5", "#b5533c", "#4aa3b5")
SPLIT_LINES = ("-", "--", ":", "-.")  # so that curves of splits that coincide show
LEVEL_COLORS = {"fault": "#c0392b", "warning": "#e3a008", "note": "#8a94a0"}
_MOST_NAMED = 24
_MOST_KINDS = 14
_DENSITY = "Blues"


@dataclass(frozen=True)
class OverviewPage:
    """What the page shows.

    Attributes:
        title: Name of the data yaml.
        names: Class names.
        head: Name of the model whose anchors and strides are shown.
        strides: (nl,) pixels.
        anchors: (n, 2) pixels, perhaps none.
        stores: split -> images and labels.
        fits: split -> how its boxes fit the head.
        copies: split -> earlier or same split -> images that repeat one of it.
        kinds: (kind, level, count) of the findings.
        levels: level -> findings of it.
    """

    title: str
    names: Sequence[str]
    head: str
    strides: np.ndarray
    anchors: np.ndarray
    stores: Mapping[str, LabelStore]
    fits: Mapping[str, BoxFit]
    copies: Mapping[str, Mapping[str, int]]
    kinds: Sequence[tuple[str, str, int]]
    levels: Mapping[str, int]


def plot_page(page: OverviewPage, file: Path | str) -> None:
    """Write the page of nine plots.

    Args:
        page: What it shows.
        file: The image file.
    """
    with saved_figure(file, 16, 13.5, dpi=110) as figure:
        grid = figure.subplots(3, 3)
        images = sum(len(store) for store in page.stores.values())
        objects = sum(len(store.cls) for store in page.stores.values())
        levels = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in page.levels.items())
        title = f"{page.title}: {images:,} usable images, {objects:,} objects, {len(page.names)} classes; {levels}"
        figure.suptitle(title, fontsize=15)
        _classes(grid[0, 0], page, class_labels(page.names, Path(file).parent, in_plot=True))
        _objects_per_image(grid[0, 1], page)
        _findings(grid[0, 2], page)
        _sizes(grid[1, 0], page)
        _ratios(grid[1, 1], page)
        _scales(grid[1, 2], page)
        _image_sizes(grid[2, 0], page)
        _centers(grid[2, 1], page)
        _copies(grid[2, 2], page)


def _color(page: OverviewPage, split: str) -> str:
    return SPLIT_COLORS[_split_rank(page, split) % len(SPLIT_COLORS)]


def _line(page: OverviewPage, split: str) -> str:
    return SPLIT_LINES[_split_rank(page, split) % len(SPLIT_LINES)]


def _split_rank(page: OverviewPage, split: str) -> int:
    """Train, val and test have colors of their own, the others follow in their order."""
    return list(dict.fromkeys((*SPLITS, *page.stores))).index(split)


def _classes(axes, page: OverviewPage, labels: Sequence[str]) -> None:
    """Objects per class and split: bars by name for few classes, curves by rank for many."""
    counts = {name: store.class_counts(len(page.names)) for name, store in page.stores.items()}
    order = np.argsort(-np.sum(list(counts.values()), axis=0), kind="stable")
    if len(page.names) > _MOST_NAMED:
        for name, values in counts.items():
            ranked = np.where(values[order], values[order], np.nan)
            axes.plot(
                np.arange(1, len(order) + 1),
                ranked,
                marker=".",
                color=_color(page, name),
                linestyle=_line(page, name),
                label=name,
                linewidth=1,
            )
        axes.set(yscale="log", xlabel="class, by number of objects", ylabel="objects", title="Objects per class")
        axes.legend(frameon=False)
        return
    height = 0.8 / len(counts)
    for index, (name, values) in enumerate(counts.items()):
        places = np.arange(len(order)) + (index - (len(counts) - 1) / 2) * height
        bars = axes.barh(places, values[order], height, color=_color(page, name), label=name)
        if len(order) <= 8:
            axes.bar_label(bars, [f"{value:,}" for value in values[order]], padding=3, fontsize=8)
    axes.set_yticks(range(len(order)), [axis_label(labels[index]) for index in order])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set(xlabel="objects", title="Objects per class")
    axes.legend(frameon=False, loc="lower right")


def _objects_per_image(axes, page: OverviewPage) -> None:
    counts = {name: np.diff(store.offsets) for name, store in page.stores.items() if len(store)}
    most = max((int(values.max()) for values in counts.values()), default=0)
    bins = np.arange(-0.5, most + 1.5, max(1, most // 40))
    if bins[-1] < most + 0.5:
        bins = np.append(bins, bins[-1] + max(1, most // 40))
    for name, values in counts.items():
        axes.hist(
            values,
            bins,
            weights=np.full(len(values), 100 / len(values)),
            histtype="step",
            linewidth=1.8,
            color=_color(page, name),
            linestyle=_line(page, name),
            label=f"{name}, mean {values.mean():.1f}",
        )
    axes.set(xlabel="objects per image", ylabel="% of images", title="Objects per image", xlim=(bins[0], bins[-1]))
    axes.legend(frameon=False)


def _findings(axes, page: OverviewPage) -> None:
    """Findings of each kind, worst level first, on a logarithmic scale."""
    order = list(LEVEL_COLORS)
    kinds = sorted(page.kinds, key=lambda kind: (order.index(kind[1]), -kind[2]))[:_MOST_KINDS]
    axes.set_title("Findings" if kinds else "No findings")
    if not kinds:
        axes.set_axis_off()
        return
    bars = axes.barh(
        range(len(kinds)), [count for _, _, count in kinds], color=[LEVEL_COLORS[level] for _, level, _ in kinds]
    )
    axes.bar_label(bars, [f"{count:,}" for _, _, count in kinds], padding=3, fontsize=9)
    axes.set_yticks(range(len(kinds)), [kind for kind, _, _ in kinds])
    axes.set_ylim(max(len(kinds), 6) - 0.4, -0.6)  # the worst on top; few bars stay slim
    axes.set(xscale="log", xlim=(0.5, max(count for _, _, count in kinds) * 5), xlabel="count")
    present = [level for level in order if any(kind[1] == level for kind in kinds)]
    handles = [axes.barh([0], [0], color=LEVEL_COLORS[level]) for level in present]
    axes.legend(handles, present, frameon=False, loc="lower right")


def _all_sizes(page: OverviewPage) -> np.ndarray:
    return np.concatenate([fit.wh for fit in page.fits.values()])


def _sizes(axes, page: OverviewPage) -> None:
    """Widths and heights in network pixels, with the anchors, the strides and the least side."""
    wh, fit = _all_sizes(page), next(iter(page.fits.values()))
    low, high = 1.0, max(fit.imgsz * 1.15, 64)
    shown = wh[(wh > 0).all(1)].clip(low, high)
    if len(shown):
        edges = np.geomspace(low, high, 60)
        axes.hist2d(shown[:, 0], shown[:, 1], bins=(edges, edges), cmap=_DENSITY, cmin=1, norm="log")
    if len(page.anchors):
        axes.plot(
            *page.anchors.T,
            "^",
            color="#c0392b",
            markersize=7,
            markeredgecolor="white",
            label=f"anchors of {page.head}",
        )
    for index, stride in enumerate(page.strides):
        axes.plot(
            [low, stride, stride],
            [stride, stride, low],
            color="#555555",
            linewidth=0.8,
            linestyle=":",
            label="strides" if index == 0 else None,
        )
    axes.plot([low, high], [fit.least_side] * 2, [fit.least_side] * 2, [low, high], color="#e3a008", linewidth=1)
    axes.plot([], [], color="#e3a008", label=f"{fit.least_side:g} pixels")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        xlabel="width, pixels",
        ylabel="height, pixels",
        title=f"Boxes at --imgsz {fit.imgsz}",
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _ratios(axes, page: OverviewPage) -> None:
    """How far boxes are from their best anchor."""
    axes.set(
        title="Distance to the best anchor",
        xlabel="factor between the worse side and the anchor's",
        ylabel="% of boxes",
    )
    measured = {name: fit for name, fit in page.fits.items() if len(fit.ratio)}
    if not measured:
        why = "no boxes" if len(page.anchors) else "anchors are fitted when training starts"
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
        return
    limit = next(iter(measured.values())).threshold
    bins = np.linspace(1, 2 * limit, 57)
    for name, fit in measured.items():
        weights, outside = np.full(len(fit.ratio), 100 / len(fit.ratio)), fit.without_anchor.mean()
        axes.hist(
            fit.ratio.clip(1, 2 * limit - 1e-6),
            bins,
            weights=weights,
            histtype="step",
            linewidth=1.8,
            color=_color(page, name),
            linestyle=_line(page, name),
            label=f"{name}: {outside:.1%} without anchor",
        )
    axes.axvline(limit, color="#c0392b", linewidth=1, linestyle="--")
    axes.text(
        limit,
        0.5,
        f" anchor_t {limit:g}: no anchor matches beyond",
        rotation=90,
        ha="right",
        va="center",
        color="#c0392b",
        fontsize=8,
        transform=axes.get_xaxis_transform(),
    )
    axes.set_xlim(1, 2 * limit)
    axes.legend(frameon=False)


def _scales(axes, page: OverviewPage) -> None:
    """Share of boxes below a size: do the splits have objects of one size?"""
    for name, fit in page.fits.items():
        sides = np.sort(np.sqrt(fit.wh.prod(1))).clip(0.5)  # a box of no size would stretch the axis
        if len(sides):
            axes.plot(
                sides,
                np.linspace(0, 100, len(sides)),
                color=_color(page, name),
                linewidth=1.8,
                linestyle=_line(page, name),
                label=f"{name}, median {np.median(sides):.0f}",
            )
    for stride in page.strides:
        axes.axvline(stride, color="#555555", linewidth=0.8, linestyle=":")
        axes.text(stride, 101, f"{stride:g}", ha="center", fontsize=8, color="#555555", clip_on=True)
    axes.set(
        xscale="log",
        ylim=(0, 106),
        xlabel="square root of the area, pixels (dotted: strides)",
        ylabel="% of boxes that are smaller",
        title="Object sizes per split",
    )
    if axes.lines and any(len(fit.wh) for fit in page.fits.values()):
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.94), framealpha=0.9, edgecolor="none")


def _image_sizes(axes, page: OverviewPage) -> None:
    """Native sizes of the images; the larger a dot, the more images have that size."""
    largest = 1
    for name, store in page.stores.items():
        if len(store):
            sizes, counts = np.unique(store.sizes[:, ::-1], axis=0, return_counts=True)
            area = 18 + 400 * counts / len(store)
            axes.scatter(
                *sizes.T,
                s=area,
                color=_color(page, name),
                alpha=0.45,
                linewidths=0,
                label=f"{name}, {len(sizes)} size{'' if len(sizes) == 1 else 's'}",
            )
            largest = max(largest, int(sizes.max()))
    axes.plot([0, largest * 1.1], [0, largest * 1.1], color="#aaaaaa", linewidth=0.8, zorder=0)
    axes.set(
        xlim=(0, largest * 1.1),
        ylim=(0, largest * 1.1),
        aspect="equal",
        xlabel="width, pixels",
        ylabel="height, pixels",
        title="Image sizes",
    )
    if axes.collections:
        for handle in axes.legend(frameon=False, loc="upper left").legend_handles:
            handle.set_sizes([60])


def _centers(axes, page: OverviewPage) -> None:
    """Centers of objects, as a share of the image's width and height."""
    xywhn = np.concatenate([store.xywhn for store in page.stores.values()])
    axes.hist2d(
        xywhn[:, 0], xywhn[:, 1], bins=40, range=((0, 1), (0, 1)), cmap=_DENSITY, cmin=1 if len(xywhn) else None
    )
    axes.set(
        xlim=(0, 1),
        ylim=(1, 0),
        aspect="equal",
        xlabel="x of the center",
        ylabel="y of the center",
        title="Centers of objects",
    )


def _copies(axes, page: OverviewPage) -> None:
    """Images of each split (rows) that repeat one of another or of their own."""
    names = list(page.copies)
    axes.set_title("Images that repeat another (same or near)")
    for row, split in enumerate(names):
        for column, other in enumerate(names[: row + 1]):
            count = page.copies[split][other]
            shade = "#eef1f4" if not count else LEVEL_COLORS["warning" if row == column else "fault"]
            axes.add_patch(_square(column, row, shade))
            ink = "white" if count and row != column else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=13, color=ink)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal", xlabel="of", ylabel="image in"
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _square(column: int, row: int, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, color=color)
