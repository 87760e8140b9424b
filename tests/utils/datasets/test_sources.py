"""Sources: what --source may name, how files are read, and how streams survive interruptions."""

import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_videos import write_video

from utils.datasets import sources
from utils.datasets.output_names import stream_stem, unique_names
from utils.datasets.sources import FileSource, StreamSource, open_source
from utils.datasets.streams import Patience, StreamReader, public_address
from utils.datasets.video import VideoReader, fps_or_default, open_capture
from utils.errors import DataError, UserError
from utils.files import ROOT
from utils.images import read_image, write_image
from utils.log import LOGGER

FAST = Patience(give_up_s=0.3, stall_s=0.2, answer_s=1, first_delay=0.01, longest_delay=0.02)


def solid_image(red: int = 0, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = red
    return image


@pytest.fixture
def clip(tmp_path):
    """A video of 12 frames whose red value is 20 times the frame's number, at 10 frames per second."""
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (32, 24))
    for number in range(1, 13):
        writer.write(solid_image(20 * number)[..., ::-1])
    writer.release()
    return file


def shade(image: np.ndarray) -> int:
    return round(float(image[..., 0].mean()) / 20)


def test_folder_is_searched_recursively_and_keeps_its_structure(tmp_path):
    for name in ("b.png", "a.JPG", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, solid_image(200))
    (tmp_path / "sub/notes.md").write_text("no image")
    source = open_source(tmp_path)
    frames = list(source)
    assert [frame.name for frame in frames] == ["a.JPG", "b.png", "sub/a.png"]
    assert [(frame.index, frame.total, frame.kind, frame.number) for frame in frames] == [
        (i, 3, "image", 0) for i in range(3)
    ]
    assert all(frame.image.shape == (24, 32, 3) and abs(int(frame.image[5, 5, 0]) - 200) < 4 for frame in frames)
    assert all(frame.image[5, 5, 2] < 4 for frame in frames)  # red stays red


def test_single_image_glob_and_non_ascii_names(tmp_path):
    for name in ("图像.png", "x1.png", "x2.png"):
        write_image(tmp_path / name, solid_image())
    assert [frame.name for frame in open_source(tmp_path / "图像.png")] == ["图像.png"]
    assert [frame.name for frame in open_source(str(tmp_path / "x*.png"))] == ["x1.png", "x2.png"]
    bracketed = tmp_path / "a[1].png"  # an existing file wins over its reading as a pattern
    write_image(bracketed, solid_image())
    assert [frame.name for frame in open_source(bracketed)] == ["a[1].png"]


def test_list_of_files_relative_to_the_list(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "same.png", solid_image())
    listing = tmp_path / "images.txt"
    listing.write_text(f"# images\n./one/same.png\n\n{tmp_path}/two/same.png\ntwo\n")
    assert [frame.name for frame in open_source(listing)] == ["same.png", "same_2.png", "same_3.png"]


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a.jpg", "a.png"], ["a.jpg", "a_2.png"]),  # both would label a.txt
        (["a.jpg", "A.JPG", "a_2.jpg"], ["a.jpg", "A_2.JPG", "a_2_2.jpg"]),
        (["x/a.jpg", "y/a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["clip.mp4", "clip_7.jpg"], ["clip_2.mp4", "clip_7.jpg"]),  # frame 7 would label clip_7.txt
        (["clip.mp4", "clip.avi"], ["clip.mp4", "clip_2.avi"]),
        (["a.mpo", "a.dng", "a.jpg"], ["a.mpo", "a_2.dng", "a_3.jpg"]),  # all three are written as .jpg
        (["crops/cat/a.jpg", "Labels/a.jpg", "a.jpg"], ["crops_2/cat/a.jpg", "Labels_2/a.jpg", "a.jpg"]),
    ],
)
def test_outputs_of_different_inputs_never_meet(names, expected):
    assert unique_names(names) == expected


def test_thousands_of_inputs_of_one_name_are_named_in_no_time():
    started = time.process_time()
    names = unique_names(["image.jpg"] * 5000 + ["image.mp4"] * 5000)
    assert len({Path(name).stem for name in names}) == 10_000 and names[4999] == "image_5000.jpg"
    assert time.process_time() - started < 5  # each name was compared with all before it: minutes


def test_unreadable_files_are_counted_named_and_skipped(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    write_image(tmp_path / "good.png", solid_image())
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "fifo.png")  # opening it would wait for whoever writes to it
    (tmp_path / "link.png").symlink_to("gone.png")
    source = open_source(tmp_path)
    assert [frame.name for frame in source] == ["good.png"]
    reasons = {
        "bad.jpg": "cannot be decoded: not an image, or damaged",
        "bad.mp4": "cannot be opened as a video",
        "empty.jpg": "is empty",
        "fifo.png": "is a pipe, not a file",
        "link.png": "cannot be read: No such file or directory",
    }
    expected = [f"{tmp_path / name}: {reason}" for name, reason in reasons.items()]
    assert [failure.reason for failure in source.failures] == expected and len(source) == 6
    assert caplog.messages == [f"WARNING: skipped {reason}" for reason in expected]
    source.fail(0, DataError("once more"))
    assert len(source.failures) == 5


def test_folders_hold_other_files_too(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    for name in ("a.Jpg", "._a.jpg", ".thumbnails/a.jpg", "linked/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, solid_image())
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to("../linked")
    (tmp_path / "in/folder/back").symlink_to("..")  # followed once, not for ever
    (tmp_path / "a.Jpg").rename(tmp_path / "in/a.Jpg")
    (tmp_path / "._a.jpg").rename(tmp_path / "in/._a.jpg")
    for name in ("app.ts", "lib.mts", "phone.HEIC", "phone2.heic", "x.avif", "notes.pdf", "Thumbs.db"):
        (tmp_path / "in" / name).write_text("const a = 1\n")
    source = open_source(tmp_path / "in")
    assert source.names == ["a.Jpg", "folder/b.png"]
    assert caplog.messages == [
        f"WARNING: {tmp_path}/in: passed over 1 .avif, 2 .heic, which cannot be read here; convert them to .jpg or .mp4"
    ]
    (tmp_path / "in/a.Jpg").unlink()
    (tmp_path / "in/folder").unlink()
    with pytest.raises(DataError, match=r"no image or video lies in .*; 1 .avif, 2 .heic cannot be read here"):
        open_source(tmp_path / "in")


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif", ".dng"])
def test_of_several_frames_or_pages_the_first_is_used_and_that_is_said(tmp_path, caplog, monkeypatch, suffix):
    monkeypatch.setattr(LOGGER, "propagate", True)
    first, *others = (Image.fromarray(solid_image(red)) for red in (40, 120, 200))
    kind = "TIFF" if suffix == ".dng" else None
    first.save(tmp_path / f"one{suffix}", format=kind)
    first.save(tmp_path / f"several{suffix}", format=kind, save_all=True, append_images=others)
    assert [shade(frame.image) for frame in open_source(tmp_path)] == [2, 2]
    assert caplog.messages == [f"WARNING: {tmp_path}/several{suffix}: holds 3 frames or pages; the first is used"]


def test_a_jpeg_cut_short_is_used_and_that_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "padded.jpg").write_bytes(whole + bytes(9))  # something behind its end, as phones append
    assert [frame.image.shape for frame in open_source(tmp_path)] == [(96, 96, 3)] * 2
    assert caplog.messages == [f"WARNING: {tmp_path}/cut.jpg: JPEG is cut short: what is missing is filled with gray"]


def test_transport_streams_are_told_from_program_text(tmp_path):
    write_video(tmp_path / "clip.ts", 3)
    (tmp_path / "clip.mts").write_bytes(b"\0\0\0\0" + (tmp_path / "clip.ts").read_bytes())  # a time code before it
    (tmp_path / "empty.ts").touch()  # a failure to be told
    (tmp_path / "Game.ts").write_text("import x")
    assert [Path(path).name for path in open_source(tmp_path).paths] == ["clip.mts", "clip.ts", "empty.ts"]


def test_a_folder_is_a_folder_whatever_its_suffix(tmp_path):
    for name in ("images.txt", "clip.mp4"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.jpg", solid_image())
        assert open_source(tmp_path / name).names == ["a.jpg"]


def test_a_still_gif_is_a_video_of_one_frame(tmp_path):
    Image.fromarray(solid_image(100)).save(tmp_path / "a.gif")
    ((kind, image),) = [(frame.kind, frame.image) for frame in open_source(tmp_path)]
    assert kind == "video" and shade(image) == 5


def test_a_pattern_matches_files_alone(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    write_image(tmp_path / "a.jpg", solid_image())
    (tmp_path / "deep").mkdir()
    write_image(tmp_path / "deep/b.jpg", solid_image())
    assert open_source(f"{tmp_path}/*.jpg").names == ["a.jpg"]
    assert open_source(f"{tmp_path}/**/*.jpg").names == ["a.jpg", "b.jpg"]


def test_a_folder_of_thousands_has_as_many_names(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number % 1000}.{('jpg', 'PNG', 'dng')[number // 1000]}").touch()
    source = open_source(tmp_path)
    stems = [Path(name).stem for name in source.names]
    assert len(source) == 3000 == len(set(stems)) and {stem.partition("_")[2] for stem in stems} == {"", "2", "3"}


def test_a_folder_is_listed_once_and_read_as_it_goes(tmp_path, monkeypatch):
    for number in range(60):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        write_image(tmp_path / f"{number % 3}" / f"{number:02}.png", solid_image())
    listed, read = [], []
    monkeypatch.setattr(
        os, "walk", lambda *args, walk=os.walk, **options: (listed.append(args), walk(*args, **options))[1]
    )
    monkeypatch.setattr(sources, "read_image", lambda path: (read.append(path), read_image(path))[1])
    source = open_source(tmp_path)
    assert len(source) == 60 and len(listed) == 1 and not read
    assert all(type(text) is str for text in (*source.paths, *source.names))  # a hundred thousand paths are 50 MB more
    frames = iter(source)
    assert [next(frames).name for _ in range(2)] == ["0/00.png", "0/03.png"]
    assert len(listed) == 1 and len(read) == 2


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 inputs could be read: .*bad.jpg"):
        list(open_source(tmp_path))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}/imagse", r"no such file or folder \(did you mean images"),
        ("{}/empty", "no image or video lies in this folder"),
        ("{}/empty/*.jpg", "no image or video matches this pattern"),
        ("{}/notes.pdf", r"\.pdf is neither image nor video"),
        ("{}/phone.HEIC", ".HEIC cannot be read here, convert it to .jpg"),
        ("{}/missing.txt", "no such list"),
        ("{}/blank.txt", "the list is empty"),
        ("{}/mixed.txt", "either streams or files"),
        ("https://www.youtube.com/watch?v=x", "YouTube pages are not streams"),
        ("https://youtu.be/x", "yt-dlp -f mp4 -o video.mp4 https://youtu.be/x, and pass the file"),
        ("www.youtube.com/watch?v=x&t=1", "yt-dlp .* 'www.youtube.com/watch\\?v=x&t=1'"),
        ("https://music.youtube.com/watch?v=x", "YouTube"),
        ("screen", "the screen is not read; record it and pass the file, for example with ffmpeg -f x11grab"),
        ("screen 0 100 100 512 256", "virtual camera"),
        ("{}/pipe.jpg", "is a pipe"),
        ("{}/pipe.txt", "is a pipe"),
    ],
)
def test_sources_that_do_not_exist(tmp_path, text, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.pdf").write_bytes(b"")
    (tmp_path / "phone.HEIC").write_bytes(b"")
    (tmp_path / "blank.txt").write_text("\n# only a remark\n")
    (tmp_path / "mixed.txt").write_text("rtsp://host/1\nimage.jpg\n")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=message):
        list(open_source(text.format(tmp_path)))


def test_which_texts_are_streams(tmp_path):
    listing = tmp_path / "streams.txt"
    listing.write_text("rtsp://user:secret@host:554/live\n0\n")
    assert open_source(listing).addresses == ("rtsp://user:secret@host:554/live", "0")
    assert isinstance(open_source("0"), StreamSource)
    assert isinstance(open_source("http://host/video_feed"), StreamSource)
    assert isinstance(open_source("rtsp://host/clip.mp4"), StreamSource)
    assert isinstance(open_source("http://host/clip.mp4?x=1"), FileSource)
    assert isinstance(open_source("http://host/clip.webm"), FileSource)
    assert isinstance(open_source("http://host/live/1.ts"), StreamSource)  # mostly without an end
    assert isinstance(open_source("/dev/video0"), StreamSource)
    assert open_source("http://host/a%20b.jpg?x=1").names == ["a b.jpg"]


@pytest.mark.parametrize("path", ["..%2f..%2fb.jpg", "..%5C..%5Cb.jpg", "b%00.jpg"])
def test_an_address_names_a_file_in_the_run_folder_alone(path):
    assert open_source(f"http://host/a/{path}").names == ["b.jpg"]


def test_a_page_without_a_stream_says_what_to_pass():
    with pytest.raises(DataError, match="http://host/watch: no camera or stream answers there; a web page that shows"):
        list(StreamSource(["http://host/watch"], connect=Script()))


def test_passwords_are_in_no_name():
    address = "rtsp://user:se@cret@host:554/live?x=1"
    assert public_address("rtsp://user:secret@host:554/live") == "rtsp://host:554/live"
    assert "secret" not in public_address(address) and "cret" not in stream_stem(address)
    assert stream_stem("rtsp://user:secret@host:554/live") == "rtsp_host_554_live"


def test_video_frames_and_stride(clip):
    frames = list(open_source(clip))
    assert [shade(frame.image) for frame in frames] == list(range(1, 13))
    assert [frame.number for frame in frames] == list(range(1, 13))
    assert (frames[0].frames, frames[0].fps, frames[0].kind, frames[0].name) == (12, 10.0, "video", "clip.avi")
    assert frames[-1].seconds == pytest.approx(1.1)
    every_fifth = list(open_source(clip, vid_stride=5))
    assert [(frame.number, shade(frame.image)) for frame in every_fifth] == [(1, 1), (6, 6), (11, 11)]
    assert every_fifth[0].fps == 2.0  # the written video then lasts as long as the original
    with pytest.raises(DataError, match="vid-stride 0"):
        open_source(clip, vid_stride=0)


@pytest.mark.parametrize("claimed, fps", [(0, 0.0), (-1, float("nan")), (99, 1e9)])
def test_containers_that_do_not_know_themselves(clip, monkeypatch, claimed, fps):
    class Forgetful:
        def __init__(self, path):
            self._capture = REAL(path)

        def get(self, property_):
            return {cv2.CAP_PROP_FRAME_COUNT: claimed, cv2.CAP_PROP_FPS: fps}.get(property_) or self._capture.get(
                property_
            ) * 0

        def __getattr__(self, name):
            return getattr(self._capture, name)

    REAL = cv2.VideoCapture
    monkeypatch.setattr("utils.datasets.video.cv2.VideoCapture", Forgetful)
    reader = VideoReader(str(clip))
    assert reader.fps == 30.0
    assert len(list(reader.read())) == 12


def test_frames_that_cannot_be_read_are_counted(clip, monkeypatch):
    warnings = []
    monkeypatch.setattr(LOGGER, "warning", warnings.append)
    assert len(list(VideoReader(str(clip)).read())) == 12 and not warnings
    whole, damaged = clip.with_name("whole.avi"), clip.with_name("cut.avi")
    writer, rng = (
        cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (160, 120)),
        np.random.default_rng(0),
    )
    for _ in range(12):
        writer.write(rng.integers(0, 256, (120, 160, 3), np.uint8))
    writer.release()
    damaged.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    read = len(list(VideoReader(str(damaged)).read()))
    assert 0 < read < 9
    assert warnings == [f"WARNING: {damaged}: damaged or cut short; {read} of 12 frames could be read"]


def test_a_url_that_keeps_silent_is_given_up_in_time(monkeypatch):
    """One attempt with timeouts; other back ends would repeat it with half a minute of their own."""
    asked = []
    monkeypatch.setattr("utils.datasets.video.cv2.VideoCapture", lambda *arguments: asked.append(arguments))
    open_capture("rtsp://host/x")
    open_capture("0")
    open_capture("clip.mp4")
    (address, backend, options), *others = asked
    assert (address, backend) == ("rtsp://host/x", cv2.CAP_FFMPEG) and others == [(0,), ("clip.mp4",)]
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 10_000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 10_000,
    }


def test_decoders_add_no_lines_of_their_own(tmp_path):
    """In a process of its own: FFmpeg reads how much to say when a process opens its first video."""
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    Image.fromarray(solid_image()).save(tmp_path / "whole.tif", compression="tiff_lzw")
    content = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) - 60])  # Pillow writes the directory before the pixels
    code = (
        "from utils.datasets.sources import open_source\nfrom utils import log\nlog.configure()\n"
        f"source = open_source({str(tmp_path)!r})\nprint([frame.name for frame in source])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == [
        f"skipped {tmp_path}/{name}" for name in ("broken.mp4", "cut.tif")
    ]
    assert (lines[-1], done.stderr) == ("['whole.tif']", "")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("http://[abc/x.jpg", "http://\\[abc/x.jpg: is not a valid address"),
        ("rtsp://[x/y", "is not a valid address"),
        ("file://[x/y.jpg", "is not a valid address"),
        ("//[a]/x*.jpg", "x\\*.jpg"),
        ("http://127.0.0.1:9/a b.jpg", "cannot be fetched"),
    ],
)
def test_damaged_addresses_end_in_one_line(source, words):
    with pytest.raises(DataError, match=words) as caught:
        list(open_source(source))
    assert "\n" not in str(caught.value)


def test_passwords_in_addresses_are_not_shown(caplog):
    source = open_source("http://user:secret@127.0.0.1:9/clip.mp4")
    with pytest.raises(DataError, match="http://127.0.0.1:9/clip.mp4: cannot be opened") as error:
        list(source)
    assert "secret" not in f"{error.value}{caplog.text}{source.failures}"


def test_an_empty_source_is_not_the_working_folder():
    with pytest.raises(DataError, match="--source is empty"):
        open_source(" ")


def test_a_list_with_a_missing_file_is_named(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("gone.jpg\n")
    with pytest.raises(DataError, match=f"{file}: gone.jpg: no such file"):
        open_source(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_as_other_programs_write_them(tmp_path, encoding):
    """PowerShell writes UTF-16 and backslashes, explorers put paths in quotes, browsers give addresses."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c d.png", "图.png"):
        write_image(tmp_path / "in" / name, solid_image())
    lines = ["in\\a.png", f'"{tmp_path}/in/b.png"', (tmp_path / "in/c d.png").as_uri(), "./in/图.png"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), encoding=encoding, newline="")
    assert open_source(tmp_path / "list.txt").names == ["a.png", "b.png", "c d.png", "图.png"]
    assert open_source((tmp_path / "in/c d.png").as_uri()).names == ["c d.png"]


def test_entries_of_a_list_that_name_nothing_do_not_stop_the_others(tmp_path):
    write_image(tmp_path / "a.png", solid_image())
    (tmp_path / "notes.pdf").touch()
    (tmp_path / "void").mkdir()
    file = tmp_path / "list.streams"
    file.write_text("gone.jpg\n./a.png\n./notes.pdf\n./void\n")
    source = open_source(file)
    assert [frame.name for frame in source] == ["a.png"] and len(source) == 4
    assert [failure.reason.split(":")[2].split(" (")[0].strip() for failure in source.failures] == [
        "no such file or folder",
        ".pdf is neither image nor video",
        "no image or video lies in this folder",
    ]
    assert all(failure.reason.startswith(f"{file}: ") for failure in source.failures)


def test_fps_or_default():
    assert [fps_or_default(fps) for fps in (25, 0, -1, float("inf"), float("nan"), 90000)] == [25.0, 30, 30, 30, 30, 30]


class Script:
    """A fake for cameras: each connection plays a list of frames (None: reading fails), then the next one begins."""

    def __init__(self, *connections, pause: float = 0.0):
        self.connections = list(connections)
        self.pause = pause
        self.opened, self.released = 0, 0

    def __call__(self, address):
        script, number = self, self.opened
        self.opened += 1

        class Capture:
            left = list(script.connections[number]) if number < len(script.connections) else None

            def isOpened(self):
                return self.left is not None

            def get(self, _):
                return 25.0

            def read(self):
                time.sleep(script.pause)
                value = self.left.pop(0) if self.left else None
                return (False, None) if value is None else (True, solid_image(value)[..., ::-1].copy())

            def release(self):
                script.released += 1

        return Capture()


def test_stream_reconnects_and_ends_when_it_stays_away():
    script = Script([20, 40], [60], [])
    source = StreamSource(["fake"], keep_all=True, patience=FAST, connect=script)
    frames = list(source)
    assert [shade(frame.image) for frame in frames] == [1, 2, 3]
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert script.opened >= 3 and script.released == script.opened  # every connection is given back


def test_a_failure_between_frames_does_not_end_the_stream():
    source = StreamSource(["fake"], keep_all=True, patience=FAST, connect=Script([20, None, 40], [60]))
    assert [shade(frame.image) for frame in source] == [1, 2, 3]


def test_slow_consumers_see_the_newest_frame():
    source = StreamSource(["fake"], patience=FAST, connect=Script(list(range(0, 240, 2)), pause=0.001))
    frames = []
    for frame in source:
        frames.append(frame)
        time.sleep(0.03)
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(numbers) and numbers[-1] == 120
    assert len(numbers) < 60
    assert frames[-1].seconds > frames[0].seconds


def test_stream_stride_and_several_streams():
    scripts = {"a": Script([20] * 10), "b": Script([40] * 10)}
    source = StreamSource(
        ["a", "b"], vid_stride=3, keep_all=True, patience=FAST, connect=lambda name: scripts[name](name)
    )
    frames = list(source)
    assert sorted((frame.index, frame.number) for frame in frames) == [
        (i, number) for i in (0, 1) for number in (1, 4, 7, 10)
    ]
    assert {frame.name for frame in frames} == {"a.mp4", "b.mp4"}
    assert {shade(frame.image) for frame in frames if frame.index == 1} == {2}


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    source = StreamSource(["fake"], keep_all=True, patience=FAST, connect=Script([20] * 100_000))
    frames = iter(source)
    next(frames)
    frames.close()
    assert threading.active_count() == before


def test_no_stream_at_the_start_is_an_error():
    with pytest.raises(DataError, match="rtsp://host/x: no camera or stream answers"):
        list(StreamSource(["rtsp://u:p@host/x"], connect=Script()))


def test_a_camera_that_does_not_answer_stops_no_other(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    scripts = {"rtsp://u:p@a": Script(), "b": Script([20, 40])}
    source = StreamSource(list(scripts), keep_all=True, patience=FAST, connect=lambda name: scripts[name](name))
    assert [(frame.index, frame.total, frame.name, shade(frame.image)) for frame in source] == [
        (1, 2, "b.mp4", 1),
        (1, 2, "b.mp4", 2),
    ]
    assert [failure.reason for failure in source.failures] == ["rtsp://a: no camera or stream answers there"]
    assert "WARNING: skipped rtsp://a: no camera or stream answers there" in caplog.messages


def test_a_stream_without_a_frame_has_failed():
    scripts = {"rtsp://u:p@a": Script([]), "b": Script([20])}
    source = StreamSource(list(scripts), keep_all=True, patience=FAST, connect=lambda name: scripts[name](name))
    assert [frame.name for frame in source] == ["b.mp4"]
    reason = "rtsp://a: connected, but no frame came that can be decoded; see in a player whether it sends video"
    assert [failure.reason for failure in source.failures] == [reason]


def test_backoff_grows_to_its_limit():
    assert [Patience().delay(failures) for failures in (1, 2, 3, 4, 7, 8, 9999)] == [0, 0.5, 1, 2, 15, 15, 15]


def test_reader_gives_up_waiting_when_closed():
    arrived = threading.Condition()
    reader = StreamReader("fake", arrived=arrived, patience=Patience(first_delay=60), connect=Script([20]))
    reader.start()
    reader.require_answer()
    time.sleep(0.1)
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < 1 and reader.finished


class Mjpeg(http.server.BaseHTTPRequestHandler):
    """A camera's page: a multipart stream of JPEGs; /image.jpg is one of them."""

    def do_GET(self):
        jpeg = cv2.imencode(".jpg", solid_image(100, (48, 64))[..., ::-1])[1].tobytes()
        self.send_response(200)
        if self.path.endswith(".jpg"):
            self.end_headers()
            self.wfile.write(jpeg)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(60):
            self.wfile.write(
                b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
            )

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_http_stream_and_image(server):
    source = open_source(f"{server}/feed")
    for count, frame in enumerate(source):
        assert frame.image.shape == (48, 64, 3) and frame.kind == "stream"
        if count == 2:
            break
    source.close()
    (frame,) = open_source(f"{server}/some/image.jpg")
    assert frame.name == "image.jpg" and frame.image.shape == (48, 64, 3) and shade(frame.image) == 5
    with pytest.raises(DataError, match="cannot be fetched"):
        list(open_source("http://127.0.0.1:9/image.jpg"))
