"""docs/gallery.md shows what tools/gallery.py draws, small and nothing else."""

import re

import gallery
import numpy as np
from PIL import Image

from utils.images import write_image


def test_the_page_shows_each_image_and_they_are_small():
    shown = re.findall(r"\(gallery/(.+?)\)", (gallery.ROOT / "docs" / "gallery.md").read_text(encoding="utf-8"))
    files = {file.name: file.stat().st_size for file in gallery.FOLDER.iterdir()}
    assert sorted(shown) == sorted(files) and len(files) == 10 and sum(files.values()) < gallery.BYTES


def test_a_copy_is_no_wider_than_a_page_needs(tmp_path):
    write_image(tmp_path / "large.png", np.zeros((400, 2000, 3), np.uint8))
    gallery.small_copy(tmp_path / "large.png", tmp_path / "new" / "small.jpg")
    with Image.open(tmp_path / "new" / "small.jpg") as image:
        assert image.size == (gallery.WIDTH, 400 * gallery.WIDTH // 2000)
