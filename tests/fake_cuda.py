"""A CUDA device without a GPU: tensors that claim to be on one, and a watch over what is done with them.

Under torch's FakeTensorMode every operator computes shapes, data types and devices and no values. What depends on
values (`.item()`, `nonzero`, a number of unique entries) and arithmetic between devices raise. Three faults pass
without a word, so `DeviceWatch` looks for them: copies to the host, which wait for the device; indices on the host or a
mask; and operators over two floating-point types that a GPU's kernel refuses. Autocast turns itself off where no driver
is, so `mixed_precision` says for a moment that there is one, and its users assert that half precision was really used.

Backward passes ask the driver for a device and do not run here.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators whose CUDA kernels want one floating-point type; others promote, or take float32 statistics beside halves.
ONE_DTYPE = (
    "mm",
    "convolution",
    "index_put",
    "index_add",
    "scatter",
    "linear",
    "attention",
    "layer_norm",
    "group_norm",
)


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Have every tensor made inside without values, on whatever device it names."""
    # grid_sample asks the driver whether cuDNN takes it, unless cuDNN is off
    with torch.backends.cudnn.flags(enabled=False), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextlib.contextmanager
def mixed_precision(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast to a type on CUDA, also where there is no driver; None computes in float32."""
    if dtype is None:
        yield
        return
    with (
        mock.patch("torch.cuda.is_available", lambda: True),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
    ):
        context = torch.autocast("cuda", dtype=dtype)
    with context:
        yield


def on_fake_cuda(module: nn.Module) -> nn.Module:
    """Put a module's parameters and buffers on the fake device, in place; what it holds besides stays where it is."""
    for each in module.modules():
        for name, weight in each._parameters.items():
            if weight is not None:
                moved = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                each._parameters[name] = nn.Parameter(moved, requires_grad=weight.requires_grad)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module


class DeviceWatch(TorchDispatchMode):
    """Collects the faults of what runs inside, one line per kind, and the types of what was computed."""

    def __init__(self):
        super().__init__()
        self.faults: set[str] = set()
        self.dtypes: set[torch.dtype] = set()
        self.operators = 0
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.operators += 1
        self.dtypes |= {tensor.dtype for tensor in made}
        name = str(func).removeprefix("aten.").removeprefix("torchvision.").split(".")[0]
        self.names.add(name)
        self._check(name, given, made)
        return result

    def _check(self, operator: str, given: list[Tensor], made: list[Tensor]) -> None:
        devices = {tensor.device.type for tensor in given}
        if "cuda" in devices and any(tensor.device.type == "cpu" for tensor in made):
            self.faults.add(f"{operator}: copies to the host")
        arrays = [tensor for tensor in given if tensor.ndim]  # a number on the host may be an argument
        if len({tensor.device.type for tensor in arrays}) > 1 and operator not in ("_to_copy", "copy_"):
            self.faults.add(f"{operator}: tensors of two devices")
        if operator in ("index", "index_put", "index_put_") and any(one.dtype == torch.bool for one in given[1:]):
            self.faults.add(f"{operator}: a mask, whose true entries the host would count")
        dtypes = {tensor.dtype for tensor in arrays if tensor.is_floating_point()}
        if len(dtypes) > 1 and any(word in operator for word in ONE_DTYPE):
            self.faults.add(f"{operator}: {' and '.join(sorted(map(str, dtypes)))}")
