"""The data checker's page: one file without requests, with every finding, figure and image, in two languages."""

import base64
import io
import re

import pytest
from PIL import Image

from utils.datasets.check.check_page import check_page
from utils.datasets.check.findings import Finding, summarize_findings
from utils.images import write_image

FINDINGS = (
    Finding("/data/labels/a.txt", 3, "row-format", "4 values, <not> five", "train"),
    Finding("/data/labels/b.txt", 1, "row-format", "6 values", "val"),
    Finding("/data/images/c.jpg", 0, "picture-grey", "has no color", "val"),
)


def figures(objects):
    return {
        "pictures": 1200,
        "usable": 1199,
        "without_label_file": 2,
        "empty_label_file": 1,
        "objects": sum(objects),
        "objects_of_class": objects,
        "boxes": {"tiny_share": 0.125, "no_anchor_share": None},
    }


CONTENT = {
    "data": "/data/cells.yaml",
    "levels": {"fault": 2, "warning": 0, "note": 1},
    "classes": ["fault", "<b>细胞"],
    "splits": {"train": figures([70, 5]), "val": figures([8, 1])},
    "findings": summarize_findings(FINDINGS),
}


@pytest.fixture
def folder(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    write_image(tmp_path / "check.png", rng.integers(0, 256, (900, 1500, 3), dtype=np.uint8))  # too large to embed
    write_image(tmp_path / "sheet_val.jpg", np.zeros((40, 60, 3), np.uint8))
    return tmp_path


def body(page):
    return re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_has_what_was_found_with_what_to_do(folder):
    page = check_page(CONTENT, FINDINGS, folder)
    text = body(page)
    assert "<h1>Dataset check: cells.yaml</h1>" in text and "2 faults, 0 warnings, 1 note" in text
    assert text.count("4 values, &lt;not&gt; five<") == 2  # the first example, and the finding itself
    assert "write class x_center y_center width height, or a polygon; the row is dropped" in text
    assert ">1,200<" in text and ">12.5<" in text and "there are no boxes to compare" in text
    assert "&lt;b&gt;细胞" in text and "<b>" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is requested


def test_its_images_are_inside_and_small(folder):
    page = check_page(CONTENT, FINDINGS, folder)
    images = re.findall(r'<img alt="([^"]+)" src="data:image/(\w+);base64,([^"]+)"', page)
    assert [(alt, kind) for alt, kind, _ in images] == [
        ("Plots of classes, boxes, image sizes and findings", "jpeg"),
        ("Images of val with their labels", "jpeg"),
    ]
    with Image.open(io.BytesIO(base64.b64decode(images[0][2]))) as image:
        assert image.size == (1200, 720)


def test_in_chinese_the_names_of_classes_stay(folder):
    page = check_page(CONTENT, FINDINGS, folder, "zh")
    text = body(page)
    assert '<html lang="zh-CN">' in page and "<h1>数据集检查: cells.yaml</h1>" in text
    assert "2 个错误，0 个警告，1 个提示" in text
    assert "该行被忽略" in text and "val 的图像及其标签" in text
    assert '<th scope="row" data-value="fault">fault</th>' in text  # a class of this name
    without_rows = re.sub(r"<[^>]+>|x_center y_center width height|has no color|4 values.*?five", " ", text)
    assert not re.search(r"[A-Za-z]+ [a-z]+ [a-z]+", without_rows)


def test_a_clean_dataset_says_so(tmp_path):
    text = body(check_page({**CONTENT, "findings": {}, "levels": {"fault": 0, "warning": 0, "note": 0}}, (), tmp_path))
    assert "Nothing was found." in text and "Each finding" not in text
