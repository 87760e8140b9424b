"""The catalogue of attention variants as figures: what each adds to the base model, for the list and the documents."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tqdm import tqdm

from models.graph.architecture import Architecture, read_yaml
from models.graph.shapes import ShapeCache, infer_shapes, load_spec, totals
from models.registry import find
from models.zoo.table import MODELS, Variant, load_variants, scale_architecture

SCALES_SHOWN = ("n", "l")  # the scales that the catalogue tells of
BASE_YAML = "yolov5l.yaml"


@dataclass(frozen=True)
class CatalogueEntry:
    """One variant. parameters, gflops: scale -> how many it has more than YOLOv5 6.1 at that scale (80 classes; billions
    of operations of matrix products and convolutions, 2 a multiply-add, on one image of 640 x 640).
    """

    tag: str
    block: str
    paper: str
    place: str
    cost: str
    parameters: dict[str, int]
    gflops: dict[str, float]


def measure_base(cache: ShapeCache | None = None) -> CatalogueEntry:
    """Return the totals of the model without attention."""
    parameters, gflops = _figures(read_yaml(MODELS / BASE_YAML), cache or ShapeCache())
    return CatalogueEntry("base", "-", "YOLOv5 6.1", "-", "-", parameters, gflops)


def measure_variants(variants: Mapping[str, Variant] | None = None, progress: bool = False) -> list[CatalogueEntry]:
    """Return a record a variant, those of zoo.yaml by default; `progress` shows a bar on a terminal's stderr."""
    variants = load_variants() if variants is None else variants
    cache = ShapeCache()
    base = measure_base(cache)
    bar = tqdm(variants.values(), file=sys.stderr, disable=None if progress else True, leave=False, desc="measuring")
    return [_record(variant, base, cache) for variant in bar]


def _record(variant: Variant, base: CatalogueEntry, cache: ShapeCache) -> CatalogueEntry:
    parameters, gflops = _figures(variant.architecture(), cache)
    return CatalogueEntry(
        variant.name,
        variant.block,
        variant.paper,
        variant.place,
        find(variant.block).cost,
        {scale: parameters[scale] - base.parameters[scale] for scale in SCALES_SHOWN},
        {scale: gflops[scale] - base.gflops[scale] for scale in SCALES_SHOWN},
    )


def _figures(architecture: Architecture, cache: ShapeCache) -> tuple[dict[str, int], dict[str, float]]:
    sums = {
        scale: totals(infer_shapes(load_spec(scale_architecture(architecture, scale)), cache)) for scale in SCALES_SHOWN
    }
    return {scale: pair[0] for scale, pair in sums.items()}, {scale: pair[1] / 1e9 for scale, pair in sums.items()}


def format_catalogue(found: list[CatalogueEntry]) -> str:
    """Return records as a table, the base model's totals in its first line."""
    heads = (
        "variant",
        "block",
        "cost",
        *(f"{scale} params" for scale in SCALES_SHOWN),
        *(f"{scale} GFLOPs" for scale in SCALES_SHOWN),
        "place",
        "paper",
    )
    rows = [heads, _cells(measure_base(), ""), *(_cells(record, "+") for record in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(record: CatalogueEntry, sign: str) -> tuple[str, ...]:
    return (
        record.tag,
        record.block,
        record.cost,
        *(f"{record.parameters[scale]:{sign},}" for scale in SCALES_SHOWN),
        *(f"{record.gflops[scale]:{sign}.2f}" for scale in SCALES_SHOWN),
        record.place,
        record.paper,
    )
