"""The examples in docstrings are true."""

import doctest
import importlib

import pytest

MODULES = (
    "models.graph.places",
    "models.graph.shapes",
    "models.row_reading",
    "models.yolo",
    "utils.boxes",
    "utils.checkpoint.store",
    "utils.config.flags",
    "utils.datasets.letterboxing",
    "utils.device",
    "utils.files",
    "utils.metrics.average_precision",
    "utils.nms",
    "utils.statistics.comparison",
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_are_true(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
