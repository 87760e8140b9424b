"""The optimizer of a training: the update rule and the batch in force, and the rates and groups it is built with."""

from dataclasses import replace

import torch

from models.yolo import Model
from utils.config import Hyperparameters, TrainConfig
from utils.engine.layer_choice import backbone_parameters
from utils.engine.optim import BackboneRate, build_optimizer, scaled_weight_decay
from utils.log import LOGGER
from utils.world import World

ADAPTIVE = ("Adam", "AdamW")  # each weight's step is about lr0, whatever its gradient
LARGE_FOR_ADAPTIVE = 0.005  # lr0 of which theirs are below
SMALL_FOR_OTHERS = 0.002  # lr0 of which those of SGD and its like are above


def with_optimizer(config: TrainConfig, hyp: Hyperparameters) -> TrainConfig:
    """Return the flags with the update rule that is in force: the flag's, else the recipe's, else SGD.

    Args:
        config: The flags; "auto" leaves the choice to the recipe.
        hyp: The recipe; "auto" leaves it SGD.

    Returns:
        The flags, whose `optimizer` names one; a warning is logged if lr0 looks
        like that of another kind, the recipe's.
    """
    name, recipes = _first_named(config.optimizer, hyp.optimizer), _first_named(hyp.optimizer)
    is_adaptive = name in ADAPTIVE
    is_unusual = hyp.lr0 > LARGE_FOR_ADAPTIVE if is_adaptive else hyp.lr0 < SMALL_FOR_OTHERS
    if is_unusual and is_adaptive != (recipes in ADAPTIVE):
        usual = "0.001" if is_adaptive else "0.01"
        LOGGER.warning(
            f"WARNING: --optimizer {name}: lr0 {hyp.lr0:g} of --hyp is meant for {recipes}; {name} usually has about "
            f"{usual}. Put optimizer and lr0 into a --hyp file of your own"
        )
    return replace(config, optimizer=name)


def _first_named(*names: str) -> str:
    return next((name for name in names if name != "auto"), "SGD")


def rates_from_weights(config: TrainConfig, hyp: Hyperparameters) -> Hyperparameters:
    """Return the hyperparameters with the rates of a training that starts from weights, if it does.

    Pretrained weights are near a minimum and ask for smaller steps than random ones; so one recipe serves both.

    Args:
        config: Says whether there are weights to start from.
        hyp: `lr_transfer` multiplies `lr0` and `warmup_bias_lr`.

    Returns:
        The hyperparameters.
    """
    if not config.weights:
        return hyp
    return hyp.replace(lr0=hyp.lr0 * hyp.lr_transfer, warmup_bias_lr=hyp.warmup_bias_lr * hyp.lr_transfer)


def within_batch(config: TrainConfig, hyp: Hyperparameters, world: World) -> TrainConfig:
    """Return the config with a batch that is no larger than the recipe's.

    On small sets the number of optimizer steps decides how much is learned, so a recipe may ask for small batches.

    Args:
        config: The flags, `batch_size` resolved.
        hyp: `max_batch` is the most images of all processes together.
        world: Processes; each has at least one image of a batch.

    Returns:
        The config, logged if it changed.
    """
    if hyp.max_batch is None or config.batch_size <= hyp.max_batch:
        return config
    size = max(int(hyp.max_batch) // world.size, 1) * world.size
    LOGGER.info(f"batch size {config.batch_size} -> {size}: the recipe (max_batch) asks for small batches")
    return replace(config, batch_size=size)


def optimizer_for(model: Model, config: TrainConfig, hyp: Hyperparameters) -> torch.optim.Optimizer:
    """Return the optimizer that the flags and hyperparameters ask for.

    Args:
        model: The network, on its device.
        config: Its name and the batch size.
        hyp: Rates, momentum and weight decay.

    Returns:
        An optimizer over every trainable parameter.
    """
    return build_optimizer(
        model,
        _first_named(config.optimizer, hyp.optimizer),
        lr=rates_from_weights(config, hyp).lr0,
        momentum=hyp.momentum,
        weight_decay=scaled_weight_decay(hyp.weight_decay, config.batch_size, hyp.nbs),
        gate_lr=hyp.gate_lr,
        backbone=backbone_rate(model, config, hyp),
        ortho_every=round(hyp.ortho_every),
    )


def backbone_rate(model: Model, config: TrainConfig, hyp: Hyperparameters) -> BackboneRate | None:
    """Return the rate of the backbone if it differs and the backbone is pretrained, logged; it is old, the head is new.

    Args:
        model: The network.
        config: Says whether there are weights to start from.
        hyp: `lr_backbone`.

    Returns:
        The rate, None if the backbone learns as everything else.
    """
    if hyp.lr_backbone == 1:
        return None
    if not config.weights:
        LOGGER.info(f"lr_backbone {hyp.lr_backbone:g}: without --weights the backbone is new, so it is not used")
        return None
    return BackboneRate(backbone_parameters(model), hyp.lr_backbone)
