"""Prediction and its writers, with a stand-in network whose detections can be worked out by eye."""

import csv
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from red_finder import RedFinder, scene
from small_videos import number_of, numbered_frame

from utils.config import PredictOptions
from utils.datasets.sources import Frame
from utils.datasets.video import VideoReader
from utils.engine.prediction_tables import CsvWriter, JsonWriter
from utils.engine.prediction_views import ConsoleReporter, FeatureMaps, Window
from utils.engine.prediction_writers import (
    Artist,
    CropWriter,
    ImageWriter,
    LabelWriter,
    safe_name,
)
from utils.engine.predictor import Prediction, as_predictor, predict
from utils.errors import UserError
from utils.images import IMAGE_SUFFIXES, read_image, write_image
from utils.log import LOGGER
from utils.types import Detections, Speeds


@pytest.fixture
def finder():
    return RedFinder().eval()


def prediction_of(
    boxes, name="a.jpg", kind="image", number=0, image=None, conf=0.5, seconds=0.0, fps=0.0
) -> Prediction:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    found = Detections(boxes, torch.linspace(0.9, conf, len(boxes)), torch.ones(len(boxes), dtype=torch.int64))
    frame = Frame(scene() if image is None else image, f"in/{name}", name, kind, 0, 1, number, 0, fps, seconds)
    return Prediction(frame, found, ("cat", "red thing"), (192, 640), Speeds(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "size, box, imgsz, expected_input",
    [
        ((300, 1000), (200, 40, 500, 160), 640, (192, 640)),
        ((1000, 300), (20, 40, 200, 600), 640, (640, 192)),
        (
            (120, 100),
            (20, 40, 60, 90),
            (320, 256),
            (320, 256),
        ),  # smaller images are enlarged; 256/100 = 2.56 exactly fills
        ((480, 640), (0, 0, 640, 480), 640, (480, 640)),
    ],
)
def test_boxes_come_back_in_native_pixels(finder, size, box, imgsz, expected_input):
    (prediction,) = predict(finder, scene(box, size), PredictOptions(imgsz=imgsz))
    assert prediction.shape == expected_input == tuple(finder.inputs[0].shape[2:])
    assert finder.inputs[0].dtype == torch.float32 and finder.inputs[0].max() == 1.0
    rows = prediction.rows()
    pixel = max(size) / 256  # one pixel of the network's input, at most
    assert rows[0, :4].tolist() == pytest.approx(box, abs=max(pixel, 1.0))
    assert rows[0, 4:].tolist() == pytest.approx([0.9, 1.0])
    assert prediction.summary() == "1 red thing, "


def test_records_and_normalised_boxes(finder):
    (prediction,) = predict(finder, scene((100, 30, 300, 90)), PredictOptions(imgsz=1024))
    (record,) = prediction.records()
    assert record | {"x1": 0, "y1": 0, "x2": 0, "y2": 0} == {
        "file": "array",
        "frame": 0,
        "time": 0.0,
        "class_id": 1,
        "name": "red thing",
        "confidence": 0.9,
        "x1": 0,
        "y1": 0,
        "x2": 0,
        "y2": 0,
    }
    assert prediction.xywhn()[0] == pytest.approx([0.2, 0.2, 0.2, 0.2], abs=0.004)


def test_a_class_the_weights_do_not_know_is_an_error(finder):
    with pytest.raises(UserError, match=f"--classes 7: the weights know {len(finder.names)} classes"):
        list(predict(finder, scene(), PredictOptions(classes=[0, 7])))


def test_nothing_found_classes_and_thresholds(finder):
    empty = np.full((64, 64, 3), 90, np.uint8)
    assert [len(prediction) for prediction in predict(finder, empty)] == [0]
    assert [len(prediction) for prediction in predict(finder, scene(), PredictOptions(classes=[0]))] == [0]
    assert [len(prediction) for prediction in predict(finder, scene(), PredictOptions(conf_thres=0.95))] == [0]


def test_image_size_is_rounded_up_to_the_stride(finder, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    predictor = as_predictor(finder)
    assert predictor.input_shape(321) == (352, 352)
    assert "321 321 is not a multiple of the largest stride 32; using 352 352" in caplog.text
    assert predictor.input_shape([416]) == (416, 416) and predictor.input_shape((320, 640)) == (320, 640)


def test_the_callers_network_is_left_as_it_was():
    network = RedFinder().train().double()
    list(predict(as_predictor(network, "cpu", half=True), scene()))
    assert network.training and next(network.parameters()).dtype == torch.float64 and not network.inputs


def test_label_rows_and_a_second_run(tmp_path):
    boxes = [[100, 30, 300, 90], [0, 0, 1000, 300]]
    writer = LabelWriter(tmp_path, save_conf=True)
    writer.after_frame(prediction_of(boxes, "sub/a.jpg"))
    file = tmp_path / "labels/sub/a.txt"
    assert file.read_text() == "1 0.5 0.5 1 1 0.5\n1 0.2 0.2 0.2 0.2 0.9\n"  # rising confidence, as v6.1 writes
    LabelWriter(tmp_path).after_frame(prediction_of(boxes[:1], "sub/a.jpg"))
    assert file.read_text() == "1 0.2 0.2 0.2 0.2\n"
    LabelWriter(tmp_path).after_frame(prediction_of([], "sub/a.jpg"))
    assert not file.exists()
    writer.after_frame(prediction_of(boxes, "clip.mp4", "video", 7))
    assert (tmp_path / "labels/clip_7.txt").exists()


def test_crops(tmp_path):
    image = np.arange(300 * 1000 * 3, dtype=np.uint32).reshape(300, 1000, 3).astype(np.uint8)
    for _ in range(2):  # a second run replaces the first's files
        writer = CropWriter(tmp_path)
        writer.after_frame(
            prediction_of([[100, 30, 300, 90], [0, 0, 50, 40], [2000, 10, 2100, 20]], "a.png", image=image)
        )
    assert sorted(file.name for file in (tmp_path / "crops/red thing").iterdir()) == ["a.jpg", "a2.jpg"]
    first, second = (read_image(tmp_path / f"crops/red thing/{name}.jpg")[0] for name in ("a", "a2"))
    # 200 * 1.02 + 10 = 214 wide, 60 * 1.02 + 10 = 71.2 high; at the corner 50.5 + 5 and 40.4 + 5 remain
    assert first.shape[1] == 214 and first.shape[0] in (71, 72) and second.shape[:2] == (45, 55)
    assert [safe_name(name) for name in ("a/b", "..", "con: x", "红")] == ["a_b", "_", "con_ x", "红"]
    assert len(os.fsencode(safe_name("红" * 300) + "10000.jpg")) < 255


def test_csv_and_json_hold_the_same_records(tmp_path):
    writers = [CsvWriter(tmp_path), JsonWriter(tmp_path)]
    predictions = [
        prediction_of([[1, 2, 3, 4]]),
        prediction_of([]),
        prediction_of([[5, 6, 7.126, 8]] * 2, "红.mp4", "video", 3, seconds=0.1),
    ]
    for writer in writers:
        for prediction in predictions:
            writer.after_frame(prediction)
        writer.close()
    records = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert records == [record for prediction in predictions for record in prediction.records()] and len(records) == 3
    assert records[2] == {
        "file": "in/红.mp4",
        "frame": 3,
        "time": 0.1,
        "class_id": 1,
        "name": "red thing",
        "confidence": 0.5,
        "x1": 5.0,
        "y1": 6.0,
        "x2": 7.13,
        "y2": 8.0,
    }
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [{key: str(value) for key, value in record.items()} for record in records] == rows
    writer = JsonWriter(tmp_path)
    writer.close()
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_names_that_are_not_utf8_have_results(tmp_path):
    """As in archives from other systems; tables stay UTF-8 and hold an escape."""
    name, image = os.fsdecode(b"na\xefve.jpg"), np.zeros((96, 160, 3), np.uint8)
    writers = [CsvWriter(tmp_path), JsonWriter(tmp_path), LabelWriter(tmp_path), CropWriter(tmp_path)]
    writers += [ImageWriter(tmp_path, Artist(tmp_path))]
    for writer in writers:
        writer.after_frame(prediction_of([[1, 2, 30, 40]], name, image=image))
        writer.after_frame(prediction_of([], os.fsdecode(b"vid\xe9o.avi"), "video", 1, image=image, fps=10.0))
        writer.close()
    written = {os.fsencode(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")}
    tables, naive = {b"predictions.csv", b"predictions.json"}, {b"na\xefve.jpg", b"labels/na\xefve.txt"}
    assert written == tables | naive | {b"vid\xe9o.mp4", b"crops/red thing/na\xefve.jpg"}
    assert json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))[0]["file"] == f"in/{name}"
    assert "in/na\\udcefve.jpg" in (tmp_path / "predictions.csv").read_text(encoding="utf-8")


def frames_of(file) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(file))
    frames = []
    while True:
        read, image = capture.read()
        if not read:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(image)


def test_pictures_and_videos(tmp_path):
    writer = ImageWriter(tmp_path, Artist(tmp_path, line_thickness=2))
    writer.after_frame(prediction_of([[100, 30, 300, 90]], "sub/a.png"))
    image, _ = read_image(tmp_path / "sub/a.png")
    assert image.shape == (300, 1000, 3) and (image != scene()).any()
    for name, count in (("one.avi", 9), ("two.mov", 5)):
        for number in range(1, count + 1):
            image, at = scene((number * 20, 40, 500, 160), (120, 160)), (number - 1) / 12.5
            writer.after_frame(prediction_of([], name, "video", number, image=image, fps=12.5, seconds=at))
        writer.after_input(0)
    writer.close()
    for name, count in (("one.mp4", 9), ("two.mp4", 5)):
        frames, fps = frames_of(tmp_path / name)
        assert len(frames) == count and fps == pytest.approx(12.5) and frames[0].shape == (120, 160, 3)


def test_a_streams_video_plays_in_real_time(tmp_path):
    writer = ImageWriter(tmp_path, Artist(tmp_path))
    small = np.zeros((48, 64, 3), np.uint8)
    for number, seconds in enumerate((3.0, 3.1, 3.2, 4.0, 100.0), 1):  # the last one came after a long interruption
        image = small if number < 4 else np.zeros((96, 64, 3), np.uint8)
        writer.after_frame(prediction_of([], "cam.mp4", "stream", number, image=image, seconds=seconds))
    writer.close()
    shown = list(VideoReader(str(tmp_path / "cam.mp4")).read())
    assert [seconds for _, seconds, _ in shown] == pytest.approx([0, 0.1, 0.2, 1, 97], abs=2e-4)
    assert shown[-1][2].shape == (48, 64, 3)  # a stream that comes back may have another size


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("upper", [False, True])
def test_every_suffix_that_is_allowed_is_read_and_has_an_annotated_image(tmp_path, finder, suffix, upper):
    """Inputs by Pillow; .dng is a TIFF and .mpo a JPEG to it. Results that cannot have the suffix are .jpg."""
    file = tmp_path / "in" / f"shot{suffix.upper() if upper else suffix}"
    file.parent.mkdir()
    kind = {".dng": "TIFF", ".mpo": "MPO"}.get(suffix)
    Image.fromarray(scene((20, 40, 60, 90), (120, 100))).save(
        file, format=kind, **({"quality": 95} if "j" in suffix else {})
    )
    writer = ImageWriter(tmp_path / "out", Artist(tmp_path / "out", 2, hide_labels=True))
    (prediction,) = predict(finder, file, PredictOptions(imgsz=128))
    assert prediction.rows()[0, :4].tolist() == pytest.approx([20, 40, 60, 90], abs=2)
    writer.after_frame(prediction)
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == (f"shot{file.suffix}" if suffix not in (".dng", ".mpo") else "shot.jpg")
    image, size = read_image(written)
    assert size == (120, 100) and np.abs(image[100:, 70:].astype(int) - 90).max() < 20
    assert np.abs(image[65, 20].astype(int) - scene()[0, 0]).max() > 60  # the box is drawn


def test_images_of_one_name_and_several_suffixes_all_have_results(tmp_path, finder):
    (tmp_path / "in").mkdir()
    for suffix in IMAGE_SUFFIXES:
        kind = {".dng": "TIFF", ".mpo": "MPO"}.get(suffix)
        Image.fromarray(scene((20, 40, 60, 90), (120, 100))).save(tmp_path / "in" / f"a{suffix}", format=kind)
    images, labels = ImageWriter(tmp_path / "out", Artist(tmp_path / "out")), LabelWriter(tmp_path / "out")
    for prediction in predict(finder, tmp_path / "in", PredictOptions(imgsz=128)):
        images.after_frame(prediction)
        labels.after_frame(prediction)
    stems = ["a", *(f"a_{copy}" for copy in range(2, len(IMAGE_SUFFIXES) + 1))]
    assert sorted(file.stem for file in (tmp_path / "out").glob("a*")) == sorted(stems)
    assert sorted(file.stem for file in (tmp_path / "out/labels").iterdir()) == sorted(stems)


@pytest.mark.parametrize(
    ("aspect", "size"), [(16 / 11, (144, 256)), (64 / 45, (144, 250)), (11 / 16, (210, 176)), (1.0, (144, 176))]
)
def test_a_saved_video_has_square_pixels(tmp_path, aspect, size):
    """A round disc of 720 x 576 with wide pixels is stored narrow, and is round again in the copy."""
    stored = np.full((144, 176, 3), 90, np.uint8)
    across, down = (40 / aspect, 40) if aspect > 1 else (40, 40 * aspect)
    cv2.ellipse(stored, (88, 72), (round(across), round(down)), 0, 0, 360, (255, 255, 255), -1)
    prediction = prediction_of([], "pal.mp4", "video", 1, image=stored, fps=25.0)
    frame = replace(prediction.frame, pixel_aspect=aspect)
    writer = ImageWriter(tmp_path, Artist(tmp_path))
    writer.after_frame(replace(prediction, frame=frame))
    writer.close()
    (image,), _ = frames_of(tmp_path / "pal.mp4")
    rows, columns = (image[..., 0] > 170).nonzero()
    assert image.shape[:2] == size
    assert np.ptp(columns) == pytest.approx(np.ptp(rows), abs=4)


@pytest.mark.parametrize(
    "times",
    [
        [0, 0.033, 0.067, 0.1, 0.2, 0.3],  # first at the rate of the file, then at a third of it
        [0, 0.003, 0.006, 0.009, 0.012, 0.5],  # faster than the mean rate, then slower
        [0, 0.033, 0.033, 0.02, 0.2, 0.3],  # times that do not move on
    ],
)
def test_a_video_of_varying_rate_has_every_frame_once_at_its_time(tmp_path, times):
    writer = ImageWriter(tmp_path, Artist(tmp_path))
    for number, seconds in enumerate(times, 1):
        image = numbered_frame(number)
        writer.after_frame(prediction_of([], "screen.mkv", "video", number, image=image, seconds=seconds, fps=30.0))
    writer.close()
    shown = list(VideoReader(str(tmp_path / "screen.mp4")).read())
    assert [number_of(image) for _, _, image in shown] == [1, 2, 3, 4, 5, 6]
    expected = np.maximum.accumulate(np.round(np.array(times) * 1e4) + np.arange(6) * 0.01) / 1e4
    assert [seconds for _, seconds, _ in shown] == pytest.approx(expected.tolist(), abs=3e-4)


def test_a_video_of_constant_rate_keeps_its_rate(tmp_path):
    """Times that are rounded to milliseconds, as Matroska has them, are not a rate that varies."""
    writer = ImageWriter(tmp_path, Artist(tmp_path))
    for number in range(1, 31):
        seconds = round((number - 1) / 29.97, 3)
        writer.after_frame(
            prediction_of([], "a.mkv", "video", number, image=numbered_frame(1), seconds=seconds, fps=29.97)
        )
    writer.close()
    frames, fps = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 30 and fps == pytest.approx(29.97, abs=1e-3)


def written_video(folder, frames=40):
    writer = ImageWriter(folder, Artist(folder))
    rng = np.random.default_rng(0)
    for number in range(1, frames + 1):
        image = rng.integers(0, 256, (96, 160, 3), np.uint8)
        at = (number - 1) / 10
        writer.after_frame(prediction_of([], "a.avi", "video", number, image=image, seconds=at, fps=10.0))
    writer.after_input(0)


def test_a_video_that_is_not_whole_is_an_error_and_is_removed(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
    try:
        with pytest.raises(UserError, match=r"a.mp4: the video could not be written whole"):
            written_video(tmp_path)
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr("utils.engine.prediction_writers.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(OSError, match=r"No space left on device: .*a.mp4"):
            written_video(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    written_video(tmp_path)
    assert len(frames_of(tmp_path / "a.mp4")[0]) == 40


def test_an_input_is_never_replaced(tmp_path):
    write_image(tmp_path / "a.jpg", scene())
    with pytest.raises(UserError, match="would replace the input"):
        for prediction in predict(RedFinder().eval(), tmp_path / "a.jpg"):
            ImageWriter(tmp_path, Artist(tmp_path)).after_frame(prediction)


@pytest.mark.parametrize(
    "options, marks_text", [({}, True), ({"hide_conf": True}, True), ({"hide_labels": True}, False)]
)
def test_drawing(tmp_path, options, marks_text):
    prediction = prediction_of([[100, 100, 300, 200]], image=np.zeros((300, 1000, 3), np.uint8))
    artist = Artist(tmp_path, 3, **options)
    drawn = artist(prediction)
    assert drawn is artist(prediction) and not prediction.frame.image.any()
    assert drawn[98:103, 200].any() and not drawn[150, 200].any()
    assert bool(drawn[80:97, 100:140].any()) == marks_text


def test_console(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO", "yolo")
    reporter = ConsoleReporter()
    reporter.after_frame(prediction_of([[1, 2, 3, 4]] * 2))
    reporter.after_frame(prediction_of([], "clip.mp4", "video", 3))
    reporter.close()
    assert caplog.messages == [
        "image 1/1 in/a.jpg: 192x640 2 red things, Done. (0.002s)",
        "video 1/1 (3/?) in/clip.mp4: 192x640 Done. (0.002s)",
        "Speed: 1.0 ms pre-process, 2.0 ms inference, 3.0 ms NMS per image at shape (1, 3, 192, 640)",
    ]


def test_the_first_frame_and_its_batch_are_left_out_of_the_mean_times(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO", "yolo")
    for slow, said in ((1, "first frame"), (2, "first 2 frames")):
        reporter = ConsoleReporter()
        for number in range(slow + 2):
            times = Speeds(10.0, 90.0, 30.0) if number < slow else Speeds(1.0, number - slow + 2.0, 4.0)
            reporter.after_frame(replace(prediction_of([]), times=times))
        reporter.close()
        assert caplog.messages[-1] == (
            "Speed: 1.0 ms pre-process, 2.5 ms inference, 4.0 ms NMS per image "
            f"at shape (1, 3, 192, 640), {said} left out"
        )


def test_no_display_is_survived(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("utils.engine.prediction_views.sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr("utils.log._warned", set())
    window = Window(Artist(tmp_path))
    window.after_frame(prediction_of([]))
    window.close()
    assert not window.closed and "there is no display" in caplog.text


def test_feature_maps_of_every_layer_but_the_head(tmp_path, finder):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/x.png", scene(size=(64, 64), box=(1, 1, 20, 20)))
    maps = FeatureMaps(tmp_path, finder)
    list(predict(finder, tmp_path / "in", PredictOptions(imgsz=64), before_frame=maps.before_frame))
    maps.close()
    assert sorted(file.name for file in (tmp_path / "x").iterdir()) == [
        "stage0_Conv2d_features.npy",
        "stage0_Conv2d_features.png",
        "stage1_Conv2d_features.npy",
        "stage1_Conv2d_features.png",
    ]
    saved = np.load(tmp_path / "x/stage0_Conv2d_features.npy")
    assert saved == pytest.approx(finder.model[0](finder.inputs[0]).detach().numpy(), abs=1e-6) and saved.shape == (
        1,
        40,
        31,
        31,
    )
    list(predict(finder, scene(), PredictOptions(imgsz=64)))  # the hooks are gone: nothing more is written
    assert not (tmp_path / "array").exists()
