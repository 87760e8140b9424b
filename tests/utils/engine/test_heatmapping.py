"""heatmap.py and detect.py --heatmap, from flags to files, on a small network with one certain detection."""

import csv

import numpy as np
import pytest
import torch

import detect
import heatmap
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.cli import run_script
from utils.engine.heatmapping import short_names
from utils.errors import ConfigError
from utils.images import write_image

SIDE = ("--imgsz", "64")


def certain_model(cfg):
    """A network whose first cells are sure of class 1."""
    torch.manual_seed(0)
    model = Model(cfg, nc=2, report=False).eval()
    model.names = ["cat", "owl"]
    with torch.no_grad():
        for level in model.model[-1].m:
            bias = level.bias.view(3, 7)
            bias[:, 4], bias[:, 6] = -9, 3
        model.model[-1].m[1].bias.view(3, 7)[0, 4] = 1
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heat")
    for name in ("yolov5n", "yolov5n_CBAM"):
        write_checkpoint(checkpoint_of(certain_model(f"{name}.yaml")), folder / f"{name}.pt")
    (folder / "images").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    write_image(folder / "images" / "a.png", image)
    return folder


def read(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(files, *flags, weights=("yolov5n.pt",)):
    argv = ["--weights", *(str(files / name) for name in weights), "--source", str(files / "images"), *SIDE]
    return heatmap.main(heatmap.parse_opt([*argv, "--project", str(files / "runs"), *flags]))


def test_maps_of_two_networks_with_all_checks(files):
    flags = (
        "--method",
        "gradcam",
        "--sanity",
        "--deletion",
        "--steps",
        "3",
        "--draws",
        "1",
        "--save-npy",
        "--target",
        "owl",
    )
    folder = draw(files, *flags, weights=("yolov5n.pt", "yolov5n_CBAM.pt"))
    assert (folder / "a_gradcam.png").is_file()
    rows = read(folder / "heatmaps.csv")
    assert [row["network"] for row in rows] == ["yolov5n", "yolov5n_CBAM"]
    assert rows[0]["layer"] == "20 C3" and float(rows[0]["score"]) > 0
    native = np.load(folder / "a_yolov5n_gradcam_20_C3.npy")
    layer = np.load(folder / "a_yolov5n_gradcam_20_C3_layer.npy")
    assert native.shape == (40, 60) and native.dtype == layer.dtype == np.float32
    assert layer.max() == pytest.approx(float(rows[0]["maximum"]), rel=1e-4)
    assert {row["order"] for row in read(folder / "areas.csv")} == {"map", "random", "center", "box"}
    assert read(folder / "sanity.csv")[0]["spearman"] in ("1.0", "0.0")
    assert len(list(folder.glob("*_sanity.png"))) == len(list(folder.glob("*_deletion.png"))) == 2


def test_maps_are_the_same_each_time(files):
    first, second = (
        np.load(next(draw(files, "--method", "layercam", "--save-npy").glob("*_layer.npy"))) for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_attention_is_drawn_per_block(files):
    folder = draw(files, "--method", "attention", "--query", "30", "20", weights=("yolov5n_CBAM.pt",))
    assert [path.name for path in (folder / "a").iterdir()] == ["yolov5n_CBAM_9_CBAM.png"]
    rows = read(folder / "attention.csv")
    assert [row["label"] for row in rows] == ["channel gate M_c", "spatial gate M_s"]
    assert all(0 < float(row["min"]) <= float(row["max"]) < 1 for row in rows)


def test_nothing_found_loses_no_image(files):
    folder = draw(files, "--target", "cat")
    assert (folder / "a_layercam.png").is_file()  # the default method's name
    assert [row["target"] for row in read(folder / "heatmaps.csv")] == ["nothing found"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layer", "SPPX"), "did you mean SPPF"),
        (("--target", "owls"), "did you mean owl"),
        (("--query", "3", "4"), "belongs to --method attention"),
        (("--method", "attention", "--sanity"), "checks maps of"),
        (("--classes", "7"), "--classes 7"),
    ],
)
def test_a_wrong_flag_is_one_line(files, flags, message, capsys):
    argv = ["--weights", str(files / "yolov5n.pt"), "--source", str(files / "images"), *SIDE, *flags]
    try:
        code = run_script(heatmap.main, heatmap.parse_opt, [*argv, "--project", str(files / "runs")])
    except SystemExit as end:  # of the parser
        code = end.code
    shown = capsys.readouterr().err
    assert code == 2 and message in shown and shown.strip().count("\n") == 0


def test_an_exported_file_is_refused(files):
    with pytest.raises(ConfigError, match="has no layers to look into"):
        heatmap.run(weights=[str(files / "a.onnx")], source=str(files / "images"))


def test_detect_writes_heat_maps_beside_the_images(files):
    options = {"weights": str(files / "yolov5n.pt"), "source": str(files / "images"), "imgsz": 64}
    folder = detect.run(**options, heatmap="eigencam", project=str(files / "detect")).save_dir
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a_heatmap.png"]
    with pytest.raises(ConfigError, match="leave --augment away"):
        detect.run(**options, heatmap="gradcam", augment=True)


def test_names_tell_networks_apart():
    runs = [f"runs/int8/{name}/seed0/weights/best.pt" for name in ("yolov5n", "yolov5n_CBAM")]
    assert short_names(runs) == ["yolov5n", "yolov5n_CBAM"] and short_names(runs[1:]) == ["yolov5n_CBAM"]
    assert short_names(["a/x/best.pt", "b/x/last.pt"]) == ["a_x", "b_x"]
    assert len(set(short_names(["x/best.pt", "x/last.pt"]))) == 2
