"""FcaNet: squeeze-and-excitation whose squeeze is one cosine component of each channel, not only its mean.

Paper: Qin, Zhang, Wu, Li, "FcaNet: Frequency Channel Attention Networks", ICCV 2021,
https://arxiv.org/abs/2012.11879, section 3.

    B(u, v; h, w) = cos(pi u (h + 1/2) / H) cos(pi v (w + 1/2) / W)
    f_c = mean over positions of x_c * B(u, v), (u, v) that of channel c's part; times sqrt(2) for each of u, v above 0
    y   = sigmoid(W_2 ReLU(W_1 f)) * x

The channels are split into `num_freq` parts as equal as can be, one component each: by default the lowest ones, ordered
by u^2 + v^2 (the paper's selection "LF"). A selection found by experiment (the paper's "TS") is given as `frequencies`.
With one component, the mean, this is SEAttention.

How ours differs from the circulating copies: they pool the map to the fixed size of their cosine tables, which on a
smaller map repeats values and on few positions leaves only the mean; ours computes the cosines for the size of each
map, and a component that the map is too small to hold (u >= H) becomes the highest that it holds. The constant factors
are those that keep f's size independent of the map's. The number of channels need not be a multiple of num_freq.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.arguments import SIDE, WIDTH, RowForm, list_kind, whole_kind
from models.attention.ops.numerics import require_positive, upcast
from models.attention.se import excitation
from models.recording import record
from models.registry import register
from utils.errors import ModelError

COMPONENTS = 16  # the paper's best number


def _lowest_frequencies(count: int) -> list[tuple[int, int]]:
    """Return the `count` lowest (u, v), by u^2 + v^2, then u."""
    pairs = [(u, v) for u in range(count) for v in range(count)]
    return sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:count]


@register(
    form=RowForm(
        kinds={
            "num_freq": WIDTH,
            "frequencies": list_kind("frequencies", list_kind("pair", whole_kind("half waves", 0, 255))),
            "dct_h": SIDE,
            "dct_w": SIDE,
        },
        orders=(("dct_h", "dct_w"), ("dct_h", "dct_w", "reduction")),
    ),
    shows=("gate",),
)
class FcaNet(nn.Module):
    """Frequency channel attention, each channel times its gate: (B, channel, H, W) to the same shape, any H and W.

    `num_freq` is the number of components, at most `channel`; None is 16, or `channel` if that is less. `frequencies`
    are pairs [u, v], half waves along H and along W, in place of the lowest.

    Args:
        channel: Channels of the map.
        reduction: Ratio of channels to the hidden width.
        num_freq: Cosine components.
        frequencies: One pair per component, whole numbers from 0.
    """

    row_frequency: Tensor
    column_frequency: Tensor

    def __init__(
        self,
        channel: int,
        reduction: int = 16,
        num_freq: int | None = None,
        frequencies: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        require_positive("FcaNet", channel=channel, reduction=reduction)
        pairs = _select_frequencies(channel, num_freq, frequencies)
        own = [pairs[index * len(pairs) // channel] for index in range(channel)]
        # computed from the arguments, so not in the state dict
        self.register_buffer("row_frequency", torch.tensor([u for u, _ in own]), persistent=False)
        self.register_buffer("column_frequency", torch.tensor([v for _, v in own]), persistent=False)
        self.fc = excitation(channel, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Return sigmoid(W_2 ReLU(W_1 f)) * x."""
        gate = torch.sigmoid(self.fc(self.components(x)))
        gate = gate[:, :, None, None]
        record(self, "gate", "channel gate att", gate, x.shape[2:])
        return x * gate

    def components(self, x: Tensor) -> Tensor:
        """Return f (B, C) of the map `x` (B, C, H, W): along columns first, then along rows."""
        rows, columns = _cosines(self.row_frequency, x.shape[2], x), _cosines(self.column_frequency, x.shape[3], x)
        along = x @ columns.to(x.dtype).unsqueeze(2)  # (B, C, H, 1)
        return (upcast(along).squeeze(3) * rows).sum(2).to(x.dtype)


def _cosines(frequencies: Tensor, length: int, like: Tensor) -> Tensor:
    """Return (C, length): each frequency's cosine over `length` cells, with mean square 1, divided by `length`.

    On the device of `like`, in its type or float32 at least.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    cells = torch.arange(length, dtype=dtype, device=like.device) + 0.5
    held = frequencies.clamp(max=length - 1).to(dtype).unsqueeze(1)
    size = 1 + (math.sqrt(2) - 1) * held.clamp(max=1)
    return torch.cos(math.pi / length * held * cells) * size / length


def _select_frequencies(
    channel: int, num_freq: int | None, frequencies: Sequence[Sequence[int]] | None
) -> list[tuple[int, int]]:
    """Return the frequencies that were given, or the lowest; raises ModelError for what cannot be one."""
    if frequencies is None:
        count = min(COMPONENTS, channel) if num_freq is None else num_freq
        require_positive("FcaNet", num_freq=count)
        pairs = _lowest_frequencies(count) if count <= channel else [(0, 0)] * count
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
