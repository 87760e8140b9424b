"""From a row of a yaml to the layer that it describes: its block wired, repeated, and gated if that is asked for."""

import contextlib
import inspect

from torch import nn

import models.common  # noqa: F401  importing every block fills the registry
import models.head  # noqa: F401
from models.graph.spec import LayerRow, ModelSpec
from models.identity_start import fork_rng, started_as_identity
from models.registry import BLOCK_ERRORS, Entry, WiringPlan


def build_layer(entry: Entry, row: LayerRow, spec: ModelSpec, channels: list[int]) -> tuple[nn.Module, int]:
    """Return the layer and the width that should leave it."""
    repeats = spec.scale.repeats(row.repeats)
    plan = entry.wiring(channels, repeats, spec.scale, row.args)
    with fork_rng(row.index) if entry.inserted else contextlib.nullcontext():
        copies = [_construct(entry, plan, channels, spec)]
        while len(copies) < plan.copies:  # copies stand in a row: each takes what the one before leaves
            further = entry.wiring([plan.channels_out], repeats, spec.scale, row.args)
            copies.append(_construct(entry, further, [plan.channels_out], spec))
    layer = copies[0] if len(copies) == 1 else nn.Sequential(*copies)
    layer.arguments = str(list(plan.args))
    layer.type = f"{entry.cls.__module__}.{entry.cls.__name__}"
    return layer, plan.channels_out


def _construct(entry: Entry, plan: WiringPlan, channels: list[int], spec: ModelSpec) -> nn.Module:
    """Return one copy of a block, attention behind a zero gate where that is asked for."""
    signature = inspect.signature(entry.cls)
    try:
        signature.bind(*plan.args)
    except TypeError as error:
        raise ValueError(
            f"its arguments do not fit: {error}; after wiring they are {list(plan.args)}, "
            f"it takes {', '.join(signature.parameters)}"
        ) from None
    try:
        layer = entry.cls(*plan.args)
    except BLOCK_ERRORS as error:
        raise ValueError(f"cannot be built from {list(plan.args)}: {error}") from error
    held = getattr(layer, "block", None)  # a C3Attention's attention has its own say
    start = spec.attention_start or (held.start if isinstance(held, Entry) else entry.start)
    gated = start == "identity" and (entry.inserted or hasattr(layer, "start_as_identity"))
    return started_as_identity(layer, channels[0], plan.channels_out) if gated else layer
