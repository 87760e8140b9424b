"""The parameter-matched baseline: the baseline made wider, so that a variant's gain can be told from that of mere size.

Width. Depth stays, and width_multiple is solved: layers widen in steps of 8 channels, so the parameters are a staircase
of width_multiple, and the step nearest to the largest variant is taken.

Start. A wider network cannot take a checkpoint by shapes, and a baseline from random weights compared with variants
from pretrained ones would prove nothing. So its weights are made as in Net2Net (Chen, Goodfellow and Shlens, ICLR 2016,
arXiv 1511.05641, section 2: the wider student computes what the teacher did), with one difference: theirs copies
channels and divides what reads them, ours draws new channels at random and lets the old ones read them with weight
zero, which is how attention behind a zero-initialized gate starts (models/identity_start.py). All of the baseline's
weights are in it, and it starts as the baseline, up to rounding.
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

CHANNEL_STEP = 8  # layers widen in steps of so many channels
WIDEST = 4.0  # times the baseline's width at most
NORMS = (nn.BatchNorm2d,)
_TOLERANCE = 1e-9  # of two codes that are the same channel; codes lie in 1..2, at least 1e-7 apart


@dataclass(frozen=True)
class ParameterMatchedBaseline:
    """The baseline widened to the parameters of the largest variant.

    Attributes:
        text: The model yaml.
        width: Its width_multiple.
        parameters: Its number of parameters.
        baseline_parameters: The baseline's.
        largest: Name of the largest variant.
        largest_parameters: The largest variant's.
        takes_weights: Whether it can start with the baseline's weights.
    """

    text: str
    width: float
    parameters: int
    baseline_parameters: int
    largest: str
    largest_parameters: int
    takes_weights: bool = False

    def sentence(self) -> str:
        """Return how large it is, as a note for the report."""
        share = self.parameters / self.largest_parameters - 1
        return (
            f"The parameter-matched baseline (control) is the baseline with width_multiple {self.width:g}: "
            f"{self.parameters:,} parameters, {share:+.1%} compared with the largest variant, {self.largest} "
            f"({self.largest_parameters:,}); the baseline has {self.baseline_parameters:,}."
        )


def count_parameters(
    content: Mapping[str, Any], nc: int, attention_start: str = "", cache: ShapeCache | None = None
) -> int:
    """Return the number of parameters of a model yaml. Nothing is computed.

    Args:
        content: The yaml.
        nc: Number of classes.
        attention_start: "identity" or "plain"; "" leaves it to the yaml.
        cache: Measurements of layers to share between calls.

    Returns:
        The number of parameters.

    Raises:
        ModelError: The yaml cannot be built.
    """
    content = {**content, "nc": nc, **({"attention_start": attention_start} if attention_start else {})}
    return totals(infer_shapes(load_spec(content), cache))[0]


def match_parameters(baseline: str, file: str, variants: Mapping[str, int], nc: int) -> ParameterMatchedBaseline | None:
    """Return the baseline widened to the parameters of the largest variant.

    Args:
        baseline: Text of the baseline's yaml.
        file: Name of that yaml.
        variants: Number of parameters by name of variant.
        nc: Number of classes.

    Returns:
        The wider baseline, or None if no wider one is nearer to the largest variant than the baseline itself.
    """
    content = yaml.safe_load(baseline)
    rows = read_content(content)[2]
    cache = ShapeCache()
    largest = max(variants, key=lambda each: variants[each])

    def parameters(width: float) -> int:
        return count_parameters({**content, "width_multiple": width}, nc, cache=cache)

    base = float(content["width_multiple"])
    channels = [row.args[0] for row in rows if row.args and is_number(row.args[0], int)]
    widths = [base, *_width_steps(channels, base)]
    width = nearest_width(widths, parameters, variants[largest]) if variants[largest] > parameters(base) else base
    if width == base:
        return None
    settings = {key: value for key, value in content.items() if key not in ("backbone", "head")}
    header = (f"{file} widened to the parameters of {largest}, layer for layer",)
    text = render_yaml(Architecture(file, {**settings, "width_multiple": width}, rows), header)
    return ParameterMatchedBaseline(text, width, parameters(width), parameters(base), largest, variants[largest])


def _width_steps(channels: Sequence[int], base: float) -> list[float]:
    """Return the widths above `base` up to which a layer of one of `channels` keeps its rounded width."""
    return sorted(
        {
            _largest_width(each, count)
            for each in set(channels)
            if each >= CHANNEL_STEP
            for count in range(math.ceil(each * base / CHANNEL_STEP) + 1, int(each * base * WIDEST / CHANNEL_STEP) + 1)
        }
    )


def _largest_width(channels: int, count: int) -> float:
    """Return the largest width_multiple with which `channels` round up to `count` steps, exact in floating point."""
    width = CHANNEL_STEP * count / channels
    while channels * width > CHANNEL_STEP * count:
        width = math.nextafter(width, 0)
    return width


def nearest_width(widths: Sequence[float], parameters: Callable[[float], int], target: int) -> float:
    """Return the width whose number of parameters is nearest to `target`; of two, the wider.

    Args:
        widths: Values of width_multiple, rising.
        parameters: Returns the number of parameters of a width; it rises with the width.
        target: The number of parameters to match.

    Returns:
        One of `widths`.
    """
    low, high = 0, len(widths) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(widths[middle]) <= target else (low, middle)
    return min((widths[high], widths[low]), key=lambda width: abs(parameters(width) - target))


# ---- weights ----


def can_take_weights(baseline: str, matched: str) -> bool:
    """Return whether the wider network can start with the weights of the narrower one.

    Args:
        baseline: Text of the baseline's yaml.
        matched: Text of the parameter-matched baseline's yaml.

    Returns:
        True if `widen` knows all of its layers; else the reason is logged.
    """
    narrow, wide = (Model(yaml.safe_load(text)) for text in (baseline, matched))
    try:
        widen(narrow, wide)
    except ModelError as error:
        LOGGER.info(f"the parameter-matched baseline cannot take the baseline's weights: {error}")
        return False
    return True


def write_initial_weights(baseline: Path, matched: Path, weights: Path, seed: int, file: Path) -> Path:
    """Write the checkpoint that a training of the parameter-matched baseline starts from.

    Args:
        baseline: Yaml of the baseline.
        matched: Yaml of the parameter-matched baseline.
        weights: The checkpoint that the baseline starts from; what it holds of the baseline is in the result.
        seed: Seed of the training; new channels are drawn from it.
        file: Where to write.

    Returns:
        `file`.
    """
    checkpoint = read_checkpoint(find_weights(weights))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        narrow, wide = Model(baseline, nc=checkpoint.nc), Model(matched, nc=checkpoint.nc)
    transfer_weights(narrow, checkpoint)
    widen(narrow, wide)
    wide.names = list(checkpoint.names)
    LOGGER.info(
        f"{matched.name} starts as {baseline.name}: its new channels are random, old ones read them with weight 0"
    )
    return write_checkpoint(checkpoint_of(wide), file)


@torch.no_grad()
def widen(narrow: Model, wide: Model) -> None:
    """Fill a network so that it computes what a narrower one computes.

    Args:
        narrow: The network whose weights are taken.
        wide: The same layers with more channels; its new channels keep their random weights.

    Raises:
        ModelError: A layer with weights is neither convolution nor norm, or does not pass channels on as they are.
    """
    sources = {name: module for name, module in narrow.named_modules() if isinstance(module, (nn.Conv2d, *NORMS))}
    inputs = _input_indices(narrow, wide)
    state, filled = narrow.state_dict(), set()
    for name, module in wide.named_modules():
        if name not in sources:
            continue
        for leaf, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            _copy_channels(tensor, state[f"{name}.{leaf}"], inputs[name], isinstance(module, NORMS))
            filled.add(f"{name}.{leaf}")
    for key, tensor in wide.state_dict().items():
        if key in filled:
            continue
        if key not in state or state[key].shape != tensor.shape:
            raise ModelError(f"{key}: is no part of a convolution or norm and cannot be widened")
        tensor.copy_(state[key])


def _copy_channels(tensor: Tensor, source: Tensor, inputs: Tensor, is_norm: bool) -> None:
    """Copy one tensor of a layer. inputs: (input channels of the narrow layer,) their indices in the wide layer."""
    if source.ndim == 0:
        tensor.copy_(source)
    elif is_norm:
        tensor[inputs] = source
    elif source.ndim == 1:
        tensor[: len(source)] = source
    else:
        tensor[: len(source)] = 0
        tensor[: len(source), inputs] = source


def _input_indices(narrow: Model, wide: Model) -> dict[str, Tensor]:
    """Return for each convolution and norm the indices of its narrow input channels among the wide ones.

    Both networks are run with convolutions that send out one code per channel, the same in both for the same channel of
    the same convolution. Concatenation, pooling, upsampling, sums and activations carry codes along.
    """
    small, large = _input_codes(narrow), _input_codes(wide)
    if small.keys() != large.keys():
        raise ModelError("a widened network must have the layers of the one it comes from")
    indices = {}
    for name in small:
        least, index = (_distinct(small[name])[:, None] - _distinct(large[name])[None]).abs().min(1)
        if float(least.max()) > _TOLERANCE:
            raise ModelError(f"{name}: what it reads cannot be followed to the convolutions it comes from")
        indices[name] = index
    return indices


def _distinct(codes: Tensor) -> Tensor:
    """Return (channels,) codes of which no two are equal: a large number is added per earlier equal code.

    The pools of SPPF pass the same channels on several times.
    """
    alike = (codes[:, None] - codes[None]).abs() < _TOLERANCE
    return codes + 1e3 * alike.tril(-1).sum(1)


def _input_codes(model: Model) -> dict[str, Tensor]:
    """Return the (channels,) codes that each convolution and norm reads."""
    model = copy.deepcopy(model).double().eval()
    codes: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            codes[name] = inputs[0][0, :, 0, 0].clone()

        return hook

    def emit(code: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return code.view(1, -1, 1, 1).expand_as(output).clone()

        return hook

    def pass_on(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0]

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or isinstance(module.padding, str):
                raise ModelError(f"{name}: a grouped convolution cannot be widened")
            random = np.random.default_rng(zlib.crc32(name.encode()))
            module.register_forward_pre_hook(record(name))
            module.register_forward_hook(emit(torch.from_numpy(random.random(module.out_channels) + 1)))
        elif isinstance(module, NORMS):
            module.register_forward_pre_hook(record(name))
            module.register_forward_hook(pass_on)
    side = 2 * int(max(model.stride))
    with torch.no_grad():
        model(torch.zeros(1, model.yaml.get("ch", 3), side, side, dtype=torch.float64))
    return codes
