"""Previews, pages, unused sample ranges and damaged data are found in files that decoders take without complaint."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.datasets.check.findings import KINDS
from utils.datasets.check.inspection import inspect_image_and_labels
from utils.datasets.check.jpeg_data import jpeg_damage
from utils.datasets.check.tiff_pages import read_pages
from utils.datasets.drawn_shapes import draw_scene
from utils.images import inspect_image, read_image


def findings(path):
    """(kind, what) of what is found about the image itself."""
    path.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    found = inspect_image_and_labels(str(path), ["item"]).findings
    return [(one.kind, one.what) for one in found if one.file == str(path) and one.kind != "picture-grey"]


def scene(seed, size=320):
    return draw_scene(np.random.default_rng(seed), size)[0]


def jpeg(seed=0, **options):
    stream = io.BytesIO()
    Image.fromarray(scene(seed)).save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


# samples


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_images_that_use_less_than_an_eighth(tmp_path, suffix, channels):
    samples = np.random.default_rng(0).integers(0, 4096, (40, 50, channels), np.uint16)
    samples[0, 0] = 4095
    if channels == 4:
        samples[..., 3] = 65535  # alpha is no sample of the image
    path = tmp_path / f"a.{suffix}"
    for largest, expected in ((4095, True), (8191, True), (8192, False)):
        samples[0, 0, : min(channels, 3)] = largest
        cv2.imwrite(str(path), samples.squeeze())
        read = int(read_image(path)[0].max())
        assert abs(read - largest / 256) <= 1
        what = f"its largest 16-bit sample is {largest} of 65535, which is read as {read} of 255"
        assert findings(path) == ([("picture-unused-range", what)] if expected else [])


def test_8_bit_images_may_be_dark_and_16_bits_may_count_down(tmp_path):
    dark = np.random.default_rng(0).integers(0, 16, (40, 50), np.uint8)
    cv2.imwrite(str(tmp_path / "dark.png"), dark)
    assert findings(tmp_path / "dark.png") == []
    samples = 65535 - np.random.default_rng(0).integers(0, 4096, (40, 50), np.uint16)
    samples[0, 0] = 65535 - 4095
    Image.fromarray(samples).save(tmp_path / "white.tif", tiffinfo={262: 0})  # the smallest sample is white
    (one,) = findings(tmp_path / "white.tif")
    assert one[1] == "its largest 16-bit sample is 4095 of 65535, which is read as 15 of 255"
    Image.fromarray(65535 - samples).save(tmp_path / "bright.tif", tiffinfo={262: 0})
    assert findings(tmp_path / "bright.tif") == []


# pages


def tiff_with_preview(order="<", sub=True):
    """A TIFF whose first page is a preview of 40 x 30; its image of 400 x 300 is a sub-directory or page 2."""
    small, large = np.zeros(40 * 30, np.uint8), np.zeros(400 * 300, np.uint8)
    data_at = 8 + 2 * (2 + 12 * 10 + 4)
    second_at = 8 + 2 + 12 * 10 + 4

    def directory(width, height, kind, at, following, below):
        tags = [(254, 4, kind), (256, 3, width), (257, 3, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, at)]
        tags += [(278, 3, height), (279, 4, width * height), (330, 4, below) if below else (305, 4, 0)]
        entries = b""
        for tag, form, value in sorted(tags):
            held = struct.pack(f"{order}HH", value, 0) if form == 3 else struct.pack(f"{order}I", value)
            entries += struct.pack(f"{order}HHI", tag, form, 1) + held
        return struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", following)

    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    first = directory(40, 30, 1, data_at, 0 if sub else second_at, second_at if sub else 0)
    second = directory(400, 300, 0, data_at + small.size, 0, 0)
    return (
        head + first + second + (small + 9).tobytes() + (large + np.arange(large.size) % 251).astype(np.uint8).tobytes()
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("sub", [True, False])
@pytest.mark.parametrize("suffix", ["tif", "dng"])
def test_a_first_page_that_is_a_preview(tmp_path, order, sub, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(tiff_with_preview(order, sub))
    found = findings(path)
    assert ("picture-preview", "its first page is a preview, 40 x 30, of 400 x 300") in found
    assert [kind for kind, _ in found] == ["picture-preview", "picture-blank"]
    assert [(page.width, page.height, page.is_preview, page.is_main) for page in read_pages(path)] == [
        (40, 30, True, True),
        (400, 300, False, not sub),
    ]
    assert KINDS["picture-preview"].level == "fault"


@pytest.mark.parametrize("big", [False, True])
def test_pages_that_are_not_read(tmp_path, big):
    first, second = Image.fromarray(scene(1, 64)), Image.fromarray(scene(2, 96))
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=[second, first], big_tiff=big)
    assert findings(path) == [("picture-pages", "has 3 pages (64 x 64, 96 x 96), of which the first is read")]
    first.save(path, big_tiff=big)
    assert findings(path) == []
    second.save(path, save_all=True, append_images=[first], tiffinfo={254: 0}, big_tiff=big)
    raw = bytearray(path.read_bytes())
    assert findings(path)[0][0] == "picture-pages"
    marks = [place for place in range(len(raw)) if raw[place : place + 4] == b"\xfe\x00\x04\x00"]
    raw[marks[1] + (12 if big else 8)] = 1  # the second page is a preview of the first
    path.write_bytes(raw)
    assert findings(path) == []


def test_directories_that_are_circular_or_cut_off_end(tmp_path):
    path = tmp_path / "a.tif"
    raw = bytearray(tiff_with_preview(sub=False))
    struct.pack_into("<I", raw, 8 + 2 * (2 + 12 * 10 + 4) - 4, 8)  # the second page is followed by the first
    path.write_bytes(raw)
    assert len(read_pages(path)) == 2
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(raw[: int(rng.integers(0, len(raw)))] if rng.random() < 0.3 else raw)
        for place in rng.integers(0, min(len(changed), 256) or 1, 4) if changed else ():
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        assert len(read_pages(path)) <= 1000
    path.write_bytes(b"no tiff")
    assert read_pages(path) == []


# damage


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
@pytest.mark.parametrize(
    "behind", [b"", b"\x00" * 100, b"\xff\xd8 another image \xff\xd9"], ids=["end", "zeros", "image"]
)
def test_sound_jpegs_are_sound(options, behind):
    assert [jpeg_damage(jpeg(seed, **options) + behind) for seed in range(6)] == [""] * 6
    stream = io.BytesIO()
    flat = np.full((320, 320, 3), 128, np.uint8)
    flat[:100, :100] = scene(0, 100)
    Image.fromarray(flat).save(stream, "JPEG", **options)
    assert jpeg_damage(stream.getvalue() + behind) == ""


def damaged(raw, kind):
    middle, changed = len(raw) // 2, bytearray(raw)
    if kind == "removed":
        del changed[middle : middle + 512]
    elif kind == "zeros":
        changed[middle : middle + 2048] = bytes(2048)
    elif kind == "random":
        changed[middle : middle + 2048] = np.random.default_rng(0).bytes(2048)
    elif kind == "inserted":
        changed[middle:middle] = bytes((index * 7 + 1) % 253 for index in range(2048))
    return bytes(changed)


@pytest.mark.parametrize(
    ("options", "kind", "what"),
    [
        ({}, "removed", "end before the image is complete"),
        ({}, "zeros", "data"),
        ({}, "random", "marker"),
        ({}, "inserted", "data are left when the image is complete"),
        ({"restart_marker_rows": 1}, "zeros", "restart marker"),
        ({"restart_marker_rows": 1}, "removed", "restart marker"),
        ({"progressive": True}, "random", "broken data stream"),
    ],
)
def test_damage_between_a_sound_header_and_end(tmp_path, options, kind, what):
    path = tmp_path / "a.jpg"
    path.write_bytes(damaged(jpeg(**options), kind))
    assert not inspect_image(path).warning  # what training sees before it begins
    found = [text for name, text in findings(path) if name in ("picture-damaged", "picture-unreadable")]
    assert len(found) == 1 and what in found[0]


def test_data_that_cannot_be_unpacked(tmp_path):
    """OpenCV goes on behind damaged TIFF data; a PNG with sound checksums and short data is decoded by nobody."""
    path = tmp_path / "a.tif"
    Image.fromarray(scene(0)).save(path, compression="tiff_lzw")
    assert findings(path) == []
    path.write_bytes(damaged(path.read_bytes(), "random"))
    (one,) = findings(path)
    assert one[0] == "picture-damaged" and one[1].startswith("the data cannot be unpacked: ")
    png = tmp_path / "b.png"
    data = zlib.compress(bytes(100))  # of 64 rows with 1 + 3 * 64 bytes

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    png.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    assert inspect_image(png).size == (64, 64)
    assert [kind for kind, _ in findings(png)] == ["picture-unreadable"]


def test_real_images_are_sound(real):
    paths = [*real("bccd").rglob("*.jpg"), *real("coco_val128").rglob("*.jpg"), *real("images").glob("*.jpg")]
    assert len(paths) > 400 and [path for path in paths if jpeg_damage(path.read_bytes())] == []


def test_any_bytes_are_survived():
    raw, rng = jpeg(), np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(raw[: int(rng.integers(0, len(raw)))])
        for place in rng.integers(0, len(changed) or 1, 8) if changed else ():
            changed[place] = rng.integers(256)
        assert isinstance(jpeg_damage(bytes(changed)), str)
