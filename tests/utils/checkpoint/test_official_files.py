"""Official files of every release: whole pickled models, arranged as v5.0 to v7.0 save them, are converted.

Only two real files are at hand, so the others are made here: the modules of a model of ours are saved as classes of the
names that the releases use, in fake modules that are in sys.modules while torch.save runs."""

import argparse
import copy
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import Model
from utils.checkpoint import build_model, read_checkpoint
from utils.checkpoint.description import describe
from utils.checkpoint.tools import convert
from utils.errors import CheckpointError

ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
V50 = {
    "nc": 3,
    "depth_multiple": 0.1,
    "width_multiple": 0.125,
    "anchors": ANCHORS,  # YOLOv5 v5.0: Focus and SPP
    "backbone": [
        [-1, 1, "Focus", [64, 3]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "C3", [128]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 9, "C3", [256]],
        [-1, 1, "Conv", [512, 3, 2]],
        [-1, 9, "C3", [512]],
        [-1, 1, "Conv", [1024, 3, 2]],
        [-1, 1, "SPP", [1024, [5, 9, 13]]],
        [-1, 3, "C3", [1024, False]],
    ],
    "head": [
        [-1, 1, "Conv", [512, 1, 1]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 3, "C3", [512, False]],
        [-1, 1, "Conv", [256, 1, 1]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 3, "C3", [256, False]],
        [-1, 1, "Conv", [256, 3, 2]],
        [[-1, 14], 1, "Concat", [1]],
        [-1, 3, "C3", [512, False]],
        [-1, 1, "Conv", [512, 3, 2]],
        [[-1, 10], 1, "Concat", [1]],
        [-1, 3, "C3", [1024, False]],
        [[17, 20, 23], 1, "Detect", ["nc", "anchors"]],
    ],
}
NAMES = ["RBC", "WBC", "血小板"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Model(V50)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and not name.endswith("anchors"):
            tensor.copy_(tensor.half().float())  # so that half precision keeps it
    return model.eval()


@pytest.fixture()
def disguised(monkeypatch):
    """A function (module, renamed) -> a fake module with its state; `renamed` maps class names to dotted names."""
    packages: dict[str, types.ModuleType] = {}

    def fake_class(text: str) -> type:
        package, _, last = text.rpartition(".")
        if package not in packages:
            packages[package] = types.ModuleType(package)
            monkeypatch.setitem(sys.modules, package, packages[package])
            parts = package.split(".")[:-1]  # pickle imports the packages around it first
            for outer in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
                if outer not in sys.modules:
                    monkeypatch.setitem(sys.modules, outer, types.ModuleType(outer))
        if not hasattr(packages[package], last):
            setattr(packages[package], last, type(last, (nn.Module,), {"__module__": package}))
        return getattr(packages[package], last)

    def disguise(module: nn.Module, renamed: dict[str, str]) -> nn.Module:
        kind = type(module).__name__
        if type(module).__module__.startswith("torch."):
            twin = module
        elif isinstance(module, nn.BatchNorm2d):
            twin = nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
            twin.load_state_dict(module.state_dict())
        elif isinstance(module, nn.SiLU):
            twin = nn.SiLU(inplace=True)
        else:
            twin = fake_class(renamed.get(kind, f"models.common.{kind}"))()
            twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
        twin._modules = {name: disguise(child, renamed) for name, child in module._modules.items()}
        return twin

    disguise.fake_class = fake_class
    return disguise


def official(
    disguise, model, *, detector="Model", names=NAMES, half=True, grid=False, head="Detect", top="models.yolo"
):
    """An official model object: class, names, stride and buffers as a release has them."""
    source = copy.deepcopy(model)
    head_module = source.model[-1]
    if grid:  # v5.0 and v6.0 keep the anchors in pixels as well
        pixels = head_module.anchors * head_module.stride.view(-1, 1, 1)
        head_module.register_buffer("anchor_grid", pixels.view(3, 1, -1, 1, 1, 2))
    made = disguise(source, {"Model": f"{top}.{detector}", "Detect": f"models.yolo.{head}"})
    made.yaml, made.names, made.stride = {**V50, "ch": 3}, names, torch.tensor([8.0, 16.0, 32.0])
    made.nc, made.hyp, made.gr, made.inplace = 3, {"lr0": 0.01}, 1.0, True
    made.class_weights = torch.ones(3)
    made.model[-1].stride, made.model[-1].nc = made.stride, 3
    return made.half() if half else made


def finished(model, **extra):
    return {"epoch": -1, "best_fitness": None, "model": model, "ema": None, "updates": None, "optimizer": None, **extra}


def save(content, path: Path, old_numpy: bool = False) -> Path:
    """torch.save as the official scripts do; `old_numpy`: with the names that numpy had before 2.0."""
    torch.save(content, path)
    if old_numpy:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(
                    name, data.replace(b"numpy._core.", b"numpy.core.") if name.endswith("data.pkl") else data
                )
    return path


def same_network(path: Path, model, tmp_path: Path) -> None:
    """The file, and what `convert` makes of it, compute what the model computes."""
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(image)[0]
        for source in (path, convert(path, tmp_path / "converted.pt")):
            checkpoint = read_checkpoint(source)
            assert checkpoint.names == NAMES and checkpoint.stride == (8.0, 16.0, 32.0)
            assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in checkpoint.state.values())
            assert torch.allclose(build_model(checkpoint)(image)[0], expected, rtol=1e-3, atol=1e-2)


FORMS = {
    "v5.0": (dict(grid=True), {"training_results": "  1/1", "wandb_id": None}),
    "v6.0": (dict(grid=True), {"best_fitness": np.array([0.25])}),
    "v6.1": ({}, {"date": "2022-02-22T10:00:00", "wandb_id": None}),
    "v7.0": (
        dict(detector="DetectionModel", names=dict(enumerate(NAMES))),
        {
            "best_fitness": np.float64(0.25),
            "opt": {"weights": "", "epochs": 3, "save_dir": "runs/train/exp"},
            "git": {"remote": None, "branch": "master"},
            "date": "2022-11-22T10:00:00",
        },
    ),
    "v7.0 with Namespace and paths": (
        dict(detector="DetectionModel", names=dict(enumerate(NAMES))),
        {"opt": argparse.Namespace(epochs=3, save_dir=Path("runs"), data=None)},
    ),
    "float": (dict(half=False), {}),
}


@pytest.mark.parametrize("form, old_numpy", [*((form, False) for form in FORMS), ("v6.0", True), ("v7.0", True)])
def test_a_finished_file_of_each_release_is_the_same_network(form, old_numpy, model, disguised, tmp_path):
    settings, extra = FORMS[form]
    path = save(finished(official(disguised, model, **settings), **extra), tmp_path / "a.pt", old_numpy)
    same_network(path, model, tmp_path)
    text = "\n".join(describe(path))
    assert f"models.yolo.{settings.get('detector', 'Model')}" in text and "3: RBC, WBC," in text
    assert ("best fitness 0.25" in text) == ("best_fitness" in extra) and ("epochs=3" in text) == ("opt" in extra)


@pytest.mark.parametrize("detector", ("Model", "DetectionModel"))
def test_an_unfinished_file_gives_its_average(detector, model, disguised, tmp_path):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model[0].conv.conv.weight.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    content = {
        "epoch": 2,
        "best_fitness": np.array([0.5]),
        "model": official(disguised, other, detector=detector),
        "ema": official(disguised, model, detector=detector),
        "updates": 7,
        "optimizer": optimizer.state_dict(),
        "opt": None,
    }
    path = save(content, tmp_path / "last.pt")
    same_network(path, model, tmp_path)
    text = "\n".join(describe(path))
    assert (
        "unfinished, with its moving average" in text and "epoch 2, best fitness 0.5, updates 7, with optimizer" in text
    )


def test_a_model_without_a_dict_around_it(model, disguised, tmp_path):
    same_network(save(official(disguised, model), tmp_path / "a.pt"), model, tmp_path)


def test_names_of_the_v5_layers(model, disguised, tmp_path):
    """Focus, SPP and C3 keep the names of their parts; anchor_grid and a profiler's buffers are left out."""
    made = official(disguised, model, grid=True)
    made.model[1].register_buffer("total_ops", torch.zeros(1))
    state = read_checkpoint(save(finished(made), tmp_path / "a.pt")).state
    assert set(state) >= {
        "model.0.conv.conv.weight",
        "model.8.cv1.conv.weight",
        "model.9.m.0.cv2.bn.running_var",
        "model.24.anchors",
    }
    assert set(state) == set(model.state_dict())


@pytest.mark.parametrize("grid", (True, False))
def test_anchors_in_pixels_become_grid_cells(grid, model, disguised, tmp_path):
    made = official(disguised, model, grid=grid, half=False)
    made.model[-1].anchors = made.model[-1].anchors * made.stride.view(-1, 1, 1)
    same_network(save(finished(made), tmp_path / "a.pt"), model, tmp_path)


def test_fitted_anchors_stay(model, disguised, tmp_path):
    """Autoanchor changes the buffers and not the yaml."""
    changed = copy.deepcopy(model).eval()
    changed.model[-1].anchors *= 1.25
    same_network(
        save(finished(official(disguised, changed, grid=True, half=False)), tmp_path / "a.pt"), changed, tmp_path
    )


@pytest.mark.parametrize(
    "names, expected",
    [
        ({2: "c", 0: "a", 1: "b"}, ["a", "b", "c"]),
        ({0: "a", 2: "c"}, ["a", "class1", "c"]),
        (["a"], ["class0", "class1", "class2"]),
        (None, ["class0", "class1", "class2"]),
    ],
)
def test_names_are_found_by_class_id(names, expected, model, disguised, tmp_path):
    assert read_checkpoint(save(finished(official(disguised, model, names=names)), tmp_path / "a.pt")).names == expected


def test_numpy_numbers_in_the_description(model, disguised, tmp_path):
    made = official(disguised, model, half=False)
    made.yaml = {**made.yaml, "nc": np.int64(3), "width_multiple": np.float64(0.125), "activation": "nn.SiLU()"}
    same_network(save(finished(made), tmp_path / "a.pt"), model, tmp_path)


# what is refused -------------------------------------------------------------------------------------


def refusal(content, path: Path) -> str:
    save(content, path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(detector="SegmentationModel"), "SegmentationModel is a YOLOv5 segmentation model; only detection"),
        (dict(detector="ClassificationModel"), "ClassificationModel is a YOLOv5 classification model"),
        (dict(top="models.common", detector="AutoShape"), "save its .model instead"),
        (dict(head="Segment"), "its head is a models.yolo.Segment; only models.yolo.Detect"),
        (dict(head="IDetect"), "IDetect (YOLOv7's)"),
        (
            dict(top="ultralytics.nn.tasks", detector="DetectionModel"),
            "names ultralytics.nn.tasks.DetectionModel, which no YOLOv5 detection checkpoint needs: "
            "an Ultralytics model, YOLOv8 or later",
        ),
        (
            dict(top="models.cbam"),
            "names models.cbam.Model, which no YOLOv5 detection checkpoint needs: the class is of a changed YOLOv5",
        ),
        (dict(top="utils.torch_utils"), "names utils.torch_utils.Model"),
    ],
)
def test_other_networks_are_named(change, words, model, disguised, tmp_path):
    assert words in refusal(finished(official(disguised, model, **change)), tmp_path / "a.pt")


def test_a_network_that_would_load_and_compute_something_else(model, disguised, tmp_path):
    made = official(disguised, model)
    made.model[1].act = nn.LeakyReLU(0.1)
    assert "its models.common.Conv has the activation LeakyReLU, and SiLU is" in refusal(
        finished(made), tmp_path / "a.pt"
    )
    made = official(disguised, model)
    made.model[1].act = disguised.fake_class("utils.activations.Hardswish")()
    assert "names utils.activations.Hardswish" in refusal(finished(made), tmp_path / "b.pt")
    made = official(disguised, model)
    made.model[1].bn.eps = 1e-5
    assert "its norms add 1e-05 to the variance, and 0.001 is" in refusal(finished(made), tmp_path / "c.pt")


def test_a_file_without_a_model(model, disguised, tmp_path):
    assert "without a model's description" in refusal(finished(None), tmp_path / "a.pt")
    made = official(disguised, model)
    del made.yaml
    assert "has no model description (yaml)" in refusal(finished(made), tmp_path / "b.pt")
    wrapped = nn.DataParallel(official(disguised, model))
    assert "names torch.nn.parallel" in refusal(finished(wrapped), tmp_path / "c.pt")


def test_convert_refuses_what_cannot_be_built(model, disguised, tmp_path):
    """The class is in models.common and so may occur in a file, but it is not registered here."""
    made = official(disguised, model)
    made.yaml = {**made.yaml, "backbone": [*made.yaml["backbone"][:9], [-1, 1, "SPPCSPC", [1024]]]}
    path = save(finished(made), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot be built here: .*SPPCSPC"):
        convert(path, tmp_path / "b.pt")
    made = official(disguised, model)
    made.stride = torch.tensor([4.0, 8.0, 16.0])
    path = save(finished(made), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="its strides are"):
        convert(path, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()
