"""The deformable depth-wise convolution against torchvision's operator, and its own backward against autograd's."""

import pytest
import torch
import torchvision

from models.attention.ops import deformable_convolution
from models.attention.ops.deformable_convolution import deformable_depthwise


def _inputs(size, kernel, dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, *size), (2, 2 * kernel**2, *size), (3, 1, kernel, kernel))
    x, offsets, weight = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return [tensor.requires_grad_() for tensor in (x, scale * offsets, weight)]


@pytest.mark.parametrize(
    ("size", "kernel", "dilation"), [((9, 7), 3, 1), ((16, 5), 5, 3), ((1, 1), 3, 1), ((6, 33), 1, 1)]
)
@pytest.mark.parametrize("scale", [0.0, 2.0, 30.0])
def test_equals_torchvisions_operator_with_its_gradients(size, kernel, dilation, scale):
    """Offsets of zero lie on the kinks of bilinear sampling, those of 30 outside the map."""
    inputs = _inputs(size, kernel, scale=scale)
    reach = dilation * (kernel // 2)
    ours = deformable_depthwise(*inputs, dilation)
    theirs = torchvision.ops.deform_conv2d(*inputs, padding=reach, dilation=dilation)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for own, other in zip(*(torch.autograd.grad(out, inputs, upstream) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


def test_float32_keeps_the_side_of_the_kink():
    """Whole offsets in float32: the offset's gradient is torchvision's exactly, not the one of the other side."""
    x, offsets, weight = _inputs((20, 20), 3, torch.float32, scale=0.0)
    ours = deformable_depthwise(x, offsets, weight)
    theirs = torchvision.ops.deform_conv2d(x, offsets, weight, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    own, other = (torch.autograd.grad(out.sum(), offsets)[0] for out in (ours, theirs))
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_its_own_backward_equals_autograds(monkeypatch):
    inputs = _inputs((9, 7), 3)
    own = torch.autograd.grad(deformable_depthwise(*inputs, 2).square().sum(), inputs)
    monkeypatch.setattr(deformable_convolution, "records_gradients", lambda *_: False)
    plain = torch.autograd.grad(deformable_depthwise(*inputs, 2).square().sum(), inputs)
    for ours, others in zip(own, plain, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-10, atol=1e-10)


def test_no_sample_is_kept_for_the_backward():
    x, offsets, weight = _inputs((16, 16), 7, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        deformable_depthwise(x, offsets, weight, 3)
    assert sum(kept) == x.numel() + offsets.numel() + weight.numel()  # 16 is a power of two: nothing is padded
