"""Convolutions of one thread on the CPU in oneDNN, which torch leaves to its own slower code."""

import torch
from torch import nn


def use_onednn(convolution: nn.Conv2d) -> None:
    """Have torch compute a 1x1 convolution with oneDNN, in one thread and for few images too.

    torch (2.14: `use_mkldnn` of ATen's Convolution.cpp) takes its own matrix product for 1x1 kernels of stride 1, if
    there is one thread and less than 16 images; a detector's training step takes 1.14 to 1.34 times as long with it
    (benchmarks/one_thread_steps.py). It makes no such exception for dilated kernels, and the dilation of a single
    weight changes nothing else. With several threads, and on other devices, nothing is changed.

    Args:
        convolution: Any; its dilation is changed if it is of that kind.
    """
    is_point = convolution.kernel_size == (1, 1) and convolution.stride == (1, 1)
    if is_point and convolution.weight.device.type == "cpu" and torch.get_num_threads() == 1:
        convolution.dilation = (2, 2)


def use_onednn_throughout(model: nn.Module) -> None:
    """Do so for every convolution of a network.

    Args:
        model: The network; it is changed.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            use_onednn(module)
