"""What a model costs: GFLOPs by two counters, and the time each layer takes.

Counting runs on shapes alone (torch's meta device), so the largest model at the largest size costs
milliseconds and no memory."""

import contextlib
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.device import synchronize
from utils.log import LOGGER

# What running a block on tensors without content may raise where it looks at values.
_META_ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError, AssertionError)


def _shape_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` whose parameters and buffers have shapes but no content."""
    memo: dict[int, Tensor] = {}
    for tensor in model.parameters():
        memo[id(tensor)] = nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
    for tensor in model.buffers():
        memo[id(tensor)] = torch.empty_like(tensor, device="meta")
    return copy.deepcopy(model, memo).eval()


def _input_for(model: nn.Module, height: int, width: int, device: str | torch.device) -> Tensor:
    weight = next(model.parameters())
    channels = getattr(model, "yaml", {}).get("ch", 3)
    return torch.zeros(1, channels, height, width, dtype=weight.dtype, device=device)


def _count(model: nn.Module, imgsz: int, counter: Callable[[nn.Module, Tensor], float]) -> float:
    """Apply `counter` to shapes alone or, where a block needs values, to a copy of the model on its device."""
    shapes = _shape_copy(model)
    try:
        return counter(shapes, _input_for(shapes, imgsz, imgsz, "meta"))
    except _META_ERRORS:
        real = copy.deepcopy(model).eval()
        return counter(real, _input_for(real, imgsz, imgsz, next(real.parameters()).device))


def thop_gflops(model: nn.Module, imgsz: int = 640) -> float:
    """Return 1e9 operations (2 a multiply-add) of a pass over one square image, as thop counts them.

    thop sees modules: convolutions, norms, linear maps, torch's multi-head attention; not the products inside
    blocks of other authors. Copying pixels (nearest upsampling) counts as nothing. Raises ImportError where
    thop cannot be imported. `model` is left as it is."""
    import thop

    rules = {nn.Upsample: _no_work_if_nearest, nn.MultiheadAttention: _attention_macs, **_inherited_rules(model)}

    def counter(model: nn.Module, image: Tensor) -> float:
        macs, _ = thop.profile(model, inputs=(image,), custom_ops=rules, verbose=False)
        return float(macs) * 2 / 1e9

    return _count(model, imgsz, counter)


def _inherited_rules(model: nn.Module) -> dict[type[nn.Module], Callable]:
    """thop looks modules up by their exact type; give subclasses of torch's layers the rule of their base."""
    from thop.profile import register_hooks

    types = {type(module) for module in model.modules()} - set(register_hooks)
    known = {kind: next((register_hooks[base] for base in kind.__mro__ if base in register_hooks), None) for kind in types}
    return {kind: rule for kind, rule in known.items() if rule is not None}


def _no_work_if_nearest(module: nn.Upsample, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    from thop.vision.basic_hooks import count_upsample

    if module.mode != "nearest":
        count_upsample(module, inputs, output)


def _attention_macs(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    """Four projections of C x C, the two products of L x L x C, and a softmax of 3 operations an entry."""
    length, batch, channels = inputs[0].shape
    if module.batch_first:
        length, batch = batch, length
    projections = 4 * length * channels ** 2
    products = 2 * length ** 2 * channels
    softmax = 3 * module.num_heads * length ** 2
    module.total_ops += batch * (projections + products + softmax)


def flops(model: nn.Module, imgsz: int = 640) -> float:
    """Return the operations (2 a multiply-add) of all matrix products and convolutions of a pass over one
    square image, those inside attention included, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    def counter(model: nn.Module, image: Tensor) -> float:
        with FlopCounterMode(display=False) as counting, torch.no_grad():
            model(image)
        return float(counting.get_total_flops())

    return _count(model, imgsz, counter)


def describe_gflops(model: nn.Module, imgsz: int = 640) -> str:
    """Return "16.6 GFLOPs" by thop; without it by torch's counter, and where neither works say why."""
    try:
        return f"{thop_gflops(model, imgsz):.1f} GFLOPs"
    except ImportError as error:
        reason = f"thop cannot be imported: {error}"
    except _META_ERRORS as error:
        reason = f"thop: {' '.join(str(error).split())[:120]}"
    try:
        return f"{flops(model, imgsz) / 1e9:.1f} GFLOPs (torch's counter; {reason})"
    except _META_ERRORS as error:
        return f"GFLOPs unknown ({reason}; torch's counter: {' '.join(str(error).split())[:120]})"


def layer_times(model: nn.Module, device: torch.device, imgsz: int = 640, rounds: int = 10) -> list[float]:
    """Return the mean milliseconds of each layer of `model.model` over `rounds` passes in evaluation, after one to warm up."""
    totals = [0.0] * len(model.model)
    started = [0.0]

    def before(*_) -> None:
        synchronize(device)
        started[0] = time.perf_counter()

    def after(index: int) -> Callable[..., None]:
        def hook(*_) -> None:
            synchronize(device)
            totals[index] += time.perf_counter() - started[0]
        return hook

    training = model.training
    image = _input_for(model, imgsz, imgsz, device)
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        model.eval()(image)
        for index, layer in enumerate(model.model):
            hooks.callback(layer.register_forward_pre_hook(before).remove)
            hooks.callback(layer.register_forward_hook(after(index)).remove)
        for _ in range(rounds):
            model(image)
    model.train(training)
    return [1000 * total / rounds for total in totals]


def log_layer_times(model: nn.Module, device: torch.device, imgsz: int = 640) -> None:
    """Log a table of the layers' times and parameters."""
    times = layer_times(model, device, imgsz)
    LOGGER.info(f"{'time (ms)':>10}{'params':>12}  module")
    for layer, milliseconds in zip(model.model, times):
        LOGGER.info(f"{milliseconds:10.2f}{layer.np:12d}  {layer.i} {layer.type}")
    LOGGER.info(f"{sum(times):10.2f}{'':12}  total at {imgsz} x {imgsz}")
