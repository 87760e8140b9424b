"""Lists of images as CVAT, datumaro, Windows and other machines write them."""

import os
import unicodedata

import pytest

from utils.config.moved_paths import Repair, find_moved, parts_of
from utils.datasets.image_lists import read_image_list
from utils.datasets.label_files import list_images
from utils.errors import DataError

NAMES = ("a.jpg", "b.jpg", "sub/c.png", "é.jpg")


@pytest.fixture
def export(tmp_path):
    """export(line per image) writes and returns train.txt beside obj_train_data/: the layout of CVAT's YOLO 1.1."""
    for name in NAMES:
        path = tmp_path / "cells" / "obj_train_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def write(form, names=NAMES, ending="\n"):
        file = tmp_path / "cells" / "train.txt"
        file.write_bytes("".join(form(name) + ending for name in names).encode())
        return file

    return write


def there(file):
    return [os.path.join(file.parent, "obj_train_data", *name.split("/")) for name in NAMES]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda name: f"data/obj_train_data/{name}", "without the leading 'data/'"),
        (lambda name: f"/home/bob/old/obj_train_data/{name}", "without the leading 'home/bob/old/'"),
        (lambda name: f"../old/obj_train_data/{name}", "without the leading '../old/'"),
        (lambda name: f"D:/data/obj_train_data/{name}", "without the leading 'D:/data/'"),
        (
            lambda name: "C:\\My Data\\obj_train_data\\" + name.replace("/", "\\"),
            "without the leading 'C:/My Data/' and with backslashes as slashes",
        ),
        (lambda name: ".\\obj_train_data\\" + name.replace("/", "\\"), "with backslashes as slashes"),
        (lambda name: f"obj_train_data\\{name}", "with backslashes as slashes"),
        (lambda name: f"Obj_Train_Data/{name.upper()}", "with upper and lower case as on this disk"),
        (lambda name: f"obj_train_data/{unicodedata.normalize('NFD', name)}", "upper and lower case"),  # as on a Mac
    ],
)
def test_a_list_from_elsewhere_is_read_and_the_note_says_how(export, form, words):
    images = read_image_list(export(form, ending="\r\n"))
    assert list(images.paths) == there(images.file) and not images.missing
    assert words in images.note and "images named in train.txt exist, first" in images.note


def test_a_list_that_is_right_is_left_alone(export):
    for form in ("./obj_train_data/{}", "obj_train_data/{}", '"obj_train_data/{}"'):
        images = read_image_list(export(form.format))
        assert images.note == "" and len(images.paths) == 4 and not images.missing


def test_the_folder_above_the_list_is_tried_too(export):
    file = export("/old/cells/obj_train_data/{}".format)
    (file.parent / "ImageSets").mkdir()
    moved = file.rename(file.parent / "ImageSets" / "train.txt")
    assert list(read_image_list(moved).paths) == there(file)


def test_missing_images_are_counted_with_the_first_line(export):
    file = export("data/scans/{}".format)
    with pytest.raises(DataError) as raised:
        list_images(file)
    assert str(raised.value) == (
        f"{file}: 0 of 4 images named in train.txt exist, first: line 1 data/scans/a.jpg; "
        f"looked below {file.parent}; put the images there, or correct the lines"
    )


def test_a_repair_that_finds_some_only_is_named_and_not_taken(export):
    file = export("data/obj_train_data/{}".format, (*NAMES, "gone.jpg"))
    with pytest.raises(
        DataError, match=r"0 of 5 images .*; without the leading 'data/' \(obj_train_data/a\.jpg\) 4 of 5"
    ):
        list_images(file)


def test_some_missing_images_are_logged_and_stay_in_the_list(export, caplog):
    file = export("obj_train_data/{}".format, (*NAMES, "gone.jpg"))
    assert len(list_images(file)) == 5
    assert "4 of 5 images named in train.txt exist, first missing: line 5 obj_train_data/gone.jpg" in caplog.text


def test_two_lines_never_become_one_image(tmp_path):
    (tmp_path / "a.jpg").touch()
    file = tmp_path / "train.txt"
    file.write_text("x/a.jpg\ny/a.jpg\n")
    with pytest.raises(DataError, match="0 of 2 images"):
        read_image_list(file)


def test_case_that_fits_two_files_is_not_guessed(tmp_path):
    for name in ("A.jpg", "a.jpg"):
        (tmp_path / name).touch()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the disk takes upper and lower case as one")
    (tmp_path / "train.txt").write_text("a.JPG\n")
    with pytest.raises(DataError, match="0 of 1 images"):
        read_image_list(tmp_path / "train.txt")


def test_parts_and_words():
    assert parts_of("C:\\a\\.\\b.jpg") == ["C:", "a", "b.jpg"]
    assert (
        Repair(2, True).words("/a/b/c.jpg")
        == "without the leading 'a/b/' and with upper and lower case as on this disk"
    )


def test_a_folder_keeps_two_names_so_that_splits_stay_apart(tmp_path):
    (tmp_path / "images").mkdir()
    assert find_moved(tmp_path, "/content/train/images") is None
    assert find_moved(tmp_path, "../images") == (tmp_path / "images", "without the leading '../'")
