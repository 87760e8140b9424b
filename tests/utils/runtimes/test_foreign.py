"""What files say of themselves: export.py's texts, YOLOv5's own, and damaged ones."""

import json

import pytest

from utils.errors import CheckpointError
from utils.runtimes.foreign import declared_shape, folder_texts, read_metadata, texts_of_json
from utils.runtimes.metadata import ExportMetadata
from utils.runtimes.protocol import InputShape

FIXED, OPEN = InputShape(2, 64, 96), InputShape(None, None, None)


@pytest.mark.parametrize(
    "names", ["{0: 'a', 1: \"b's\"}", "['a', \"b's\"]", '["a", "b\'s"]', '{"1": "b\'s", "0": "a"}'],
    ids=["dict", "list", "json", "json-dict"],
)  # fmt: skip
def test_texts_of_yolov5(names):
    own = read_metadata({"stride": "32", "names": names}, "x.onnx", FIXED)
    assert (own.names, own.stride, own.imgsz, own.batch, own.dynamic) == (("a", "b's"), 32, (64, 96), 2, False)
    assert read_metadata({"stride": "32", "names": names}, "x.onnx", OPEN).dynamic


def test_eleven_classes_come_in_the_order_of_their_ids():
    names = {str(index): f"n{index}" for index in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)}
    own = read_metadata({"stride": "32", "names": json.dumps(names)}, "x.onnx", OPEN)
    assert own.names == tuple(f"n{index}" for index in range(11))


def test_config_txt_of_v61_has_the_shape():
    text = json.dumps({"shape": [1, 3, 320, 416], "stride": 32, "names": ["a"]})
    own = read_metadata(texts_of_json(text, "x.torchscript"), "x.torchscript")
    assert declared_shape(own) == InputShape(1, 320, 416)


def test_our_texts_are_ours_and_the_graph_counts_more():
    written = ExportMetadata(("a",), 32, (64, 64), dynamic=True, variant="yolov5n", nms=True)
    own = read_metadata(texts_of_json(written.as_json(), "x"), "x")
    assert own == written and declared_shape(own) == OPEN
    assert read_metadata(written.as_text(), "x", FIXED).imgsz == (64, 96)
    assert not read_metadata(written.as_text(), "x", FIXED).dynamic


def test_the_yaml_of_yolov5s_openvino_folders(tmp_path):
    (tmp_path / "yolov5n.yaml").write_text("stride: 32\nnames:\n  0: a\n  1: b\n")
    assert read_metadata(folder_texts(tmp_path), "x", FIXED).names == ("a", "b")
    (tmp_path / "metadata.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="metadata is damaged"):
        folder_texts(tmp_path)


@pytest.mark.parametrize(
    "texts, words",
    [
        ({}, "no metadata of a detector (stride, names missing)"),
        ({"stride": "32"}, "(names missing)"),
        ({"stride": "32", "names": "__import__('os').getcwd()"}, "names is"),
        ({"stride": "32", "names": "[1, 2]"}, "names is [1, 2]"),
        ({"stride": "32", "names": "[]"}, "names is []"),
        ({"stride": "32", "names": "[" * 100_000}, "names is"),
        ({"stride": "-1", "names": "['a']"}, "stride is -1"),
        ({"stride": "'x'", "names": "['a']"}, "stride is 'x'"),
        ({"stride": "32", "names": "['a']", "task": "segment"}, "its task is segment"),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(texts, words):
    with pytest.raises(CheckpointError) as caught:
        read_metadata(texts, "x.onnx", FIXED)
    assert words in str(caught.value) and str(caught.value).startswith("x.onnx: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_shape_that_nothing_declares_is_missed():
    with pytest.raises(CheckpointError, match=r"\(shape missing\)"):
        read_metadata({"stride": "32", "names": "['a']"}, "x.torchscript")
