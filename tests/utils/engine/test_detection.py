"""A detection run as a whole: inputs and results that fail stop no other, and are counted and listed."""

import errno
import os

import pytest
from red_finder import RedFinder, scene

from utils.config import DetectConfig
from utils.datasets.sources import open_source
from utils.engine import detection
from utils.engine.detection import Detection, DetectionOutcome, detect
from utils.engine.prediction_writers import Artist, CropWriter, ImageWriter, LabelWriter
from utils.engine.predictor import PredictionHook, as_predictor
from utils.errors import DataError, PartialError, UserError
from utils.images import write_image

SIZE = (96, 128)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        write_image(folder / f"{name}.png", scene((20, 30, 90, 80), SIZE))
    return folder


class Recorder(PredictionHook):
    """Notes what it is called with; raises the errors given for (method, input name)."""

    def __init__(self, **errors):
        self.errors, self.calls = errors, []

    def _note(self, method, name):
        self.calls.append((method, name))
        if name in self.errors:
            raise self.errors[name]

    def before_frame(self, frame):
        self.calls.append(("before", frame.name))

    def after_frame(self, prediction):
        self._note("frame", prediction.frame.name.partition(".")[0])

    def after_input(self, index):
        self._note("input", index)

    def close(self):
        self._note("close", "end")


def run(source, *hooks):
    detector = Detection(
        DetectConfig(source=str(source), imgsz=(128,)), as_predictor(RedFinder().eval()), open_source(source), hooks
    )
    detector.run()
    return detector.source


def test_hooks_see_each_input_end_before_the_next_begins(images):
    recorder = Recorder()
    run(images, recorder)
    expected = [("before", "a.png"), ("frame", "a"), ("before", "b.png"), ("input", 0), ("frame", "b")]
    assert recorder.calls[:5] == expected and recorder.calls[-2:] == [("input", 2), ("close", "end")]


def test_a_result_that_cannot_be_written_stops_no_other(images, tmp_path):
    out = tmp_path / "out"
    (out / "b.png").mkdir(parents=True)  # a folder stands where the image belongs
    source = run(images, ImageWriter(out, Artist(out)), labels := LabelWriter(out))
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "b.png", "c.png", "labels"] and labels.written == 3
    assert [failure.reason for failure in source.failures] == [f"{images}/b.png: {out}/b.png: is a folder, not a file"]
    with pytest.raises(PartialError, match=r"^1 of 3 inputs failed, the others are complete: .*b.png: is a folder"):
        DetectionOutcome(out, len(source), tuple(source.failures)).require_complete()


def test_an_input_fails_once_whatever_fails_of_it(images, tmp_path):
    recorder = Recorder(a=DataError("first"), b=PermissionError(errno.EACCES, "Permission denied", "x"))
    source = run(images, recorder, other := Recorder(b=DataError("second")))
    assert [failure.reason for failure in source.failures] == [
        f"{images}/a.png: first",
        f"{images}/b.png: x: Permission denied",
    ]
    assert ("frame", "c") in recorder.calls and ("frame", "c") in other.calls  # the second hook goes on by itself
    assert ("input", 0) not in recorder.calls and ("input", 0) in other.calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_ends_the_run_and_closes_all(images, number):
    recorder = Recorder(b=OSError(number, os.strerror(number), "b.png"), end=OSError(number, "again"))
    other = Recorder()
    with pytest.raises(OSError, match=r"again"):
        run(images, recorder, other)
    assert ("frame", "c") not in recorder.calls
    assert recorder.calls[-1] == other.calls[-1] == ("close", "end")


def test_nothing_written_is_an_error(images):
    errors = {name: DataError("cannot be written") for name in "abc"}
    with pytest.raises(DataError, match=r"none of the 3 inputs could be read.*a.png: cannot be written"):
        run(images, Recorder(**errors))


def test_the_last_input_may_fail_at_its_end(images):
    with pytest.raises(DataError, match=r"none of the 1 inputs could be read and written: .*a.png: not whole"):
        run(images / "a.png", _LateFailure())
    source = run(images, _LateFailure())
    assert [failure.reason for failure in source.failures] == [f"{images}/a.png: not whole"]


class _LateFailure(PredictionHook):
    def after_input(self, index):
        if index == 0:
            raise DataError("not whole")


def test_names_as_long_as_the_file_system_takes(images, tmp_path):
    """A name of 255 bytes; with the number of a second crop or another suffix it is too long for a file."""
    long = "n" * 251 + ".png"
    write_image(images / long, scene((20, 30, 90, 80), SIZE))
    write_image(images / ("n" * 251 + ".jpg"), scene((20, 30, 90, 80), SIZE))  # becomes n...n_2
    source = run(images, ImageWriter(tmp_path / "out", Artist(tmp_path / "out")), CropWriter(tmp_path / "out"))
    assert len(source.failures) == 1 and "File name too long" in source.failures[0].reason
    assert len(list((tmp_path / "out").glob("*.png"))) + len(list((tmp_path / "out").glob("*.jpg"))) == 4


def test_the_run_lists_what_failed(images, tmp_path, monkeypatch, caplog):
    (images / "bad.jpg").write_bytes(b"no image")
    os.mkfifo(images / "fifo.png")
    monkeypatch.setattr(detection, "load_predictor", lambda *_: as_predictor(RedFinder().eval()))
    config = DetectConfig(source=str(images), imgsz=(128,), project=str(tmp_path / "runs"), save_txt=True)
    outcome = detect(config)
    assert outcome.save_dir == tmp_path / "runs/exp" and outcome.inputs == 5
    assert sorted(file.stem for file in (outcome.save_dir / "labels").iterdir()) == ["a", "b", "c"]
    with pytest.raises(PartialError) as caught:
        outcome.require_complete()
    assert str(caught.value) == (
        f"2 of 5 inputs failed, the others are complete: {images}/bad.jpg: cannot be decoded: "
        f"not an image, or damaged; {images}/fifo.png: is a pipe, not a file"
    )
    assert caught.value.exit_code == 1


def test_a_long_list_is_cut(tmp_path):
    failures = [detection.Failure(str(number), f"{number}: is empty") for number in range(25)]
    with pytest.raises(PartialError, match=r"^25 of 30 inputs failed.*19: is empty; and 5 more, see the warnings"):
        DetectionOutcome(tmp_path, 30, tuple(failures)).require_complete()


@pytest.mark.parametrize(("name", "flag"), [("labels", "save_txt"), ("predictions.csv", "save_csv")])
def test_a_run_folder_that_cannot_take_the_results_is_named(images, tmp_path, monkeypatch, name, flag):
    monkeypatch.setattr(detection, "load_predictor", lambda *_: as_predictor(RedFinder().eval()))
    taken = tmp_path / "runs/mine" / name
    taken.parent.mkdir(parents=True)
    taken.touch() if name == "labels" else taken.mkdir()
    config = DetectConfig(
        source=str(images), imgsz=(128,), project=str(tmp_path / "runs"), name="mine", exist_ok=True, **{flag: True}
    )
    with pytest.raises(UserError, match=f"{taken}: .*; choose another --project or --name"):
        detect(config)
