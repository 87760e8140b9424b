"""detect.py from outside: its flags, its files, its errors, and agreement with the reference's detections."""

import json
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from small_videos import write_video

import detect
from utils.boxes import xywh_to_xyxy
from utils.errors import CheckpointError, ConfigError, UserError
from utils.files import ROOT
from utils.images import read_image


@pytest.fixture(scope="module")
def weights(real):
    return str(real("weights/yolov5n.pt"))


def label_rows(file) -> np.ndarray:
    return np.loadtxt(file, ndmin=2)


def test_reference_detections(golden, real, weights, tmp_path):
    expected = golden("detections.json")["images"]
    folder = detect.run(
        weights=(weights,),
        source=str(real("images")),
        project=str(tmp_path),
        save_txt=True,
        save_conf=True,
        save_crop=True,
        save_csv=True,
        save_json=True,
        device="cpu",
    ).save_dir
    assert folder == tmp_path / "exp"
    for name, rows in expected.items():
        found = label_rows(folder / "labels" / name.replace(".jpg", ".txt"))
        rows = np.array(rows)
        assert len(found) == len(rows)  # the least confident has 0.27 where 0.25 is asked for
        image, (height, width) = read_image(folder / name)
        nearest = np.abs(found[:, None, 1:5] - rows[None, :, 1:5]).sum(2).argmin(0)
        assert sorted(nearest) == list(range(len(rows)))
        found = found[nearest]
        assert (found[:, 0] == rows[:, 0]).all()
        corners = xywh_to_xyxy(found[:, 1:5]) - xywh_to_xyxy(rows[:, 1:5])
        assert np.abs(corners * (width, height, width, height)).max() < 1.0
        assert np.abs(found[:, 5] - rows[:, 5]).max() < 0.005
        assert np.abs(image.astype(int) - read_image(real("images") / name)[0]).max() > 50  # something is drawn on it
    records = json.loads((folder / "predictions.json").read_text())
    assert len(records) == sum(map(len, expected.values()))
    assert len((folder / "predictions.csv").read_text().splitlines()) == len(records) + 1
    crops = sorted(file.name for file in (folder / "crops/person").iterdir())
    assert crops == ["bus.jpg", "bus2.jpg", "bus3.jpg", "bus4.jpg", "zidane.jpg", "zidane2.jpg"]


def test_video_in_video_out(real, weights, tmp_path):
    clip = real("video/one_person_clip.mp4")
    folder = detect.run(
        weights=(weights,),
        source=str(clip),
        project=str(tmp_path),
        imgsz=(256,),
        vid_stride=4,
        save_txt=True,
        device="cpu",
    ).save_dir
    original, written = cv2.VideoCapture(str(clip)), cv2.VideoCapture(str(folder / clip.name))
    frames = 0
    while written.read()[0]:
        frames += 1
    assert frames == 20 and written.get(cv2.CAP_PROP_FPS) == pytest.approx(original.get(cv2.CAP_PROP_FPS) / 4, rel=0.01)
    labels = sorted((folder / "labels").iterdir(), key=lambda file: int(file.stem.rsplit("_", 1)[1]))
    assert len(labels) >= 15 and labels[0].name == "one_person_clip_1.txt"
    assert all((label_rows(file)[:, 0] == 0).any() for file in labels)  # a person


def test_same_names_nosave_and_exist_ok(real, weights, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(real("images/zidane.jpg"), tmp_path / "in" / folder / "same.jpg")
    options = dict(
        weights=(weights,),
        source=str(tmp_path / "in"),
        project=str(tmp_path),
        name="out",
        exist_ok=True,
        nosave=True,
        save_txt=True,
        imgsz=(320,),
        classes=(0,),
        device="cpu",
    )
    first = detect.run(**options).save_dir
    texts = {file.relative_to(first): file.read_text() for file in first.rglob("*.*")}
    assert sorted(map(str, texts)) == ["labels/one/same.txt", "labels/two/same.txt"]
    assert detect.run(**options).save_dir == first
    # the same kernels on the same numbers in one process
    assert texts == {file.relative_to(first): file.read_text() for file in first.rglob("*.*")}


def test_ensemble_augment_and_visualize(real, weights, tmp_path):
    folder = detect.run(
        weights=(weights, weights),
        source=str(real("images/zidane.jpg")),
        project=str(tmp_path),
        imgsz=(128,),
        augment=True,
        visualize=True,
        nosave=True,
        device="cpu",
    ).save_dir
    maps = sorted(file.name for file in (folder / "zidane/model1").iterdir())
    assert len(maps) == 48 and "stage0_Conv_features.png" in maps and "stage9_SPPF_features.npy" in maps
    assert "stage24_Detect_features.png" not in maps


def output_of(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_is_quick():
    started = time.perf_counter()
    assert "--source" in output_of("detect.py", "--help")
    assert not {"torch", "numpy", "cv2"} & set(output_of("-c", "import detect, sys; print(*sys.modules)").split())
    assert (
        time.perf_counter() - started < 10
    )  # only a stall fails here: what makes --help slow is an import, checked above


def test_flags_and_defaults():
    config = detect.parse_opt(
        ["--source", "x", "--conf", "0.4", "--iou", "0.6", "--img", "320", "--classes", "0", "2", "--save-t"]
    )
    assert (config.conf_thres, config.iou_thres, config.imgsz) == (0.4, 0.6, (320, 320))
    assert (config.classes, config.save_txt) == ((0, 2), True)
    defaults = detect.parse_opt([])
    assert (defaults.imgsz, defaults.conf_thres, defaults.iou_thres) == ((640, 640), 0.25, 0.45)
    assert (defaults.max_det, defaults.line_thickness) == (1000, None)
    assert not (defaults.save_txt or defaults.nosave or defaults.view_img or defaults.update or defaults.stream_buffer)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"dnn": True}, ConfigError, "--dnn: OpenCV runs .onnx files"),
        ({"wieghts": "x"}, ConfigError, "weights"),
        ({"weights": ("no_such.pt",)}, CheckpointError, "no_such.pt: no such checkpoint"),
        ({"source": "no/such/folder"}, UserError, "no such file or folder"),
        ({"device": "7"}, ConfigError, "--device 7"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(tmp_path, options, error, message):
    given = {"source": str(tmp_path), "project": str(tmp_path / "runs")} | options
    if given["source"] == str(tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(error, match=message) as caught:
        detect.run(**given)
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


def test_exit_code_and_message(tmp_path):
    command = [sys.executable, "detect.py", "--source", str(tmp_path / "nothing")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1


def test_inputs_that_fail_are_listed_and_the_exit_code_is_one(tmp_path, real, weights):
    """With 24 open files, few of which are left to a run of several inputs."""
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.JPG", "c.mpo"):
        shutil.copy(real("images/zidane.jpg"), tmp_path / "in" / name)
    (tmp_path / "in/bad.dng").write_bytes(b"no image")
    (tmp_path / "in/phone.heic").write_bytes(b"not read here")
    write_video(tmp_path / "in/clip.webm", 3, codec="VP80")
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)); del sys.argv[0]; "
    command = [sys.executable, "-c", f"{limit}runpy.run_path('detect.py', run_name='__main__')", "detect.py"]
    flags = f"--weights {weights} --source {tmp_path}/in --imgsz 64 --project {tmp_path}/out --device cpu --save-txt"
    answer = subprocess.run([*command, *flags.split()], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr == (
        f"error: 1 of 5 inputs failed, the others are complete: {tmp_path}/in/bad.dng: cannot be decoded: "
        "not an image, or damaged\n"
    )
    assert f"{tmp_path}/in: passed over 1 .heic, which cannot be read here" in answer.stdout
    written = sorted(file.name for file in (tmp_path / "out/exp").iterdir())
    assert written == ["a.jpg", "b.JPG", "c.jpg", "clip.mp4", "labels"]


def test_a_pattern_that_the_shell_expanded_is_named(tmp_path, capsys):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit):
        detect.parse_opt(["--source", str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")])
    assert "b.jpg; put a pattern in quotes, or name its folder: one source is read" in capsys.readouterr().err


def test_update_writes_a_copy(tmp_path, real, weights):
    from dataclasses import replace

    from utils.checkpoint import read_checkpoint, write_checkpoint

    trained = tmp_path / "last.pt"
    write_checkpoint(replace(read_checkpoint(weights), training={"epoch": 3}), trained)
    before = trained.read_bytes()
    detect.run(
        weights=(str(trained),),
        source=str(real("images/zidane.jpg")),
        project=str(tmp_path / "runs"),
        imgsz=(64,),
        nosave=True,
        update=True,
        device="cpu",
    )
    assert trained.read_bytes() == before
    assert read_checkpoint(tmp_path / "last_stripped.pt").training is None


def test_a_run_that_wrote_nothing_leaves_no_folder(weights, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    options = dict(
        weights=(weights,), source=str(tmp_path / "broken.jpg"), project=str(tmp_path / "runs"), device="cpu"
    )
    with pytest.raises(UserError, match="none of the 1 inputs could be read"):
        detect.run(**options, save_txt=True)
    assert not list((tmp_path / "runs").iterdir())
    kept = tmp_path / "runs" / "mine"
    kept.mkdir()
    with pytest.raises(UserError):
        detect.run(**options, name="mine", exist_ok=True)
    assert kept.is_dir()  # not made by that run
