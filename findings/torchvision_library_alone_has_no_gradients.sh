#!/bin/sh
# torchvision 0.29.1 with torch 2.14.1.
#
# Guess: torchvision's compiled library, loaded by torch.ops.load_library as torchvision itself does it, holds its
#   operators whole: values, gradients and the casts of mixed precision. So a program that wants one operator can load the
#   library and spare itself the import of the package, which takes as long as that of torch.
# Behaviour: only values are in it. Gradients, autocast and shapes without data are registered by the package's Python,
#   so deform_conv2d answers under no_grad, and with an input that requires a gradient it raises an error of mm's out
#   variant that does not mention gradients. nms, which has none, works. After `import torchvision` the same call works,
#   so whatever else of a program imports the package hides the fault.
# Output seen:
#   nms [1, 2]
#   without gradient (1, 2, 4, 4)
#   with gradient RuntimeError, aten::mm in its text: True
#   after the import (1, 2, 4, 4)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 numpy
cat > "$folder/run.py" <<'PY'
import glob
import importlib.util

import torch

folder = importlib.util.find_spec("torchvision").submodule_search_locations[0]
torch.ops.load_library(glob.glob(f"{folder}/_C_stable*.so")[0])
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
print("nms", torch.ops.torchvision.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist())


def convolve(weight):
    x, offsets = torch.ones(1, 2, 4, 4), torch.zeros(1, 18, 4, 4)
    mask, bias = torch.zeros(1, 1), torch.zeros(2)
    return tuple(
        torch.ops.torchvision.deform_conv2d(
            x, weight, offsets, mask, bias, 1, 1, 1, 1, 1, 1, 1, 1, False
        ).shape
    )


weight = torch.ones(2, 2, 3, 3)
print("without gradient", convolve(weight))
weight.requires_grad_()
try:
    convolve(weight)
except RuntimeError as error:
    print("with gradient RuntimeError, aten::mm in its text:", "aten::mm" in str(error))
import torchvision  # noqa: E402,F401

print("after the import", convolve(weight))
PY
"$folder/venv/bin/python" "$folder/run.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TXT'
nms [1, 2]
without gradient (1, 2, 4, 4)
with gradient RuntimeError, aten::mm in its text: True
after the import (1, 2, 4, 4)
TXT
diff "$folder/expected" "$folder/seen"
