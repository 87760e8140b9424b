"""From a row of a yaml to its layer: the block's wiring, its repeats, and a zero-initialized gate if asked for."""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

import models.every_block  # noqa: F401  importing every block fills the registry
import models.head  # noqa: F401
from models.graph.spec import LayerRow, ModelSpec
from models.identity_start import apply_identity_start, fork_rng
from models.registry import BLOCK_ERRORS, Entry, WiringPlan


class NetworkLayer(Protocol):
    """A module with the attributes that v6.1 gives to a network's layers; `Model.layers` are such.

    Attributes:
        i: The layer's index.
        f: The layers it reads, as its yaml row has them.
        type: Module and name of the block's class.
        np: Number of parameters.
        repeats: Repeats of its row, scaled.
        arguments: The block's constructor arguments as text.
    """

    i: int
    f: int | list[int]
    type: str
    np: int
    repeats: int
    arguments: str

    def __call__(self, x: Any, /) -> Any:
        """Return the layer's map; the head's result if it is the head."""
        ...


def build_layer(entry: Entry, row: LayerRow, spec: ModelSpec, channels: Sequence[int]) -> tuple[nn.Module, int]:
    """Return the layer of a row and the number of channels that should leave it.

    Args:
        entry: The row's block.
        row: The row.
        spec: The model yaml, for its scale and its attention_start.
        channels: Number of channels of each source.

    Returns:
        (layer, channels); of the attributes of a `NetworkLayer`, `arguments` and `type` are set.

    Raises:
        ValueError: If the block's wiring refuses the arguments or they do not fit its constructor.
    """
    repeats = spec.scale.repeats(row.repeats)
    plan = entry.plan(channels, repeats, spec.scale, row.args)
    with fork_rng(row.index) if entry.inserted else contextlib.nullcontext():
        copies = [_construct(entry, plan, channels, spec)]
        while len(copies) < plan.copies:  # copies in sequence: each takes the channels of the one before
            further = entry.plan([plan.channels_out], repeats, spec.scale, row.args)
            copies.append(_construct(entry, further, [plan.channels_out], spec))
    layer = copies[0] if len(copies) == 1 else nn.Sequential(*copies)
    named = cast("NetworkLayer", layer)
    named.arguments = _write_arguments(plan)
    named.type = f"{entry.cls.__module__}.{entry.cls.__name__}"
    return layer, plan.channels_out


def _construct(entry: Entry, plan: WiringPlan, channels: Sequence[int], spec: ModelSpec) -> nn.Module:
    """Return one copy of a block, attention behind a zero-initialized gate if that is asked for."""
    signature = inspect.signature(entry.cls)
    try:
        signature.bind(*plan.args, **plan.keywords)
    except TypeError as error:
        raise ValueError(
            f"its arguments do not fit: {error}; after wiring they are {_write_arguments(plan)}, "
            f"it takes {', '.join(signature.parameters)}"
        ) from None
    try:
        layer = entry.cls(*plan.args, **plan.keywords)
    except BLOCK_ERRORS as error:
        raise ValueError(f"cannot be built from {_write_arguments(plan)}: {error}") from error
    inner = getattr(layer, "block", None)  # of a C3Attention, whose attention decides
    start = spec.attention_start or (inner.start if isinstance(inner, Entry) else entry.start)
    gated = start == "identity" and (entry.inserted or hasattr(layer, "start_as_identity"))
    return apply_identity_start(layer, channels[0], plan.channels_out) if gated else layer


def _write_arguments(plan: WiringPlan) -> str:
    return str([*plan.args, *[dict(plan.keywords)] * bool(plan.keywords)])


def checked_map(output: object, row: LayerRow, planned: int) -> Tensor:
    """Return a layer's output if it is a map of the planned number of channels.

    Args:
        output: What the layer returned.
        row: The layer's row, for the message.
        planned: Number of channels that the block's wiring planned.

    Returns:
        The output, (B, C, H, W).

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ValueError(
            f"it must return one (B, C, H, W) tensor, got {getattr(output, 'shape', type(output).__name__)}"
        )
    if output.shape[1] != planned:
        raise ValueError(
            f"it returns {output.shape[1]} channels but its wiring plans {planned}; "
            f"check its arguments {list(row.args)} or the wiring= it is registered with"
        )
    return output
