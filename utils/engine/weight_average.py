"""Stochastic weight averaging: the mean of a model's weights after each of the last epochs of a training.

Izmailov et al. 2018, arXiv 1803.05407, algorithm 1: w_SWA <- (w_SWA n + w) / (n + 1) with the weights w of the training
itself, not of their moving average; then batch norm's statistics are estimated anew, as no epoch's fit the mean.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.norms import count_images
from utils.device import autocast
from utils.engine.model_ema import sorted_tensors
from utils.log import LOGGER

ESTIMATION_BATCHES = 200  # training batches, at most, from which batch norm's statistics are estimated


class WeightAverage:
    """Keeps `module`, a copy of a model in evaluation mode with the mean of its weights, and their `count`.

    Every floating-point tensor of the state dict is averaged with equal weights, others are those of the last epoch.

    Args:
        model: Whose weights are averaged.
        first: The first epoch that counts.
    """

    def __init__(self, model: nn.Module, first: int):
        self.first, self.count = first, 0
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def add(self, model: nn.Module, epoch: int) -> None:
        """Count the weights at the end of an epoch, unless it is one before the first that counts.

        Args:
            model: The model.
            epoch: Index of the epoch.
        """
        if epoch < self.first:
            return
        self.count += 1
        averaged, copied = sorted_tensors(self.module, model)
        if averaged.ours:
            torch._foreach_lerp_(averaged.ours, averaged.theirs, 1 / self.count)
        if copied.ours:
            torch._foreach_copy_(copied.ours, copied.theirs)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: the mean so far, if there is one."""
        return {"first": self.first, "count": self.count, "mean": self.module.state_dict() if self.count else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the mean of a training that was stopped.

        One that began earlier than `first`, for a smaller number of epochs, is left: the mean begins anew.
        """
        self.count = int(state["count"]) if state["first"] >= self.first else 0
        if self.count:
            self.module.load_state_dict(state["mean"])
        elif state["count"]:
            LOGGER.info(f"swa: the mean begins anew with epoch {self.first}, as the training has become longer")

    def estimated(self, inputs: Iterable[tuple[Tensor, bool]], amp: torch.dtype | None = None) -> nn.Module:
        """Return a copy of `module` whose batch norms have the statistics of its own activations.

        A statistic is the mean over batches, so each batch has the same weight. Other layers are as in evaluation,
        without dropout.

        Args:
            inputs: Training batches (B, 3, H, W) in 0..1, and whether each counts.
            amp: Type of mixed precision, None without.

        Returns:
            The copy, in evaluation mode.
        """
        module = copy.deepcopy(self.module)
        momenta = {each: each.momentum for each in module.modules() if isinstance(each, _BatchNorm)}
        if not momenta:
            return module
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean
            norm.train()
        with torch.no_grad():
            for images, counts in inputs:
                count_images(module, counts)
                with autocast(images.device, amp):
                    module(images)
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        return module.eval()
