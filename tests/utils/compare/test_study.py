"""Studies: equal conditions, the manifest, and a study killed and continued."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from small_data import drawn_yaml

import compare
import train
from models.yolo import Model
from utils import lock_file as locks
from utils import log
from utils.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from utils.compare.manifest import make_manifest, manifest_changes, training_settings
from utils.compare.plan import PlannedVariant, StudyPlan, open_study, planned_variants
from utils.compare.preparation import prepare
from utils.compare.provenance import data_facts, revision, versions
from utils.compare.results import Scores
from utils.compare.run import execute_run, run_options
from utils.compare.run_dir import RunFiles
from utils.compare.study import command_of
from utils.compare.study_progress import StudyProgress, duration_text
from utils.config import DatasetSpec, Hyperparameters, Slicing, TrainConfig, from_options
from utils.config.compare_options import CompareConfig
from utils.engine.build import build_data
from utils.errors import ConfigError, ModelError, UserError
from utils.files import ROOT
from utils.statistics import MatchedDetections
from utils.statistics.tide import error_kinds

BASE = (ROOT / "models" / "yolov5n.yaml").read_text()
SMALL = dict(imgsz=64, epochs=2, batch_size=8, workers=0, device="cpu", noautoanchor=True)


def content(width: float = 0.25) -> dict:
    return {**yaml.safe_load(BASE), "nc": 4, "width_multiple": width}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data yaml of 24 + 8 drawn images."""
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=24, val=8, test=4)


# ---- equal conditions ----


def test_two_models_see_the_same_images_in_the_same_order(data, tmp_path):
    """Every pixel and label of two epochs, for two architectures; another seed sees others."""

    def seen(cfg, seed):
        config = from_options(TrainConfig, data=str(data), cfg=cfg, seed=seed, **SMALL)
        spec, model = DatasetSpec.load(data), Model(cfg, nc=4)
        built = build_data(config, Hyperparameters(), spec, model, tmp_path)
        return [
            (batch.indices, batch.images.clone(), batch.targets)
            for epoch in (0, 1)
            for batch in built.train.epoch(epoch)
        ]

    one, other, third = seen("yolov5n.yaml", 0), seen("yolov5n_CoTA.yaml", 0), seen("yolov5n.yaml", 1)
    assert len(one) == 6 and [batch[0] for batch in one] == [batch[0] for batch in other]
    # images are drawn and warped by one process from one seed, before any network sees them
    assert all(torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(one, other, strict=True))
    assert [batch[0] for batch in one[:3]] != [batch[0] for batch in one[3:]]
    assert [batch[0] for batch in one] != [batch[0] for batch in third]


# ---- manifest, files, facts ----


def manifest(**changes):
    base = {
        "settings": {"epochs": 4, "imgsz": 64},
        "hyp": {"lr0": 0.01},
        "weights": {"a.pt": "1"},
        "plugins": {},
        "variants": {
            "x": {"role": "baseline", "source": "x.yaml", "hash": "h"},
            "y": {"role": "variant", "source": "y.yaml", "hash": "i"},
        },
        "control": False,
        "seeds": [0, 1],
        "data": {"val": {"hash": "d"}},
    }
    return {**base, **changes}


def test_a_study_may_grow_and_its_settings_stay():
    variants = manifest()["variants"]
    grown = manifest(
        seeds=[0, 1, 2],
        variants={**variants, "z": {"role": "variant", "source": "z.yaml", "hash": "j"}},
        data={"val": {"hash": "d"}, "test": {"hash": "e"}},
    )
    assert manifest_changes(manifest(), manifest()) == [] and manifest_changes(manifest(), grown) == []
    for changes, words in [
        (dict(settings={"epochs": 5, "imgsz": 64}), "epochs 4 -> 5"),
        (dict(hyp={"lr0": 0.1}), "lr0 0.01 -> 0.1"),
        (dict(hyp={"lr0": 0.01, "gate_lr": 10.0}), "gate_lr by default -> 10.0"),
        (dict(weights={"b.pt": "2"}), "weights a.pt -> b.pt"),
        (dict(weights={}), "-> none"),
        (dict(seeds=[1]), "left out: seed 0"),
        (dict(variants={"x": variants["x"]}), "y is left out"),
        (dict(variants={**variants, "y": {**variants["y"], "hash": "k"}}), "y is another network"),
        (
            dict(variants={"x": {**variants["x"], "role": "variant"}, "y": {**variants["y"], "role": "baseline"}}),
            "x is the variant, was the baseline",
        ),
        (dict(data={"val": {"hash": "z"}}), "images or labels of val"),
    ]:
        assert any(words in change for change in manifest_changes(manifest(), manifest(**changes))), words


def test_tiles_are_settings_of_every_study(tmp_path):
    """Those of evaluation too, also in studies that are older than the options."""
    for options in (dict(weights=("a.pt",)), dict(cfg=("yolov5n.yaml",))):
        config = CompareConfig(**options, slice=320, overlap=0.4, slice_merge="wbf")
        kept = training_settings(config)
        assert (kept["slice"], kept["overlap"], kept["slice_merge"], kept["slice_only"]) == (320, 0.4, "wbf", False)
        changes = manifest_changes(manifest(), manifest(settings={**manifest()["settings"], **kept}))
        assert {"slice 0 -> 320", "overlap 0.2 -> 0.4", "slice_merge 'nms' -> 'wbf'"} <= set(changes)
        plain = {**manifest()["settings"], **training_settings(CompareConfig(**options))}
        assert manifest_changes(manifest(settings=plain), manifest(settings={**plain, "slice": 320})) == [
            "slice 0 -> 320"
        ]
        options_of_runs = run_options(StudyPlan(tmp_path, config, (), {}))
        assert options_of_runs.slicing == Slicing(320, 0.4, "wbf")
        assert run_options(StudyPlan(tmp_path, CompareConfig(**options), (), {})).slicing is None


def test_facts_of_a_split_stay_while_another_is_evaluated(tmp_path):
    """Otherwise a change of test between the runs of its seeds would not be noticed."""
    plan = StudyPlan(
        tmp_path,
        CompareConfig(weights=("a.pt",)),
        (PlannedVariant("a", "baseline", "a.pt", None, "", tmp_path / "a.pt"),),
        {"val": {"hash": "new"}},
    )
    assert make_manifest(plan, {"data": {"test": {"hash": "t"}, "val": {"hash": "old"}}})["data"] == {
        "test": {"hash": "t"},
        "val": {"hash": "new"},
    }


def test_an_evaluation_comes_back_from_its_files(tmp_path):
    files = RunFiles(tmp_path, "val")
    matches = MatchedDetections(
        np.array([1, 0], np.int32),
        np.array([0.5, 0.25], np.float32),
        np.array([0, 1], np.int32),
        np.eye(2, 10, dtype=bool),
        np.array([[1, 0], [0, 1]], np.int32),
    )
    scores = Scores(
        0.1, 0.2, 0.3, 0.4, 0.5, {"small": float("nan"), "large": 0.25}, None, None, {"a": 0.125, "b": float("nan")}
    )
    assert not files.is_done()
    files.write_failure("two\nlines")
    assert files.error() == "two lines"
    files.write_evaluation(scores, matches, {"device": "cpu"})
    assert files.is_done() and files.error() == "" and files.read_facts() == {"device": "cpu"}
    back, again = files.read_scores(), files.read_matches()
    np.testing.assert_equal(
        (back.map, back.size, back.coco, back.per_class), (0.1, scores.size, None, scores.per_class)
    )
    assert all(np.array_equal(getattr(matches, name), getattr(again, name)) for name in vars(matches))


def test_the_data_hash_is_of_names_sizes_and_labels(data, tmp_path):
    import shutil

    spec = DatasetSpec.load(data)
    config = CompareConfig(no_cache_labels=True)
    facts = data_facts(config, spec, "val")
    moved = tmp_path / "moved"
    shutil.copytree(spec.root, moved)
    elsewhere = DatasetSpec.load({**yaml.safe_load(data.read_text()), "path": str(moved), "generate": None})
    assert facts["images"] == 8 and facts["objects"] == sum(facts["by_class"].values()) > 8
    assert data_facts(config, elsewhere, "val") == facts
    label = sorted((moved / "labels" / "val").glob("*.txt"))[0]
    row = label.read_text()
    label.write_text(f"{(int(row[0]) + 1) % 4}{row[1:]}")
    relabelled = data_facts(config, elsewhere, "val")
    assert relabelled["hash"] != facts["hash"] and relabelled["objects"] == facts["objects"]
    label.write_text("\n".join(label.read_text().splitlines()[1:]))
    assert data_facts(config, elsewhere, "val")["hash"] not in (facts["hash"], relabelled["hash"])


def test_versions_and_revision(tmp_path):
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0] and revision(tmp_path) == ""
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs with: peeled\nabc123 refs/heads/main\n")
    assert revision(tmp_path) == "abc123"
    (git / "refs" / "heads" / "main").write_text("def456\n")
    assert revision(tmp_path) == "def456"
    (git / "HEAD").write_text("0a1b2c\n")
    assert revision(tmp_path) == "0a1b2c"


def test_variants_get_names_of_their_own(tmp_path):
    runs = [tmp_path / name / "weights" / "best.pt" for name in ("base", "cbam")]
    config = from_options(CompareConfig, weights=list(map(str, runs)))
    assert [each.name for each in planned_variants(config, tmp_path, runs)] == ["base", "cbam"]
    same = [tmp_path / "a" / "m.pt", tmp_path / "b" / "m.pt"]
    assert [each.name for each in planned_variants(config, tmp_path, same)] == ["a_m", "b_m"]
    with pytest.raises(ConfigError, match="is in the study twice"):
        planned_variants(config, tmp_path, [same[0], same[0]])


def test_the_command_distinguishes_checkpoints_by_their_runs(tmp_path):
    runs = [str(tmp_path / name / "weights" / "best.pt") for name in ("base", "cbam")]
    config = from_options(CompareConfig, weights=[*runs, str(tmp_path / "other.pt")])
    words = command_of(StudyPlan(tmp_path, config, (), {})).split()
    assert (
        words[2:6] == ["--weights", "base/weights/best.pt", "cbam/weights/best.pt", "other.pt"]
        and str(tmp_path) not in words
    )


@pytest.mark.parametrize(("int8", "words"), [("--data", ["--int8"]), ("/d/own.yaml", ["--int8", "own.yaml"])])
def test_the_command_has_a_bare_int8_as_it_was_given(tmp_path, int8, words):
    config = from_options(CompareConfig, weights=["a.pt"], runtimes=["torch", "onnx"], int8=int8)
    found = command_of(StudyPlan(tmp_path, config, (), {})).split()
    assert found[found.index("--runtimes") :] == ["--runtimes", "torch", "onnx", *words]
    assert compare.parse_opt(found[2:]).int8 == ("own.yaml" if "own" in int8 else "--data")


def test_progress_estimates_from_what_is_done(tmp_path):
    runs = {name: RunFiles(tmp_path / name, "val") for name in "abcd"}
    for name, epochs in (("a", 4), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "progress.json").write_text(json.dumps({"seconds": [10.0] * epochs}))
    progress = StudyProgress(runs, 4, 2)
    assert progress.total == 16 and sum(progress.done.values()) == 6
    assert progress.seconds_left() == pytest.approx(10 * 10 / 2)  # ten epochs left, on two slots
    progress.started -= 30
    (tmp_path / "b" / "progress.json").write_text(json.dumps({"seconds": [10.0] * 4}))
    progress.update()
    assert progress.seconds_left() == pytest.approx(30 / 2 * 8, rel=0.05)  # two epochs took 30 s, eight are left
    runs["b"].write_failure("no")
    assert progress._runs_text() == "1 of 4 runs"
    assert (duration_text(42), duration_text(700), duration_text(7500)) == ("42 s", "12 min", "2 h 05 min")


# ---- whole studies ----


def command(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "compare.py"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_a_killed_study_continues_and_ends_like_one_that_was_not_killed(data, tmp_path, monkeypatch, capfd):
    """SIGKILL during a training: the study continues to its report, and its run is train.py's, bit for bit."""
    folder = tmp_path / "study"
    first = command(
        "--cfg",
        "yolov5n.yaml",
        "yolov5n_MHSA.yaml",
        "--data",
        data,
        "--seeds",
        "1",
        "--control",
        "--epochs",
        "2",
        "--img",
        "64",
        "--batch",
        "8",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--noautoanchor",
        "--project",
        tmp_path,
        "--name",
        "study",
        "--cost-seconds",
        "0",
    )
    progress = folder / "runs" / "yolov5n" / "seed0" / "progress.json"
    deadline = time.monotonic() + 300
    while not progress.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.02)
    child = json.loads((progress.parent / "claim.json").read_text())["pid"]
    first.send_signal(signal.SIGKILL)
    first.wait()
    while locks._is_running(child) and locks._start_time(child) not in ("", "gone"):
        assert time.monotonic() < deadline, "the training outlived the study that started it"
        time.sleep(0.05)
    assert not (progress.parent / "val.json").exists() and (progress.parent / "claim.json").exists()

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    log.configure()
    study = compare.run(study=folder, jobs=2)
    assert [run.status for variant in study.variants for run in variant.runs] == ["done"] * 3
    printed = capfd.readouterr().out
    assert "resuming" in (progress.parent / "run.log").read_text() and "3 of 3 runs" in printed
    assert {
        "study.yaml",
        "settings.yaml",
        "hyp.yaml",
        "compare.json",
        "compare.md",
        "report.html",
        "strip.jpg",
        "costs.json",
    } <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "models").iterdir()} == {
        "yolov5n.yaml",
        "yolov5n_MHSA.yaml",
        "control.yaml",
    }
    batches = [
        (folder / "runs" / name / "seed0" / "train_batch0.jpg").read_bytes()
        for name in ("yolov5n", "yolov5n_MHSA", "control")
    ]
    assert batches[0] == batches[1] == batches[2]

    with one_thread():  # and so the same kernels on the same shapes in the same order, here and in the study's process
        plain = train.run(cfg="yolov5n.yaml", data=data, seed=0, project=tmp_path, name="plain", **SMALL)
    assert (plain.save_dir / "results.csv").read_text() == (progress.parent / "results.csv").read_text()
    mine, its = (read_checkpoint(place / "weights" / "best.pt").state for place in (plain.save_dir, progress.parent))
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    kept = json.loads((progress.parent / "val.json").read_text())["scores"]
    assert kept["map"] == plain.evaluation.metrics.map
    assert kept["errors"] == {kind: cost for kind, _, cost in error_kinds(plain.evaluation.results, 4).rows()}
    assert "Kinds of error" in (folder / "compare.md").read_text()

    monkeypatch.setattr("utils.compare.study.write_report", lambda study, language: [study.folder / "report.html"])
    check_that_a_trained_run_is_only_evaluated(folder)
    check_that_it_is_reported_again_and_other_settings_are_refused(folder, data)


@contextlib.contextmanager
def one_thread():
    """Compute with one thread, as the runs of the study did: sums of several threads are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_that_a_trained_run_is_only_evaluated(folder):
    """A run that was killed between its last epoch and its evaluation is not trained further."""
    folder, config = open_study(CompareConfig(study=str(folder)))
    plan = prepare(folder, config, keep_study=True)
    files = plan.files("control", 0)
    last, scores = files.last.stat().st_mtime_ns, files.read_scores()
    for file in (files.trained, files.scores, files.matches):
        file.unlink()
    assert not plan.is_done()
    with one_thread():
        execute_run(plan, plan.variants[2], 0, "cpu")
    assert (
        plan.is_done()
        and files.last.stat().st_mtime_ns == last
        and json.loads(files.trained.read_text())["epochs"] == 2
    )
    np.testing.assert_equal(files.read_scores().__dict__, scores.__dict__)


def check_that_it_is_reported_again_and_other_settings_are_refused(folder, data):
    """A finished study is reported without data or trainings."""
    best = folder / "runs" / "control" / "seed0" / "weights" / "best.pt"
    before = best.stat().st_mtime_ns
    data.parent.joinpath("shapes").rename(data.parent / "away")
    try:
        study = compare.run(study=folder)
    finally:
        data.parent.joinpath("away").rename(data.parent / "shapes")
    assert best.stat().st_mtime_ns == before and [each.role for each in study.variants] == [
        "baseline",
        "variant",
        "control",
    ]
    assert set(study.variants[1].differences) >= {"mAP50-95", "mAP50", "AP75"} and study.variants[0].differences == {}
    assert any("One seed" in note for note in study.notes) and any(
        "the parameter-matched baseline" in note and "MHSA" in note for note in study.notes
    )
    description = yaml.safe_load((folder / "study.yaml").read_text())
    assert description["cfg"] == ["models/yolov5n.yaml", "models/yolov5n_MHSA.yaml"]
    (folder / "study.yaml").write_text(yaml.safe_dump({**description, "epochs": 4, "optimizer": "Adam"}))
    with pytest.raises(ConfigError, match=r"other settings: epochs 2 -> 4; optimizer 'auto' -> 'Adam'"):
        compare.run(study=folder)
    (folder / "study.yaml").write_text(yaml.safe_dump({**description, "cfg": description["cfg"][:1], "control": False}))
    with pytest.raises(ConfigError, match="yolov5n_MHSA is left out; control is left out"):
        compare.run(study=folder)


def test_checkpoints_are_compared_and_one_that_fails_does_not_stop_the_rest(data, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.compare.study.measure_missing", lambda plan: None)
    for name, classes in (("other", "ab"), ("good", "abcd")):
        model = Model(content() | {"nc": len(classes)})
        model.names = list(classes)
        write_checkpoint(checkpoint_of(model), tmp_path / f"{name}.pt")
    config = from_options(
        CompareConfig,
        weights=[tmp_path / "other.pt", tmp_path / "good.pt"],
        data=data,
        imgsz=64,
        workers=0,
        device="cpu",
        project=tmp_path,
        name="study",
        split="test",
        jobs=2,
    )
    with pytest.raises(
        UserError, match="1 of 2 runs failed .*other seed 0: .*knows 2 classes and .*--study .* retries them"
    ):
        compare._main_or_error(config)
    bad, good = (RunFiles(tmp_path / "study" / "runs" / name / "seed0", "test") for name in ("other", "good"))
    assert good.is_done() and good.read_facts()["images"] == 4 and "knows 2 classes" in bad.error()
    assert "knows 2 classes" in (tmp_path / "study" / "compare.md").read_text()
    assert yaml.safe_load((tmp_path / "study" / "study.yaml").read_text())["weights"] == [
        str(tmp_path / f"{name}.pt") for name in ("other", "good")
    ]


def test_errors_are_found_before_the_first_run_and_leave_nothing(data, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(BASE.replace("[-1, 1, SPPF, [1024, 5]]", "[-1, 1, SPFF, [1024, 5]]"))
    with pytest.raises(ModelError, match="SPFF"):
        compare.run(cfg=["yolov5n.yaml", bad], data=data, project=tmp_path / "p", imgsz=64)
    for text, words in (
        ("nc: [", r"bad.yaml:1: not valid yaml"),
        ("- 1", "bad.yaml: expected lines of the form"),
        ("", "bad.yaml: the file is empty"),
    ):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=words):
            compare.run(cfg=["yolov5n.yaml", bad], data=data, project=tmp_path / "p", imgsz=64)
    with pytest.raises(ConfigError, match="yolov5n6.yaml needs a multiple of 64"):
        compare.run(cfg=["yolov5n.yaml", "yolov5n6.yaml"], data=data, project=tmp_path / "p", imgsz=96)
    with pytest.raises(ConfigError, match="--study .*no such file or folder"):
        compare.run(study=tmp_path / "nowhere")
    for place in (dict(project=bad, name="x"), dict(project=tmp_path, name="bad.yaml")):
        with pytest.raises(ConfigError, match="bad.yaml.*: cannot be a study's folder, .*another --project or --name"):
            compare.run(cfg=["yolov5n.yaml"], data=data, imgsz=64, **place)
    assert not list((tmp_path / "p").glob("*/*"))
