"""What a training step and a detection cost in counts that no machine changes: a guard of speed that times nothing.

Operators are counted by torch's dispatcher, with those that make the host wait for a device, and those that take new
memory; files and bytes of a sample by Python. `python tests/utils/profile/test_step_counts.py` writes the figures anew.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from models.yolo import Model
from utils.config import Hyperparameters, SplitOptions
from utils.datasets.dataset import DetectionDataset
from utils.datasets.image_cache import ImagesDecodedOnce
from utils.datasets.label_store import LabelStore
from utils.engine.build import gradient_scaler
from utils.engine.model_ema import ModelEMA
from utils.engine.optim import build_optimizer
from utils.engine.predictor import as_predictor, predict
from utils.engine.trainer import EpochProgress, Trainer, TrainingComponents
from utils.images import write_image
from utils.loss import DetectionLoss
from utils.types import Batch, Labels, Letterbox, StepSettings, TrainState

FIGURES = Path(__file__).with_name("step_counts.json")
VARIANTS = ("base", "CBAM", "SE", "MHSA")
TO_HOST = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "cpu")
WAITS = ("nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal")
ADVICE = (
    "If the change is meant, run `python tests/utils/profile/test_step_counts.py` and commit step_counts.json with the "
    "reason; if not, look for a copy, a loop over tensors or a look at a value that a step did not have before."
)


class OperatorCounts(TorchDispatchMode):
    """Counts operators, those whose result takes new memory, and those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {leaf.untyped_storage().data_ptr() for leaf in given}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.numel()]
        name = str(func).removeprefix("aten.").split(".")[0]
        self.counts["operators"] += 1
        self.counts["allocations"] += len({leaf.untyped_storage().data_ptr() for leaf in made} - known)
        masks = name.startswith("index") and any(leaf.dtype == torch.bool for leaf in given[1:])
        self.counts["waits"] += masks or name in WAITS
        return result


class HostLooks(TorchFunctionMode):
    """Counts looks of the host at values of tensors; on a GPU each waits for the device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        self.counts["looks"] += name in TO_HOST
        return func(*args, **(kwargs or {}))


def counted(work):
    """The counts of a piece of work, which is done once before: what it keeps is made then."""
    work()
    with HostLooks() as looks, OperatorCounts() as operators:
        work()
    return {**operators.counts, **looks.counts}


def network(variant):
    torch.manual_seed(0)
    return Model("yolov5n.yaml" if variant == "base" else f"yolov5n_{variant}.yaml", nc=3, report=False)


def training_step(variant):
    """Counts of forward, loss, backward, optimizer and EMA of one batch, as the trainer does them."""
    model = network(variant).train()
    hyp, device = Hyperparameters(), torch.device("cpu")
    components = TrainingComponents(
        model=model,
        loss=DetectionLoss(model.geometry, hyp, device),
        optimizer=build_optimizer(model, "SGD", lr=0.01, momentum=0.9, weight_decay=0.0005),
        step_settings=lambda step: StepSettings((0.01,) * 3, 0.9, 1),
        ema=ModelEMA(model),
        loader=(),
        device=device,
        scaler=gradient_scaler(device, None),
    )
    trainer = Trainer(components, TrainState(), 1)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64), np.uint8))
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.4, 0.4], [1, 2, 0.3, 0.6, 0.2, 0.3]])
    letterbox = Letterbox((64, 64), (1.0, 1.0), (0, 0), (64, 64))
    batch = Batch(images, targets, ("a.jpg", "b.jpg"), (letterbox, letterbox), (0, 1))

    def step():
        trainer.backward(batch, 0, 0, EpochProgress(0, 1))
        trainer.optimizer_step()

    return counted(step)


def detection(variant):
    """Counts of one image's letterbox, pass, NMS and boxes in native pixels."""
    predictor = as_predictor(network(variant).eval().fuse())
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    return counted(lambda: list(predict(predictor, image)))


def reading(augment, is_small=False):
    """Files that one sample opens, and their bytes, of eight PNG images; a small dataset's are decoded before."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{index}.png") for index in range(8)]
        noise = np.random.default_rng(0)
        labels = Labels(np.zeros(1, np.int64), np.full((1, 4), 0.5, np.float32))
        for path in paths:
            write_image(path, noise.integers(0, 255, (64, 64, 3), np.uint8))
        store = LabelStore.build(paths, [(64, 64)] * 8, [labels] * 8)
        hyp = Hyperparameters(mosaic=1.0, mixup=0.0)
        with mock.patch.object(ImagesDecodedOnce, "is_worthwhile", lambda files: is_small):
            dataset = DetectionDataset(store, SplitOptions(64, augment=augment), hyp=hyp)
        with opened_files(folder) as opened:
            dataset[0]
        sizes = {Path(path).stat().st_size for path in paths}
        return {"files": len(opened), "bytes over size of a file": sum(map(os.path.getsize, opened)) / max(sizes)}


@contextlib.contextmanager
def opened_files(folder):
    """Collect the files below a folder that are opened, by Python's own report of each."""
    opened, watching = [], True

    def note(event, arguments):  # such a report cannot be taken back, so it stops listening
        if watching and event == "open" and str(arguments[0]).startswith(folder):
            opened.append(str(arguments[0]))

    sys.addaudithook(note)
    try:
        yield opened
    finally:
        watching = False


def measured():
    """All figures that can be compared."""
    figures = {f"training step, {name}": training_step(name) for name in VARIANTS}
    figures |= {f"detection, {name}": detection(name) for name in VARIANTS}
    return figures | {name: reading(*given) for name, given in READING.items()}


SAVED = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"torch": "", "figures": {}}
KINDS = {"training step": training_step, "detection": detection}


def version():
    return ".".join(torch.__version__.split(".")[:2])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_makes_the_calls_that_it_made(kind, variant):
    if version() != SAVED["torch"]:
        pytest.skip(f"operators are those of torch {SAVED['torch']}; this is {version()}")
    name = f"{kind}, {variant}"
    found, expected = KINDS[kind](variant), SAVED["figures"][name]
    changed = [
        f"{key} {expected.get(key)} -> {found.get(key)}"
        for key in expected | found
        if expected.get(key) != found.get(key)
    ]
    assert not changed, f"{name}: {', '.join(changed)}. {ADVICE}"


# of a mosaic's four images those are read that lie in its view: two in this one
READING = {
    "mosaic sample": (True, False),
    "mosaic sample, small dataset": (True, True),
    "validation sample": (False, False),
}


@pytest.mark.parametrize("name, files", [*zip(READING, (2, 0, 1), strict=True)])
def test_a_sample_opens_each_file_once_and_reads_no_other(name, files):
    found = reading(*READING[name])
    assert found["files"] == files == SAVED["figures"][name]["files"], f"{name}: {found}. {ADVICE}"
    assert found["bytes over size of a file"] == pytest.approx(files, rel=0.01), f"{name}: {found}. {ADVICE}"


def test_what_is_guarded_against_is_counted():
    x = torch.arange(6.0).reshape(2, 3)
    seen = counted(
        lambda: (x * 2, x.view(6), x.add_(0), x[x > 2], x.nonzero(), x.sum().item(), x.tolist(), bool(x.any()))
    )
    assert seen["waits"] == 2 and seen["looks"] == 3
    # a product, a comparison, a mask's choice, indices, a sum and a truth value; no view and no change in place
    assert seen["allocations"] == 6


if __name__ == "__main__":
    FIGURES.write_text(json.dumps({"torch": version(), "figures": measured()}, indent=2) + "\n")
