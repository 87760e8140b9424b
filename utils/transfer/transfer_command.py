"""What `python -m utils.transfer` does: a model is built, given a checkpoint's weights, and written."""

import argparse

import torch

from models.registry import load_plugins
from models.yolo import Model
from utils.checkpoint import checkpoint_of, find_weights, read_checkpoint, write_checkpoint
from utils.errors import CheckpointError, ConfigError
from utils.log import LOGGER
from utils.transfer.pretrained import transfer_weights


def transfer(options: argparse.Namespace) -> None:
    """Write the checkpoint that the flags ask for, and the transfer report beside it."""
    load_plugins(options.plugin)
    if options.output.suffix != ".pt" or options.output.exists():
        raise CheckpointError(
            f"--output {options.output}: " + ("exists already" if options.output.exists() else "must end in .pt")
        )
    if not 0 <= options.require_transfer <= 1:
        raise ConfigError(f"--require-transfer {options.require_transfer:g}: expected a share, 0 to 1")
    checkpoint = read_checkpoint(find_weights(options.weights))
    torch.manual_seed(options.seed)
    model = Model(options.cfg, nc=checkpoint.nc, attention_start=options.attention_start)
    report = transfer_weights(model, checkpoint, mode=options.transfer, require=options.require_transfer)
    write_checkpoint(checkpoint_of(model, checkpoint.names), options.output)
    LOGGER.info(f"{options.output}, transfer report: {report.write_csv(options.output.with_suffix('.csv'))}")
