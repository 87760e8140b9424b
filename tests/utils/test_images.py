"""Images of every format, whole or damaged, are read as RGB uint8, or refused in one line that says why."""

import errno
import io
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError
from utils.files import ROOT
from utils.images import (
    IMAGE_SUFFIXES,
    image_size,
    inspect_image,
    is_image,
    is_video,
    read_image,
    writable_name,
    write_image,
)

HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def rgb():
    """(48, 80, 3) RGB: smooth, so that JPEG keeps it, with the four corners of different colors."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return np.stack((x * 255 / WIDTH, y * 255 / HEIGHT, 255 - x * 255 / WIDTH), -1).astype(np.uint8)


def _jpeg(rgb, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".JPG"])
def test_written_images_come_back_as_rgb(tmp_path, rgb, suffix):
    path = tmp_path / f"图像 ü{suffix}"
    write_image(path, rgb)
    image, native = read_image(path)
    lossy = suffix.lower() in (".jpg", ".jpeg", ".webp")
    assert native == (HEIGHT, WIDTH) == image_size(path) == inspect_image(path).size
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.abs(image.astype(int) - rgb).mean() <= (3 if lossy else 0)


def test_without_the_direct_rgb_flag_the_result_is_the_same(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.jpg"
    write_image(path, rgb)
    direct = read_image(path)[0]
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
    assert np.array_equal(read_image(path)[0], direct)  # one decoder, and channels that change places


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_exif_orientation_is_applied_outside_jpeg_too(tmp_path, rgb, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rgb).save(path, exif=exif)
    assert read_image(path)[1] == (WIDTH, HEIGHT) == image_size(path) == inspect_image(path).size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg(rgb, exif=exif))
    rotated = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1),
        7: rgb[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(rgb),
    }[orientation]
    image, native = read_image(path)
    assert native == rotated.shape[:2] == image_size(path)
    assert np.abs(image.astype(int) - rotated).mean() < 3
    reduced, native = read_image(path, max_side=40)
    assert native == rotated.shape[:2] and reduced.shape[:2] == (native[0] // 2, native[1] // 2)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_other_pixel_formats_become_rgb(tmp_path, rgb, mode):
    path = tmp_path / "a.png"
    gray = np.asarray(Image.fromarray(rgb).convert("L"))
    if mode == "I;16":
        cv2.imwrite(str(path), gray.astype(np.uint16) * 257)
    else:
        Image.fromarray(rgb).convert(mode).save(path)
    image, _ = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    if mode in ("L", "LA", "I;16"):  # formats without loss, and whole numbers
        assert np.array_equal(image, np.repeat(gray[..., None], 3, 2))
    if mode == "RGBA":
        assert np.array_equal(image, rgb)


def test_16_bit_tiff_keeps_its_high_byte_also_through_pillow(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.tif"
    deep = rgb[..., 0].astype(np.uint16) * 257
    cv2.imwrite(str(path), deep)
    assert np.array_equal(read_image(path)[0][..., 0], rgb[..., 0])
    monkeypatch.setattr(cv2, "imdecode", lambda raw, flags: None)
    assert np.array_equal(read_image(path)[0][..., 0], rgb[..., 0])


@pytest.mark.parametrize(
    "max_side, expected",
    [
        (None, (800, 1200)),
        (601, (800, 1200)),
        (600, (400, 600)),
        (301, (400, 600)),
        (300, (200, 300)),
        (150, (100, 150)),
        (20, (100, 150)),
    ],
)
def test_jpeg_is_decoded_no_smaller_than_wanted(tmp_path, rgb, max_side, expected):
    path = tmp_path / "a.jpg"
    big = cv2.resize(rgb, (1200, 800))
    write_image(path, big)
    image, native = read_image(path, max_side)
    assert image.shape[:2] == expected and native == (800, 1200)
    assert np.abs(image.astype(int) - cv2.resize(big, expected[::-1], interpolation=cv2.INTER_AREA)).mean() < 3


def test_png_is_never_reduced(tmp_path, rgb):
    write_image(tmp_path / "a.png", rgb)
    assert read_image(tmp_path / "a.png", 10)[0].shape == rgb.shape


def test_jpeg_cut_short_is_used_with_a_warning_and_not_rewritten(tmp_path, rgb):
    whole = _jpeg(np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8))
    path = tmp_path / "a.jpg"
    for part, word in (
        (whole[: len(whole) // 2], "cut short"),
        (whole[:-2], "cut short"),
        (whole + b"\0\0junk", ""),
        (whole, ""),
    ):
        path.write_bytes(part)
        header = inspect_image(path)
        assert header.size == (160, 160) and (word in header.warning if word else header.warning == "")
        assert read_image(path)[0].shape == (160, 160, 3)
        assert path.read_bytes() == part


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty|damaged"),
        (b"this is text", "not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not an image|Truncated|damaged"),
    ],
)
def test_what_is_no_image_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for reader in (read_image, inspect_image, lambda path: read_image(path, 10)):
        with pytest.raises(DataError, match=rf"bad\.jpg.*({reason})"):
            reader(path)


def test_png_cut_short_is_refused(tmp_path, rgb):
    path = tmp_path / "a.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)
    with pytest.raises(DataError, match=r"a\.png"):
        inspect_image(path)


def test_small_images_other_formats_and_missing_files_are_refused(tmp_path, rgb):
    write_image(tmp_path / "small.png", rgb[:9])
    with pytest.raises(DataError, match=r"small\.png.*at least 10"):
        inspect_image(tmp_path / "small.png")
    write_image(tmp_path / "ten.png", rgb[:10])
    assert inspect_image(tmp_path / "ten.png").size == (10, WIDTH)
    Image.fromarray(rgb).save(tmp_path / "moving.gif")
    (tmp_path / "moving.gif").rename(tmp_path / "moving.jpg")
    with pytest.raises(DataError, match=r"moving\.jpg.*GIF"):
        inspect_image(tmp_path / "moving.jpg")
    for reader in (read_image, image_size):
        with pytest.raises(DataError, match=r"gone\.jpg.*No such file"):
            reader(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"'\.xyz'"):
        write_image(tmp_path / "a.xyz", rgb)


def test_floating_point_tiff_is_refused_with_a_reason(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "depth.tif")
    for reader in (read_image, inspect_image):  # an inspection must not accept what training cannot read
        with pytest.raises(DataError, match=r"depth\.tif.*floating point"):
            reader(tmp_path / "depth.tif")


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_images_without_checksums_that_are_cut_short_are_refused(tmp_path, rgb, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rgb).save(path)
    assert inspect_image(path).size == rgb.shape[:2]
    path.write_bytes(path.read_bytes()[:-300])
    for reader in (read_image, inspect_image):
        with pytest.raises(DataError, match=rf"a\{suffix}.*truncated"):
            reader(path)


def test_suffixes():
    assert is_image("a/B.JPG") and is_image("x.webp") and not is_image("x.txt") and not is_image("x.gif")
    assert is_video("x.MP4") and is_video("x.gif") and not is_video("x.jpg")


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".heic", ".JPG", ""])
def test_names_under_which_images_can_be_written(tmp_path, suffix):
    rgb, name = np.full((12, 16, 3), 90, np.uint8), f"a.b{suffix}"
    if writable_name(name) == name:
        write_image(tmp_path / name, rgb)
        assert read_image(tmp_path / name)[1] == (12, 16)
        return
    with pytest.raises(DataError) as caught:
        write_image(tmp_path / name, rgb)
    # .b or nothing was refused, and no suffix that is refused is listed as one to use
    assert suffix not in str(caught.value).partition("use one of")[2].split(", ") and not list(tmp_path.iterdir())
    write_image(tmp_path / writable_name(name), rgb)
    assert [file.suffix for file in tmp_path.iterdir()] == [".jpg"]


def test_an_image_too_large_for_its_format_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a.jpg: 70000 x 2 pixels cannot be written as .jpg"):
        write_image(tmp_path / "a.jpg", np.zeros((2, 70_000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_not_the_images_fault(tmp_path, monkeypatch, number):
    def half(path, content):
        path.open("wb").close()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(type(tmp_path), "write_bytes", half)
    with pytest.raises(OSError) as caught:
        write_image(tmp_path / "a.png", np.zeros((12, 16, 3), np.uint8))
    assert caught.value.filename == str(tmp_path / "a.png") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("read", [read_image, image_size, inspect_image])
def test_what_is_no_file_is_not_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for whoever writes to it
    (tmp_path / "folder.jpg").mkdir()
    for name, kind in (("pipe.jpg", "pipe"), ("folder.jpg", "folder")):
        with pytest.raises(DataError, match=f"{name}: is a {kind}, not a file"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read: embedded null"):
        read("a\0.jpg")


def test_a_large_image_is_read_without_a_line_of_pillow(tmp_path, rgb):
    path = tmp_path / "a.png"
    write_image(path, rgb)
    code = f"""
from PIL import Image
from utils import log
from utils.images import image_size
log.configure()
Image.MAX_IMAGE_PIXELS = {rgb.shape[0] * rgb.shape[1] - 1}
print(image_size({str(path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (str(rgb.shape[:2]), "")
