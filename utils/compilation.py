"""`--compile`: a network's pass as torch.compile makes it, and the eager pass if it does not compile.

The compiled pass lies beside the network, which stays as it was: copies, averages, state dicts and files know nothing
of it, and no name gets a prefix.
"""

import contextlib
import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.log import LOGGER

_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # g++ elsewhere: what inductor looks for
_C_COMPILERS = ("gcc", "clang", "cc")  # one of which triton looks for


@dataclass(frozen=True)
class CompileOptions:
    """How a pass is compiled.

    Attributes:
        dynamic: True makes one graph for inputs of all sizes, False one per size, None one for the first size and, as
            soon as another comes, one for all.
        backend: Of torch.compile; "inductor" makes machine code, "aot_eager" captures the same graphs and
            needs no compiler.
    """

    dynamic: bool | None = None
    backend: str = "inductor"


def compiler_problem(device: torch.device) -> str:
    """Return why inductor cannot make code for a device, "" if nothing is known to be missing."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        named = os.environ.get("CC")
        if not any(shutil.which(name) for name in ([named] if named else _C_COMPILERS)):
            return f"no C compiler is found ({named or ', '.join(_C_COMPILERS)})"
        return ""
    compiler = shlex.split(os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++"))[0]
    return "" if shutil.which(compiler) else f"no C++ compiler is found ({compiler}; CXX names another)"


class CompiledPass:
    """A network called through torch.compile, and eagerly from the first call on that does not compile.

    The whole pass is one graph, forward and backward made before it runs: if it does not compile, nothing has run yet,
    so that no batch enters the statistics of batch norm twice.

    Args:
        network: What is called; it is not changed.
        options: How it is compiled.

    Attributes:
        compiled: What torch.compile returned, None once the pass is eager.
        failure: Why it is eager, "" while it is not.
    """

    def __init__(self, network: nn.Module, options: CompileOptions):
        from torch._dynamo.exc import TorchDynamoException

        self.network, self.failure = network, ""
        self._does_not_compile = TorchDynamoException
        self._shapes: set[tuple[int, ...]] = set()
        self.compiled: Callable[..., Any] | None = None

        def run(images: Tensor, **options: Any) -> Any:  # torch.compile would leave a mark on the network itself
            return network(images, **options)

        try:
            self.compiled = torch.compile(run, backend=options.backend, fullgraph=True, dynamic=options.dynamic)
        except RuntimeError as error:  # such as a Python that this torch does not compile for
            self._fall_back(error)

    def __call__(self, images: Tensor, **options: Any) -> Any:
        """Return what the network makes of a batch.

        Args:
            images: (B, C, H, W).
            **options: Further arguments of the network's pass.

        Returns:
            The network's output.
        """
        if self.compiled is None:
            return self.network(images, **options)
        try:
            with _compiling_all_at_once(), self._reporting(images):
                return self.compiled(images, **options)
        except self._does_not_compile as error:
            self._fall_back(error)
        return self.network(images, **options)

    @contextlib.contextmanager
    def _reporting(self, images: Tensor) -> Iterator[None]:
        """Log the time of the first pass at each shape, if it is long enough to wonder about."""
        shape = tuple(images.shape)
        if shape in self._shapes:
            yield
            return
        if not self._shapes:
            LOGGER.info("--compile: the first pass compiles the network, which may take minutes")
        started = time.perf_counter()
        yield
        self._shapes.add(shape)
        seconds = time.perf_counter() - started
        if seconds > 1:
            LOGGER.info(f"--compile: compiled for {' x '.join(map(str, shape))} in {seconds:.0f} s")

    def _fall_back(self, error: Exception) -> None:
        reason = " ".join(
            next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).split()
        )
        self.compiled, self.failure = None, f"{type(error).__name__}: {reason}"
        LOGGER.warning(f"WARNING: --compile: the network does not compile, so it runs eagerly ({self.failure[:200]})")


@contextlib.contextmanager
def _compiling_all_at_once() -> Iterator[None]:
    """Compile the backward pass together with the forward pass, and height and width as two numbers, equal or not."""
    import torch._functorch.config as joint_graph
    import torch.fx.experimental._config as symbols

    with contextlib.ExitStack() as patches:
        for settings, values in (
            (joint_graph, {"force_non_lazy_backward_lowering": True}),
            (symbols, {"use_duck_shape": False}),
        ):
            if all(hasattr(settings, name) for name in values):  # older versions lack some
                patches.enter_context(settings.patch(**values))
        yield


class CompiledNetwork(nn.Module):
    """A detector or an ensemble for inference whose pass is compiled; it is never saved.

    Args:
        network: What is compiled, in evaluation mode.
        options: How it is compiled.
    """

    def __init__(self, network: nn.Module, options: CompileOptions):
        super().__init__()
        self.network = network
        self.compiled_pass = CompiledPass(network, options)
        self.train(network.training)

    @property
    def names(self) -> Any:
        """Names of the classes."""
        return self.network.names

    @property
    def stride(self) -> Any:
        """Pixels per cell of each output map."""
        return self.network.stride

    def forward(self, x: Tensor, augment: bool = False) -> Any:
        """Return the network's predictions.

        Args:
            x: (B, ch, H, W) images of values 0..1.
            augment: Test-time augmentation.

        Returns:
            What the network returns.
        """
        return self.compiled_pass(x, augment=augment)


def compiled_network(network: nn.Module, options: CompileOptions) -> nn.Module:
    """Return a network whose pass is compiled, or the network itself, with one line, if there is no compiler.

    Args:
        network: A detector or an ensemble, on its device, in evaluation mode.
        options: How it is compiled.

    Returns:
        A network to predict with.
    """
    return CompiledNetwork(network, options) if can_compile(next(network.parameters()).device) else network


def compiled_pass(network: nn.Module, options: CompileOptions) -> CompiledPass | None:
    """Return the compiled pass of a network that trains, or None, with one line, if there is no compiler.

    Args:
        network: The network, on its device.
        options: How it is compiled.

    Returns:
        The pass.
    """
    return CompiledPass(network, options) if can_compile(next(network.parameters()).device) else None


def can_compile(device: torch.device) -> bool:
    """Return whether inductor can make code for a device; if not, one line says what is missing."""
    problem = compiler_problem(device)
    if problem:
        LOGGER.warning(f"WARNING: --compile: {problem}, so the network runs eagerly")
    return not problem
