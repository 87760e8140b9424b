"""`accumulate: noise`: as many batches behind a step as the gradient's noise asks for, and no more than `nbs` does.

McCandlish 2018 (arXiv 1812.06162): a step on B images is half as good as one on all images if B is the simple noise
scale tr(S) / |G|^2, where G is the true gradient of an image's loss and S the covariance of such gradients between
images (equation 2.9). Fewer images waste steps, more waste images. Both terms are estimated without bias from the norms
of the mean gradients of few and of many images (appendix A.1), here of a step's first batch and of the whole step:

    |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b)        tr(S) = (|g_b|^2 - |g_B|^2) / (1 / b - 1 / B)

Their running means are in the training's state, so what follows is a function of what a checkpoint holds. A loss that
is divided by its batch's positive anchors is a mean over images only roughly, and so is the estimate.

A step adds up its batches' gradients, so the rate per image does not depend on their number, nor does that of weight
decay, which is applied in the share of batches taken; the limit of the gradients' norm is that of each step.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from utils.processes import ALONE, Processes
from utils.types import Batch, GradientNoise, StepSettings

KEPT = 0.95  # of a running mean, per measurement
FIRST = 10  # measurements before which steps have the schedule's number of batches
PROBE = 8  # every so manieth step has two batches if one is enough: noise cannot be measured on one


def estimates(few: float, many: float, few_norm: float, many_norm: float) -> tuple[float, float]:
    """Return (|G|^2, tr(S)) by appendix A.1; either may be negative, as its mean over steps is not.

    Args:
        few: Images behind the first mean gradient, b.
        many: Images behind the second, B, more than b.
        few_norm: Squared norm of the first.
        many_norm: Squared norm of the second.

    Returns:
        Squared norm of the true gradient, and the trace of the covariance of an image's.
    """
    signal = (many * many_norm - few * few_norm) / (many - few)
    return signal, (few_norm - many_norm) / (1 / few - 1 / many)


def batches_for(noise: GradientNoise, batch_size: int, most: int) -> int:
    """Return the number of batches for the next step.

    Args:
        noise: What was measured so far.
        batch_size: Images per batch.
        most: Batches that the schedule has.

    Returns:
        From 1 to `most`.
    """
    if noise.measured < FIRST or noise.signal <= 0:
        return most
    wanted = min(max(noise.variance / noise.signal / batch_size, 1), most)
    return min(max(round(wanted), 2 if noise.unmeasured >= PROBE - 1 else 1), most)


class NoiseScale:
    """Measures the gradient noise during the steps of a training.

    Args:
        batch_size: Images per batch of all processes.
        processes: Those that train together; all come to the same numbers.
    """

    def __init__(self, batch_size: int, processes: Processes = ALONE):
        self.batch_size, self.processes = batch_size, processes
        self.most = self.batches = 1
        self._first = self._images = torch.zeros(0)

    def limited(self, settings: StepSettings, noise: GradientNoise) -> StepSettings:
        """Return the settings of a step with the number of batches that the noise asks for.

        Args:
            settings: The schedule's.
            noise: What was measured so far.

        Returns:
            The settings.
        """
        self.most = settings.accumulate
        return replace(settings, accumulate=batches_for(noise, self.batch_size, self.most))

    def see(self, batch: Batch, weights: Iterable[Tensor], pending: int) -> None:
        """Note a batch whose gradients were added, before those of several processes are averaged.

        Args:
            batch: The batch of this process.
            weights: All that is trained.
            pending: Batches of the step so far, this one included.
        """
        self.batches = pending
        images = float(len(batch)) if batch.counts else 0.0
        if pending == 1:
            norm = torch.nn.utils.get_total_norm([each.grad for each in weights if each.grad is not None])
            scale = max(images, 1.0) * self.processes.world.size  # the loss is summed over images and processes
            counts = 1.0 if images else 0.0
            self._first = torch.stack([counts * (norm / scale) ** 2, *norm.new_tensor([counts / scale, counts])])
            self._images = norm.new_zeros(())
        self._images = self._images + images

    def measure(self, norm: Tensor, scale: float, noise: GradientNoise) -> None:
        """Bring what was measured up to date with a step.

        Args:
            norm: () norm of its gradients, averaged over processes.
            scale: What the gradients of `see` were multiplied by, the gradient scaler's.
            noise: Is changed.
        """
        noise.unmeasured += 1
        if self.batches < 2:
            return
        sums = self.processes.sum(torch.stack([*self._first, self._images])).tolist()
        first_norm, inverse_images, processes, images = sums
        few = processes / inverse_images / self.processes.world.size
        found = estimates(few, images, first_norm / processes / scale**2, (float(norm) / images) ** 2)
        if all(map(math.isfinite, found)):
            noise.add(*found, kept=KEPT)

    @contextmanager
    def decay_in_share(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Take a step with the weight decay of the batches that it has, if they are fewer than the schedule's.

        Args:
            optimizer: The optimizer, whose weight decay is that of all batches.

        Yields:
            Once, for the step.
        """
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["weight_decay"] *= min(self.batches / self.most, 1.0)
        try:
            yield
        finally:
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay
