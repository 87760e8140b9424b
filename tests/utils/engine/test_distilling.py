"""Trainings that learn from a teacher or from their own average: resumed bit for bit, in several processes, refused."""

import copy
import logging
import math
import os
import signal

import pytest
import torch
import yaml
from kills import same
from several import run_several
from small_data import SHAPES, drawn_yaml
from small_models import SMALL, TINY
from torch import nn

import train
from models.yolo import Model
from utils.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from utils.config import Hyperparameters, TrainConfig, from_options
from utils.distillation import ChannelDistillation, HeadOutputs, SoftTargets, match_heads
from utils.engine.distilling import Distillation, StudentPass, Teacher, add_adapters, head_inputs, open_teacher
from utils.engine.trainer import Hook
from utils.engine.training import train as run_training
from utils.errors import CheckpointError, ConfigError, Interruption
from utils.loss import DetectionLoss
from utils.processes import ALONE

pytestmark = pytest.mark.usefixtures("blank_figures")
CPU = torch.device("cpu")
NAMES = ["a", "b", "c"]


def network(content=TINY, seed=0, **changes):
    torch.manual_seed(seed)
    model = Model({**content, **changes}, report=False)
    model.names = NAMES[: model.nc]
    return model


def wide(names=NAMES, **changes):
    """TINY with maps twice as wide, as a teacher."""
    rows = [[-1, 1, "Conv", [16, 3, 2]]] * 3
    model = network({**TINY, "backbone": rows, "head": [[-1, 1, "Conv", [32, 3, 2]], TINY["head"][1]]}, 5, **changes)
    model.names = list(names)
    return model


@pytest.fixture
def teacher_file(tmp_path):
    return write_checkpoint(checkpoint_of(wide(), names=NAMES), tmp_path / "teacher.pt")


def settings(teacher, **changes):
    return from_options(TrainConfig, teacher=str(teacher), imgsz=64, device="cpu", **changes)


def distillation_of(student, teacher, gains=(1.0, 1.0, 1.0), processes=ALONE, **changes):
    loss = DetectionLoss(student.geometry, Hyperparameters(), CPU, processes=processes)
    own, other = (HeadOutputs(each.geometry, NAMES) for each in (student, teacher.model))
    terms = [
        SoftTargets(match_heads(own, each), own.geometry, each.geometry, loss.hyp, (4.0, 1.0), processes)
        for each in (other, own)
    ]
    named = dict(zip(("predictions", "features", "average"), gains, strict=True))
    return Distillation(named, teacher, *terms, processes=processes, **changes)


def opened(teacher_file, student):
    return open_teacher(settings(teacher_file), Hyperparameters(), student, CPU)


def passed(distillation, student, images, counts=True):
    with distillation.watching(student) as maps:
        raw_maps = student(images)
    return StudentPass(images, raw_maps, maps, counts)


def images_of(seed=0, count=2):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_gradients_reach_the_student_and_the_adapters_alone(teacher_file):
    student = network().train()
    average, teacher = copy.deepcopy(student).eval().requires_grad_(False), opened(teacher_file, student)
    before = copy.deepcopy(teacher.model.state_dict())
    distillation = distillation_of(student, teacher)
    distillation(passed(distillation, student, images_of()), average, 0).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in teacher.features.parameters())
    assert all(weight.grad is None for each in (teacher.model, average) for weight in each.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.model.state_dict().items())
    assert not student.head._forward_pre_hooks and not teacher.model.head._forward_pre_hooks


def test_the_total_is_the_gains_times_the_terms_times_the_batch(teacher_file):
    """`distill_every` 3 distills each third batch, three times as strongly."""
    student = network().train()
    average, teacher = copy.deepcopy(student).eval(), opened(teacher_file, student)
    distillation = distillation_of(student, teacher, (2.0, 3.0, 5.0), warmup=100, every=3)
    total = distillation(passed(distillation, student, images_of()), average, 0)
    found = copy.deepcopy(student).train()
    with torch.no_grad(), head_inputs(found, maps := []), head_inputs(teacher.model, taught_maps := []):
        raw, taught, own = found(images_of()), teacher.model(images_of()), average(images_of())[1]
    values = (
        2 * distillation.predictions(raw, taught, 1.0),
        3 * teacher.features(maps, taught_maps),
        5 * math.exp(-5) * distillation.average(raw, own, 1.0),
    )
    assert float(total.detach()) == pytest.approx(float(sum(values).detach()) * 2 * 3, rel=1e-5)
    assert list(distillation.end_epoch(0).values()) == pytest.approx([float(v.detach()) for v in values], rel=1e-5)
    assert distillation.batches == 0 and distillation.sums is None
    assert [step for step in range(7) if distillation.is_due(step)] == [0, 3, 6]


def test_a_teacher_is_a_frozen_network_with_adapters_in_the_optimizer(teacher_file):
    student = network()
    teacher = opened(teacher_file, student)
    assert not teacher.model.training and teacher.model.head.training
    assert not any(weight.requires_grad for weight in teacher.model.parameters())
    assert [tuple(weight.shape) for weight in teacher.features.parameters()] == [(16, 8, 1, 1), (32, 16, 1, 1)]
    expected = wide().eval()(images_of())[1]
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(teacher.model(images_of()), expected, strict=True))
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "weight_decay": d} for d in (0, 0.1)], lr=1)
    add_adapters(optimizer, None)
    assert len(optimizer.param_groups) == 2
    add_adapters(optimizer, teacher)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 2]
    assert optimizer.param_groups[2]["weight_decay"] == 0.1


def test_what_a_teacher_cannot_teach_is_said_in_one_line(teacher_file, tmp_path, caplog):
    student = network()
    with pytest.raises(CheckpointError, match=r"^--teacher: .*no such checkpoint"):
        open_teacher(settings(tmp_path / "gone.pt"), Hyperparameters(), student, CPU)
    with pytest.raises(ConfigError, match="distill and distill_features are 0"):
        open_teacher(settings(teacher_file), Hyperparameters(distill=0, distill_features=0), student, CPU)
    rows = [[-1, 1, "Conv", [8, 3, 2]]] * 6
    deep = {**TINY, "anchors": TINY["anchors"][:1], "backbone": rows, "head": [[[5], 1, "Detect", ["nc", "anchors"]]]}
    file = write_checkpoint(checkpoint_of(network(deep), names=NAMES), tmp_path / "deep.pt")
    with pytest.raises(ConfigError, match="multiples of 64 pixels.*give --imgsz 128"):
        open_teacher(
            from_options(TrainConfig, teacher=str(file), imgsz=96, device="cpu"), Hyperparameters(), student, CPU
        )
    gray = write_checkpoint(checkpoint_of(Model({**TINY, "ch": 1}, report=False), names=NAMES), tmp_path / "gray.pt")
    with pytest.raises(ConfigError, match="reads images of 1 channels, the model reads 3"):
        open_teacher(settings(gray), Hyperparameters(), student, CPU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"names": ["x", "y", "z"]},
            "it knows 0 of the student's 3 classes; its predictions teach nothing, its maps alone do",
        ),
        ({"names": ["b", "y", "z"]}, "it knows 1 of the student's 3 classes; its predictions teach the rest"),
        ({"nc": 1, "names": ["x"]}, "it knows 0 of the student's 3 classes"),
        ({"anchors": [[90, 80, 16, 30, 33, 23], [300, 61, 62, 45, 590, 119]]}, "its anchors are other ones at 2 of 2"),
        ({"anchors": [[9, 8], [30, 61]]}, "its anchors are other ones at 2 of 2 strides (in number"),
    ],
)
def test_other_classes_and_anchors_leave_the_maps(tmp_path, caplog, changes, said):
    from utils.engine.distilling import build_distillation

    student, changes = network(), {"names": NAMES, **changes}
    file = write_checkpoint(checkpoint_of(wide(**changes), names=changes["names"]), tmp_path / "other.pt")
    teacher = open_teacher(settings(file), Hyperparameters(), student, CPU)
    loss = DetectionLoss(student.geometry, Hyperparameters(), CPU)
    with caplog.at_level(logging.INFO):
        made = build_distillation(Hyperparameters(), student, loss, teacher, 0)
    assert said in caplog.text and made.features is not None
    assert (made.predictions is None) == ("teach the rest" not in said)
    if made.predictions is None:
        assert list(made.end_epoch(0)) == ["features"]
        alone = open_teacher(settings(file), Hyperparameters(distill_features=0), student, CPU)
        with pytest.raises(ConfigError, match="the model can learn nothing from it"):
            build_distillation(Hyperparameters(), student, loss, alone, 0)


# ---- several processes ----


def part_of_a_step(processes, teacher_file):
    """This process's images of a batch of four: gradients of student and adapters as a step sees them."""
    torch.manual_seed(0)
    student = network().eval()  # batch norm of a part is not that of the whole
    student.head.train()
    teacher = opened(teacher_file, student)
    distillation = distillation_of(student, teacher, processes=processes)
    size, rank = processes.world.size, processes.world.rank
    images = images_of(count=4)[rank * 4 // size : (rank + 1) * 4 // size]
    average = copy.deepcopy(student).eval()
    average.head.eval()
    distillation(passed(distillation, student, images), average, 0).backward()
    distillation.average_gradients()
    means = distillation.end_epoch(0)
    own = torch.cat([weight.grad.flatten() for weight in student.parameters() if weight.grad is not None])
    adapters = torch.cat([weight.grad.flatten() for weight in teacher.features.parameters()])
    return processes.sum(own) / size, adapters, means


def test_two_processes_have_the_gradients_of_one(teacher_file):
    whole = part_of_a_step(ALONE, teacher_file)
    for part in run_several(2, part_of_a_step, teacher_file):
        assert torch.allclose(part[0], whole[0], rtol=1e-3, atol=1e-5)
        assert torch.allclose(part[1], whole[1], rtol=1e-3, atol=1e-6)
        assert part[2] == pytest.approx(whole[2], rel=1e-4)


# ---- whole trainings ----


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags of a short training with a teacher, and its hyperparameters."""
    folder = tmp_path_factory.mktemp("distilled")
    data = drawn_yaml(folder, train=24, val=4)
    (folder / "small.model.yaml").write_text(yaml.safe_dump({**SMALL, "nc": 4}))
    large = network({**SMALL, "width_multiple": 2.0}, 9, nc=4)
    file = write_checkpoint(checkpoint_of(large, names=SHAPES), folder / "teacher.pt")
    return dict(
        cfg=str(folder / "small.model.yaml"),
        data=str(data),
        teacher=str(file),
        imgsz=64,
        epochs=2,
        batch_size=8,
        workers=0,
        device="cpu",
        noautoanchor=True,
        name="run",
    )


def states_of(folder):
    checkpoint = read_checkpoint(folder / "weights" / "last.pt")
    training = checkpoint.training
    kept = {key: training[key] for key in ("model_state", "optimizer", "distillation", "state", "history")}
    return {"average": checkpoint.state, **kept}


class Terminate(Hook):
    """Sends this process SIGTERM after the batch of a place: the training ends with its state written."""

    def __init__(self, epoch, batch):
        self.place = epoch, batch

    def after_batch(self, trainer, batch, progress):
        if (progress.epoch, progress.done) == self.place:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_training_is_the_one_that_was_never_stopped(flags, tmp_path):
    hyp = Hyperparameters(self_distill=0.5, nbs=8)
    whole = run_training(from_options(TrainConfig, **flags, project=str(tmp_path / "whole")), hyp)
    with pytest.raises(Interruption):
        run_training(from_options(TrainConfig, **flags, project=str(tmp_path / "cut")), hyp, hooks=[Terminate(1, 1)])
    assert states_of(tmp_path / "cut" / "run")["distillation"]["batches"] == 1  # in the midst of the epoch
    resumed = train.run(resume=str(tmp_path / "cut" / "run"), device="cpu")
    left, right = states_of(whole.save_dir), states_of(resumed.save_dir)
    assert all(same(left[key], right[key]) for key in left)
    texts = [(each.save_dir / "distill.csv").read_text() for each in (whole, resumed)]
    assert texts[0] == texts[1]
    header, *rows = texts[0].splitlines()
    assert header == "epoch,predictions,features,average" and [row.split(",")[0] for row in rows] == ["0", "1"]
    assert all(float(value) > 0 for row in rows for value in row.split(",")[1:])
    assert "distill" not in (whole.save_dir / "results.csv").read_text()
    model = read_checkpoint(whole.best)
    assert not any("adapter" in name for name in model.state)


def test_without_teacher_and_self_distill_no_bit_changes(flags, tmp_path):
    """The gains of a teacher that is not there do not matter, and no file is written."""
    plain = {**flags, "teacher": "", "epochs": 1}
    runs = [
        run_training(from_options(TrainConfig, **plain, project=str(tmp_path / name)), hyp)
        for name, hyp in (("a", Hyperparameters()), ("b", Hyperparameters(distill=3, distill_features=5)))
    ]
    left, right = (read_checkpoint(run.save_dir / "weights" / "last.pt") for run in runs)
    assert same(left.state, right.state) and same(left.training["optimizer"], right.training["optimizer"])
    assert "distillation" not in left.training
    assert not (runs[0].save_dir / "distill.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
def test_each_source_changes_what_is_learned(flags, tmp_path, optimizer):
    """The adapters are a group of their own in every optimizer, behind those of a slow backbone too."""
    changes = {**flags, "epochs": 1, "optimizer": optimizer, "project": str(tmp_path)}
    run = [
        run_training(from_options(TrainConfig, **{**changes, "teacher": teacher}), Hyperparameters(self_distill=own))
        for teacher, own in (("", 0), (flags["teacher"], 0), ("", 1))
    ]
    weights = [
        torch.cat([value.flatten().float() for value in read_checkpoint(each.best).state.values()]) for each in run
    ]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])
    assert all(bool(each.isfinite().all()) for each in weights)


def test_a_state_of_another_file_is_noticed(teacher_file, caplog):
    student = network()
    teacher = opened(teacher_file, student)
    state = distillation_of(student, teacher).state_dict()
    made = distillation_of(
        student, Teacher(teacher.path, teacher.model, teacher.levels, ChannelDistillation([(8, 16), (16, 32)], 3))
    )
    made.load_state_dict(state)
    assert "has changed" not in caplog.text
    assert same(made.features.state_dict(), teacher.features.state_dict())
    made.load_state_dict({**state, "digest": "other"})
    assert "has changed since the training was stopped" in caplog.text
