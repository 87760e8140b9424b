"""Figures of the attention variants: what each adds to the base model, for `python -m models.zoo list` and the docs."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tqdm import tqdm

from models.graph.architecture import Architecture, read_yaml
from models.graph.shapes import ShapeCache, infer_shapes, load_spec, totals
from models.registry import find
from models.zoo.table import MODELS, Variant, load_variants, scale_architecture

SCALES_SHOWN = ("n", "l")  # the scales that figures are given for
BASE_YAML = "yolov5l.yaml"


@dataclass(frozen=True)
class CatalogueEntry:
    """Block, paper, place and cost of one variant.

    Attributes:
        tag: The variant's name.
        block: The block's registered name.
        paper: Title and link.
        place: Where the block is, in words.
        cost: How the block's cost grows with the number of positions.
        parameters: Scale -> how many it has more than YOLOv5 6.1 at that scale, with 80 classes.
        gflops: Scale -> 1e9 operations of matrix products and convolutions that it has more, 2 per multiply-add, for
            one image of 640 x 640.
    """

    tag: str
    block: str
    paper: str
    place: str
    cost: str
    parameters: dict[str, int]
    gflops: dict[str, float]


def measure_base(cache: ShapeCache | None = None) -> CatalogueEntry:
    """Return the totals, not differences, of the base model without attention."""
    parameters, gflops = _measure(read_yaml(MODELS / BASE_YAML), cache or ShapeCache())
    return CatalogueEntry("base", "-", "YOLOv5 6.1", "-", "-", parameters, gflops)


def measure_variants(variants: Mapping[str, Variant] | None = None, progress: bool = False) -> list[CatalogueEntry]:
    """Return one entry per variant.

    Args:
        variants: Name -> variant, by default those of zoo.yaml.
        progress: Show a bar on stderr if it is a terminal.

    Returns:
        Entries in the order of `variants`.
    """
    variants = load_variants() if variants is None else variants
    cache = ShapeCache()
    base = measure_base(cache)
    bar = tqdm(variants.values(), file=sys.stderr, disable=None if progress else True, leave=False, desc="measuring")
    return [_measure_variant(variant, base, cache) for variant in bar]


def _measure_variant(variant: Variant, base: CatalogueEntry, cache: ShapeCache) -> CatalogueEntry:
    parameters, gflops = _measure(variant.architecture(), cache)
    return CatalogueEntry(
        variant.name,
        variant.block,
        variant.paper,
        variant.place,
        find(variant.block).cost,
        {scale: parameters[scale] - base.parameters[scale] for scale in SCALES_SHOWN},
        {scale: gflops[scale] - base.gflops[scale] for scale in SCALES_SHOWN},
    )


def _measure(architecture: Architecture, cache: ShapeCache) -> tuple[dict[str, int], dict[str, float]]:
    """Return (scale -> parameters, scale -> GFLOPs)."""
    sums = {
        scale: totals(infer_shapes(load_spec(scale_architecture(architecture, scale)), cache)) for scale in SCALES_SHOWN
    }
    return {scale: pair[0] for scale, pair in sums.items()}, {scale: pair[1] / 1e9 for scale, pair in sums.items()}


def format_catalogue(entries: list[CatalogueEntry]) -> str:
    """Return entries as aligned columns, the base model's totals in the first row."""
    heads = (
        "variant",
        "block",
        "cost",
        *(f"{scale} params" for scale in SCALES_SHOWN),
        *(f"{scale} GFLOPs" for scale in SCALES_SHOWN),
        "place",
        "paper",
    )
    rows = [heads, _cells(measure_base(), ""), *(_cells(entry, "+") for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(entry: CatalogueEntry, sign: str) -> tuple[str, ...]:
    return (
        entry.tag,
        entry.block,
        entry.cost,
        *(f"{entry.parameters[scale]:{sign},}" for scale in SCALES_SHOWN),
        *(f"{entry.gflops[scale]:{sign}.2f}" for scale in SCALES_SHOWN),
        entry.place,
        entry.paper,
    )
