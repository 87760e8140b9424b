"""SimAM."""

import torch

from blocks import BlockCase, Golden, Oracle
from blocks.literal import sigmoid
from models.attention.simam import SimAM


def slow_simam(block, x):
    """Channel by channel; one position alone has no variance, so it does not deviate."""
    out = torch.empty_like(x)
    for image in range(x.shape[0]):
        for channel in range(x.shape[1]):
            values = x[image, channel]
            apart = (values - values.sum() / values.numel()) ** 2
            variance = apart.sum() / (values.numel() - 1) if values.numel() > 1 else 0
            out[image, channel] = values * sigmoid(apart / (4 * (variance + block.e_lambda)) + 0.5)
    return out


def rebuilt_simam(block, x, records):
    """The input times the gate."""
    return x * records[0].values


CASES = {
    "SimAM": BlockCase(
        oracles={
            "lambda 1e-4": Oracle(lambda: SimAM(5), slow_simam, 5),
            "lambda 0.5": Oracle(lambda: SimAM(5, 0.5), slow_simam, 5),
        },
        counts={64: 0, 1024: 0},
        golden={"SimAM": Golden(lambda: SimAM(e_lambda=1e-4))},
        rebuilt=rebuilt_simam,
        refused={(64, 0): "above 0", (64, "1e-4x"): "above 0"},
    )
}
