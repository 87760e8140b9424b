"""Named places in a model yaml, resolved from its rows: where a block may be inserted without counting layers.

A place is a layer index or one of `PLACES`; a block is inserted right behind the layers that it means. `neck-p4p5`
asks models/graph/shapes.py for strides, all others are resolved from the rows without torch. `in-c3` stands for no
layers: the block goes into the bottlenecks of the backbone's C3s, which become C3Attention.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from models.graph.architecture import SECTIONS, Architecture, as_list, insert_block, replace_block, source_index
from models.row_reading import argument_of
from utils.errors import ModelError, nearest

STAGE_BLOCKS = frozenset(("BottleneckCSP", "C3", "C3Attention", "C3Ghost", "C3SPP", "C3TR"))  # the CSP family
POOLS = ("SPP", "SPPF")
IN_C3 = "in-c3"
PLACES = {  # name: how headers of yamls and tables call it
    "before-sppf": "before SPPF",
    "after-sppf": "after SPPF",
    "backbone": "after each backbone C3",
    "neck": "after each neck C3 that Detect reads",
    "neck-p4p5": "after the neck's C3s that Detect reads, without the finest",
    "last-neck": "after the last neck C3",
    IN_C3: "in the bottlenecks of every backbone C3",
}
REQUIREMENTS = {  # name: what a yaml with that place has
    "before-sppf": "an SPP or SPPF layer",
    "after-sppf": "an SPP or SPPF layer",
    "backbone": "a C3 in the backbone",
    "neck": "a C3 in the head that Detect reads",
    "neck-p4p5": "two C3s of different stride in the head that Detect reads",
    "last-neck": "a C3 in the head that Detect reads",
    IN_C3: "a plain C3 in the backbone",
}


def insert_at(
    architecture: Architecture,
    block: str,
    at: int | str | Sequence[int | str],
    args: Sequence[Any] = (),
    stage_blocks: Collection[str] = STAGE_BLOCKS,
) -> Architecture:
    """Return `architecture` with `block` inserted at places.

    Args:
        architecture: The rows to insert into; it is left as it is.
        block: Registered name of the block.
        at: A layer index, a name of `PLACES`, or a list of them.
        args: The block's yaml arguments, as for `insert_block`.
        stage_blocks: Names of the blocks that count as a C3.

    Returns:
        The new architecture.

    Raises:
        ModelError: If the yaml has no such place; names those that it has.

    Example:
        >>> from models.graph.architecture import read_yaml
        >>> rows = insert_at(read_yaml("yolov5n.yaml"), "CBAM", "before-sppf").rows
        >>> [row.block for row in rows[8:11]], rows[-1].sources
        (['C3', 'CBAM', 'SPPF'], [18, 21, 24])
    """
    places = _list_places(at)
    if IN_C3 in places:
        if len(places) > 1:
            raise ModelError(
                f"{architecture.file}: {IN_C3} changes layers and cannot be combined with places between them; "
                f"use two commands"
            )
        return _insert_in_c3(architecture, block, args)
    return insert_block(architecture, block, layers_at(architecture, places, stage_blocks), args)


def replace_at(
    architecture: Architecture,
    old: str,
    at: int | str | Sequence[int | str],
    new: str,
    args: Sequence[Any] | None = None,
    stage_blocks: Collection[str] = STAGE_BLOCKS,
) -> Architecture:
    """Return `architecture` with blocks at places replaced.

    Args:
        architecture: The rows to change; it is left as it is.
        old: Name of the block that the layers must hold now.
        at: A layer index, a name of `PLACES` other than in-c3, or a list of them.
        new: Registered name of the block that replaces it.
        args: As for `replace_block`.
        stage_blocks: Names of the blocks that count as a C3.

    Returns:
        The new architecture.

    Raises:
        ModelError: If the yaml has no such place, or a layer there is not an `old`.
    """
    if IN_C3 in _list_places(at):
        raise ModelError(
            f"{architecture.file}: {IN_C3} is a place for insert; replace takes layers, or places such as backbone"
        )
    return replace_block(architecture, old, layers_at(architecture, at, stage_blocks), new, args)


def layers_at(
    architecture: Architecture, places: int | str | Sequence[int | str], stage_blocks: Collection[str] = STAGE_BLOCKS
) -> list[int]:
    """Return the indices of the layers that places mean, in that order.

    Args:
        architecture: The rows.
        places: A layer index, a name of `PLACES`, or a list of them. An index means itself, whether it exists or not.
        stage_blocks: Names of the blocks that count as a C3.

    Returns:
        Layer indices.

    Raises:
        ModelError: If the yaml has no place of that name; names those that it has.
    """
    found: list[int] = []
    for place in _list_places(places):
        found += _resolve_name(architecture, place, stage_blocks) if isinstance(place, str) else [place]
    return found


def describe_places(places: Any) -> str | None:
    """Return how a text calls places, such as "before SPPF"; None if they are not all names of `PLACES`."""
    names = [str(place) for place in as_list(places)]
    return " and ".join(PLACES[name] for name in names) if names and all(name in PLACES for name in names) else None


def _list_places(places: int | str | Sequence[int | str]) -> list[int | str]:
    return [places] if isinstance(places, (int, str)) else list(places)


def _resolve_name(architecture: Architecture, name: str, stage_blocks: Collection[str]) -> list[int]:
    if name not in PLACES:
        raise ModelError(
            f"{architecture.file}: unknown place {name!r}{nearest(name, PLACES)}; "
            f"a place is a layer index or one of {', '.join(PLACES)}"
        )
    found = [] if name == IN_C3 else _FINDERS[name](architecture, stage_blocks)
    if not found:
        others = [other for other in PLACES if other != name and _has_place(architecture, other, stage_blocks)]
        raise ModelError(
            f"{architecture.file}: it has no place {name!r}, which needs {REQUIREMENTS[name]}; "
            f"it has {', '.join(others) if others else 'no named place'}, and layer indices can be given"
        )
    return found


def _has_place(architecture: Architecture, name: str, stage_blocks: Collection[str]) -> bool:
    if name == "neck-p4p5":  # without the shapes: two stages nearly always have two strides
        return len(_neck(architecture, stage_blocks)) > 1
    return bool(_plain_c3s(architecture) if name == IN_C3 else _FINDERS[name](architecture, stage_blocks))


# ---- one finder per name: (architecture, stage_blocks) -> layers behind which the block is inserted ----


def _pools(architecture: Architecture, stage_blocks: Collection[str]) -> list[int]:
    return [index for index, row in enumerate(architecture.rows) if row.block in POOLS]


def _before_pools(architecture: Architecture, stage_blocks: Collection[str]) -> list[int]:
    read = [_only_source(architecture, index) for index in _pools(architecture, stage_blocks)]
    return list(dict.fromkeys(source for source in read if source is not None))


def _backbone(architecture: Architecture, stage_blocks: Collection[str]) -> list[int]:
    return [
        index for index, row in enumerate(architecture.rows) if row.section == SECTIONS[0] and row.block in stage_blocks
    ]


def _neck(architecture: Architecture, stage_blocks: Collection[str]) -> list[int]:
    """Return the head's stages that the last row reads, directly or through attention and 1x1 convolutions."""
    last = len(architecture.rows) - 1
    sources = [source_index(source, last) for source in as_list(architecture.rows[last].sources)]
    found = {_trace_stage(architecture, source, stage_blocks) for source in sources}
    return sorted(layer for layer in found if layer is not None)


def _trace_stage(architecture: Architecture, layer: int | None, stage_blocks: Collection[str]) -> int | None:
    """Follow single sources from a layer towards the image and return the first stage of the head.

    None if a row on the way joins sources or changes the stride, or if the backbone begins.
    """
    while layer is not None and architecture.rows[layer].section != SECTIONS[0]:
        row = architecture.rows[layer]
        if row.block in stage_blocks:
            return layer
        if row.block == "nn.Upsample" or row.block.endswith("Conv") and argument_of(row.args, 2, "stride", 1) != 1:
            return None
        layer = _only_source(architecture, layer)
    return None


def _only_source(architecture: Architecture, layer: int) -> int | None:
    sources = as_list(architecture.rows[layer].sources)
    source = source_index(sources[0], layer)
    return source if len(sources) == 1 and source >= 0 else None


def _coarse_neck(architecture: Architecture, stage_blocks: Collection[str]) -> list[int]:
    from models.graph.shapes import layer_strides  # torch, for this place alone

    neck = _neck(architecture, stage_blocks)
    by_layer = layer_strides(architecture) if len(neck) > 1 else {}
    finest = min((by_layer[layer] for layer in neck), default=0) if by_layer else 0
    return [layer for layer in neck if by_layer and by_layer[layer] > finest]


def _last_neck(architecture: Architecture, stage_blocks: Collection[str]) -> list[int]:
    return _neck(architecture, stage_blocks)[-1:]


_FINDERS: dict[str, Callable[[Architecture, Collection[str]], list[int]]] = {
    "before-sppf": _before_pools,
    "after-sppf": _pools,
    "backbone": _backbone,
    "neck": _neck,
    "neck-p4p5": _coarse_neck,
    "last-neck": _last_neck,
}


# ---- in a C3 ----


def _plain_c3s(architecture: Architecture) -> list[int]:
    return _backbone(architecture, ("C3",))


def _insert_in_c3(architecture: Architecture, block: str, args: Sequence[Any]) -> Architecture:
    """Replace every backbone C3 by C3Attention [channels, (shortcut if it was written,) block, *args]."""
    layers = _plain_c3s(architecture)
    if not layers:
        _resolve_name(architecture, IN_C3, STAGE_BLOCKS)  # raises
    per_layer = []
    for layer in layers:
        row = architecture.rows[layer]
        channels, shortcut, rest = row.args[:1], row.args[1:2], row.args[2:]
        if rest or not all(isinstance(value, bool) for value in shortcut):
            raise ModelError(
                f"{row.where}: its arguments {row.args} are more than [channels, shortcut], which C3Attention does "
                f"not take; shorten them or use another place"
            )
        per_layer.append([*channels, *shortcut, block, *args])
    return replace_block(architecture, "C3", layers, "C3Attention", per_layer)
