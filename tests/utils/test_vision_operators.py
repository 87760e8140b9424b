"""torchvision's operators without torchvision's Python."""

import subprocess
import sys

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
