"""Every mistake in a model yaml ends in one line that names file, row, sources, shapes and the remedy."""

import os

import pytest

from models.graph.architecture import find_yaml
from models.graph.spec import read_spec
from models.yolo import Model
from utils.errors import ModelError
from utils.files import ROOT

TEXT = (ROOT / "models" / "yolov5n.yaml").read_text()
SPPF = "[-1, 1, SPPF, [1024, 5]]"
LATERAL = "[-1, 1, Conv, [512, 1, 1]]"
JOIN = "[[-1, 6], 1, Concat, [1]]"
C3 = "[-1, 3, C3, [128]]"
STEM = "[-1, 1, Conv, [64, 6, 2, 2]]"
DETECT = "[[17, 20, 23], 1, Detect, [nc, anchors]]"

MISTAKES = {
    "unknown block": (
        SPPF,
        "[-1, 1, SPFF, [1024, 5]]",
        ["layer 9 (backbone row 10) SPFF", "did you mean SPPF", "layer 8 C3 (1, 256, 4, 4)"],
    ),
    "block without nn.": ("nn.Upsample", "Upsample", ["layer 11 (head row 2)", "did you mean nn.Upsample"]),
    "misspelt torch module": ("nn.Upsample", "nn.Upsampel", ["did you mean nn.Upsample"]),
    "wrong channel": (
        LATERAL,
        "[-1, 1, CoTAttention, [512]]",
        ["layer 10 (head row 1) CoTAttention", "512 channels", "256 arrive", "layer 9 SPPF (1, 256, 4, 4)"],
    ),
    "reads itself": (
        JOIN,
        "[[-1, 12], 1, Concat, [1]]",
        [
            "layer 12 (head row 3) Concat",
            "source 12 is the layer itself",
            "0 to 11: 0 Conv (1, 16, 64, 64), 1 Conv",
            "11 Upsample (1, 128, 8, 8) [it reads layer 11 Upsample (1, 128, 8, 8)]",
        ],
    ),
    "reads a later layer": (JOIN, "[[-1, 20], 1, Concat, [1]]", ["source 20 comes later", "0 to 11"]),
    "reads before the first": (
        JOIN,
        "[[-1, -60], 1, Concat, [1]]",
        ["source -60 reaches 48 before layer 0", "-1 to -12", "10 Conv (1, 128, 4, 4)"],
    ),
    "reads the second but first": (
        STEM,
        "[-2, 1, Conv, [64, 6, 2, 2]]",
        ["layer 0", "the first layer reads the image, -1"],
    ),
    "source is a word": (C3, "[x, 3, C3, [128]]", ["layer 2", "got 'x'"]),
    "no source": (C3, "[[], 3, C3, [128]]", ["reads no layer"]),
    "unequal maps": (
        JOIN,
        "[[-1, 4], 1, Concat, [1]]",
        ["differ in height and width", "layer 11 Upsample (1, 128, 8, 8)", "layer 4 C3 (1, 64, 16, 16)"],
    ),
    "several sources for one": (
        "[-1, 1, Conv, [512, 3, 2]]",
        "[[-1, 3], 1, Conv, [512, 3, 2]]",
        ["takes one source, got 2", "Concat"],
    ),
    "repeated join": (JOIN, "[[-1, 6], 9, Concat, [1]]", ["layer 12", "cannot repeat 3 times"]),
    "falling strides": (
        DETECT,
        "[[23, 20, 17], 1, Detect, [nc, anchors]]",
        ["layer 24", "strides must increase, got 32, 16, 8", "layer 23 C3 (1, 256, 4, 4)"],
    ),
    "equal strides": (DETECT, "[[17, 16, 20], 1, Detect, [nc, anchors]]", ["strides must increase, got 8, 8, 16"]),
    "anchors and inputs": (DETECT, "[[17, 20], 1, Detect, [nc, anchors]]", ["anchors has 3 rows for 2 inputs"]),
    "uneven anchors": ("[30,61, 62,45, 59,119]", "[30,61, 62,45, 59]", ["same number of w,h pairs", "[6, 5, 6]"]),
    "anchor of no size": ("[30,61, 62,45, 59,119]", "[30,61, 62,45, 59,0]", ["above 0"]),
    "anchors are a word": ("anchors:\n", "anchors: three\nboxes:\n", ["anchors must be a list", "'three'"]),
    "too many arguments": (
        SPPF,
        "[-1, 1, SPPF, [1024, 5, 6, 7]]",
        ["too many positional arguments", "c_in, c_out, kernel"],
    ),
    "argument of a wrong type": (
        STEM,
        "[-1, 1, Conv, [64, 6.5, 2, 2]]",
        ["layer 0", "cannot be built from [3, 16, 6.5, 2, 2]", "the image (1, 3, 128, 128)"],
    ),
    "width is a word": (STEM, "[-1, 1, Conv, [wide, 6, 2, 2]]", ["number of output channels", "'wide'"]),
    "kernel larger than the map": (
        SPPF,
        "[-1, 1, Conv, [1024, 9, 1, 0]]",
        ["layer 9", "fails on what it reads", "layer 8 C3"],
    ),
    "joined along the wrong axis": (JOIN, "[[-1, 6], 1, Concat, [2]]", ["returns 128 channels", "plans 256"]),
    "misspelt key": ("depth_multiple", "depth_mutiple", ["'depth_multiple' is missing", "the file has depth_mutiple"]),
    "scale is a word": ("width_multiple: 0.25", "width_multiple: quarter", ["width_multiple must be a number above 0"]),
    "nc is a word": ("nc: 80", "nc: eighty", ["nc must be a whole number"]),
    "no rows": ("backbone:\n", "backbone: none\nrest:\n", ["backbone must be a list"]),
    "short row": (C3, "[-1, 3, C3]", ["layer 2 (backbone row 3)", "a row is [from, number, module, args]"]),
    "arguments not a list": (C3, "[-1, 3, C3, 128]", ["fourth entry is a list", "got 128"]),
    "no repeats": (C3, "[-1, 0, C3, [128]]", ["at least 1, got 0"]),
    "block is a number": (C3, "[-1, 3, 3, [128]]", ["the third entry is the block's name"]),
    "no head": (f"  - {DETECT}", "", ["layer 23", "last row must be a detection head"]),
    "head in the middle": (SPPF, "[[4, 6, 8], 1, Detect, [nc, anchors]]", ["layer 9", "must be the last row"]),
    "code in an argument": (
        SPPF,
        "[-1, 1, SPPF, [1024, \"__import__('os').mkdir('executed')\"]]",
        ["layer 9", "cannot be built"],
    ),
    "not yaml": ("head:", "head: [", ["not valid yaml"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right, wrong, expected = MISTAKES[mistake]
    assert right in TEXT
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace(right, wrong, 1))
    with pytest.raises(ModelError) as caught:
        Model(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert all(part in message for part in expected), message
    assert os.listdir(tmp_path) == ["mine.yaml"]


def test_the_line_in_the_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace(SPPF, "[-1, 1, SPFF, [1024, 5]]"))
    line = TEXT[: TEXT.index(SPPF)].count("\n") + 1
    with pytest.raises(ModelError, match=rf"mine\.yaml:{line}: layer 9"):
        Model(path)


def test_a_dictionary_has_rows_but_no_lines():
    content = read_spec("yolov5n.yaml").yaml
    content["backbone"][9][2] = "SPFF"
    with pytest.raises(ModelError, match=r"^model yaml: layer 9 \(backbone row 10\) SPFF"):
        Model(content)


@pytest.mark.parametrize("text", ["", "just words", "- 1\n- 2\n"])
def test_files_that_are_no_model_yaml(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match="not a model yaml"):
        Model(path)


def test_anchor_tables_are_no_model():
    with pytest.raises(ModelError, match="'nc' is missing"):
        Model("anchors.yaml")


def test_find_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_yaml("yolov5s.yaml") == ROOT / "models" / "yolov5s.yaml"
    assert find_yaml("yolov5s6.yaml") == ROOT / "models" / "hub" / "yolov5s6.yaml"
    assert find_yaml("models/hub/yolov3.yaml") == ROOT / "models" / "hub" / "yolov3.yaml"
    (tmp_path / "yolov5s.yaml").write_text("")
    assert str(find_yaml("yolov5s.yaml")) == "yolov5s.yaml"
    with pytest.raises(ModelError, match="does not exist .did you mean yolov5x.yaml|did you mean .*yolov5s.yaml"):
        find_yaml("yolov55.yaml")
    with pytest.raises(ModelError, match="must end in .yaml"):
        find_yaml("yolov5s.pt")


def test_words_literals_and_text_in_arguments():
    content = read_spec("yolov5n.yaml").yaml
    content["head"][1][3] = ["None", "2", "nearest"]
    content["backbone"][9][3] = [1024, "(5)"]
    rows = read_spec(content).rows
    assert rows[11].args == (None, 2, "nearest") and rows[9].args == (1024, 5)
    assert rows[24].args == (80, content["anchors"])


def test_the_given_dictionary_is_left_alone():
    content = read_spec("yolov5n.yaml").yaml
    before = repr(content)
    read_spec(content, nc=5, anchors=4)
    assert repr(content) == before
