"""Videos as cameras and programs write them: trimmed, anamorphic, mirrored, of every suffix, of no known codec."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image
from small_videos import number_of, numbered_frame, set_codec, set_matrix, set_pixel_aspect, trim, write_video

from utils.datasets.video import VideoReader
from utils.errors import DataError
from utils.images import VIDEO_SUFFIXES
from utils.log import LOGGER

CODECS = {".flv": "FLV1", ".webm": "VP80", ".ogv": "VP80", ".avi": "MJPG", ".mpg": "MPG1", ".mpeg": "MPG1"}


@pytest.fixture
def warnings(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", found.append)
    return found


def corners(image: np.ndarray) -> dict[str, str]:
    """Where the red and the blue corner lie: two of "top left", "bottom right", ..."""
    height, width = image.shape[:2]
    places = {
        f"{row} {column}": image[y, x].astype(int)
        for row, y in (("top", 4), ("bottom", height - 5))
        for column, x in (("left", 4), ("right", width - 5))
    }
    return {
        "red": max(places, key=lambda place: places[place][0] - places[place][2]),
        "blue": max(places, key=lambda place: places[place][2] - places[place][0]),
    }


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_every_suffix_that_is_allowed_is_read(tmp_path, warnings, suffix):
    file = tmp_path / f"clip{suffix}"
    if suffix == ".gif":
        images = [Image.fromarray(numbered_frame(number)) for number in range(1, 13)]
        images[0].save(file, save_all=True, append_images=images[1:], duration=40)
    else:
        write_video(file, 12, 25.0, (144, 176), CODECS.get(suffix, "mp4v"))
    frames = list(VideoReader(str(file)).read())
    assert [number for number, _, _ in frames] == list(range(1, 13))
    assert [number_of(image) for _, _, image in frames] == list(range(1, 13))
    assert [seconds for _, seconds, _ in frames] == pytest.approx([index / 25 for index in range(12)], abs=0.002)
    assert not warnings


def test_a_trimmed_video_is_whole_if_all_shown_frames_are_read(tmp_path, warnings):
    file = trim(write_video(tmp_path / "cut.mp4"), 0.5, 1.5)
    reader = VideoReader(str(file))
    assert reader.frames == 45
    assert [number_of(image) for _, _, image in reader.read()] == list(range(16, 61))
    assert not warnings


def test_a_trimmed_video_that_lacks_shown_frames_is_damaged(tmp_path, warnings):
    file = trim(write_video(tmp_path / "cut.mp4"), 0.5, 1.5)
    content = file.read_bytes()
    moov, mdat = content.index(b"moov") - 4, content.index(b"mdat") + 4
    half = (mdat + moov) // 2
    file.write_bytes(content[:half] + bytes(moov - half) + content[moov:])
    read = len(list(VideoReader(str(file)).read()))
    assert 0 < read < 40
    assert warnings == [f"WARNING: {file}: damaged or cut short; {read} of 45 frames could be read"]


@pytest.mark.parametrize(
    ("matrix", "shape", "red", "blue"),
    [
        ((1, 0, 0, 1), (96, 160), "top left", "bottom left"),
        ((0, 1, -1, 0), (160, 96), "top right", "top left"),  # a quarter turn clockwise
        ((-1, 0, 0, -1), (96, 160), "bottom right", "top right"),
        ((0, -1, 1, 0), (160, 96), "bottom left", "bottom right"),
        ((-1, 0, 0, 1), (96, 160), "top right", "bottom right"),  # as in a mirror
        ((1, 0, 0, -1), (96, 160), "bottom left", "top left"),
        ((0, 1, 1, 0), (160, 96), "top left", "top right"),
        ((0, -1, -1, 0), (160, 96), "bottom right", "bottom left"),
    ],
)
def test_all_eight_ways_of_holding_a_camera(tmp_path, matrix, shape, red, blue):
    file = set_matrix(write_video(tmp_path / "selfie.mp4", 3), *matrix)
    _, _, image = next(iter(VideoReader(str(file)).read()))
    assert image.shape == (*shape, 3) and corners(image) == {"red": red, "blue": blue}


@pytest.mark.parametrize(
    ("matrix", "aspect"),
    [((1, 0, 0, 1), 16 / 11), ((0, 1, -1, 0), 11 / 16), ((-1, 0, 0, 1), 16 / 11), ((0, 1, 1, 0), 11 / 16)],
)
def test_the_shape_of_pixels_follows_rotation(tmp_path, matrix, aspect):
    file = set_matrix(set_pixel_aspect(write_video(tmp_path / "pal.mp4", 3), 16, 11), *matrix)
    assert VideoReader(str(file)).pixel_aspect == pytest.approx(aspect)


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (1, 1), (1000, 1)])
def test_pixels_of_no_possible_shape_are_square(tmp_path, width, height):
    file = set_pixel_aspect(write_video(tmp_path / "pal.mp4", 3), width, height)
    assert VideoReader(str(file)).pixel_aspect == 1.0


def test_a_codec_without_a_decoder_is_named(tmp_path):
    file = set_codec(write_video(tmp_path / "phone.mp4", 3), b"av01")
    with pytest.raises(DataError, match=r"phone.mp4: .*its codec is AV1, which this OpenCV .* convert it.*ffmpeg -i"):
        list(VideoReader(str(file)).read())


def test_an_empty_file_and_a_pipe_are_named(tmp_path):
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match=r"empty.mp4: is empty"):
        VideoReader(str(tmp_path / "empty.mp4"))
    with pytest.raises(DataError, match=r"pipe.mp4: is a pipe, not a file"):
        VideoReader(str(tmp_path / "pipe.mp4"))


class TimedCapture:
    """A capture whose frames come at given times, of a container that claims a rate and a number of frames."""

    def __init__(self, file, times, fps, claimed):
        self._capture, self._times, self._grabbed = cv2.VideoCapture(str(file)), times, 0
        self._values = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: claimed}

    def grab(self):
        self._grabbed += 1
        return self._grabbed <= len(self._times) and self._capture.grab()

    def get(self, flag):
        if flag == cv2.CAP_PROP_POS_MSEC:
            return 1000 * self._times[self._grabbed - 1]
        return self._values.get(flag, self._capture.get(flag))

    def __getattr__(self, name):
        return getattr(self._capture, name)


@pytest.mark.parametrize(
    ("times", "claimed", "warning"),
    [
        ([0, 0.1, 0.2, 0.6, 1.0, 1.9], 20, None),  # a varying rate: six frames fill the two seconds
        ([0, 0.1, 0.2, 0.3, 0.4, 0.5], 20, "the last frame is at 0.5 s, and the file says that it lasts 2.0 s"),
        ([0, 0, 0, 0, 0, 0], 6, None),  # times that do not move: a constant rate
    ],
)
def test_containers_that_estimate_are_judged_by_time(tmp_path, monkeypatch, warnings, times, claimed, warning):
    file = write_video(tmp_path / "screen.mkv", 12, 10.0)
    monkeypatch.setattr("utils.datasets.video.open_capture", lambda path: TimedCapture(path, times, 10.0, claimed))
    seconds = [at for _, at, _ in VideoReader(str(file)).read()]
    assert seconds == pytest.approx(times if any(times) else [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert len(warnings) == (warning is not None)
    assert not warning or (warning in warnings[0] and "damaged" not in warnings[0])


def test_a_time_of_day_in_the_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "2026-05-01T12:30.mp4", 3)
    assert len(list(VideoReader("2026-05-01T12:30.mp4").read())) == 3


def test_a_name_that_is_not_utf8_is_opened_by_another(tmp_path):
    """As in archives from other systems: OpenCV itself would end the process."""
    file = os.fsdecode(os.fsencode(tmp_path) + b"/vid\xe9o.mp4")
    os.rename(write_video(tmp_path / "video.mp4", 3), file)
    assert [number_of(image) for _, _, image in VideoReader(file).read()] == [1, 2, 3]


def test_why_a_video_cannot_be_opened(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"gone.mp4: cannot be read: No such file or directory"):
        VideoReader(str(tmp_path / "gone.mp4"))
    monkeypatch.setattr("utils.datasets.video.open_capture", lambda path: cv2.VideoCapture())  # as an older OpenCV
    set_codec(write_video(tmp_path / "a.mp4", 3), b"av01")
    (tmp_path / "a.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(99) + b"\x86\x85V_AV1")
    (tmp_path / "b.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(99) + b"\x86\x85V_VP8")
    for name, words in (("a.mp4", ": its codec is AV1"), ("a.webm", ": its codec is AV1"), ("b.webm", "$")):
        with pytest.raises(DataError, match=f"{name}: cannot be opened as a video{words}"):
            VideoReader(str(tmp_path / name))
