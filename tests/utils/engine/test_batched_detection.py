"""Batches and threads of a detection run: the same results in the same order, and nothing is lost."""

import errno
import os
import threading
import time
from itertools import islice
from typing import ClassVar

import pytest
import torch
from mjpeg_camera import MjpegCamera
from red_finder import RedFinder, scene
from small_videos import number_of, write_video
from torch.nn import functional

from utils.config import DetectConfig, PredictOptions
from utils.datasets.sources import StreamSource, open_source
from utils.datasets.streams import Patience
from utils.engine.detection import Detection
from utils.engine.prediction_writers import Artist, FrameWriter, ImageWriter, LabelWriter
from utils.engine.predictor import PredictionHook, as_predictor, predict
from utils.errors import ConfigError, DataError
from utils.images import read_image, write_image


class BatchFinder(RedFinder):
    """Finds the red pixels of each image of a batch; notes the batches."""

    def forward(self, images, augment=False):
        rows = [RedFinder.forward(self, image[None])[0] for image in images]
        self.inputs[-len(images) :] = [images]
        most = max(row.shape[1] for row in rows)
        return torch.cat([functional.pad(row, (0, 0, 0, most - row.shape[1])) for row in rows]), None


@pytest.fixture
def finder():
    return BatchFinder().eval()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(7):
        size = (96, 128) if index % 3 else (128, 96)
        write_image(folder / f"{index}.png", scene((5 + index, 30, 80, 60 + index), size))
    return folder


@pytest.mark.parametrize("read_ahead", [False, True])
def test_results_and_their_order_are_those_of_single_images(finder, images, read_ahead):
    expected = list(predict(finder, images, PredictOptions(imgsz=128)))
    assert [len(batch) for batch in finder.inputs] == [1] * 7
    for batch_size, batches in ((3, [1, 2, 1, 2, 1]), (20, [3, 4])):
        finder.inputs.clear()
        found = list(predict(finder, images, PredictOptions(128, batch_size=batch_size, read_ahead=read_ahead)))
        assert [len(batch) for batch in finder.inputs] == batches  # those of one shape pass together
        assert [one.frame.name for one in found] == [f"{index}.png" for index in range(7)]
        assert all(torch.equal(one.rows(), other.rows()) for one, other in zip(found, expected, strict=True))
        assert [one.shape for one in found] == [other.shape for other in expected]


@pytest.mark.data
def test_a_real_network_finds_the_same_in_batches(real):
    """Sums of a batch may be taken in another order: equal within rounding, here a hundredth of a pixel."""
    options = {size: PredictOptions(160, batch_size=size) for size in (1, 4)}
    weights, clip = str(real("weights/yolov5n.pt")), str(real("video/one_person_clip.mp4"))
    single, batched = (list(islice(predict(weights, clip, options[size]), 9)) for size in (1, 4))
    assert sum(map(len, single)) >= 9
    for one, other in zip(single, batched, strict=True):
        torch.testing.assert_close(one.rows(), other.rows(), rtol=0, atol=0.01)


class Slow(PredictionHook):
    """A writer that takes its time in the background."""

    background: ClassVar[bool] = True

    def __init__(self, seconds=0.02, error=None):
        self.seconds, self.error = seconds, error
        self.calls: list[object] = []
        self.threads: set[str] = set()

    def after_frame(self, prediction):
        time.sleep(self.seconds)
        self.threads.add(threading.current_thread().name)
        if self.error and prediction.frame.name == "2.png":
            raise self.error
        self.calls.append(prediction.frame.name)

    def after_input(self, index):
        self.calls.append(index)

    def close(self):
        self.calls.append("closed")


class Interrupting(PredictionHook):
    def after_frame(self, prediction):
        if prediction.frame.name == "4.png":
            raise KeyboardInterrupt


def run(source, finder, *hooks, **flags):
    config = DetectConfig(source=str(source), imgsz=(128,), **flags)
    detector = Detection(config, as_predictor(finder), open_source(source), hooks)
    detector.run()
    return detector.source


def test_writers_see_everything_in_order_in_a_thread_of_their_own(finder, images):
    writer = Slow()
    run(images, finder, writer, batch_size=2)
    assert writer.calls == [each for index in range(7) for each in (f"{index}.png", index)] + ["closed"]
    assert len(writer.threads) == 1 and threading.current_thread().name not in writer.threads


def test_what_was_detected_is_written_after_ctrl_c(finder, images):
    writer = Slow(0.05)
    with pytest.raises(KeyboardInterrupt):
        run(images, finder, writer, Interrupting())
    assert [call for call in writer.calls if isinstance(call, str)] == [
        *(f"{index}.png" for index in range(4)),
        "closed",
    ]


def test_a_view_that_ends_the_run_leaves_all_that_was_seen(finder, images):
    class Window(PredictionHook):
        seen = 0

        def after_frame(self, prediction):
            self.seen += 1

        def should_stop(self):
            return self.seen == 3  # q is pressed

    before, writer = threading.active_count(), Slow()
    run(images, finder, writer, Window())
    assert writer.calls == ["0.png", 0, "1.png", 1, "2.png", 2, "closed"]
    assert threading.active_count() <= before + 1  # the reader has ended, too


def test_errors_of_the_writers_thread_are_those_of_the_run(finder, images):
    source = run(images, finder, Slow(error=DataError("cannot be written")), batch_size=3)
    assert [failure.reason for failure in source.failures] == [f"{images}/2.png: cannot be written"]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "2.png")
    writer = Slow(0.0, error=full)
    with pytest.raises(OSError, match="No space left"):
        run(images, finder, writer)
    assert writer.calls == ["0.png", 0, "1.png", 1, "closed"]
    with pytest.raises(DataError, match="none of the 1 inputs could be read and written: .*cannot be written"):
        run(images / "2.png", finder, Slow(error=DataError("cannot be written")))


def test_a_prediction_may_be_waited_for_until_its_files_are_written(finder, images):
    writer = Slow()
    config = DetectConfig(source=str(images), imgsz=(128,))
    detector = Detection(config, as_predictor(finder), open_source(images), [writer], waits_for_files=True)
    for prediction in detector.predictions():
        assert prediction.frame.name in writer.calls


def test_video_in_batches_keeps_frames_labels_and_times(finder, tmp_path):
    file = write_video(tmp_path / "clip.avi", 20, fps=10.0, codec="MJPG")
    out = tmp_path / "out"
    hooks = [ImageWriter(out, Artist(out)), LabelWriter(out), FrameWriter(out)]
    run(file, finder, *hooks, batch_size=6)
    assert [len(batch) for batch in finder.inputs] == [6, 6, 6, 2]
    frames = {file.stem: number_of(read_image(file)[0]) for file in (out / "frames").iterdir()}
    assert frames == {f"clip_{number}": number for number in range(1, 21)}
    assert {file.stem for file in (out / "labels").iterdir()} == set(frames)
    plain = number_of(read_image(out / "frames/clip_7.jpg")[0])
    copy = [number_of(frame.image) for frame in open_source(out / "clip.mp4")]
    assert plain == 7 and copy == list(range(1, 21))


def test_batches_over_streams(finder):
    patience = Patience(give_up_s=0.3, first_delay=0.05)
    with MjpegCamera([("frames", 30)], [("refuse", 0)]) as one, MjpegCamera([("frames", 30)], [("refuse", 0)]) as other:
        source = StreamSource([one.address, other.address], keep_all=True, patience=patience)
        found = list(predict(finder, source, PredictOptions(imgsz=160, batch_size=4)))
    for index in range(2):
        numbers = [prediction.frame.number for prediction in found if prediction.frame.index == index]
        assert numbers == list(range(1, 31))
    sizes = [len(batch) for batch in finder.inputs]
    assert sum(sizes) == 60 and max(sizes) <= 4 and all(len(prediction) == 1 for prediction in found)


@pytest.mark.parametrize("flag", ["visualize", "profile_steps"])
def test_what_looks_at_frames_one_by_one_is_not_combined_with_batches(flag):
    with pytest.raises(ConfigError, match=f"--batch-size 2: --{flag.replace('_', '-')} looks at frames one by one"):
        DetectConfig(batch_size=2, **{flag: 1 if flag == "profile_steps" else True})
