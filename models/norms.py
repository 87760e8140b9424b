"""Normalization layers that layers and attention blocks share; state-dict names are torch's own."""

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
