"""Headers of MP4 files: what they say, and that no damaged or invented file does more than say nothing."""

import struct

import numpy as np
import pytest
from small_videos import box_at, set_codec, set_matrix, trim, write_video

from utils.datasets.mp4_boxes import Mp4Track, read_mp4_track


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 30)


def test_what_the_headers_say(tmp_path, clip):
    assert read_mp4_track(str(clip)) == Mp4Track("mp4v", 1.0, (1, 0, 0, 1))
    changed = tmp_path / "changed.mp4"
    changed.write_bytes(clip.read_bytes())
    set_codec(set_matrix(trim(changed, 0.4, 0.6), -1, 0, 0, 1), b"av01")
    track = read_mp4_track(str(changed))
    assert track == Mp4Track("av01", pytest.approx(0.6), (-1, 0, 0, 1)) and track.mirrored and not track.transposed


def test_an_edit_to_the_end_is_no_length(tmp_path, clip):
    file = tmp_path / "fragmented.mp4"
    file.write_bytes(clip.read_bytes())
    assert read_mp4_track(str(trim(file, 0.0, 0.0))).shown_s == 0


@pytest.mark.parametrize("matrix", [(1, 1, 1, 1), (0, 0, 0, 0), (2, 0, 0, 2), (1, 0, 1, 0)])
def test_other_matrices_are_left_to_the_decoder(tmp_path, clip, matrix):
    file = tmp_path / "odd.mp4"
    file.write_bytes(clip.read_bytes())
    assert read_mp4_track(str(set_matrix(file, *matrix))).matrix == (1, 0, 0, 1)


def test_shown_follows_the_formula_of_the_matrix():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for matrix in [(a, 0, 0, d) for a in (-1, 1) for d in (-1, 1)] + [(0, b, c, 0) for b in (-1, 1) for c in (-1, 1)]:
        a, b, c, d = matrix
        shown = Mp4Track("", 0.0, matrix).shown(image)
        moved = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(2) for x in range(3)}
        left, top = (min(place[axis] for place in moved) for axis in (0, 1))
        assert shown.shape == ((3, 2, 3) if a == 0 else (2, 3, 3)) and shown.flags.c_contiguous
        assert all((shown[y - top, x - left] == pixel).all() for (x, y), pixel in moved.items())


@pytest.mark.parametrize("content", [b"", b"RIFF....AVI ", b"\0\0\0\x08ftyp", b"\0\0\0\1moov" + b"\xff" * 8, b"x" * 99])
def test_other_files_have_no_track(tmp_path, content):
    (tmp_path / "other.mp4").write_bytes(content)
    assert read_mp4_track(str(tmp_path / "other.mp4")) is None
    assert read_mp4_track(str(tmp_path / "missing.mp4")) is None


def test_damaged_headers_end_in_a_track_or_in_none(tmp_path, clip):
    """Sizes of every header box replaced by 0, 1 and the largest, and the headers cut at every sixteenth byte."""
    whole, file = clip.read_bytes(), tmp_path / "damaged.mp4"
    moov = box_at(whole, b"moov")
    damaged = [whole[:end] for end in range(moov, len(whole), 16)]
    for kind in (b"moov", b"mvhd", b"trak", b"tkhd", b"edts", b"elst", b"mdia", b"hdlr", b"minf", b"stbl", b"stsd"):
        for size in (0, 1, 7, 0xFFFFFFFF):
            content = bytearray(whole)
            struct.pack_into(">I", content, box_at(whole, kind), size)
            damaged.append(bytes(content))
    answers = set()
    for content in damaged:
        file.write_bytes(content)
        track = read_mp4_track(str(file))
        assert track is None or (track.codec in ("", "mp4v") and 0 <= track.shown_s <= 1.0)
        answers.add(track is None)
    assert answers == {True, False}
