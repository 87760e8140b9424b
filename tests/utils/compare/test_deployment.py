"""The table of exported files: which rows there are, what is kept and what is made again, and rows that fail."""

import dataclasses
import json
import mmap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from small_data import drawn_yaml
from small_models import TINY, small

import compare
from models.graph.architecture import read_yaml
from models.yolo import Model
from utils.boxes import clip, xyxy_to_xywhn
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.compare import deployment, deployment_rows
from utils.compare.deployment import deploy_missing, read_deployments, with_unmatched
from utils.compare.deployment_rows import (
    all_rows,
    check_packages,
    forget_stale_deployments,
    is_deployed,
    latency_file,
    wanted_rows,
)
from utils.compare.plan import PlannedVariant, StudyPlan
from utils.compare.resident_memory import PROCESS, ResidentPeak
from utils.compare.results import Deployment
from utils.config import DatasetSpec, SplitOptions, from_options
from utils.config.compare_options import CompareConfig
from utils.datasets.splits import open_split
from utils.errors import ConfigError, ModelError, ParityError
from utils.images import read_image
from utils.nms import non_max_suppression
from utils.runtimes.metadata import ExportMetadata
from utils.runtimes.network import RuntimeNetwork
from utils.runtimes.protocol import InputShape

NAMES = ("base", "CBAM")


@pytest.fixture
def make_plan(tmp_path):
    """make_plan(runtimes, ...) -> the plan of a study of two variants and two seeds whose runs are done."""

    def make(*runtimes, done=((0, 1), (0, 1)), **changes):
        yamls = [tmp_path / f"{name}.yaml" for name in NAMES]
        config = from_options(
            CompareConfig, cfg=yamls, seeds=(2,), imgsz=64, cost_seconds=0, runtimes=runtimes or None, **changes
        )
        roles = ("baseline", "variant")
        variants = tuple(
            PlannedVariant(name, role, f"{name}.yaml", path, "", None)
            for name, role, path in zip(NAMES, roles, yamls, strict=True)
        )
        plan = StudyPlan(tmp_path / "study", config, variants, {})
        for variant, seeds in zip(variants, done, strict=True):
            for seed in seeds:
                files = plan.files(variant.name, seed)
                files.best.parent.mkdir(parents=True, exist_ok=True)
                if not files.best.exists():
                    files.best.write_text(f"{variant.name} {seed}")
                files.matches.touch()
                scores = {"map": 0.5 + seed / 100, "map50": 0.8, "ap75": 0.5, "precision": 0.5, "recall": 0.5}
                files.scores.write_text(json.dumps({"scores": {**scores, "coco": None, "coco50": None}, "facts": {}}))
        return plan

    return make


class FakeRuntime:
    """A file that is "run": its text says how long that takes by the test's clock."""

    place = "CPU"

    def __init__(self, path):
        self.path, self.title = path, f"Fake {path.suffix} 1.0"
        is_fixed = "fixed" in path.read_text()
        self.shape = InputShape(1, 64, 64) if is_fixed else InputShape(None, None, None)
        self.metadata = ExportMetadata(("a",), 32, (64, 64))

    def run(self, images, thresholds=None):
        return np.zeros((len(images), 3, 6), np.float32)


class InThisProcess:
    """A pool whose jobs run here, one after the other."""

    def __init__(self, devices, threads, on_end=lambda job: None):
        self.on_end = on_end

    def run(self, jobs):
        for job in jobs:
            try:
                job.work(*job.arguments, "cpu")
            except RuntimeError as error:
                job.on_failure(str(error))
            self.on_end(job)


@pytest.fixture
def world(monkeypatch):
    """What exports, runtimes and evaluations do, and what was called."""
    world = SimpleNamespace(exports=[], evaluations=[], timed=[], failures={}, maps={"onnx": 0.5})

    def export(config):
        (runtime,), folder = config.include, Path(config.output)
        precision = "int8" if config.int8 else "float32"
        key = (folder.parent.name if config.int8 else folder.name, runtime, precision)
        world.exports.append((*key, config.dynamic, config.runtime_check))
        error = world.failures.get((*key, config.dynamic))
        if error:
            raise error
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"best.{runtime}"
        file.write_text("any" if config.dynamic else "fixed")
        return [file]

    def load_network(weights, device):
        (file,) = weights
        if file.suffix == ".pt":
            return small(read_yaml("yolov5n.yaml"))
        return RuntimeNetwork(FakeRuntime(file)).eval()

    def evaluate_file(plan, network, device, folder, square=False):
        world.evaluations.append((network if isinstance(network, Path) else network.runtime.path, square))
        score = 0.25 if square else world.maps["onnx"]
        return SimpleNamespace(metrics=SimpleNamespace(map=score, map50=0.75))

    def time_passes(network, images, passes):
        name = network.runtime.path.name if isinstance(network, RuntimeNetwork) else "best.pt"
        world.timed.append(name)
        return [{"best.pt": 0.04, "best.onnx": 0.02}.get(name, 0.01)] * passes

    replaced = {
        "ProcessPool": InThisProcess,
        "export": export,
        "load_network": load_network,
        "evaluate_file": evaluate_file,
        "time_passes": time_passes,
        "_check_image": lambda plan: "image.jpg",
        "_LIBRARIES": {},
    }
    for name, value in replaced.items():
        monkeypatch.setattr(deployment, name, value)
    return world


def deploy(plan):
    forget_stale_deployments(plan)
    deploy_missing(plan, ["cpu"], plan.folder / "measure.claim")
    return {f"{each.variant}/{each.runtime}-{each.precision}": each for each in read_deployments(plan)}


# ---- rows ----


def test_rows_are_those_asked_for_torch_first_and_8_bits_beside_their_runtime(make_plan):
    rows = wanted_rows(make_plan("ncnn", "onnx", "torch", int8="cells.yaml"))
    expected = ["torch", "ncnn", "onnx", "onnx-int8"]
    assert [row.name for row in rows] == [f"{name}/{stem}" for name in NAMES for stem in expected]
    assert [row.calibration for row in rows[:4]] == ["", "", "", "cells.yaml"]
    assert rows[0].file() == rows[0].weights and rows[2].file() is None
    assert wanted_rows(make_plan()) == []


def test_the_checkpoint_is_that_of_the_first_seed_that_is_done(make_plan):
    rows = wanted_rows(make_plan("onnx", done=((1,), ())))
    assert [(row.variant, row.seed, row.weights.parts[-3]) for row in rows] == [("base", 1, "seed1")] * 2


def test_a_bare_int8_calibrates_on_the_data_of_the_study(make_plan):
    rows = wanted_rows(make_plan("openvino", int8="--data", data="d.yaml"))
    assert [row.calibration for row in rows[:3]] == ["", "", "d.yaml"]


@pytest.mark.parametrize(
    ("absent", "runtimes", "int8", "words"),
    [
        ("onnxscript", ("onnx",), "", "--runtimes onnx: onnxscript: not installed; pip install -r requirements-export"),
        ("openvino", ("onnx", "openvino"), "", "--runtimes openvino: openvino: not installed"),
        ("nncf", ("openvino",), "d.yaml", "--int8 with --runtimes openvino: nncf: not installed"),
        ("pnnx", ("ncnn",), "", "--runtimes ncnn: pnnx: not installed"),
    ],
)
def test_a_missing_package_is_one_line_before_the_study(monkeypatch, make_plan, absent, runtimes, int8, words):
    monkeypatch.setattr("utils.runtimes.packages.is_installed", lambda package: package != absent)
    with pytest.raises(ConfigError, match=words):
        check_packages(make_plan(*runtimes, int8=int8).config)
    check_packages(make_plan("torch", "torchscript").config)


def test_what_was_found_is_kept_per_seed_weights_and_calibration(make_plan):
    row = wanted_rows(make_plan("onnx", int8="a.yaml"))[2]
    assert row.read() == {} and not row.is_exported() and not row.is_stale()
    row.write(file="export/base/int8/best.onnx")
    row.write(scores={"val": {"map": 0.5}})
    assert row.is_exported() and row.is_examined("val") and not row.is_examined("test")
    assert row.file() == row.study / "export" / "base" / "int8" / "best.onnx"
    for other in (dataclasses.replace(row, seed=1), dataclasses.replace(row, calibration="b.yaml")):
        assert other.read() == {} and other.is_stale()
    row.weights.write_text("trained again")
    assert row.is_stale()


# ---- what is made, and what is not made again ----


def test_every_row_has_its_figures(make_plan, world):
    plan = make_plan("onnx", int8="d.yaml")
    world.maps["onnx"] = 0.48
    found = deploy(plan)
    assert list(found) == [f"{name}/{row}" for name in NAMES for row in ("torch-float32", "onnx-float32", "onnx-int8")]
    torchs, onnx = found["CBAM/torch-float32"], found["CBAM/onnx-float32"]
    assert (torchs.map, torchs.torch_map, torchs.latency_ratio, torchs.file) == (
        0.5,
        None,
        1.0,
        plan.folder / "runs" / "CBAM" / "seed0" / "weights" / "best.pt",
    )
    assert (onnx.map, onnx.map50, onnx.torch_map, onnx.program) == (0.48, 0.75, 0.5, "Fake .onnx 1.0 on the CPU")
    assert (onnx.latency_ms, onnx.latency_p95_ms, onnx.latency_ratio) == pytest.approx((20, 20, 0.5))
    assert onnx.file_bytes == len("any") and onnx.error == onnx.remark == ""
    assert all(each.memory_mib is None or each.memory_mib >= 0 for each in found.values())
    # the float file is compared with torch when it is written; of the one of 8 bits the mAP says how far it is
    assert world.exports[:2] == [("base", "onnx", "float32", True, True), ("base", "onnx", "int8", True, False)]
    assert (torchs.unmatched, onnx.unmatched) == (True, True)  # one is more accurate, the other faster
    assert is_deployed(plan)


def test_nothing_is_made_twice_and_a_killed_start_is_continued(make_plan, world, monkeypatch):
    plan = make_plan("onnx")
    before = deploy(plan)
    calls = len(world.exports), len(world.evaluations), len(world.timed)
    assert deploy(plan) == before and calls == (len(world.exports), len(world.evaluations), len(world.timed))

    latency_file(plan).unlink()  # as if it had been killed before the last step
    assert not is_deployed(plan) and deploy(plan) == before
    assert calls[:2] == (len(world.exports), len(world.evaluations)) and len(world.timed) > calls[2]

    wanted_rows(plan)[1].record.unlink()  # one row anew; latencies are the same file's
    assert deploy(plan) == before and (len(world.exports), len(world.evaluations)) == (calls[0] + 1, calls[1] + 1)


def test_a_runtime_that_is_added_leaves_the_others_and_all_are_timed_together(make_plan, world):
    deploy(make_plan("onnx"))
    world.exports.clear(), world.timed.clear()
    plan = make_plan("ncnn")
    found = deploy(plan)
    assert [each[:2] for each in world.exports] == [("base", "ncnn"), ("CBAM", "ncnn")]
    assert {"best.pt", "best.onnx", "best.ncnn"} == set(world.timed)
    assert [name.split("/")[1] for name in found][:3] == ["torch-float32", "ncnn-float32", "onnx-float32"]
    timed = json.loads(latency_file(plan).read_text())["rows"]
    assert len(timed) == 6 and len({row["rounds"] for row in timed.values()}) == 1
    assert {each.name for each in all_rows(make_plan())} == set(timed)  # a report without the flag has them all


def test_another_split_is_evaluated_and_nothing_is_exported_again(make_plan, world):
    deploy(make_plan("onnx"))
    exports = len(world.exports)
    plan = make_plan("onnx", split="test")
    for name in NAMES:
        files = plan.files(name, 0)
        files.matches.touch()
        files.scores.write_text(plan.files(name, 0).scores.with_name("val.json").read_text())
    assert not is_deployed(plan)
    world.maps["onnx"] = 0.4
    assert deploy(plan)["base/onnx-float32"].map == 0.4 and len(world.exports) == exports
    assert {each.map for each in read_deployments(make_plan("onnx"))} == {0.5}


# ---- rows that fail ----


def test_weights_that_are_gone_are_a_reason_until_they_are_back(make_plan, world):
    plan = make_plan("onnx")
    row = wanted_rows(plan)[1]
    row.weights.rename(row.weights.with_suffix(".away"))
    row.write_failure("best.pt: no such file", retry=False)
    assert row.error() == "best.pt: no such file" and not row.is_stale()
    row.weights.with_suffix(".away").rename(row.weights)
    assert row.is_stale() and deploy(plan)["base/onnx-float32"].error == ""


def test_a_variant_that_cannot_be_exported_is_a_row_with_its_reason(make_plan, world):
    for dynamic in (True, False):
        world.failures["CBAM", "onnx", "float32", dynamic] = ModelError("ONNX: cannot do that")
    plan = make_plan("onnx")
    found = deploy(plan)
    assert found["CBAM/onnx-float32"].error == "ONNX: cannot do that" and found["CBAM/onnx-float32"].map is None
    assert found["CBAM/torch-float32"].map == 0.5 and found["base/onnx-float32"].latency_ratio == pytest.approx(0.5)
    exports = len(world.exports)
    assert is_deployed(plan) and deploy(plan) == found and len(world.exports) == exports  # the answer would be the same


def test_a_file_of_one_size_is_compared_with_torch_on_squares(make_plan, world):
    world.failures["base", "onnx", "float32", True] = ParityError("ONNX: differs at 32x64")
    world.failures["CBAM", "onnx", "float32", False] = AssertionError("not asked for")
    found = deploy(make_plan("onnx"))
    row = found["base/onnx-float32"]
    assert (row.map, row.torch_map) == (0.5, 0.25) and row.remark.endswith(
        "a file for any size: ONNX: differs at 32x64"
    )
    assert found["CBAM/onnx-float32"].torch_map == 0.5 and found["CBAM/onnx-float32"].remark == ""
    assert [square for _, square in world.evaluations] == [False, True, False]


def test_ncnn_is_not_asked_for_a_file_of_any_size(make_plan, world):
    found = deploy(make_plan("ncnn"))["base/ncnn-float32"]
    assert found.remark.endswith("a file for any size: ncnn's files have one size") and found.torch_map == 0.25
    assert [each[1:4] for each in world.exports] == [("ncnn", "float32", False)] * 2


def test_a_process_that_is_killed_ends_one_row_and_is_tried_again(make_plan, world, monkeypatch):
    plan, evaluate = make_plan("onnx"), deployment.evaluate_file

    def crash(plan, network, *args, **options):
        if "CBAM" in str(network.runtime.path):
            raise RuntimeError("the process was ended by SIGSEGV (log: x)")
        return evaluate(plan, network, *args, **options)

    monkeypatch.setattr(deployment, "evaluate_file", crash)
    found = deploy(plan)
    assert "SIGSEGV" in found["CBAM/onnx-float32"].error and found["base/onnx-float32"].map == 0.5
    monkeypatch.setattr(deployment, "evaluate_file", evaluate)
    assert is_deployed(plan) and deploy(plan)["CBAM/onnx-float32"].map == 0.5


def test_a_file_that_cannot_be_timed_keeps_its_other_figures(make_plan, world, monkeypatch):
    plan, time_passes = make_plan("onnx"), deployment.time_passes

    def fail(network, images, passes):
        if passes == deployment.PASSES and isinstance(network, RuntimeNetwork):
            raise RuntimeError("no\nmemory")
        return time_passes(network, images, passes)

    monkeypatch.setattr(deployment, "time_passes", fail)
    row = deploy(plan)["base/onnx-float32"]
    assert (row.map, row.latency_ms, row.latency_ratio, row.no_latency, row.unmatched) == (
        0.5,
        None,
        None,
        "RuntimeError: no memory",
        None,
    )


def test_a_study_without_the_flag_has_no_table(make_plan, world):
    plan = make_plan()
    assert deploy(plan) == {} and all_rows(plan) == [] and is_deployed(plan)
    assert not (plan.folder / deployment_rows.EXPORTS).exists()


# ---- figures ----


def test_unmatched_rows_are_those_that_no_other_beats():
    figures = {"a": (0.5, 10.0), "b": (0.5009, 12.0), "c": (0.4, 5.0), "d": (0.502, 20.0), "e": (0.4, 5.0)}
    figures["f"] = None, 1.0
    rows = with_unmatched([Deployment(name, "onnx", map=score, latency_ms=ms) for name, (score, ms) in figures.items()])
    expected = {"a": True, "b": False, "c": True, "d": True, "e": True, "f": None}
    assert {row.variant: row.unmatched for row in rows} == expected


@pytest.mark.skipif(not (PROCESS / "clear_refs").exists(), reason="memory is read from /proc, which only Linux has")
def test_the_rise_of_memory_is_that_of_its_peak():
    with ResidentPeak() as nothing:
        pass
    with ResidentPeak() as peak, mmap.mmap(-1, 48 << 20) as fresh:  # an array may get memory that was freed before
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1
    assert nothing.mib is not None and nothing.mib < 8
    assert peak.mib is not None and 46 < peak.mib < 64


def test_a_system_that_does_not_tell_its_memory_gives_none(monkeypatch, tmp_path):
    monkeypatch.setattr("utils.compare.resident_memory.PROCESS", tmp_path / "none")
    with ResidentPeak() as peak:
        pass
    assert peak.mib is None


# ---- a whole study ----


@pytest.mark.slow
def test_a_finished_study_gets_its_table(tmp_path, monkeypatch):
    """A checkpoint in torch and ONNX Runtime: the same mAP, and nothing of the study is made again."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; make test-all installs it")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("utils.compare.execution._measure_costs", lambda plan: None)
    torch.manual_seed(0)
    model = Model(TINY | {"nc": 4}).eval()
    data = labeled_as_detected(model, tmp_path)
    write_checkpoint(checkpoint_of(model), tmp_path / "tiny.pt")
    options = dict(weights=[tmp_path / "tiny.pt"], data=data, imgsz=64, batch_size=4, workers=0, device="cpu")
    options |= dict(project=tmp_path, name="study", cost_seconds=0)
    assert compare.run(**options).deployments == ()
    folder = tmp_path / "study"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/val.*")}
    study = compare.run(**options, runtimes=["torch", "onnx"])
    torchs, onnx = study.deployments
    assert before == {path: path.stat().st_mtime_ns for path in before} and len(before) == 2
    assert [torchs.runtime, onnx.runtime, onnx.precision] == ["torch", "onnx", "float32"]
    assert onnx.error == onnx.remark == ""
    assert torchs.map == study.variants[0].runs[0].scores.map > 0.3
    # detections of random weights are nearly tied, so sums in another order change some places
    assert onnx.map == pytest.approx(torchs.map, abs=0.01) and onnx.torch_map == torchs.map
    assert torchs.latency_ratio == 1 and onnx.latency_ratio > 0 and onnx.latency_ms <= onnx.latency_p95_ms
    assert onnx.file == folder / "export" / "tiny" / "tiny.onnx" and onnx.file_bytes == onnx.file.stat().st_size
    assert "ONNX Runtime" in (folder / "compare.md").read_text() and "ONNX Runtime" in onnx.program
    files = {path: path.stat().st_mtime_ns for path in folder.glob("export/**/*")}
    again = compare.run(study=folder)
    assert again.deployments == study.deployments  # of the folder, which knows of --runtimes
    assert files == {path: path.stat().st_mtime_ns for path in folder.glob("export/**/*")}


def labeled_as_detected(model: torch.nn.Module, folder: Path) -> Path:
    """Return a data yaml whose labels are the most confident detections of a model with random weights."""
    data = drawn_yaml(folder, train=4, val=8)
    paths = open_split(DatasetSpec.load(data), "val", SplitOptions(64)).paths
    for path in paths:
        image = torch.from_numpy(read_image(path)[0]).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            found = non_max_suppression(model(image)[0], 0.001, 0.6)[0]
        boxes = xyxy_to_xywhn(clip(found.xyxy[:4], (64, 64)), 64, 64)
        rows = np.concatenate((found.cls[:4, None].numpy(), boxes.numpy()), 1)
        label = Path(str(path).replace("images", "labels")).with_suffix(".txt")
        label.write_text("".join(f"{int(row[0])} {' '.join(f'{x:.6f}' for x in row[1:])}\n" for row in rows))
    content = yaml.safe_load(Path(data).read_text())
    content.pop("generate")
    Path(data).write_text(yaml.safe_dump(content))
    return data
