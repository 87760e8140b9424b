"""YOLOv5's utils.torch_utils: devices, clocks, and small functions on networks."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

from models.layers import fold_norm
from utils import device as devices
from utils.compat.everyday import LOGGER, init_seeds
from utils.engine.model_ema import ModelEMA
from utils.errors import ConfigError

_GRAY = 0.447  # the mean of ImageNet, with which test-time augmentation pads


def select_device(device: Any = "", batch_size: int = 0, newline: bool = True) -> torch.device:
    """Return the device that a text names: "", "cpu", "mps", "0"; of "0,1" the first.

    Args:
        device: The text, or a device.
        batch_size: Must be a multiple of the number of devices named.
        newline: Not used.

    Returns:
        The device.

    Raises:
        ConfigError: If it does not exist here.
    """
    text = str(device if device is not None else "").strip().lower().replace("cuda:", "")
    names = [name for name in text.split(",") if name]
    if len(names) > 1 and batch_size > 0 and batch_size % len(names):
        raise ConfigError(f"batch size {batch_size} is not a multiple of {len(names)} devices")
    return devices.select_device(names[0] if names else "")


def time_sync() -> float:
    """Return the seconds of a clock, once work that is queued on CUDA is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()


def smart_inference_mode(*_: Any) -> Callable[[Callable], Callable]:
    """Return a decorator that computes without gradients."""
    return torch.no_grad()


@contextlib.contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the first process of a host do something before the others do."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several and local_rank not in (-1, 0):
        torch.distributed.barrier()
    yield
    if several and local_rank == 0:
        torch.distributed.barrier()


def is_parallel(model: nn.Module) -> bool:
    """Return whether a network is in a data-parallel wrapper."""
    return isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))


def de_parallel(model: nn.Module) -> nn.Module:
    """Return a network without its data-parallel wrapper."""
    return model.module if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that equals a convolution and the batch norm behind it, in evaluation.

    Args:
        conv: The convolution.
        bn: The batch norm.

    Returns:
        A new convolution with a bias.
    """
    return fold_norm(conv, bn)


def model_info(model: nn.Module, verbose: bool = False, imgsz: int | Sequence[int] = 640) -> None:
    """Log the layers, parameters and operations of a network.

    Args:
        model: A network of this project.
        verbose: Log the table of layers first.
        imgsz: Side of the image that operations are counted for, in pixels.
    """
    side = imgsz if isinstance(imgsz, int) else max(imgsz)
    de_parallel(model).summary(side, verbose)  # type: ignore[operator]  # a detector's, which nn.Module has not


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Return images scaled by a ratio and padded with gray to a multiple.

    Args:
        img: (B, 3, H, W) of values 0..1.
        ratio: Of the new sides to the old.
        same_shape: Whether they are not padded.
        gs: The multiple in pixels.

    Returns:
        (B, 3, H', W').
    """
    if ratio == 1.0:
        return img
    height, width = img.shape[2:]
    size = int(height * ratio), int(width * ratio)
    scaled = functional.interpolate(img, size=size, mode="bilinear", align_corners=False)
    if same_shape:
        return scaled
    lower, right = (-int(-side * ratio // gs) * gs - new for side, new in zip((height, width), size, strict=True))
    return functional.pad(scaled, (0, right, 0, lower), value=_GRAY)


def copy_attr(a: Any, b: Any, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
    """Copy the attributes of one object to another, those with a leading underscore left out.

    Args:
        a: Gets them.
        b: Has them.
        include: Only these, if any are given.
        exclude: Not these.
    """
    only, left_out = set(include), set(exclude)
    for name, value in vars(b).items():
        if not (only and name not in only or name.startswith("_") or name in left_out):
            setattr(a, name, value)


def find_modules(model: nn.Sequential, mclass: type[nn.Module] = nn.Conv2d) -> list[int]:
    """Return the indices of the layers of a kind.

    Args:
        model: The layers.
        mclass: The kind.

    Returns:
        The indices.
    """
    return [index for index, layer in enumerate(model) if isinstance(layer, mclass)]


def sparsity(model: nn.Module) -> float:
    """Return the share of a network's parameters that are zero."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return sum(int((parameter == 0).sum()) for parameter in model.parameters()) / max(total, 1)


def initialize_weights(model: nn.Module) -> None:
    """Set what v6.1 sets in a new network: the numbers of batch norms, and activations in place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
        elif isinstance(module, (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU)):
            module.inplace = True


def init_torch_seeds(seed: int = 0) -> None:
    """Seed the random generators."""
    init_seeds(seed)


def load_classifier(name: str = "resnet101", n: int = 2) -> NoReturn:
    """Raise an error: weights of a second network would have to be downloaded.

    Args:
        name: Of the network.
        n: Number of classes.

    Raises:
        ConfigError: Says what to do.
    """
    raise ConfigError(
        f"load_classifier: {name} is not downloaded; make it with torchvision.models, and give it to apply_classifier"
    )


class EpochStopper:
    """Ends a training whose fitness has not risen for `patience` epochs; 0 never does. v6.1's EarlyStopping.

    Args:
        patience: Number of epochs.

    Attributes:
        best_fitness: The largest so far.
        best_epoch: Its epoch.
        possible_stop: Whether the next epoch may be the last.
    """

    def __init__(self, patience: int = 30):
        self.best_fitness, self.best_epoch = 0.0, 0
        self.patience = patience or float("inf")
        self.possible_stop = False

    def __call__(self, epoch: int, fitness: float) -> bool:
        """Return whether to stop.

        Args:
            epoch: The epoch that has ended.
            fitness: Its fitness.

        Returns:
            True after `patience` epochs without a better one.
        """
        if fitness >= self.best_fitness:
            self.best_fitness, self.best_epoch = float(fitness), epoch
        waited = epoch - self.best_epoch
        self.possible_stop = waited >= self.patience - 1
        if waited >= self.patience:
            LOGGER.info(f"Stopping early: no better fitness than epoch {self.best_epoch}'s in {waited} epochs")
        return waited >= self.patience


class FollowedModel(ModelEMA):
    """The moving average of a network's weights with v6.1's names. v6.1's ModelEMA.

    Args:
        model: What to follow.
        decay: Limit of the decay.
        tau: Updates after which 63 % of it are reached.
        updates: Updates made so far.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0):
        super().__init__(model, decay, tau, updates)

    @property
    def ema(self) -> nn.Module:
        """The network with averaged weights."""
        return self.module

    def update_attr(
        self, model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ("process_group", "reducer")
    ) -> None:
        """Copy the attributes of the network that is followed.

        Args:
            model: The network.
            include: Only these, if any are given.
            exclude: Not these.
        """
        copy_attr(self.module, model, include, exclude)
