#!/bin/sh
# torch 2.14.1 with onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0.
#
# Guess: a network that branches on its input's size cannot be exported with open sizes, or, since torch.export notes the
#   condition that the example met as a guard, the ONNX file refuses sizes that do not meet it, as the exported program does.
# Behaviour: the exported program raises an error that names the guard. torch.onnx.export, given the same network and the
#   same open sizes, writes the example's branch without the guard and without a warning about it. The file takes every
#   size, and answers by the wrong branch where the condition does not hold: 2 in place of 3. So a dynamic ONNX file has to
#   be compared at sizes that fall on both sides of every condition, and the guards of the exported program say which.
# Output seen:
#   exported program (4, 6) 2.0
#   exported program (5, 7) AssertionError Guard failed
#   ONNX file (4, 6) 2.0
#   ONNX file (5, 7) 2.0, torch 3.0
#   warnings that name a guard or a condition: 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cat > "$folder/run.py" <<'PY'
import warnings

import onnxruntime
import torch


class Branching(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[2] * x.shape[3] % 4 == 0 else x * 3


def first(values):
    return float(values.ravel()[0])


OPEN = torch.export.Dim.DYNAMIC
example, sizes = torch.ones(2, 3, 4, 6), ((4, 6), (5, 7))
axes = ({0: OPEN, 2: OPEN, 3: OPEN},)
program = torch.export.export(Branching(), (example,), dynamic_shapes=axes)
for size in sizes:
    try:
        print("exported program", size, first(program.module()(torch.ones(2, 3, *size))))
    except AssertionError as error:
        print("exported program", size, "AssertionError", str(error)[:12])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    written = torch.onnx.export(
        Branching(), (example,), dynamo=True, dynamic_shapes=axes, input_names=["x"], verbose=False
    )
session = onnxruntime.InferenceSession(written.model_proto.SerializeToString())
for size in sizes:
    x = torch.ones(2, 3, *size)
    found, expected = first(session.run(None, {"x": x.numpy()})[0]), first(Branching()(x))
    print("ONNX file", size, found if found == expected else f"{found}, torch {expected}")
named = [each for each in caught if "guard" in str(each.message).lower() or "condition" in str(each.message).lower()]
print("warnings that name a guard or a condition:", len(named))
PY
"$folder/venv/bin/python" "$folder/run.py" | grep -v "^\[torch.onnx\]" | tee "$folder/seen"
cat > "$folder/expected" <<'TXT'
exported program (4, 6) 2.0
exported program (5, 7) AssertionError Guard failed
ONNX file (4, 6) 2.0
ONNX file (5, 7) 2.0, torch 3.0
warnings that name a guard or a condition: 0
TXT
diff "$folder/expected" "$folder/seen"
