"""Parameter groups, optimizers, the learning-rate schedule, and early stopping.

The schedule is a pure function of the step: a resumed training has the same settings as if it had never stopped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from models.head import Detect
from models.identity_start import IdentityStart
from utils.config import OPTIMIZERS
from utils.engine.muon import Muon, MuSGD, is_matrix
from utils.errors import ConfigError, ModelError, nearest
from utils.log import LOGGER
from utils.types import StepSettings, TrainState

NOMINAL_BATCH = 64  # images behind one optimizer step (`nbs`), however few fit in a batch
ORTHOGONALIZING: dict[str, type[Muon]] = {"Muon": Muon, "MuSGD": MuSGD}
GATE_LR = {"SGD": 30.0, "Adam": 1.0, "AdamW": 1.0, "MuSGD": 30.0, "Muon": 30.0}  # multiples, see `build_optimizer`
_WARMUP_FLOOR = 100  # iterations; v6.1's floor of 1000 was whole trainings on small data
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm) + (
    (nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()
)
_PROJECTIONS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)
_ATTENTION_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class ParameterGroups:
    """A model's trainable parameters, each in one group.

    Attributes:
        no_decay: Norm weights, blocks' own scales, position tables.
        decay: Kernels and matrices.
        bias: Biases.
        gate: The gates of identity starts.
    """

    no_decay: list[nn.Parameter]
    decay: list[nn.Parameter]
    bias: list[nn.Parameter]
    gate: list[nn.Parameter]

    def __iter__(self):
        """Return the groups in the optimizer's order: v6.1's three, and the gates if there are any."""
        return iter((self.no_decay, self.decay, self.bias, *([self.gate] if self.gate else [])))

    def __len__(self) -> int:
        return sum(map(len, self))


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Return the trainable parameters, sorted by what weight decay would do to them.

    A parameter shared by two modules counts once, at its first module. Raises RuntimeError unless the groups together
    are the model's trainable parameters, each once.
    """
    groups = ParameterGroups([], [], [], [])
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                getattr(groups, _kind(module, name, parameter)).append(parameter)
    _check_complete(model, groups)
    return groups


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """The group ("no_decay", "decay", "bias" or "gate") of a parameter that `module` itself holds."""
    if isinstance(module, IdentityStart):
        return "gate"
    if name in ("bias", "in_proj_bias"):
        return "bias"
    if isinstance(module, nn.MultiheadAttention):
        return "decay" if name in _ATTENTION_PROJECTIONS else "no_decay"
    if isinstance(module, _PROJECTIONS):
        return "decay" if name == "weight" else "no_decay"
    # a hand-written layer's `weight`: a kernel has two or more true dimensions, a gate of (1, C, 1, 1) has one
    is_kernel = name == "weight" and sum(size > 1 for size in parameter.shape) >= 2
    return "decay" if is_kernel and not isinstance(module, (*_NORMS, nn.Embedding)) else "no_decay"


def _check_complete(model: nn.Module, groups: ParameterGroups) -> None:
    grouped = [id(parameter) for group in groups for parameter in group]
    missing = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) not in grouped
    ]
    if missing or len(set(grouped)) != len(grouped):
        raise RuntimeError(
            f"parameter groups hold {len(grouped)} parameters, {len(set(grouped))} of them different; "
            f"missing: {', '.join(missing) or 'none'}"
        )


@dataclass(frozen=True)
class BackboneRate:
    """The learning rate of a pretrained backbone.

    Attributes:
        parameters: Those of its layers; inserted attention is new and not among them.
        lr_scale: Their learning rate as a multiple of the others'.
    """

    parameters: Sequence[nn.Parameter]
    lr_scale: float


def build_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    gate_lr: float | None = None,
    backbone: BackboneRate | None = None,
    ortho_every: int = 1,
) -> torch.optim.Optimizer:
    """Return an optimizer over every trainable parameter, groups in the order no decay, decayed, biases, gates.

    A gate's gradient is small, and a block behind a gate near zero hardly learns, so SGD's gates have a larger rate
    (docs/weights.md has the figures); Adam's steps do not depend on the gradient's size. A backbone with a rate of its
    own has three groups of its own behind them, in the order of the first three.

    Args:
        model: The network, on its device.
        name: "SGD" (Nesterov), "Adam", "AdamW", "Muon" or "MuSGD".
        lr: Learning rate of the first step.
        momentum: SGD's momentum, Adam's beta1.
        weight_decay: As applied, see `scaled_weight_decay`.
        gate_lr: The gates' learning rate as a multiple of the weights'; GATE_LR's if None.
        backbone: The rate of the backbone if it differs.
        ortho_every: Steps between two of a matrix that is orthogonalized.

    Returns:
        The optimizer, fused on CPU and CUDA.

    Raises:
        ConfigError: For another name, or a momentum that Muon has no decay for.
        ModelError: If nothing can be trained.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"--optimizer {name}: expected {', '.join(OPTIMIZERS[:-1])} or {OPTIMIZERS[-1]}{nearest(name, OPTIMIZERS)}"
        )
    if name in ORTHOGONALIZING and momentum == 1:
        raise ConfigError(f"--optimizer {name}: needs a momentum below 1 in the hyperparameters")
    groups = parameter_groups(model)
    total = sum(1 for _ in model.parameters())
    if not len(groups):
        raise ModelError(f"none of the model's {total} parameters can be trained: freeze fewer layers")
    settings = _group_settings(groups, weight_decay, GATE_LR[name] if gate_lr is None else gate_lr, backbone)
    optimizer: torch.optim.Optimizer
    if name in ORTHOGONALIZING:
        matrices = hidden_matrices(model, groups)
        optimizer = _orthogonalizing(settings, matrices, name, lr, momentum, ortho_every)
    else:
        optimizer = _elementwise(settings, name, lr, momentum)
    LOGGER.info(f"Scaled weight_decay = {weight_decay:g}")
    _log_groups(name, groups, settings, total)
    return optimizer


def _log_groups(name: str, groups: ParameterGroups, settings: list[dict[str, Any]], total: int) -> None:
    """Log what learns and how; `total` is the number of the model's parameters, frozen ones too."""
    no_decay, decay, bias = len(groups.no_decay), len(groups.decay), len(groups.bias)
    gates = f", {len(groups.gate)} gate (lr x {settings[3]['lr_scale']:g})" if groups.gate else ""
    LOGGER.info(
        f"optimizer: {name} with parameter groups {no_decay} weight (no decay), {decay} weight, {bias} bias{gates}"
    )
    slow = [group for group in settings if "rate" in group]
    if slow:
        count = sum(len(group["params"]) for group in slow)
        LOGGER.info(f"lr_backbone: {count} of these parameters are the backbone's (lr x {slow[0]['lr_scale']:g})")
    frozen = f", {total - len(groups)} frozen" if total > len(groups) else ""
    LOGGER.info(f"{len(groups)}/{total} parameters in optimizer{frozen}")


def _group_settings(
    groups: ParameterGroups, weight_decay: float, gate_lr: float, backbone: BackboneRate | None
) -> list[dict[str, Any]]:
    """Return torch's parameter groups: v6.1's three, the gates if there are any, a slow backbone's three if asked."""
    slow = {id(each) for each in backbone.parameters} if backbone else set()
    decays = (0.0, weight_decay, 0.0)
    three = list(zip((groups.no_decay, groups.decay, groups.bias), decays, strict=True))
    settings: list[dict[str, Any]] = [
        {"params": [each for each in group if id(each) not in slow], "weight_decay": decay, "lr_scale": 1.0}
        for group, decay in three
    ]
    if groups.gate:
        settings.append({"params": groups.gate, "weight_decay": 0.0, "lr_scale": gate_lr})
    if backbone and any(id(each) in slow for group, _ in three for each in group):
        settings += [
            {
                "params": [each for each in group if id(each) in slow],
                "weight_decay": decay,
                "lr_scale": backbone.lr_scale,
                "rate": rate,  # which of the schedule's rates, as its place does not say so
            }
            for rate, (group, decay) in enumerate(three)
        ]
    return settings


def hidden_matrices(model: nn.Module, groups: ParameterGroups) -> list[nn.Parameter]:
    """Return the weights that Muon orthogonalizes: decayed kernels and matrices, but not those of the output layers.

    Args:
        model: The network.
        groups: Its parameters.

    Returns:
        The weights.
    """
    heads = [module for module in model.modules() if isinstance(module, Detect)]
    outputs = {id(weight) for head in heads for weight in head.parameters()}
    return [weight for weight in groups.decay if is_matrix(weight) and id(weight) not in outputs]


def _elementwise(settings: list[dict[str, Any]], name: str, lr: float, momentum: float) -> torch.optim.Optimizer:
    fused = _is_fused(settings)
    if name == "SGD":
        return torch.optim.SGD(settings, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    return getattr(torch.optim, name)(settings, lr=lr, betas=(momentum, 0.999), fused=fused)


def _orthogonalizing(
    settings: list[dict[str, Any]], matrices: list[nn.Parameter], name: str, lr: float, momentum: float, every: int
) -> Muon:
    turns = f", each once in {every} steps" if every > 1 else ""
    LOGGER.info(f"optimizer: {name} orthogonalizes the steps of {len(matrices)} matrices{turns}, SGD takes all others")
    return ORTHOGONALIZING[name](settings, matrices, lr=lr, momentum=momentum, fused=_is_fused(settings), every=every)


def _is_fused(settings: list[dict[str, Any]]) -> bool | None:
    """One pass over the weights, and with a GradScaler no wait for the host before a step."""
    kinds = {parameter.device.type for group in settings for parameter in group["params"]}
    return True if kinds <= {"cpu", "cuda"} else None


def full_accumulation(batch_size: int, nominal: float = NOMINAL_BATCH) -> int:
    """Return the number of batches whose gradients make up one optimizer step after warm-up.

    Args:
        batch_size: Images per batch.
        nominal: Images that a step is meant to have, `nbs`.

    Returns:
        Batches, at least 1.
    """
    return max(round(nominal / batch_size), 1)


def scaled_weight_decay(weight_decay: float, batch_size: int, nominal: float = NOMINAL_BATCH) -> float:
    """Return the weight decay for the images that really stand behind a step.

    Args:
        weight_decay: For `nominal` images.
        batch_size: Images per batch.
        nominal: Images that a step is meant to have, `nbs`.

    Returns:
        The weight decay to apply.
    """
    return weight_decay * batch_size * full_accumulation(batch_size, nominal) / nominal


class ScheduleHyperparameters(Protocol):
    """The hyperparameters that the schedule reads."""

    @property
    def lr0(self) -> float: ...

    @property
    def lrf(self) -> float: ...

    @property
    def momentum(self) -> float: ...

    @property
    def warmup_epochs(self) -> float: ...

    @property
    def warmup_momentum(self) -> float: ...

    @property
    def warmup_bias_lr(self) -> float: ...

    @property
    def warmup_share(self) -> float | None: ...

    @property
    def schedule(self) -> str: ...

    @property
    def nbs(self) -> float: ...


class Schedule:
    """Learning rates, momentum and accumulation at every step of a training.

    The learning rate falls from lr0 to lrf * lr0, linearly or along half a cosine, epoch by epoch. It is
    reached through a warm-up of warmup_epochs, at least 100 iterations and at most half the training
    (none for warmup_epochs 0), or of the share warmup_share of the training: momentum rises from
    warmup_momentum, accumulation from 1, and learning rates start at 0, biases' at warmup_bias_lr.

    Args:
        hyp: Rates, momentum and warm-up.
        epochs: Of the whole training.
        batches_per_epoch: Batches of one epoch.
        batch_size: Images per batch.
        cos_lr: Fall along half a cosine instead of linearly.
    """

    def __init__(
        self, hyp: ScheduleHyperparameters, epochs: int, batches_per_epoch: int, batch_size: int, cos_lr: bool = False
    ):
        self.hyp, self.epochs, self.batches_per_epoch = hyp, epochs, batches_per_epoch
        self.cos_lr = cos_lr or hyp.schedule == "cosine"
        self.accumulate = full_accumulation(batch_size, hyp.nbs)
        if hyp.warmup_share is not None:
            self.warmup = round(hyp.warmup_share * epochs * batches_per_epoch)
            return
        wanted = max(round(hyp.warmup_epochs * batches_per_epoch), _WARMUP_FLOOR) if hyp.warmup_epochs > 0 else 0
        self.warmup = min(wanted, epochs * batches_per_epoch // 2)

    def epoch_lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch, warm-up aside."""
        done = epoch / self.epochs
        left = (1 + math.cos(done * math.pi)) / 2 if self.cos_lr else 1 - done
        return self.hyp.lr0 * (self.hyp.lrf + left * (1 - self.hyp.lrf))

    @property
    def optimizer_steps(self) -> int:
        """The optimizer steps of the whole training, if the warm-up's more frequent ones are not counted."""
        return self.epochs * math.ceil(self.batches_per_epoch / self.accumulate)

    def step_settings(self, step: int) -> StepSettings:
        """Return the settings of a step, counted over the whole training; rates in the order of `ParameterGroups`."""
        hyp, lr = self.hyp, self.epoch_lr(step // self.batches_per_epoch)
        if step >= self.warmup:
            return StepSettings((lr, lr, lr), hyp.momentum, self.accumulate)
        share = step / self.warmup

        def between(start: float, end: float) -> float:
            return start + share * (end - start)

        weight_lr, bias_lr = between(0.0, lr), between(hyp.warmup_bias_lr, lr)
        return StepSettings(
            (weight_lr, weight_lr, bias_lr),
            between(hyp.warmup_momentum, hyp.momentum),
            max(1, round(between(1, self.accumulate))),
        )


def apply_step_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Set the learning rate of each parameter group and the momentum (Adam's beta1). Gates follow the weights.

    Args:
        optimizer: The optimizer.
        settings: What the schedule says about this step.
    """
    weights, decayed, biases = settings.lr
    by_place = (weights, decayed, biases, weights)
    for place, group in enumerate(optimizer.param_groups):
        rate = by_place[group.get("rate", min(place, 3))]
        group["lr"] = rate * group.get("lr_scale", 1.0)
        if "betas" in group:
            group["betas"] = (settings.momentum, group["betas"][1])
        else:
            group["momentum"] = settings.momentum


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a training whose fitness has not risen for `patience` epochs (0: never), or its mean with `smooth_fitness`.

    It keeps nothing: the best epoch is in the training's state, and with it in every checkpoint.
    """

    patience: int

    def should_stop(self, state: TrainState) -> bool:
        """Return whether `patience` epochs passed since the best one (equal fitness is no progress).

        `state` is that after an epoch, so state.epoch is the next one. While the fitness is 0 nothing has stood still.
        """
        if not self.has_waited(state):
            return False
        LOGGER.info(
            f"Stopping early: no better {'fitness' if state.smooth_best_epoch is None else 'smoothed fitness'} than "
            f"epoch {state.patience_epoch}'s in the last {state.epoch - 1 - state.patience_epoch} epochs. "
            "--patience takes another number of epochs, 0 never stops."
        )
        return True

    def has_waited(self, state: TrainState) -> bool:
        """Return what `should_stop` does, without a message."""
        waited = state.epoch - 1 - state.patience_epoch
        return bool(self.patience) and state.best_fitness > 0 and waited >= self.patience
