"""Rows as tutorials and forks of YOLOv5 write them, each read here: what its numbers become, or why it is refused.

docs/attention.md shows them; `python -m models.zoo document` makes that table from the reader itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.graph.row_report import read_block_row
from models.graph.shapes import ShapeCache
from models.graph.spec import LayerRow, ModelSpec
from models.registry import Scale, find
from utils.errors import ModelError

SIZE = 20  # cells of a side of the map that a row is measured on


@dataclass(frozen=True)
class WildRow:
    """One row from elsewhere.

    Attributes:
        block: The block as it is written there.
        args: Its arguments.
        arrives: Channels that arrive at the l scale.
        source: Who writes it.
        width: The width_multiple of the yaml.
    """

    block: str
    args: list[Any]
    arrives: int
    source: str
    width: float = 1.0


@dataclass(frozen=True)
class WildReading:
    """What a row from elsewhere is here.

    Attributes:
        row: The row.
        meaning: Its arguments by name, or the reason why it is refused.
        parameters: Number of parameters, None if it is refused.
    """

    row: WildRow
    meaning: str
    parameters: int | None

    @property
    def built(self) -> bool:
        """Whether the row builds."""
        return self.parameters is not None


TUTORIAL, FORK, BOTH = "tutorials", "forks", "tutorials, forks"
WILD_ROWS = (
    WildRow("CoTAttention", [512], 512, TUTORIAL),
    WildRow("CoTAttention", [512, 512], 512, FORK),
    WildRow("DoubleAttentionLayer", [128, 3], 128, TUTORIAL),
    WildRow("DoubleAttention", [512], 512, FORK),
    WildRow("ACmix", [1024], 1024, FORK),
    WildRow("ACmix", [1024, 1024], 1024, TUTORIAL),
    WildRow("MHSA", [1024, 14, 14, 4], 1024, BOTH),
    WildRow("CBAM", [1024], 1024, BOTH),
    WildRow("CBAM", [1024, 7], 1024, FORK),
    WildRow("CBAM", [1024, 16, 7], 1024, TUTORIAL),
    WildRow("CBAM", [1024, 1024], 1024, FORK),
    WildRow("CBAM", [1024, 1024, 3], 1024, FORK),
    WildRow("SEAttention", [1024, 16], 1024, FORK),
    WildRow("SEAttention", [1024, 1024], 1024, FORK),
    WildRow("SE", [1024, 16], 1024, FORK),
    WildRow("ECAAttention", [1024], 1024, FORK),
    WildRow("eca_layer", [1024, 3], 1024, FORK),
    WildRow("CoordAtt", [1024], 1024, FORK),
    WildRow("CoordAtt", [1024, 32], 1024, FORK),
    WildRow("CoordAtt", [1024, 1024, 32], 1024, FORK),
    WildRow("SimAM", [1e-4], 1024, FORK),
    WildRow("SimAM", [1024], 1024, FORK),
    WildRow("SimAM", [1024, 1024], 1024, FORK),
    WildRow("SKAttention", [1024], 1024, FORK),
    WildRow("SKAttention", [1024, {"kernels": [1, 3, 5, 7]}], 1024, "the same row in the forks' form"),
    WildRow("ShuffleAttention", [1024], 1024, FORK),
    WildRow("ShuffleAttention", [1024, 16, 8], 1024, FORK),
    WildRow("SpatialGroupEnhance", [8], 1024, FORK),
    WildRow("SpatialGroupEnhance", [8, 0.5], 1024, FORK),
    WildRow("TripletAttention", [1024], 1024, FORK),
    WildRow("NAMAttention", [1024, 1024], 1024, FORK),
    WildRow("EMA", [1024, 8], 1024, FORK),
    WildRow("GAM", [512, 512], 1024, FORK, 0.5),
    WildRow("GAM", [512, 512, False], 1024, FORK, 0.5),
    WildRow("GlobalContext", [1024, 0.25], 1024, FORK),
    WildRow("ParNetAttention", [512, 512], 1024, FORK, 0.5),
    WildRow("CrissCrossAttention", [1024], 1024, FORK),
    WildRow("DAttentionBaseline", [1024, [20, 20]], 1024, FORK),
    WildRow("LSKA", [1024, 7], 1024, FORK),
    WildRow("LSKA", [1024, 9], 1024, FORK),
    WildRow("MSDA", [1024, 8, False], 1024, FORK),
    WildRow("MLCA", [1024], 1024, FORK),
    WildRow("C3CBAM", [1024], 1024, FORK),
)


def read_wild_rows() -> Iterator[WildReading]:
    """Yield what each of `WILD_ROWS` is here."""
    cache = ShapeCache()
    for row in WILD_ROWS:
        yield read_wild_row(row, cache)


def read_wild_row(wild: WildRow, cache: ShapeCache) -> WildReading:
    """Return what a row from elsewhere is here.

    Args:
        wild: The row.
        cache: Layers that were measured before.

    Returns:
        Its arguments by name and its parameters, or the reason why it is refused.
    """
    scale = Scale(width=wild.width)
    channels = scale(wild.arrives)
    spec = ModelSpec("", 3, 80, 3, scale, (), {})
    row = LayerRow(0, -1, (-1,), 1, wild.block, tuple(wild.args), "")
    try:
        entry = find(wild.block)
        block = read_block_row(row, entry, spec, [channels])
        parameters = cache.measure(entry, row, spec, [(channels, SIZE, SIZE)]).parameters
    except (ModelError, ValueError) as error:
        return WildReading(wild, str(error), None)
    return WildReading(wild, "" if block is None else block.describe().partition(": ")[2], parameters)
