"""Pictures of every kind and state of repair come in as RGB uint8, or as one line that says why not."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError
from utils.images import image_size, inspect_image, is_image, is_video, read_image, write_image

HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def picture():
    """(48, 80, 3) RGB: smooth, so that JPEG keeps it, with the four corners told apart by colour."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return np.stack((x * 255 / WIDTH, y * 255 / HEIGHT, 255 - x * 255 / WIDTH), -1).astype(np.uint8)


def _jpeg(picture, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".JPG"])
def test_written_pictures_come_back_as_rgb(tmp_path, picture, suffix):
    path = tmp_path / f"图像 ü{suffix}"
    write_image(path, picture)
    image, native = read_image(path)
    lossy = suffix.lower() in (".jpg", ".jpeg", ".webp")
    assert native == (HEIGHT, WIDTH) == image_size(path) == inspect_image(path).size
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.abs(image.astype(int) - picture).mean() <= (3 if lossy else 0)


def test_without_the_direct_rgb_flag_the_result_is_the_same(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.jpg"
    write_image(path, picture)
    direct = read_image(path)[0]
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
    assert np.array_equal(read_image(path)[0], direct)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_exif_orientation_is_applied_outside_jpeg_too(tmp_path, picture, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture).save(path, exif=exif)
    assert read_image(path)[1] == (WIDTH, HEIGHT) == image_size(path) == inspect_image(path).size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg(picture, exif=exif))
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture),
    }[orientation]
    image, native = read_image(path)
    assert native == turned.shape[:2] == image_size(path)
    assert np.abs(image.astype(int) - turned).mean() < 3
    reduced, native = read_image(path, max_side=40)
    assert native == turned.shape[:2] and reduced.shape[:2] == (native[0] // 2, native[1] // 2)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_other_pixel_formats_become_rgb(tmp_path, picture, mode):
    path = tmp_path / "a.png"
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    if mode == "I;16":
        cv2.imwrite(str(path), grey.astype(np.uint16) * 257)
    else:
        Image.fromarray(picture).convert(mode).save(path)
    image, _ = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    if mode in ("L", "LA", "I;16"):
        assert np.array_equal(image, np.repeat(grey[..., None], 3, 2))
    if mode == "RGBA":
        assert np.array_equal(image, picture)


def test_16_bit_tiff_keeps_its_high_byte_also_through_pillow(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.tif"
    deep = picture[..., 0].astype(np.uint16) * 257
    cv2.imwrite(str(path), deep)
    assert np.array_equal(read_image(path)[0][..., 0], picture[..., 0])
    monkeypatch.setattr(cv2, "imdecode", lambda raw, flags: None)
    assert np.array_equal(read_image(path)[0][..., 0], picture[..., 0])


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
def test_jpeg_is_decoded_no_smaller_than_wanted(tmp_path, picture, max_side, expected):
    path = tmp_path / "a.jpg"
    big = cv2.resize(picture, (1200, 800))
    write_image(path, big)
    image, native = read_image(path, max_side)
    assert image.shape[:2] == expected and native == (800, 1200)
    assert np.abs(image.astype(int) - cv2.resize(big, expected[::-1], interpolation=cv2.INTER_AREA)).mean() < 3


def test_png_is_never_reduced(tmp_path, picture):
    write_image(tmp_path / "a.png", picture)
    assert read_image(tmp_path / "a.png", 10)[0].shape == picture.shape


def test_jpeg_cut_short_is_used_with_a_warning_and_not_rewritten(tmp_path, picture):
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
        (b"this is text", "not a picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not a picture|Truncated|damaged"),
    ],
)
def test_what_is_no_picture_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for reader in (read_image, inspect_image, lambda path: read_image(path, 10)):
        with pytest.raises(DataError, match=rf"bad\.jpg.*({reason})"):
            reader(path)


def test_png_cut_short_is_refused(tmp_path, picture):
    path = tmp_path / "a.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(path)
    with pytest.raises(DataError, match=r"a\.png"):
        inspect_image(path)


def test_small_pictures_other_formats_and_missing_files_are_refused(tmp_path, picture):
    write_image(tmp_path / "small.png", picture[:9])
    with pytest.raises(DataError, match=r"small\.png.*at least 10"):
        inspect_image(tmp_path / "small.png")
    write_image(tmp_path / "ten.png", picture[:10])
    assert inspect_image(tmp_path / "ten.png").size == (10, WIDTH)
    Image.fromarray(picture).save(tmp_path / "moving.gif")
    (tmp_path / "moving.gif").rename(tmp_path / "moving.jpg")
    with pytest.raises(DataError, match=r"moving\.jpg.*GIF"):
        inspect_image(tmp_path / "moving.jpg")
    for reader in (read_image, image_size):
        with pytest.raises(DataError, match=r"gone\.jpg.*No such file"):
            reader(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"'\.xyz'"):
        write_image(tmp_path / "a.xyz", picture)


def test_floating_point_tiff_is_refused_with_a_reason(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "depth.tif")
    for reader in (read_image, inspect_image):  # who inspects pictures must not let through what training cannot read
        with pytest.raises(DataError, match=r"depth\.tif.*floating point"):
            reader(tmp_path / "depth.tif")


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_pictures_without_checksums_that_are_cut_short_are_refused(tmp_path, picture, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture).save(path)
    assert inspect_image(path).size == picture.shape[:2]
    path.write_bytes(path.read_bytes()[:-300])
    for reader in (read_image, inspect_image):
        with pytest.raises(DataError, match=rf"a\{suffix}.*truncated"):
            reader(path)


def test_suffixes():
    assert is_image("a/B.JPG") and is_image("x.webp") and not is_image("x.txt") and not is_image("x.gif")
    assert is_video("x.MP4") and is_video("x.gif") and not is_video("x.jpg")
