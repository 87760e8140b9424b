"""What `python -m utils.profile` does: a model is built from its flags, or a file is opened, and its profile shown."""

import argparse
from collections.abc import Sequence

from models.graph.flops import short_message
from models.registry import BLOCK_ERRORS, load_plugins
from models.yolo import Model
from utils.checkpoint import build_model, find_weights, read_checkpoint
from utils.datasets.letterboxing import round_to_stride
from utils.device import select_device
from utils.errors import ConfigError, ModelError
from utils.log import LOGGER
from utils.profile import DEFAULT_SIZE
from utils.profile.layer_profile import profile_layers, render
from utils.runtimes.opening import is_exported
from utils.runtimes.operator_times import profile_file
from utils.transfer.pretrained import transfer_weights


def show(options: argparse.Namespace) -> None:
    """Build the model that the flags name and print its profile."""
    if not (options.cfg or options.weights):
        raise ConfigError("nothing to profile: give --cfg with a model yaml, or --weights with a checkpoint")
    if options.rounds < 1:
        raise ConfigError(f"--rounds {options.rounds}: must be at least 1")
    device = select_device(options.device)
    if options.weights and not options.cfg and is_exported(options.weights):
        sides = options.imgsz if options.imgsz != DEFAULT_SIZE else None
        size = _input_size(sides, 32) if sides else None
        LOGGER.info(profile_file(options.weights, size, options.rounds, device))
        return
    load_plugins(options.plugin)
    model = _build_model(options.cfg, options.weights)
    size = _input_size(options.imgsz, int(max(model.stride)))
    try:
        profile = profile_layers(
            model.to(device),
            size,
            options.rounds,
            open_gates=bool(options.cfg),
            name=str(options.cfg or options.weights),
        )
    except BLOCK_ERRORS as error:
        raise ModelError(
            f"{options.cfg or options.weights}: does not run on images of {size[0]} x {size[1]}: {short_message(error)}"
        ) from error
    LOGGER.info(render(profile))


def _build_model(cfg: str | None, weights: str | None) -> Model:
    if cfg is not None and weights is None:
        return Model(cfg)
    checkpoint = read_checkpoint(find_weights(weights or ""))
    if cfg is None:
        return build_model(checkpoint)
    model = Model(cfg, nc=checkpoint.nc)
    transfer_weights(model, checkpoint)
    return model


def _input_size(imgsz: Sequence[int], stride: int) -> tuple[int, int]:
    """Return (height, width) in pixels, raised to multiples of the largest stride."""
    if len(imgsz) > 2 or min(imgsz) < 1:
        raise ConfigError(
            f"--imgsz {' '.join(map(str, imgsz))}: expected the side of a square in pixels, or height and width"
        )
    sides = round_to_stride(imgsz, stride)
    return sides[0], sides[-1]
