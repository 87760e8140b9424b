"""Normalization layers that layers and attention blocks share; state-dict names are torch's own."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (B, C, H, W) that also takes a single value per channel.

    A single value has no spread, so torch refuses it in training: a batch of one at a 1x1 map. Here it is normalized by
    the running statistics, which it does not change.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of a (B, C, H, W) map; weight and bias are (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SyncedBatchNorm(BatchNorm):
    """Batch norm whose statistics in training are those of all processes' images, on any device.

    torch's SyncBatchNorm refuses the CPU. Outside training, and in one process, it is `BatchNorm`.

    Attributes:
        counts: Whether the images of the next pass count; those that stand in for none are normalized, no more.
    """

    counts = True

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        result, mean, variance, count = _SyncedNormalization.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.counts
        )
        self._follow(mean, variance, count)
        return result

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics; a single value leaves them as they are."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share: float | Tensor = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.double()
        share = share * (count > 1).to(mean.dtype)
        self.running_mean += (share * (mean - self.running_mean)).to(self.running_mean.dtype)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var += (share * (unbiased - self.running_var)).to(self.running_var.dtype)


class _SyncedNormalization(torch.autograd.Function):
    """Normalization by the mean and variance of all processes' values per channel, whose gradient they exchange too.

    Each process sends mean, sum of squared differences to it, and count; those are combined as by Chan, Golub and
    LeVeque (1983), because a variance as mean of squares less square of the mean cancels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, *settings: Any) -> tuple[Tensor, ...]:
        """x (B, C, ...); settings: running mean and variance (C,), eps, whether the values count."""
        running_mean, running_variance, eps, counts = settings
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, variance, count = _combined(_gathered(_own_statistics(values, counts)))
        is_spread = count > 1
        center = mean.where(is_spread, running_mean)
        inverse = (variance.where(is_spread, running_variance) + eps).rsqrt()
        normalized = (values - _along(center, x)) * _along(inverse, x)
        ctx.save_for_backward(normalized, weight, inverse, count)
        ctx.counts = counts
        result = (normalized * _along(weight, x) + _along(bias, x)).to(x.dtype)
        ctx.mark_non_differentiable(mean, variance, count)
        return result, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        normalized, weight, inverse, count = ctx.saved_tensors
        given = gradient.to(normalized.dtype)
        own_weight, own_bias = _per_channel(given * normalized), _per_channel(given)
        sums = torch.stack((own_weight, own_bias))
        dist.all_reduce(sums)
        # a single value, and those that do not count, were normalized by statistics that do not depend on them
        means = sums / count * ((count > 1) & ctx.counts)
        inner = given - _along(means[1], given) - normalized * _along(means[0], given)
        own = (inner * _along(weight * inverse, given)).to(gradient.dtype)
        return own, own_weight.to(weight.dtype), own_bias.to(weight.dtype), None, None, None, None


def _own_statistics(values: Tensor, counts: bool) -> Tensor:
    """(2 C + 1,) of this process's values: means, sums of squared differences to them, and their count per channel."""
    count = values.numel() // values.shape[1] if counts else 0
    if not count:
        return values.new_zeros(2 * values.shape[1] + 1)
    mean = _per_channel(values) / count
    squares = _per_channel((values - _along(mean, values)).square())
    return torch.cat((mean, squares, mean.new_tensor([count])))


def _gathered(own: Tensor) -> Tensor:
    """(processes, ...): the statistics of all."""
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return torch.stack(every)


def _combined(every: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variance (C,) and count () of all values; the same bits in every process."""
    channels = every.shape[1] // 2
    means, squares, counts = every[:, :channels], every[:, channels:-1], every[:, -1:]
    count = counts.sum().clamp(min=1)
    mean = (means * counts).sum(0) / count
    between = ((means - mean).square() * counts).sum(0)
    return mean, (squares.sum(0) + between) / count, count


def _per_channel(values: Tensor) -> Tensor:
    """The sums (C,) of values (B, C, ...)."""
    return values.sum([0, *range(2, values.ndim)])


def _along(per_channel: Tensor, values: Tensor) -> Tensor:
    """(C,) in a form that combines with (B, C, ...)."""
    return per_channel.view(1, -1, *[1] * (values.ndim - 2))


def synchronize_batch_norm(model: nn.Module) -> int:
    """Replace the model's batch norms by `SyncedBatchNorm` with the same tensors, and return how many there were."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncedBatchNorm)
    ]
    for parent, name, norm in found:
        synced = SyncedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for tensor, value in (*norm._parameters.items(), *norm._buffers.items()):
            setattr(synced, tensor, value)
        synced.train(norm.training)
        setattr(parent, name, synced)
    return len(found)


def count_images(model: nn.Module, counts: bool) -> None:
    """Set whether the images of the next pass enter the statistics that processes share.

    Args:
        model: The network.
        counts: False for images that stand in where a process has none.
    """
    for module in model.modules():
        if isinstance(module, SyncedBatchNorm):
            module.counts = counts
