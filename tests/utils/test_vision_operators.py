"""torchvision's operators without torchvision's Python."""

import subprocess
import sys

import pytest
import torch
import torchvision

from utils import vision_operators
from utils.files import ROOT

ALONE = """
import sys, torch
from utils import vision_operators
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
print(vision_operators.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist(), "torchvision" in sys.modules)
"""


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nms_runs_without_torchvisions_python():
    assert _run(ALONE) == "[1, 2] False"


def test_the_package_is_imported_if_its_library_is_not_where_it_is_expected():
    elsewhere = ALONE.replace("boxes =", 'vision_operators.LIBRARIES = ("nowhere*.so",)\nboxes =')
    assert _run(elsewhere) == "[1, 2] True"


def test_a_library_made_for_another_torch_is_left_to_the_package():
    refused = ALONE.replace(
        "boxes =",
        "real, calls = torch.ops.load_library, []\n"
        "def load(path):\n"
        "    calls.append(path)\n"
        "    if len(calls) == 1: raise OSError('undefined symbol')\n"
        "    return real(path)\n"
        "torch.ops.load_library = load\nboxes =",
    )
    assert _run(refused) == "[1, 2] True"


def test_tensors_without_data_get_torchvisions_own_kernels():
    code = (
        "import sys, torch; from utils.vision_operators import deform_conv2d, import_operators\n"
        "import_operators()\n"
        "x, offsets = torch.empty(2, 4, 8, 8, device='meta'), torch.empty(2, 18, 8, 8, device='meta')\n"
        "out = deform_conv2d(x, offsets, torch.empty(4, 1, 3, 3, device='meta'), (1, 1), (1, 1))\n"
        "print(tuple(out.shape), 'torchvision' in sys.modules)"
    )
    assert _run(code) == "(2, 4, 8, 8) True"


def test_a_block_that_is_trained_has_gradients_though_only_suppression_ran_before():
    code = ALONE + (
        "from models.attention.dlka import DLKA\n"
        "block = DLKA(4); x = torch.rand(1, 4, 6, 6, requires_grad=True); block(x).sum().backward()\n"
        "print(x.grad.shape == x.shape, block.conv0.deform_conv.weight.grad.abs().sum().item() > 0)"
    )
    assert _run(code).splitlines() == ["[1, 2] False", "True True"]


@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (4, 3)])
def test_deformable_convolution_equals_torchvisions(groups, dilation):
    vision_operators.import_operators()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 9, 7, generator=generator, requires_grad=True)
    offsets = torch.randn(2, 18, 9, 7, generator=generator, requires_grad=True)
    weight = torch.randn(8, 4 // groups, 3, 3, generator=generator, requires_grad=True)
    around = (dilation, dilation)
    ours = vision_operators.deform_conv2d(x, offsets, weight, around, around)
    theirs = torchvision.ops.deform_conv2d(x, offsets, weight, padding=around, dilation=around)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad(out.square().sum(), (x, offsets, weight)) for out in (ours, theirs)]
    assert all(torch.equal(own, other) for own, other in zip(*gradients, strict=True))
