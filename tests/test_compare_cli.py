"""compare.py's flags, pinned; what a study yaml may hold; and what an error prints."""

import subprocess
import sys

import pytest
import yaml

import compare
from utils.config import TrainConfig, from_options, parse
from utils.config.compare_options import CHANGEABLE, CompareConfig, read_study
from utils.config.flags import build_parser, flag_fields
from utils.errors import ConfigError
from utils.files import ROOT

OWN = {
    "cfg": None,
    "weights": None,
    "recipes": None,
    "pieces": None,
    "seeds": (3,),
    "control": False,
    "study": "",
    "split": "val",
    "jobs": 1,
    "title": "",
    "launcher": "",
    "launch_options": None,
    "cost_seconds": 20.0,
    "runtimes": None,
    "int8": "",
    "project": str(ROOT / "runs" / "compare"),
    "name": "",
    "device": "",
    "batch_size": 16,
    "slice": 0,
    "overlap": 0.2,
    "slice_merge": "nms",
    "slice_match": "border",
    "slice_thres": 0.5,
    "slice_only": False,
}
PASSED_THROUGH = {
    "data",
    "hyp",
    "hyp_unknown",
    "epochs",
    "imgsz",
    "rect",
    "noautoanchor",
    "cache",
    "multi_scale",
    "single_cls",
    "optimizer",
    "workers",
    "quad",
    "cos_lr",
    "label_smoothing",
    "patience",
    "freeze",
    "deterministic",
    "amp",
    "amp_type",
    "download",
    "labels",
    "no_cache_labels",
    "plugin",
    "logger",
    "attention_start",
    "transfer",
    "require_transfer",
    "teacher",
    "rect_pad",
    "font",
    "lang",
}


def test_flags_and_defaults_are_pinned():
    config = parse(CompareConfig, [])
    assert {each.name for each in flag_fields(config)} == set(OWN) | PASSED_THROUGH
    assert {name: getattr(config, name) for name in OWN} == OWN
    training = {each.name: each for each in flag_fields(TrainConfig)}
    for each in flag_fields(CompareConfig):
        if each.name in PASSED_THROUGH:  # train.py's own flag: default, bounds, aliases and help
            assert (
                each.default == training[each.name].default
                and each.metadata["flag"] == training[each.name].metadata["flag"]
            )


def test_a_command_line_becomes_the_trainings_of_a_study():
    config = compare.parse_opt(
        [
            "--cfg",
            "A.yaml",
            "B.yaml",
            "--data",
            "d.yaml",
            "--weights",
            "w.pt",
            "--epochs",
            "7",
            "--seeds",
            "2",
            "--img",
            "96",
            "--batch",
            "4",
            "--hyp",
            "h.yaml",
            "--attention-start",
            "identity",
            "--cache",
            "--workers",
            "3",
            "--device",
            "0,1",
            "--jobs",
            "2",
            "--opt",
            "AdamW",
            "--control",
        ]
    )
    assert config.seed_list == (0, 1) and config.control and config.jobs == 2
    training = config.training_config("x.yaml", 5, device="1")
    assert (training.cfg, training.seed, training.weights, training.device) == ("x.yaml", 5, "w.pt", "1")
    assert (training.data, training.epochs, training.imgsz, training.batch_size, training.hyp) == (
        "d.yaml",
        7,
        96,
        4,
        "h.yaml",
    )
    assert (training.attention_start, training.cache, training.workers, training.optimizer) == (
        "identity",
        "ram",
        3,
        "AdamW",
    )


@pytest.mark.parametrize("text, seeds", [("3", (0, 1, 2)), ("1", (0,)), ("0 1 5", (0, 1, 5)), ("4 2", (4, 2))])
def test_seeds_are_a_number_or_a_list(text, seeds):
    assert parse(CompareConfig, ["--cfg", "a.yaml", "--seeds", *text.split()]).seed_list == seeds


def test_checkpoints_have_one_seed():
    assert from_options(CompareConfig, weights=["a.pt", "b.pt"]).seed_list == (0,)


@pytest.mark.parametrize(
    "argv, words",
    [
        ("--seeds 0 --cfg a.yaml", ("--seeds 0", "--seeds 1")),
        ("--seeds 1 1 --cfg a.yaml", ("twice",)),
        ("--seed 3 --cfg a.yaml", ("--seed", "--seeds")),
        ("--cfg a.yaml --weights a.pt b.pt", ("2 checkpoints", "the same one")),
        ("--weights a.pt --control", ("--control", "--cfg")),
        ("--cfg a.yaml --control", ("--control", "the baseline alone")),
        ("--study s --cfg a.yaml", ("--study s", "--cfg")),
        ("--study s --name n", ("--name",)),
        ("--image-weights", ("--image-weights", "same")),
        ("--evolve 3", ("--evolve",)),
        ("--resume", ("--resume", "--study")),
        ("--batch-size -1 --cfg a.yaml", ("--batch-size -1", "at least 1")),
        ("--require-transfer 0.5 --cfg a.yaml", ("--require-transfer", "--weights")),
        ("--runtimes tflite --cfg a.yaml", ("--runtimes", "tflite", "openvino")),
        ("--int8 --cfg a.yaml", ("--int8", "onnx and openvino", "--runtimes")),
        ("--int8 --runtimes torch ncnn --cfg a.yaml", ("--int8", "onnx and openvino")),
        ("--splt test", ("did you mean --split",)),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(capsys, argv, words):
    with pytest.raises(SystemExit) as ended:
        compare.parse_opt(argv.split())
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.count("\n") == 1 and all(word in printed for word in words), printed


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ConfigError, match="nothing to compare: give --cfg"):
        compare.run()


def test_a_study_yaml_reads_back_as_it_was_written(tmp_path):
    config = from_options(
        CompareConfig,
        cfg=["a.yaml", "b.yaml"],
        seeds=[0, 4],
        control=True,
        freeze=["backbone"],
        amp=False,
        jobs=2,
        plugin=["p.py"],
        imgsz=96,
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config.study_content()))
    assert read_study(tmp_path / "study.yaml", CompareConfig()) == config
    assert set(config.study_content()) == {
        "cfg",
        "data",
        "seeds",
        "epochs",
        "control",
        "freeze",
        "amp",
        "jobs",
        "plugin",
        "imgsz",
    }


def test_paths_beside_a_study_yaml_come_first(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("mine/a.yaml", "d.yaml"):
        (tmp_path / name).write_text("x: 1")
    (tmp_path / "study.yaml").write_text("cfg: [mine/a.yaml, yolov5n.yaml]\ndata: d.yaml\nweights: w.pt\n")
    config = read_study(tmp_path / "study.yaml", CompareConfig())
    assert config.cfg == (str(tmp_path / "mine" / "a.yaml"), "yolov5n.yaml") and config.data == str(tmp_path / "d.yaml")
    assert config.weights == ("w.pt",)


def test_conditions_may_change_and_settings_may_not(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("cfg: [yolov5n.yaml]\nepochs: 4\njobs: 3\n")
    config = read_study(file, CompareConfig(study=str(file), device="cpu", jobs=2))
    assert (config.device, config.jobs, config.epochs) == ("cpu", 2, 4)
    assert {"device", "jobs", "workers", "cache"} < set(CHANGEABLE) and not {
        "epochs",
        "imgsz",
        "batch_size",
        "seeds",
    } & set(CHANGEABLE)
    with pytest.raises(ConfigError, match=r"--epochs: is set in .*study.yaml"):
        read_study(file, CompareConfig(study=str(file), epochs=5))
    for text, words in (
        ("epocs: 4", "epocs: no such option"),
        ("1: 4", "1: no such option"),
        ("name: x", "name: is no option of a study yaml"),
        ("cfg: [a.yaml]\nseeds: 0", "no seed at all"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"study.yaml: .*{words}"):
            read_study(file, CompareConfig())


def test_runtimes_may_be_added_to_a_study(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("cfg: [yolov5n.yaml]\ndata: d.yaml\n")
    config = read_study(file, compare.parse_opt(["--study", str(file), "--runtimes", "torch", "onnx", "--int8"]))
    assert (config.runtimes, config.int8, config.calibration) == (("torch", "onnx"), "--data", "d.yaml")
    plain = ["--cfg", "a.yaml", "--runtimes", "onnx"]
    assert compare.parse_opt([*plain, "--int8", "own.yaml"]).calibration == "own.yaml"
    assert compare.parse_opt(plain).calibration == ""
    assert not {"runtimes", "int8"} & set(vars(config.training_config("a.yaml", 0)))


def test_a_flag_that_repeats_a_default_counts(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("cfg: [yolov5n.yaml]\nsplit: test\njobs: 3\nepochs: 4\n")
    config = read_study(file, compare.parse_opt(["--study", str(file), "--split", "val", "--jobs", "1"]))
    assert (config.split, config.jobs, config.epochs) == ("val", 1, 4)
    assert read_study(file, compare.parse_opt(["--study", str(file)])).split == "test"
    with pytest.raises(ConfigError, match=r"--epochs: is set in .*study.yaml"):
        read_study(file, compare.parse_opt(["--study", str(file), "--epochs", "300"]))


def test_help_answers_without_torch():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import compare; "
        "print(sorted({'torch', 'cv2', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert set(build_parser(CompareConfig).format_help().split()) >= {"--control", "--study", "--jobs"}
