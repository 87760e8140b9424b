"""Resuming with gates, bit for bit, and trainings in a file that do not fit what is built: refused at once."""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from interruptions import StopAfter
from small_data import SHAPES, drawn_yaml
from small_models import BASE, content

import train
from models.graph.architecture import insert_block, replace_block
from utils.checkpoint import read_checkpoint, write_checkpoint
from utils.config import TrainConfig, from_options
from utils.engine.resume import load_optimizer
from utils.engine.training import train as run_training
from utils.errors import CheckpointError, UserError

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Flags of a short training of a narrow variant with gates of every kind."""
    folder = tmp_path_factory.mktemp("restore")
    data = drawn_yaml(folder, train=16, val=4)
    architecture = insert_block(replace_block(BASE, "C3", [8], "C3Attention", [1024, "CBAM"]), "CBAM", [9])
    variant = {**content(insert_block(architecture, "SHSA", [15])), "depth_multiple": 0.33, "width_multiple": 0.125}
    (folder / "gated.yaml").write_text(yaml.safe_dump(variant))
    return dict(
        cfg=str(folder / "gated.yaml"),
        data=str(data),
        attention_start="identity",
        imgsz=64,
        epochs=3,
        batch_size=8,
        workers=0,
        device="cpu",
        noautoanchor=True,
        name="run",
    )


@pytest.fixture(scope="module", params=["SGD", "Adam", "MuSGD"])
def stopped(settings, request, tmp_path_factory):
    """Flags, and the folder of a training that was stopped after two epochs of three."""
    folder = tmp_path_factory.mktemp("stopped")
    flags = {**settings, "optimizer": request.param}
    if request.param == "MuSGD":
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            "{accumulate: noise, nbs: 16, ortho_every: 3, warmup_share: 0, schedule: cosine, ema_share: 0.2}"
        )
        flags["hyp"] = str(recipe)
    with pytest.raises(KeyboardInterrupt):
        run_training(from_options(TrainConfig, **flags, project=str(folder)), hooks=[StopAfter(2)])
    return flags, folder / "run"


def flat(value, path=""):
    """(path, leaf) of nested containers."""
    if isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(item, f"{path}.{key}")
    else:
        yield path, value


def state_of(folder):
    checkpoint = read_checkpoint(folder / "weights" / "last.pt")
    training = {key: value for key, value in checkpoint.training.items() if key != "config"}
    return dict(flat({"average": checkpoint.state, **training}))


def differs(left, right):
    return not torch.equal(left, right) if isinstance(left, torch.Tensor) else left != right


def rewritten(folder, target, change):
    """The folder of a run whose training was changed in the file."""
    checkpoint = read_checkpoint(folder / "weights" / "last.pt")
    training = copy.deepcopy(checkpoint.training)
    change(training)
    (target / "weights").mkdir(parents=True)
    write_checkpoint(dataclasses.replace(checkpoint, training=training), target / "weights" / "last.pt")
    return str(target)


def three_groups(training):
    """As a file written before gates had a group of their own."""
    groups = training["optimizer"]["param_groups"]
    groups[0]["params"] += groups.pop()["params"]


def short_buffers(training):
    for state in training["optimizer"]["state"].values():
        for name in state:
            if name != "step":
                state[name] = torch.zeros(3)


def another_weight(training):
    training["model_state"].popitem()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (three_groups, "its optimizer has parameters in groups of"),
        (short_buffers, r"its optimizer's \w+ is \(3,\) for a parameter of"),
        (another_weight, "Missing key"),
        (lambda training: training.pop("optimizer"), "'optimizer' is missing"),
        (lambda training: training["config"].update(gone=1), "unexpected keyword argument 'gone'"),
        (lambda training: training["generators"].update(torch=torch.zeros(3)), "RNG state"),
        (lambda training: training.update(state=[]), "must be a mapping"),
    ],
)
def test_a_training_that_does_not_fit_is_refused_in_one_line(stopped, tmp_path, change, said):
    """Shapes above all: a fused step would write beside the buffers of a file that lies about them."""
    run = rewritten(stopped[1], tmp_path / "run", change)
    with pytest.raises(CheckpointError, match=f"its training cannot be resumed: .*{said}") as caught:
        train.run(resume=run, device="cpu")
    assert "\n" not in str(caught.value) and "--weights" in str(caught.value)


def test_other_classes_are_refused_by_their_number(stopped, tmp_path):
    spec = yaml.safe_load(Path(stopped[0]["data"]).read_text())
    file = tmp_path / "five.yaml"
    file.write_text(yaml.safe_dump({**spec, "names": [*SHAPES, "moon"]}))
    run = rewritten(stopped[1], tmp_path / "run", lambda training: training["config"].update(data=str(file)))
    with pytest.raises(UserError, match="trained on 4 classes, and .*five.yaml has 5 now"):
        train.run(resume=run, device="cpu")


def test_the_layout_of_a_buffer_is_the_parameters_own():
    """A view that repeats one number claims a shape without the memory behind it."""
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    saved = optimizer.state_dict()
    saved["state"] = {0: {"momentum_buffer": torch.tensor([1.0]).expand(2, 3)}}
    load_optimizer(optimizer, saved)
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert buffer.stride() == (3, 1) and torch.equal(buffer, torch.ones(2, 3))


def test_resumed_with_gates_equals_uninterrupted(stopped, tmp_path):
    flags, folder = stopped
    whole = run_training(from_options(TrainConfig, **flags, project=str(tmp_path))).save_dir
    resumed = train.run(resume=str(shutil.copytree(folder, tmp_path / "elsewhere")), device="cpu").save_dir
    left, right = state_of(whole), state_of(resumed)
    assert left.keys() == right.keys() and any(key.endswith(".lr_scale") for key in left)
    # one process, one number of threads, the same kernels on the same shapes: every sum has one order
    assert [key for key in left if differs(left[key], right[key])] == []
    assert (whole / "results.csv").read_bytes() == (resumed / "results.csv").read_bytes()
    header = (whole / "results.csv").read_text().splitlines()[0].replace(" ", "").split(",")
    assert header[14:] == ["gate/8.m.0.CBAM", "gate/10.CBAM", "gate/16.SHSA"]
    if flags["optimizer"] == "MuSGD":
        assert left[".state.noise.measured"] == 3 and left[".state.noise.variance"] != 0
