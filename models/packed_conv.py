"""A convolution for inference on the CPU: weights in the layout of oneDNN's kernels, the SiLU computed within it.

A plain convolution hands its weights over anew in every pass, and the SiLU after it reads and writes the whole map
again. torch's compiler avoids both by two operators of torch; this module calls them without a compiler. Where they
cannot be used (another device or type, gradients, a graph being exported or compiled) it computes as torch does.
"""

import platform
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PROCESSORS = ("x86_64", "amd64")  # those for which torch's own builds bring oneDNN's convolutions
_OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise")


class PackedWeight:
    """A weight in oneDNN's layout. It never changes, so a copy of a network shares it: torch cannot copy it."""

    def __init__(self, conv: nn.Conv2d):
        self.tensor = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *_geometry(conv), None)

    def __deepcopy__(self, memo: dict) -> "PackedWeight":
        return self


class PackedConv2d(nn.Conv2d):
    """The convolution `conv` for inference on the CPU, followed by a SiLU if asked for: (B, C, H, W) in and out.

    Its parameters are those of `conv`; they must not change afterwards. If the module is moved or converted, the packed
    weight is dropped.

    Args:
        conv: What `is_packable` accepts.
        with_silu: Whether a SiLU follows.
    """

    def __init__(self, conv: nn.Conv2d, with_silu: bool = False):
        super().__init__(conv.in_channels, conv.out_channels, 1, bias=False, device="meta")
        self.__dict__.update({name: value for name, value in vars(conv).items() if name != "_parameters"})
        self._parameters = dict(conv._parameters)
        self.with_silu = with_silu
        self.packed: PackedWeight | None = PackedWeight(conv)

    def forward(self, x: Tensor) -> Tensor:
        packed = self._packed_for(x)
        if packed is None:
            features = super().forward(x)
            return F.silu(features, inplace=not torch.is_grad_enabled()) if self.with_silu else features
        x = x.contiguous(memory_format=torch.channels_last)
        activation = "swish" if self.with_silu else "none"
        return torch.ops.mkldnn._convolution_pointwise(
            x, packed.tensor, self.bias, *_geometry(self), activation, [], ""
        )

    def _packed_for(self, x: Tensor) -> PackedWeight | None:
        """Return the packed weight if it can be used on `x`."""
        usable = x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 4 and x.numel() > 0
        if not usable or torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return None
        return None if torch.is_autocast_enabled("cpu") else self.packed

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedConv2d":
        self.packed = None
        return super()._apply(fn, recurse)


def is_packable(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a module is a plain convolution in float32 on a CPU that has oneDNN's convolutions."""
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    on_cpu = conv.weight.device.type == "cpu" and conv.weight.dtype == torch.float32
    return on_cpu and _has_operators()


def _has_operators() -> bool:
    """Return whether this torch has the operators on this processor."""
    is_built = torch.backends.mkldnn.is_available() and platform.machine().lower() in _PROCESSORS
    return is_built and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)


def _geometry(conv: nn.Conv2d) -> tuple[Any, ...]:
    """Return padding, stride, dilation and groups as the operators take them."""
    return conv.padding, conv.stride, conv.dilation, conv.groups
