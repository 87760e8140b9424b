"""Scripts of trackers and of window programs, with the names of v5, v6.1 and v7, run as they are."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.yolo import Model
from tests.small_models import SMALL
from tests.small_videos import write_video
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.config import PredictOptions
from utils.engine.predictor import predict

FOLDER = Path(__file__).parent
CONF = 0.3
FRAMES = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network with random weights that finds some objects in every frame."""
    torch.manual_seed(3)
    model = Model(SMALL).eval()
    for conv in model.head.m:
        conv.bias.data.view(model.head.na, -1)[:, 4:] = 0.0
        conv.weight.data *= 300
    return write_checkpoint(checkpoint_of(model, names=["cat", "dog", "cow"]), tmp_path_factory.mktemp("w") / "tiny.pt")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run("track.py", ...) executes a script of this folder as `python track.py ...` does."""

    def execute(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(FOLDER / script), run_name="__main__")

    return execute


def tracker_flags(script, folder):
    """Each generation of trackers calls its flags differently."""
    older = script == "track_v5.py"
    return ("--img-size" if older else "--imgsz"), (
        ("--output", folder / "exp") if older else ("--project", folder, "--name", "exp")
    )


@pytest.mark.parametrize("script", ["track.py", "track_v5.py", "track_v7.py"])
def test_a_tracker_finds_what_detect_finds(script, run, weights, tmp_path):
    video = write_video(tmp_path / "clip.mp4", frames=FRAMES)
    size, output = tracker_flags(script, tmp_path / "out")
    run(script, "--weights", weights, "--source", video, size, 96, "--conf-thres", CONF, "--device", "cpu", *output)
    rows = np.loadtxt(tmp_path / "out" / "exp" / "tracks.txt", ndmin=2)
    expected = [p.rows() for p in predict(weights, video, PredictOptions(imgsz=96, conf_thres=CONF))]
    assert len(expected) == FRAMES and min(map(len, expected)) >= 3
    for number, found in enumerate(expected, 1):
        xyxy = found[:, :4].round()
        xywh = torch.cat(((xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]), 1)
        boxes, rest = np.split(rows[rows[:, 0] == number][:, 2:], [4], axis=1)
        np.testing.assert_allclose(rest, found[:, 4:], atol=2e-3)
        np.testing.assert_allclose(boxes, xywh, atol=1.01)  # corners are rounded: one on a half may go either way
    assert cv2.VideoCapture(str(tmp_path / "out" / "exp" / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


def test_a_tracker_reads_a_video_as_a_stream(run, weights, tmp_path):
    """A list of sources goes through LoadStreams, which gives every frame of a file."""
    video = write_video(tmp_path / "clip.mp4", frames=FRAMES)
    (tmp_path / "sources.txt").write_text(f"{video}\n{video}\n")
    flags = ("--weights", weights, "--imgsz", 96, "--conf-thres", CONF, "--device", "cpu")
    flags += ("--project", tmp_path / "out")
    run("track.py", *flags, "--source", tmp_path / "sources.txt", "--name", "stream")
    run("track.py", *flags, "--source", video, "--name", "file")
    stream, file = (np.loadtxt(tmp_path / "out" / name / "tracks.txt", ndmin=2) for name in ("stream", "file"))
    assert len(stream) == 2 * len(file)
    np.testing.assert_allclose(sorted(stream[:, 6]), sorted([*file[:, 6]] * 2), atol=2e-3)


@pytest.mark.parametrize("script", ["window.py", "window_v5.py", "window_v7.py"])
def test_a_window_program_finds_what_detect_finds(script, run, weights, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    run(script, weights, tmp_path / "image.png", tmp_path / "shown.png")
    lines = [line.split() for line in capsys.readouterr().out.strip().splitlines()]
    (expected,) = predict(weights, tmp_path / "image.png", PredictOptions(max_det=300))
    assert len(lines) == len(expected) >= 3
    for line, row in zip(reversed(lines), expected.rows().tolist(), strict=True):
        assert line[0] == expected.name_of(int(row[5])) and abs(float(line[1]) - row[4]) < 0.006
        assert np.abs(np.array(line[2:], float) - row[:4]).max() <= 0.51
    assert (cv2.imread(str(tmp_path / "shown.png")) != image).any()


def test_the_tracks_of_a_clip_are_those_of_yolov5(real, run, tmp_path):
    """Figures of the YOLOv5 wheel 7.0.14, which runs track_v7.py: first, third and last of 82 rows."""
    flags = ("--weights", real("weights/yolov5n.pt"), "--source", real("video/one_person_clip.mp4"), "--imgsz", 320)
    run("track_v7.py", *flags, "--device", "cpu", "--project", tmp_path, "--name", "exp")
    rows = np.loadtxt(tmp_path / "exp" / "tracks.txt")
    assert len(rows) == 82
    figures = [
        [1, 1, 302, 352, 172, 154, 0.439, 15],
        [2, 2, 340.5, 338, 229, 188, 0.745, 0],
        [80, 2, 448.5, 204, 131, 370, 0.845, 0],
    ]
    np.testing.assert_allclose(rows[[0, 2, 81]], figures, atol=1.01)


def test_the_boxes_of_an_image_are_those_of_yolov5(real, run, tmp_path, capsys):
    """Figures of the YOLOv5 wheel 7.0.14, which runs window_v7.py."""
    run("window_v7.py", real("weights/yolov5n.pt"), real("images/zidane.jpg"), tmp_path / "shown.png")
    lines = [line.split() for line in capsys.readouterr().out.strip().splitlines()]
    assert [line[:2] for line in lines] == [["tie", "0.27"], ["person", "0.41"], ["person", "0.79"]]
    boxes = [[436, 434, 503, 712], [134, 181, 742, 720], [743, 40, 1154, 715]]
    assert np.abs(np.array([line[2:] for line in lines], int) - boxes).max() <= 1
