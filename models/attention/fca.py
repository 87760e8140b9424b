"""FcaNet: squeeze-and-excitation whose squeeze is one cosine component of each channel, not only its mean.

Paper: Qin, Zhang, Wu, Li, "FcaNet: Frequency Channel Attention Networks", ICCV 2021,
https://arxiv.org/abs/2012.11879, section 3.

    B(u, v; h, w) = cos(pi u (h + 1/2) / H) cos(pi v (w + 1/2) / W)
    f_c = mean over positions of x_c * B(u, v), (u, v) that of the c-th channel's part; times sqrt(2) for each of u, v above 0
    y   = sigmoid(W_2 ReLU(W_1 f)) * x

The channels are cut into `num_freq` parts as equal as can be, one component each: by default the lowest ones, ordered by
u^2 + v^2 (the paper's selection "LF"). A selection found by experiment (the paper's "TS") is given as `frequencies`. With
one component, the mean, this is SEAttention.

How ours differs from the circulating copies: they pool the map to the fixed size of their cosine tables, which on a
smaller map repeats values and on few positions leaves only the mean; ours takes the cosines of the map it meets, whatever
its size, and a component that the map is too small to hold (u >= H) becomes the highest that it holds. The constant
factors are those that keep f's size independent of the map's. The number of channels need not be a multiple of num_freq.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.attention.ops.numerics import require_positive, wide
from models.attention.se import excitation
from models.registry import register
from utils.errors import ModelError

COMPONENTS = 16  # the paper's best number


def lowest_frequencies(number: int) -> list[tuple[int, int]]:
    """Return the `number` lowest (u, v), by u^2 + v^2, then u."""
    pairs = [(u, v) for u in range(number) for v in range(number)]
    return sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:number]


@register()
class FcaNet(nn.Module):
    """FcaNet(channel, reduction=16, num_freq=None, frequencies=None): (B, channel, H, W) to the same shape, any H and W.

    num_freq: components, at most `channel`; None is 16, or `channel` where that is less. frequencies: pairs [u, v] of
    half waves along rows' axis H and columns' axis W, in place of the lowest.
    """

    def __init__(
        self,
        channel: int,
        reduction: int = 16,
        num_freq: int | None = None,
        frequencies: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        require_positive("FcaNet", channel=channel, reduction=reduction)
        pairs = _chosen(channel, num_freq, frequencies)
        own = [pairs[index * len(pairs) // channel] for index in range(channel)]
        # worked out again from the arguments, so no part of the state dict
        self.register_buffer("row_frequency", torch.tensor([u for u, _ in own]), persistent=False)
        self.register_buffer("column_frequency", torch.tensor([v for _, v in own]), persistent=False)
        self.fc = excitation(channel, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Return sigmoid(W_2 ReLU(W_1 f)) * x."""
        gate = torch.sigmoid(self.fc(self.components(x)))
        return x * gate[:, :, None, None]

    def components(self, x: Tensor) -> Tensor:
        """Return f (B, C) of the map `x` (B, C, H, W): along columns first, then along rows."""
        rows, columns = cosines(self.row_frequency, x.shape[2], x), cosines(self.column_frequency, x.shape[3], x)
        along = x @ columns.to(x.dtype).unsqueeze(2)  # (B, C, H, 1)
        return (wide(along).squeeze(3) * rows).sum(2).to(x.dtype)


def cosines(frequencies: Tensor, length: int, like: Tensor) -> Tensor:
    """Return (C, length): each frequency's cosine over an axis of `length` cells, with mean square 1, divided by `length`;
    on the device of `like`, in its number type or float32 at least.
    """
    number = torch.promote_types(like.dtype, torch.float32)
    cells = torch.arange(length, dtype=number, device=like.device) + 0.5
    held = frequencies.clamp(max=length - 1).to(number).unsqueeze(1)
    size = 1 + (math.sqrt(2) - 1) * held.clamp(max=1)
    return torch.cos(math.pi / length * held * cells) * size / length


def _chosen(channel: int, num_freq: int | None, frequencies: Sequence[Sequence[int]] | None) -> list[tuple[int, int]]:
    if frequencies is None:
        number = min(COMPONENTS, channel) if num_freq is None else num_freq
        require_positive("FcaNet", num_freq=number)
        pairs = lowest_frequencies(number) if number <= channel else [(0, 0)] * number
    else:
        given = frequencies if isinstance(frequencies, list | tuple) else [frequencies]
        pairs = [tuple(pair) if isinstance(pair, list | tuple) else (pair,) for pair in given]
        whole = all(len(pair) == 2 and all(type(each) is int and each >= 0 for each in pair) for pair in pairs)
        if not pairs or not whole or num_freq not in (None, len(pairs)):
            raise ModelError(
                f"FcaNet: frequencies must be {num_freq or 'some'} pairs [u, v] of whole numbers from 0, "
                f"such as [[0, 0], [0, 1]], got {frequencies!r}"
            )
    if len(pairs) > channel:
        raise ModelError(f"FcaNet: num_freq {len(pairs)} is more than the {channel} channels; use {channel} at most")
    return pairs
