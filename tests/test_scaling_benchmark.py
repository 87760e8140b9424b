"""benchmarks/scaling.py: buckets are torch's, times are the formulas', and docs/scaling.md has what it prints."""

import importlib.util
import math
import sys

import pytest
import torch.distributed as dist

from models.yolo import Model
from utils.files import ROOT


@pytest.fixture(scope="module")
def scaling():
    """The program, as a module."""
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    before, sys.modules["scaling"] = list(sys.path), module
    spec.loader.exec_module(module)
    sys.path[:] = before
    yield module
    del sys.modules["scaling"]


@pytest.mark.parametrize("scale", ["n", "m"])
def test_buckets_are_those_of_torch(scaling, scale):
    parameters = [each for each in Model(f"yolov5{scale}.yaml", nc=80).parameters() if each.requires_grad][::-1]
    limits = [scaling.FIRST_BUCKET, scaling.BUCKET]
    assigned = dist._compute_bucket_assignment_by_size(parameters, limits)[0]
    expected = tuple(sum(4 * parameters[index].numel() for index in bucket) for bucket in assigned)
    assert scaling.workload(scale, 640).buckets == expected


def test_times_follow_the_formulas(scaling):
    assumed = scaling.Assumptions(bandwidth=1e9, latency=1e-3, speed=3e12, batch=2)
    assert scaling.reduce_seconds(1e9, 1, assumed) == 0
    assert scaling.reduce_seconds(8e9, 8, assumed) == pytest.approx(2 * 7 / 8 * 8 + 2 * 7 * 1e-3)  # a ring
    assert scaling.reduce_seconds(1e3, 1024, assumed) == pytest.approx(2e-6 + 2 * math.log2(1024) * 1e-3)  # trees
    load = scaling.Workload("x", 250_000_000, (4 * 10**8, 6 * 10**8), 0, 0, 1e12)
    assert scaling.step_seconds(load, assumed) == pytest.approx(2.0)  # 3 passes of 2 images at 1/3 s each
    first, last = 0.4 + 2e-3, 0.6 + 2e-3  # two processes: once the size, and two messages
    assert scaling.efficiency(load, 2, assumed, overlap=True) == pytest.approx(2 / (2 + last))
    assert scaling.efficiency(load, 2, assumed, overlap=False) == pytest.approx(2 / (2 + first + last))
    slow = scaling.Assumptions(bandwidth=1e8, latency=0.0, speed=3e12, batch=2)  # more to send than time to hide it in
    assert scaling.efficiency(load, 2, slow, overlap=True) == pytest.approx(2 / (2 + 4 - 4 / 3 + 6))
    assert scaling.efficiency(load, 1, assumed, overlap=True) == 1


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_program(scaling):
    """`python benchmarks/scaling.py --write` puts them there."""
    loads = [scaling.workload(scale, 640) for scale in scaling.SCALES]
    text = scaling.tables(loads, [1, 8, 64, 1024], scaling.Assumptions())
    page = scaling.PAGE.read_text(encoding="utf-8")
    assert page == scaling.with_tables(page, text)
