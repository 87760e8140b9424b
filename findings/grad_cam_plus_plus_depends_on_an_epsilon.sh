#!/bin/sh
# grad-cam 1.5.7 with torch 2.14.1, torchvision 0.29.1.
#
# Guess: Grad-CAM++ maps are scaled to 0..1 for display, and the small constant that keeps its quotient from dividing by
#   zero does not show, so the map is that of the paper's equation whatever the size of the score's gradients.
# Behaviour: the constant, 1e-6, stands beside the squares of gradients. Where gradients are below 1e-3, as those of a
#   detection's confidence are, it outweighs them, and decides how channels are weighted: the map differs from the
#   equation's by up to 0.44 of its range, without a warning. The equation itself needs no constant: numerator and
#   denominator share the square, and 1 / (2 + sum of the map times the gradient) remains.
# Output seen:
#   score x 1000.0: correlation 1.0, largest difference 0.0
#   score x 1.0: correlation 0.99, largest difference 0.1
#   score x 0.001: correlation 0.93, largest difference 0.44
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 numpy setuptools grad-cam==1.5.7
cat > "$folder/run.py" <<'PY'
import numpy as np
import torch
from pytorch_grad_cam import GradCAMPlusPlus


class Scorer(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.factor = factor
        self.maps = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())
        self.score = torch.nn.Conv2d(8, 1, 5)

    def of(self, maps):
        return self.factor * self.score(maps).mean((2, 3))

    def forward(self, image):
        return self.of(self.maps(image))


def by_the_equation(network, image):
    maps = network.maps(image).detach().requires_grad_(True)
    network.of(maps).sum().backward()
    values, gradients = maps.detach()[0], maps.grad[0]
    alphas = torch.where(gradients != 0, 1 / (2 + values.sum((1, 2), keepdim=True) * gradients), 0.0)
    weights = (alphas * gradients.relu()).sum((1, 2), keepdim=True)
    found = (weights * values).sum(0).relu().numpy()
    return (found - found.min()) / (found.max() - found.min())


torch.manual_seed(1)
image = torch.rand(1, 3, 16, 16)
for factor in (1e3, 1.0, 1e-3):
    network = Scorer(factor)
    with GradCAMPlusPlus(model=network, target_layers=[network.maps]) as method:
        theirs = method(input_tensor=image, targets=[lambda output: output.sum()])[0]
    expected = by_the_equation(network, image)
    alike = round(float(np.corrcoef(theirs.ravel(), expected.ravel())[0, 1]), 2)
    print(f"score x {factor}: correlation {alike}, largest difference {round(float(np.abs(theirs - expected).max()), 2)}")
PY
"$folder/venv/bin/python" "$folder/run.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TXT'
score x 1000.0: correlation 1.0, largest difference 0.0
score x 1.0: correlation 0.99, largest difference 0.1
score x 0.001: correlation 0.93, largest difference 0.44
TXT
diff "$folder/expected" "$folder/seen"
