"""Streams from a real server on this machine that stalls, breaks off in mid-frame and comes back; and scripted ones."""

import math
import threading
import time

import numpy as np
import pytest
from mjpeg_camera import MjpegCamera
from small_videos import number_of, write_video

from utils.datasets.sources import StreamSource, open_source
from utils.datasets.streams import Patience, StreamReader, read_streams
from utils.errors import DataError
from utils.log import LOGGER

QUICK = Patience(give_up_s=1.0, stall_s=0.4, answer_s=2.0, first_delay=0.05, longest_delay=0.1, steady_s=0.1)


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO")
    return lambda: [message.replace("WARNING: ", "") for message in caplog.messages]


def test_a_stall_is_noticed_by_our_own_watch_and_told_once(messages):
    """The server keeps the connection open and silent; it would be 10 seconds until FFmpeg gave up."""
    with MjpegCamera([("frames", 20), ("stall", 30)], [("frames", 20)], [("refuse", 0)]) as camera:
        source = StreamSource([camera.address], keep_all=True, patience=QUICK)
        frames = list(source)
        assert [number_of(frame.image) for frame in frames] == [*range(1, 41)]
        assert [frame.number for frame in frames] == [*range(1, 41)]
        pause = frames[20].seconds - frames[19].seconds
        assert 0.4 <= pause < 1.5
        name = camera.address
        connected, lost, back, lost_again, given_up, summary = messages()
    assert connected == f"{name}: connected"
    assert lost == f"{name}: no frame for 0.4 s; connecting again for up to 1 s"
    assert back.startswith(f"{name}: back after {pause:.1f}")
    assert lost_again == f"{name}: connection lost; connecting again for up to 1 s"
    assert given_up == f"{name}: given up: no frame for 1 s"
    assert summary.startswith(f"{name}: 40 frames in ") and summary.endswith(" 40 used, 1 reconnect")


def test_a_stream_that_breaks_off_in_mid_frame_goes_on(messages):
    script = [[("frames", 10), ("half", 0)], [("refuse", 0)], [("frames", 10), ("half", 0)], [("frames", 10)]]
    with MjpegCamera(*script, [("refuse", 0)]) as camera:
        frames = list(StreamSource([camera.address], keep_all=True, patience=QUICK))
        assert camera.connections >= 5  # one of them answered with an error, which is no new outage
    assert (
        set(range(1, 31)) <= {number_of(frame.image) for frame in frames} and len(frames) <= 32
    )  # half a frame may be shown, filled with gray
    assert [frame.number for frame in frames] == [*range(1, len(frames) + 1)]
    assert sum("connection lost" in message for message in messages()) == 3
    assert sum("back after" in message for message in messages()) == 2


def test_one_stream_that_ends_does_not_end_the_others(messages):
    with (
        MjpegCamera([("frames", 5)], [("refuse", 0)]) as short,
        MjpegCamera([("frames", 150)], [("refuse", 0)]) as long,
    ):
        quick = Patience(give_up_s=0.5, first_delay=0.05, longest_delay=0.1)
        frames = list(
            StreamSource([short.address, "http://127.0.0.1:9/none", long.address], patience=quick, keep_all=True)
        )
    assert {index: sum(frame.index == index for frame in frames) for index in (0, 2)} == {0: 5, 2: 150}
    assert any("skipped http://127.0.0.1:9/none: no camera or stream answers" in text for text in messages())
    given_up = next(index for index, text in enumerate(messages()) if text.startswith(f"{short.address}: given up"))
    assert given_up < len(messages()) - 3  # while the other one went on


def test_the_true_rate_is_measured_not_believed():
    """OpenCV says 25 of every MJPEG stream."""
    with MjpegCamera([("frames", 60)], [("refuse", 0)], fps=50.0) as camera:
        frames = list(StreamSource([camera.address], keep_all=True, patience=QUICK))
    assert frames[0].fps == frames[10].fps == 0.0  # too few to know it
    assert frames[-1].fps == pytest.approx(50, rel=0.2)
    assert frames[-1].seconds - frames[0].seconds == pytest.approx(59 / 50, rel=0.25)


def test_a_slow_consumer_gets_the_newest_frame_and_no_old_one():
    with MjpegCamera([("frames", 200)], [("refuse", 0)], fps=100.0) as camera:
        reader = StreamSource([camera.address], patience=QUICK)
        behind = []
        for frame in reader:
            time.sleep(0.15)
            behind.append(camera.sent - frame.number)
            if len(behind) == 6:
                break
    assert max(behind[1:]) < 40  # 15 frames of waiting and what lies in the sockets; an old one would be 100 behind


def test_every_frame_is_kept_within_bounds_and_the_camera_waits(monkeypatch):
    monkeypatch.setattr("utils.datasets.streams._BUFFERED_FRAMES", 4)
    arrived = threading.Condition()
    patience = Patience(give_up_s=0.3, stall_s=0.2, first_delay=0.01)
    with MjpegCamera([("frames", 60)], [("refuse", 0)], fps=0) as camera:
        reader = StreamReader(camera.address, arrived=arrived, keep_all=True, patience=patience)
        reader.start()
        reader.require_answer()
        time.sleep(0.8)  # longer than a stall may last, but it is the consumer who is late
        assert reader.connections == 1 and len(reader._waiting) == 4 and reader.frames == 5
        taken = [frame for ((_, frame),) in read_streams([reader], arrived)]
        assert [frame.number for frame in taken] == [*range(1, 61)] and reader.delivered == 60
        reader.close()


def test_batches_take_what_is_there_from_all_streams_in_turn():
    cameras = [MjpegCamera([("frames", 400)], fps=100.0) for _ in range(3)]
    source = StreamSource([camera.address for camera in cameras], patience=QUICK)
    sizes, seen = [], np.zeros(3, int)
    for batch in source.batches(2):
        time.sleep(0.05)  # as long as five frames
        sizes.append(len(batch))
        for frame in batch:
            seen[frame.index] += 1
        if len(sizes) == 21:
            break
    source.close()
    for camera in cameras:
        camera.close()
    assert sum(size == 2 for size in sizes) >= 18 and seen.max() - seen.min() <= 4  # none is starved


class Hanging:
    """A capture whose reads hang like those of a camera that is gone, and cannot be interrupted."""

    opened = 0
    released = threading.Semaphore(0)
    let_go = threading.Event()

    def __init__(self, _):
        type(self).opened += 1

    def isOpened(self):
        return True

    def read(self):
        self.let_go.wait(20)
        return False, None

    def release(self):
        self.released.release()


def test_threads_that_hang_in_a_read_are_few():
    patience = Patience(give_up_s=1.0, stall_s=0.05, first_delay=0.01, longest_delay=0.02)
    source = StreamSource(["fake"], patience=patience, connect=Hanging)
    assert list(source) == [] and Hanging.opened == 3
    begun = time.monotonic()
    source.close()  # nobody waits for them twice
    assert time.monotonic() - begun < 0.5
    Hanging.let_go.set()
    assert all(Hanging.released.acquire(timeout=2) for _ in range(3))  # and give their camera back in the end


def test_a_camera_that_hangs_when_it_is_opened_is_no_answer():
    let_go = threading.Event()
    source = StreamSource(["fake"], patience=Patience(answer_s=0.2), connect=lambda _: let_go.wait(20) and Hanging(_))
    with pytest.raises(DataError, match="fake: no camera or stream answers there within 0.2 s"):
        list(source)
    let_go.set()


def test_a_driver_that_raises_is_an_outage_with_its_reason(messages):
    class Broken(Hanging):
        def read(self):
            raise OSError("USB unplugged")

    assert list(StreamSource(["fake"], patience=Patience(give_up_s=0.2, first_delay=0.05), connect=Broken)) == []
    assert "fake: connection lost (USB unplugged); connecting again for up to 0.2 s" in messages()


def test_time_counts_from_the_connection_even_if_frames_come_before_the_answer_is_awaited():
    class Eager(Hanging):
        left = 3

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

    reader = StreamReader(
        "fake", arrived=threading.Condition(), keep_all=True, patience=Patience(give_up_s=0.1), connect=Eager
    )
    reader.start()
    begun = time.monotonic()
    while reader.frames < 3 and time.monotonic() - begun < 5:
        time.sleep(0.01)
    latest = reader._latest
    reader.require_answer()
    assert reader._latest == latest  # nor does its outage begin before its last frame
    assert [0 <= frame.seconds < 5 for frame in iter(reader.take, None)] == [True] * 3
    reader.close()


def test_a_stream_may_be_waited_for_without_end():
    source = open_source("rtsp://host/x", stream_timeout=0)
    assert source._readers[0]._patience.give_up_s == math.inf
    assert open_source("rtsp://host/x")._readers[0]._patience.give_up_s == 60


def test_a_video_served_as_a_stream_has_its_frames(tmp_path):
    """What FFmpeg can read is a stream as well, and ends when it ends."""
    file = write_video(tmp_path / "clip.avi", 30, codec="MJPG")
    source = StreamSource([str(file)], keep_all=True, patience=Patience(give_up_s=0.0))
    assert [number_of(frame.image) for frame in source] == [*range(1, 31)]
