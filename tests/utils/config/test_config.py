"""Configuration records: values are checked, names are forgiving where v6.1 was, and errors are one line."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from utils.config import DatasetSpec, DetectConfig, Hyperparameters, TrainConfig, ValConfig, from_options
from utils.errors import ConfigError, DataError
from utils.files import ROOT


def message(call) -> str:
    """The text of the ConfigError that a call must raise; one line."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config_class", (TrainConfig, ValConfig, DetectConfig))
def test_options_travel_through_a_yaml_file(config_class):
    config = from_options(config_class, imgsz=320, exist_ok=True, name="été", plugin=["a.py", "b.py"])
    back = from_options(config_class, **yaml.safe_load(yaml.safe_dump(config.as_dict(), allow_unicode=True)))
    assert back == config
    assert back.plugin == ("a.py", "b.py")


def test_options_take_the_aliases_and_types_of_v61():
    assert from_options(TrainConfig, img=320).imgsz == 320
    assert from_options(DetectConfig, imgsz=[256, 320]).imgsz == (256, 320)
    assert from_options(DetectConfig, imgsz=256).imgsz == (256, 256)
    assert from_options(DetectConfig, weights="a.pt", source=0, classes=3).weights == ("a.pt",)
    assert from_options(DetectConfig, source=0).source == "0"
    assert from_options(DetectConfig, classes=3).classes == (3,)
    assert from_options(TrainConfig, weights=ROOT / "a.pt").weights == str(ROOT / "a.pt")
    assert from_options(TrainConfig, resume="runs/last.pt").resume == "runs/last.pt"
    assert from_options(TrainConfig, label_smoothing=0).label_smoothing == 0.0
    assert from_options(TrainConfig, bucket="", bbox_interval=-1) == TrainConfig()


def test_options_that_imply_others():
    assert ValConfig(save_hybrid=True).save_txt
    assert ValConfig(data="my/coco.yaml").save_json and not ValConfig().save_json


@pytest.mark.parametrize(
    "options, words",
    [
        ({"epoch": 3}, ("epoch", "did you mean epochs")),
        ({"epochs": 0}, ("--epochs 0", "at least 1")),
        ({"epochs": 2.5}, ("--epochs", "whole number")),
        ({"epochs": True}, ("--epochs", "whole number")),
        ({"epochs": "3"}, ("--epochs", "whole number")),
        ({"batch_size": 0}, ("--batch-size 0", "-1")),
        ({"batch_size": -2}, ("--batch-size -2",)),
        ({"imgsz": 16}, ("--imgsz 16", "at least 32")),
        ({"workers": -1}, ("--workers -1",)),
        ({"patience": -1}, ("--patience -1",)),
        ({"save_period": 0}, ("--save-period 0",)),
        ({"freeze": [1, "x"]}, ("--freeze", "'x'")),
        ({"freeze": []}, ("--freeze", "one value or more")),
        ({"optimizer": "adam"}, ("adam", "did you mean Adam")),
        ({"cache": "rom"}, ("rom", "ram")),
        ({"evolve": 0}, ("--evolve 0",)),
        ({"label_smoothing": float("nan")}, ("--label-smoothing", "number")),
        ({"label_smoothing": 1.5}, ("--label-smoothing 1.5", "0 to 1")),
        ({"rect": 1}, ("--rect", "True or False")),
        ({"name": None}, ("--name", "text")),
        ({"rect": True, "image_weights": True}, ("--rect", "--image-weights")),
        ({"bucket": "gs://x"}, ("bucket", "run folder")),
        ({"entity": "me"}, ("entity", "TensorBoard")),
        ({"img": 320, "imgsz": 320}, ("img", "twice")),
    ],
)
def test_a_wrong_option_is_named(options, words):
    text = message(lambda: from_options(TrainConfig, **options))
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "options",
    (
        {"conf_thres": 1.1},
        {"iou_thres": -0.1},
        {"max_det": 0},
        {"imgsz": (1, 2, 3)},
        {"imgsz": (64, 64, 64)},
        {"vid_stride": 0},
        {"classes": [-1]},
    ),
)
def test_a_wrong_detect_option_is_named(options):
    assert f"--{next(iter(options)).replace('_', '-')}" in message(lambda: from_options(DetectConfig, **options))


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


# hyperparameters -------------------------------------------------------------------------------------


def test_default_hyperparameters_are_those_of_scratch_low():
    expected = dict(
        lr0=0.01,
        lrf=0.01,
        momentum=0.937,
        weight_decay=0.0005,
        warmup_epochs=3,
        warmup_momentum=0.8,
        warmup_bias_lr=0.1,
        box=0.05,
        cls=0.5,
        cls_pw=1,
        obj=1,
        obj_pw=1,
        iou_t=0.2,
        anchor_t=4,
        fl_gamma=0,
        hsv_h=0.015,
        hsv_s=0.7,
        hsv_v=0.4,
        degrees=0,
        translate=0.1,
        scale=0.5,
        shear=0,
        perspective=0,
        flipud=0,
        fliplr=0.5,
        mosaic=1,
        mixup=0,
        copy_paste=0,
    )
    assert Hyperparameters().as_dict() == expected
    assert Hyperparameters.load(None) == Hyperparameters()
    assert Hyperparameters.load(expected) == Hyperparameters()


def test_shipped_hyperparameter_files_hold_every_key(caplog):
    caplog.set_level("INFO", "yolo")
    low, medium, high, voc, objects = (
        Hyperparameters.load(f"hyp.{name}.yaml")
        for name in ("scratch-low", "scratch-med", "scratch-high", "VOC", "Objects365")
    )
    assert caplog.text == ""  # nothing had to be taken from the defaults
    assert low == Hyperparameters.load("hyp.scratch-low") == Hyperparameters()
    assert medium == low.replace(lrf=0.1, cls=0.3, obj=0.7, scale=0.9, mixup=0.1)
    assert high == medium.replace(copy_paste=0.1)
    assert (voc.anchors, voc.lrf, voc.obj_pw, voc.mosaic) == (3.3556, 0.15184, 0.6729, 0.87158)
    assert (objects.anchors, objects.momentum, objects.cls_pw, objects.scale) == (3.2, 0.779, 0.825, 0.491)


def test_gains_are_scaled_as_in_v61():
    scaled = Hyperparameters().scaled(levels=4, nc=20, imgsz=1280, label_smoothing=0.1)
    assert scaled.box == pytest.approx(0.05 * 3 / 4)
    assert scaled.cls == pytest.approx(0.5 * 20 / 80 * 3 / 4)
    assert scaled.obj == pytest.approx(1.0 * 4 * 3 / 4)
    assert scaled.label_smoothing == 0.1 and scaled.lr0 == 0.01
    assert scaled.as_dict()["label_smoothing"] == 0.1


def test_a_hyperparameter_file_is_read(tmp_path, caplog):
    caplog.set_level("INFO", "yolo")
    file = tmp_path / "my.yaml"
    file.write_text("lr0: 1e-3  # text to yaml\nanchors: 5\nbox: 0\n")
    hyp = Hyperparameters.load(file)
    assert (hyp.lr0, hyp.anchors, hyp.box, hyp.cls) == (0.001, 5.0, 0.0, 0.5)
    assert "cls_pw" in caplog.text and "lr0" not in caplog.text and "anchors" not in caplog.text
    assert Hyperparameters.load({"anchors": 0}).anchors is None
    assert hyp.as_dict()["anchors"] == 5.0


@pytest.mark.parametrize(
    "content, words",
    [
        ("mozaic: 1", ("mozaic", "did you mean mosaic", "my.yaml")),
        ("fliplr: 1.5", ("fliplr 1.5", "0 to 1", "my.yaml")),
        ("lr0: -1", ("lr0 -1", "at least 0")),
        ("lr0: .nan", ("lr0 nan",)),
        ("lr0: .inf", ("lr0 inf",)),
        ("lr0: fast", ("lr0", "a number", "fast")),
        ("lr0: true", ("lr0", "a number")),
        ("lr0: [1]", ("lr0", "a number")),
        ("a: 1\nb: [", ("my.yaml:2", "not valid yaml")),
        ("# all of it is remarks", ("my.yaml", "the file is empty")),
        ("- 1", ("my.yaml", "key: value")),
        ("", ("my.yaml", "key: value")),
    ],
)
def test_a_bad_hyperparameter_file_is_explained(tmp_path, content, words):
    file = tmp_path / "my.yaml"
    file.write_text(content)
    text = message(lambda: Hyperparameters.load(file))
    assert all(word in text for word in words), text


def test_a_missing_hyperparameter_file_says_where_it_was_looked_for():
    assert str(ROOT / "data" / "hyps") in message(lambda: Hyperparameters.load("hyp.nowhere.yaml"))


def test_hyperparameters_change_by_replace():
    assert Hyperparameters().replace(lr0=0.1).lr0 == 0.1
    assert "did you mean fl_gamma" in message(lambda: Hyperparameters().replace(gamma=1))
    assert "momentum 2" in message(lambda: Hyperparameters().replace(momentum=2))


# data yamls ------------------------------------------------------------------------------------------


def write(folder, text, name="data.yaml", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_a_data_yaml_is_read(tmp_path):
    (tmp_path / "set").mkdir()
    text = "path: set\ntrain: [a, b.txt]\nval: /abs/c\nnc: 2\nnames: [cat, 狗]\ndownload: bash x\n"
    spec = DatasetSpec.load(write(tmp_path, text))
    root = (tmp_path / "set").resolve()
    assert spec.root == root and spec.train == (root / "a", root / "b.txt") and spec.test == ()
    assert spec.val[0].as_posix() == "/abs/c"
    assert (spec.nc, spec.names, spec.download) == (2, ("cat", "狗"), "bash x")
    assert spec.paths("train") == spec.train
    with pytest.raises(DataError, match="no `test:` given"):
        spec.paths("test")


def test_names_come_as_list_mapping_or_not_at_all(tmp_path):
    assert DatasetSpec.load(write(tmp_path, "nc: 2\n")).names == ("class0", "class1")
    assert DatasetSpec.load(write(tmp_path, "names: {1: b, 0: a}\n")).names == ("a", "b")
    assert DatasetSpec.load(write(tmp_path, "names: [no, 1, 1e3, 'on']\n")).names == ("no", "1", "1e3", "on")
    assert DatasetSpec.load({"names": ["a"], "nc": 1}).names == ("a",)
    assert DatasetSpec.load(write(tmp_path, "\ufeffnames: [a]\n")).nc == 1


def test_one_class_for_all(tmp_path):
    single = DatasetSpec.load({"names": ["a", "b"], "generate": {"seed": 1}}).as_single_class()
    assert (single.nc, single.names, single.generate) == (1, ("item",), {"seed": 1})
    assert DatasetSpec.load({"names": ["cat"]}).as_single_class().names == ("cat",)


def test_a_relative_root_is_the_projects_then_the_yamls(tmp_path, monkeypatch):
    nowhere = DatasetSpec.load(write(tmp_path, "path: ../datasets/nowhere\nnc: 1\n"))
    assert nowhere.root == (ROOT / "../datasets/nowhere").resolve()
    assert DatasetSpec.load(write(tmp_path, "path: data\nnc: 1\n")).root == ROOT / "data"
    (tmp_path / "data" / "scans").mkdir(parents=True)
    assert DatasetSpec.load(write(tmp_path, "path: data\ntrain: scans\nnc: 1\n")).root.is_dir()
    assert DatasetSpec.load(write(tmp_path, "train: data/scans\nnc: 1\n")).root == tmp_path.resolve()
    monkeypatch.chdir(tmp_path)
    assert DatasetSpec.load({"path": "data", "train": "scans", "nc": 1}).train[0].is_dir()


@pytest.mark.parametrize(
    "content, words",
    [
        ("nc: 3\nnames: [a, b]", ("nc is 3", "2 names")),
        ("nc: 0", ("nc", "at least 1")),
        ("nc: two", ("nc", "two")),
        ("nc: true", ("nc", "whole number")),
        ("train: x", ("neither nc nor names",)),
        ("names: {0: a, 2: b}", ("0 to 1", "1 is missing")),
        ("names: {a: b}", ("class numbers",)),
        ("names: [[a]]", ("one name per class",)),
        ("names: cat", ("names", "cat")),
        ("nc: 1\ntrain: 3", ("train", "path")),
        ("nc: 1\ntrain: [a, {b: c}]", ("train", "path")),
        ("nc: 1\npath: [a]", ("path", "folder")),
        ("nc: 1\ngenerate: yes", ("generate", "mapping")),
        ("nc: 1\ndownload: [a]", ("download", "text")),
        ("nc: 1\n  names: [a\n", (":2", "yaml")),
    ],
)
def test_a_bad_data_yaml_is_explained(tmp_path, content, words):
    file = write(tmp_path, content)
    text = message(lambda: DatasetSpec.load(file))
    assert str(file) in text and all(word in text for word in words), text


def test_a_missing_data_yaml_says_where_it_was_looked_for():
    text = message(lambda: DatasetSpec.load("shape.yml"))
    assert str(ROOT / "data") in text


def test_a_yaml_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    file = write(tmp_path, f"nc: 1\nnames: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    assert "not valid yaml" in message(lambda: DatasetSpec.load(file))
    assert not mark.exists()


# data yamls as they are exported


def exported(tmp_path, text, *folders):
    for folder in folders:
        (tmp_path / "set" / folder).mkdir(parents=True)
    file = tmp_path / "set" / "data.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


ROBOFLOW = ("train/images", "valid/images", "test/images")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("../train/images", "without the leading '../'"),
        ("../../train/images", "without the leading '../../'"),
        ("..\\train\\images", "without the leading '../' and with backslashes as slashes"),
        ("/content/set-1/train/images", "without the leading 'content/set-1/'"),
        ("C:\\sets\\train\\images", "without the leading 'C:/sets/' and with backslashes as slashes"),
        ("Train/Images", "with upper and lower case as on this disk"),
    ],
)
def test_splits_beside_the_yaml_are_found_whatever_leads_to_them(tmp_path, monkeypatch, train, words):
    text = f"train: {train}\nval: [{train.lower().replace('train', 'valid')}]\ntest: ../test/images\nnames: [a]\n"
    file = exported(tmp_path, text, *ROBOFLOW)
    monkeypatch.chdir(tmp_path)
    spec = DatasetSpec.load(file)
    root = file.parent
    assert (spec.train, spec.test) == ((root / "train/images",), (root / "test/images",))
    assert spec.val == (root / "valid/images",)
    assert words in spec.moved[0] and str(root / "train/images") in spec.moved[0]


def test_a_list_of_folders_and_a_split_of_ones_own_are_found_too(tmp_path):
    text = "train: [../train/images, ../more/images]\nval: ../valid/images\nholdout: ../test/images\nnames: [a]\n"
    spec = DatasetSpec.load(exported(tmp_path, text, *ROBOFLOW, "more/images"))
    root = tmp_path / "set"
    assert spec.train == (root / "train/images", root / "more/images")
    assert spec.paths("holdout") == (root / "test/images",) and len(spec.moved) == 4


def test_a_path_that_exists_as_it_is_written_is_taken(tmp_path, monkeypatch):
    file = exported(tmp_path, "train: ../train/images\nval: ../train/images\nnames: [a]\n", *ROBOFLOW)
    (tmp_path / "train" / "images").mkdir(parents=True)
    spec = DatasetSpec.load(file)
    assert spec.train[0].resolve() == tmp_path / "train" / "images" and spec.moved == ()


def test_a_root_of_another_machine_is_replaced_by_the_yamls_folder(tmp_path):
    text = "path: /content/set\ntrain: train/images\nval: valid/images\nnames: [a]\n"
    spec = DatasetSpec.load(exported(tmp_path, text, *ROBOFLOW))
    assert spec.train == (tmp_path / "set" / "train/images",) and "beside this yaml" in spec.moved[0]


def test_what_is_nowhere_is_reported_as_it_was_written(tmp_path):
    spec = DatasetSpec.load(exported(tmp_path, "train: ../train/images\nval: ../val\nnames: [a]\n"))
    assert str(spec.train[0]).endswith("../train/images") and spec.moved == ()


def test_data_that_will_be_fetched_or_drawn_is_not_looked_for_elsewhere(tmp_path):
    more = "path: /gone\ndownload: https://example.org/a.zip\n"
    spec = DatasetSpec.load(
        exported(tmp_path, f"train: train/images\nval: valid/images\nnames: [a]\n{more}", *ROBOFLOW)
    )
    assert spec.train == (Path("/gone/train/images"),) and spec.moved == ()


def test_kpt_shape(tmp_path):
    text = "train: x\nval: x\nnames: [a]\nkpt_shape: {}\n"
    assert DatasetSpec.load(exported(tmp_path, text.format("[17, 3]"))).keypoints == (17, 3)
    for wrong in ("[17, 4]", "[0, 3]", "17", "[a, 3]", "[true, 3]"):
        with pytest.raises(ConfigError, match=r"kpt_shape: expected \[number of key points, 2 or 3\]"):
            DatasetSpec.load(exported(tmp_path, text.format(wrong)))
