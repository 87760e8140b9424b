"""The control: the baseline made wider, so that a variant's gain can be told from that of mere size.

Width. Depth stays, and width_multiple is solved: layers widen in steps of 8 channels, so the parameters are a staircase
of width_multiple, and the step nearest to the largest variant is taken.

Start. A wider network cannot take a checkpoint by shapes, and a control from random weights against variants from
pretrained ones would prove nothing. So its weights are made as in Net2Net (Chen, Goodfellow and Shlens, ICLR 2016,
arXiv 1511.05641, section 2: the wider student computes what the teacher did), with one difference: theirs copies
channels and divides what reads them, ours draws new channels at random and lets the old ones read them with weight
zero, which is how attention behind a zero gate starts (models/identity_start.py). All of the baseline's weights are
in it, and it starts as the baseline, up to rounding.
"""

import copy
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from models.graph.architecture import Architecture, is_number, read_content, render_yaml
from models.graph.shapes import ShapeCache, infer_shapes, load_spec, totals
from models.yolo import Model
from utils.checkpoint import checkpoint_of, find_weights, read_checkpoint, write_checkpoint
from utils.errors import ModelError
from utils.log import LOGGER
from utils.transfer.pretrained import transfer_weights

CONTROL = "control"
STEP = 8  # channels
WIDEST = 4.0  # times the baseline's width at most
NORMS = (nn.BatchNorm2d,)
_CLOSE = 1e-9  # of two codes that are the same channel; codes lie in 1..2, at least 1e-7 apart


@dataclass(frozen=True)
class Widened:
    """The control as a yaml. width: its width_multiple; parameters: of it, of the baseline, and of the largest variant;
    takes_weights: whether it can start as the baseline.
    """

    text: str
    width: float
    parameters: int
    baseline_parameters: int
    largest: str
    largest_parameters: int
    takes_weights: bool = False

    def sentence(self) -> str:
        share = self.parameters / self.largest_parameters - 1
        return (
            f"The control is the baseline with width_multiple {self.width:g}: {self.parameters:,} parameters, {share:+.1%} "
            f"against the largest variant, {self.largest} ({self.largest_parameters:,}); "
            f"the baseline has {self.baseline_parameters:,}."
        )


def parameters_of(
    content: Mapping[str, Any], nc: int, attention_start: str = "", cache: ShapeCache | None = None
) -> int:
    """Return the parameters of a model yaml's content with `nc` classes. Nothing is computed. Raises ModelError."""
    content = {**content, "nc": nc, **({"attention_start": attention_start} if attention_start else {})}
    return totals(infer_shapes(load_spec(content), cache))[0]


def widened(baseline: str, file: str, variants: Mapping[str, int], nc: int) -> Widened | None:
    """Return the baseline (a yaml's text, called `file`) widened to the parameters of the largest of `variants` (by
    name), or None where no wider one is nearer to them than the baseline itself.
    """
    content = yaml.safe_load(baseline)
    name, rows = file, read_content(content)[2]
    cache = ShapeCache()
    largest = max(variants, key=lambda each: variants[each])

    def parameters(width: float) -> int:
        return parameters_of({**content, "width_multiple": width}, nc, cache=cache)

    base = float(content["width_multiple"])
    widths = [base, *_steps([row.args[0] for row in rows if row.args and is_number(row.args[0], int)], base)]
    width = nearest_step(widths, parameters, variants[largest]) if variants[largest] > parameters(base) else base
    if width == base:
        return None
    settings = {key: value for key, value in content.items() if key not in ("backbone", "head")} | {
        "width_multiple": width
    }
    header = (f"{name} widened to the parameters of {largest}, layer for layer",)
    text = render_yaml(Architecture(name, settings, rows), header)
    return Widened(text, width, parameters(width), parameters(base), largest, variants[largest])


def _steps(channels: Sequence[int], base: float) -> list[float]:
    """Return the widths above `base` up to which a layer of one of `channels` keeps its rounded width."""
    return sorted(
        {
            _step(each, count)
            for each in set(channels)
            if each >= STEP
            for count in range(math.ceil(each * base / STEP) + 1, int(each * base * WIDEST / STEP) + 1)
        }
    )


def _step(channels: int, count: int) -> float:
    """Return the largest width_multiple with which `channels` round up to `count` steps, whatever a division rounds to."""
    width = STEP * count / channels
    while channels * width > STEP * count:
        width = math.nextafter(width, 0)
    return width


def nearest_step(widths: Sequence[float], parameters: Callable[[float], int], target: int) -> float:
    """Return the width whose parameters, which rise with it, are nearest to `target`; of two, the wider."""
    low, high = 0, len(widths) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(widths[middle]) <= target else (low, middle)
    return min((widths[high], widths[low]), key=lambda width: abs(parameters(width) - target))


# ---- weights ----


def takes_weights(baseline: str, control: str) -> bool:
    """Return whether the wider of two yamls (texts) can start as the narrower one."""
    narrow, wide = (Model(yaml.safe_load(text)) for text in (baseline, control))
    try:
        widen(narrow, wide)
    except ModelError as error:
        LOGGER.info(f"the control cannot take the baseline's weights: {error}")
        return False
    return True


def write_start(baseline: Path, control: Path, weights: Path, seed: int, file: Path) -> Path:
    """Write the checkpoint that the control's training with `seed` starts from: the baseline's as `weights` fill it,
    and new channels drawn from the seed.
    """
    checkpoint = read_checkpoint(find_weights(weights))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        narrow, wide = Model(baseline, nc=checkpoint.nc), Model(control, nc=checkpoint.nc)
    transfer_weights(narrow, checkpoint)
    widen(narrow, wide)
    wide.names = list(checkpoint.names)
    LOGGER.info(
        f"{control.name} starts as {baseline.name}: its new channels are random and the old ones read them with weight 0"
    )
    return write_checkpoint(checkpoint_of(wide), file)


@torch.no_grad()
def widen(narrow: nn.Module, wide: nn.Module) -> None:
    """Fill `wide`, the same layers with more channels, so that it computes what `narrow` computes.

    Raises ModelError where a layer is neither convolution nor norm, or does not pass channels on as they are.
    """
    sources = {name: module for name, module in narrow.named_modules() if isinstance(module, (nn.Conv2d, *NORMS))}
    places = _channel_places(narrow, wide)
    state, filled = narrow.state_dict(), set()
    for name, module in wide.named_modules():
        if name not in sources:
            continue
        for leaf, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            _fill(tensor, state[f"{name}.{leaf}"], places[name], isinstance(module, NORMS))
            filled.add(f"{name}.{leaf}")
    for key, tensor in wide.state_dict().items():
        if key in filled:
            continue
        if key not in state or state[key].shape != tensor.shape:
            raise ModelError(f"{key}: is no part of a convolution or norm and cannot be widened")
        tensor.copy_(state[key])


def _fill(tensor: Tensor, source: Tensor, place: Tensor, is_norm: bool) -> None:
    """Copy one tensor. place: (channels in,) where the narrow layer's inputs are among the wide one's."""
    if source.ndim == 0:
        tensor.copy_(source)
    elif is_norm:
        tensor[place] = source
    elif source.ndim == 1:
        tensor[: len(source)] = source
    else:
        tensor[: len(source)] = 0
        tensor[: len(source), place] = source


def _channel_places(narrow: nn.Module, wide: nn.Module) -> dict[str, Tensor]:
    """Return for each convolution and norm where its narrow inputs are among the wide ones.

    Both networks are run with convolutions that send out a code a channel, the same in both for the same channel of
    the same convolution. Concatenation, pooling, upsampling, sums and activations carry codes along.
    """
    small, large = _arriving_codes(narrow), _arriving_codes(wide)
    if small.keys() != large.keys():
        raise ModelError("a widened network must have the layers of the one it comes from")
    places = {}
    for name in small:
        least, place = (_numbered(small[name])[:, None] - _numbered(large[name])[None]).abs().min(1)
        if float(least.max()) > _CLOSE:
            raise ModelError(f"{name}: what it reads cannot be followed to the convolutions it comes from")
        places[name] = place
    return places


def _numbered(codes: Tensor) -> Tensor:
    """Return codes of which none stands twice: each with a large number for its earlier appearances, as the pools of SPPF
    pass the same channels on several times.
    """
    alike = (codes[:, None] - codes[None]).abs() < _CLOSE
    return codes + 1e3 * alike.tril(-1).sum(1)


def _arriving_codes(model: nn.Module) -> dict[str, Tensor]:
    """Return (channels,) codes that arrive at each convolution and norm."""
    model = copy.deepcopy(model).double().eval()
    arriving: dict[str, Tensor] = {}

    def instead(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        is_norm = isinstance(module, NORMS)
        code = (
            None
            if is_norm
            else torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).random(module.out_channels) + 1)
        )

        def forward(x: Tensor) -> Tensor:
            arriving[name] = x[0, :, 0, 0].clone()
            if is_norm:
                return x
            sides = [
                (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
                for size, pad, dilation, kernel, stride in zip(
                    x.shape[2:], module.padding, module.dilation, module.kernel_size, module.stride
                )
            ]
            return code.view(1, -1, 1, 1).expand(1, -1, *sides).clone()

        return forward

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and (module.groups != 1 or isinstance(module.padding, str)):
            raise ModelError(f"{name}: a grouped convolution cannot be widened")
        if isinstance(module, (nn.Conv2d, *NORMS)):
            module.forward = instead(name, module)
    side = 2 * int(max(model.stride))
    with torch.no_grad():
        model(torch.zeros(1, model.yaml.get("ch", 3), side, side, dtype=torch.float64))
    return arriving
