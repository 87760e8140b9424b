"""docs/export.md has the matrix as it was measured, and a random tenth of its rows, measured again, says the same."""

import json
import sys

import pytest
from random_share import share_of

from utils.files import ROOT

for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "ncnn", "pnnx"):
    pytest.importorskip(package, reason=f"the matrix of docs/export.md is measured with {package}")
sys.path.insert(0, str(ROOT / "benchmarks"))
import export_matrix  # noqa: E402
from export_matrix import CHINESE, CHINESE_PAGE, COLUMNS, PAGE, RESULTS, Measurement, disturbed_model, rows, with_table  # noqa: E402

from utils.export.parity import EXACT  # noqa: E402

TENTH = share_of(rows(), 0.1)


def test_the_page_has_the_table_of_the_results():
    page, chinese = (each.read_text(encoding="utf-8") for each in (PAGE, CHINESE_PAGE))
    assert page == with_table(page)
    assert chinese == with_table(chinese, CHINESE)
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert sorted(found) == sorted(rows())
    assert all(set(row) == set(COLUMNS) for row in found.values())


def test_a_row_of_any_outcome_is_shown():
    fine = {"pixels": [1e-4, 2e-4, 3e-4], "ok": [True] * 3}
    assert export_matrix.text(fine) == "0.0003"
    assert export_matrix.text({"pixels": [1e-4, 20.0, None], "ok": [True, False, False]}) == "ok / **20** / NaN"
    assert export_matrix.text({"error": "ModelError: no"}) == "fails"


@pytest.mark.slow
@pytest.mark.parametrize("name", TENTH)
def test_a_random_tenth_measured_again_says_the_same(name, real):
    """The first size of each column: its verdict is the table's, and its difference no more than ten times as large."""
    image = real("images/bus.jpg")
    model = disturbed_model(name, real("weights/yolov5n.pt"), [image, real("images/zidane.jpg")])
    measurement = Measurement(model, image)
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"][name]
    for column in COLUMNS:
        try:
            difference, rounding = next(measurement.differences(column))
        except Exception as error:
            assert "error" in kept[column] or None in kept[column]["pixels"], f"{column}: {error}"
            continue
        if "error" in kept[column]:
            continue  # at the first size it may run
        assert difference.within(EXACT, rounding) == kept[column]["ok"][0], column
        if kept[column]["ok"][0]:
            assert difference.pixels < 10 * kept[column]["pixels"][0] + 1e-2, column
