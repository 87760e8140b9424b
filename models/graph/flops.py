"""Operations of a pass over one image, by torch's dispatcher and by thop.

The dispatcher sees inside attention; thop is what YOLOv5's tables are made with. Counting runs on shapes alone
(torch's meta device), so the largest model at the largest size costs milliseconds and no memory. A multiply-add is
two operations in both.

The dispatcher's figure holds matrix products and convolutions, wherever they are, at the size they are run: zeros
that a block pads its tokens with are counted, as they are worked on. A deformable convolution counts as the
convolution of its shape. Sampling and interpolation, norms, activations, softmax, pooling, Fourier transforms
and element-wise work count as nothing. thop's figure adds norms, and leaves out every product that is not a
module's.
"""

import copy
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.registry import BLOCK_ERRORS
from utils import vision_operators

Size = int | Sequence[int]  # of an image in pixels: the side of a square, or (height, width)
Result = TypeVar("Result")


def height_width(size: Size) -> tuple[int, int]:
    """Return (height, width) in pixels of a size, which is the side of a square or (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def input_shape(model: nn.Module, size: Size, batch: int = 1) -> tuple[int, int, int, int]:
    """Return the shape (B, C, H, W) of the model's input.

    Args:
        model: Its yaml says how many channels an image has; 3 without one.
        size: Size of an image in pixels.
        batch: Number of images.

    Returns:
        (B, C, H, W).
    """
    return batch, getattr(model, "yaml", {}).get("ch", 3), *height_width(size)


def copy_with_tensors(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of a model with every parameter and buffer converted.

    Args:
        model: It is left as it is.
        convert: Called with each tensor; what it returns replaces the tensor.

    Returns:
        The copy.
    """
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(convert(parameter.detach()), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = convert(buffer)
    return copy.deepcopy(model, memo)


def count_on_shapes(model: nn.Module, size: Size, count: Callable[[nn.Module, Tensor], Result]) -> Result:
    """Return `count(copy, image)` of a copy in evaluation mode on shapes alone.

    If a block depends on values, it is counted on the model's device instead.

    Args:
        model: It is left as it is.
        size: Size of the image in pixels.
        count: Called with the copy and an image of zeros (1, C, H, W).

    Returns:
        The result of `count`.
    """
    dtype, shape = next(model.parameters()).dtype, input_shape(model, size)
    try:
        shapes = copy_with_tensors(model, lambda tensor: torch.empty_like(tensor, device="meta")).eval()
        _pass_on_at_norms(shapes)
        return count(shapes, torch.zeros(shape, dtype=dtype, device="meta"))
    except BLOCK_ERRORS:
        real = copy.deepcopy(model).eval()
        return count(real, torch.zeros(shape, dtype=dtype, device=next(real.parameters()).device))


def _pass_on_at_norms(model: nn.Module) -> None:
    """Have batch norms return what they get: they keep the shape, and on shapes alone take most of the time.

    torch runs them there as many small operations, for which it imports its compiler first. Both counters take their
    figure from the norm's input, so it stays.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = _passed_on  # type: ignore[method-assign]


def _passed_on(input: Tensor) -> Tensor:  # noqa: A002  (as torch names it)
    return input


# ---- torch's dispatcher ----


def flops(model: nn.Module, imgsz: Size = 640) -> float:
    """Return the operations of a pass over one image, products inside attention included.

    Matrix products and convolutions count, 2 operations per multiply-add.

    Args:
        model: It is left as it is.
        imgsz: Size of the image in pixels.

    Returns:
        The number of operations.
    """

    def count(model: nn.Module, image: Tensor) -> float:
        with flop_counter() as counter, torch.no_grad():
            model(image)
        return float(counter.get_total_flops())

    return count_on_shapes(model, imgsz, count)


def flop_counter() -> FlopCounterMode:
    """Return torch's counter, a context manager, with formulas for the operators that its own table lacks."""
    return FlopCounterMode(display=False, custom_mapping=_formulas())


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return operator -> formula from shapes, for those that torch's own table lacks in some version or in all."""
    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _dense_attention,  # not in torch 2.6
        aten._native_multi_head_attention: _native_attention,  # nn.MultiheadAttention in evaluation mode
        aten._transformer_encoder_layer_fwd: _encoder_layer,
        aten.mv: _matrix_vector,
        aten.addmv: lambda start, matrix, vector, **_: 2 * prod(matrix),
        aten.dot: lambda first, second, **_: 2 * prod(first),
    }
    if vision_operators.are_loaded():  # if they were not, none of them runs
        formulas[torch.ops.torchvision.deform_conv2d] = _deformable
    return formulas


def _dense_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of two products, query with keys and weights with values: (B, heads, N, d)."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _native_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of four projections C x C and the two products, of tokens (B, N, C)."""
    batch, tokens, channels = query
    return 2 * batch * tokens * channels * (4 * channels + 2 * tokens)


def _encoder_layer(tokens: Sequence[int], *rest: Any, **_: Any) -> int:
    """Return the operations of attention and an MLP of two maps, whose first weight (hidden, C) is argument 15."""
    return _native_attention(tokens, tokens, tokens) + 2 * 2 * prod(tokens) * rest[13][0]


def _matrix_vector(matrix: Sequence[int], vector: Sequence[int], **_: Any) -> int:
    return 2 * prod(matrix)


def _deformable(image: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """Return the operations of a sum over the weight's (C_in / groups, kh, kw) per output."""
    return 2 * prod(out_shape) * prod(weight[1:])


# ---- thop ----


def thop_gflops(model: nn.Module, imgsz: Size = 640) -> float:
    """Return 1e9 operations of a pass over one image as thop counts them, 2 per multiply-add.

    thop sees modules: convolutions, norms, linear maps, torch's multi-head attention; not the products inside
    blocks of other authors. Copying pixels (nearest upsampling) counts as nothing.

    Args:
        model: It is left as it is.
        imgsz: Size of the image in pixels.

    Returns:
        GFLOPs.

    Raises:
        ImportError: If thop cannot be imported.
    """
    return thop_layer_gflops(model, imgsz)[0]


def thop_layer_gflops(model: nn.Module, imgsz: Size = 640) -> tuple[float, dict[str, float]]:
    """Return thop's 1e9 operations of the whole model and of each of its layers.

    Args:
        model: It is left as it is.
        imgsz: Size of the image in pixels.

    Returns:
        (GFLOPs, name of a child of `model.model` -> GFLOPs); the latter is empty if there is no `model.model`.

    Raises:
        ImportError: If thop cannot be imported.
    """
    import thop

    rules = {nn.Upsample: _count_upsampling, nn.MultiheadAttention: _count_attention, **_inherited_rules(model)}

    def count(model: nn.Module, image: Tensor) -> tuple[float, dict[str, float]]:
        macs, _, parts = thop.profile(model, inputs=(image,), custom_ops=rules, verbose=False, ret_layer_info=True)
        layers = parts.get("model", (0, 0, {}))[2]
        return float(macs) * 2 / 1e9, {name: float(part[0]) * 2 / 1e9 for name, part in layers.items()}

    return count_on_shapes(model, imgsz, count)


def _inherited_rules(model: nn.Module) -> dict[type[nn.Module], Callable]:
    """Return the rules of base classes for subclasses of torch's layers: thop looks up the exact type."""
    from thop.profile import register_hooks

    types = {type(module) for module in model.modules()} - set(register_hooks)
    known = {
        kind: next((register_hooks[base] for base in kind.__mro__ if base in register_hooks), None) for kind in types
    }
    return {kind: rule for kind, rule in known.items() if rule is not None}


def _count_upsampling(module: nn.Upsample, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    from thop.vision.basic_hooks import count_upsample

    if module.mode != "nearest":
        count_upsample(module, inputs, output)


def _count_attention(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    """Add four projections C x C, the two products L x L x C, and a softmax of 3 operations per entry."""
    length, batch, channels = inputs[0].shape
    if module.batch_first:
        length, batch = batch, length
    projections = 4 * length * channels**2
    products = 2 * length**2 * channels
    softmax = 3 * module.num_heads * length**2
    module.total_ops += batch * (projections + products + softmax)


def describe_gflops(model: nn.Module, imgsz: Size = 640) -> str:
    """Return "16.6 GFLOPs" by thop, or by torch's counter if thop fails, with the reason.

    Args:
        model: It is left as it is.
        imgsz: Size of the image in pixels.

    Returns:
        The text; "GFLOPs unknown" with both reasons if neither counter works.
    """
    try:
        return f"{thop_gflops(model, imgsz):.1f} GFLOPs"
    except ImportError as error:
        reason = f"thop cannot be imported: {error}"
    except BLOCK_ERRORS as error:
        reason = f"thop: {short_message(error)}"
    try:
        return f"{flops(model, imgsz) / 1e9:.1f} GFLOPs (torch's counter; {reason})"
    except BLOCK_ERRORS as error:
        return f"GFLOPs unknown ({reason}; torch's counter: {short_message(error)})"


def short_message(error: BaseException) -> str:
    """Return an error's message as one line of at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__
