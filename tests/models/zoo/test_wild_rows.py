"""Rows of tutorials and forks: each means here what it means there, or is refused with how to write what it meant."""

import pytest

import models.head  # noqa: F401  fills the registry
from models.graph.shapes import ShapeCache
from models.zoo.wild_rows import WILD_ROWS, WildRow, read_wild_row, read_wild_rows

CACHE = ShapeCache()
PUBLISHED = {  # parameters of the published classes, from the closed forms of their layers
    ("CoTAttention", 512): 8.75 * 512**2 + 14 * 512,
    ("DoubleAttentionLayer", 128): 128 * 128 + 128 + 2 * (128 * 3 + 3),
    ("CBAM", 1024): 2 * 1024**2 // 16 + 98,
    ("SEAttention", 1024): 2 * 1024**2 // 16,
    ("SE", 1024): 2 * 1024**2 // 16,
    ("CoordAtt", 1024): 3 * 1024 * 32 + 3 * 32 + 2 * 1024,
    ("SimAM", 1024): 0,
    ("ACmix", 1024): 3_232_622,
    ("MHSA", 1024): 3 * (1024**2 + 1024) + 1024 * 28,
    ("TripletAttention", 1024): 300,
    ("NAMAttention", 1024): 2048,
    ("EMA", 1024): 10 * 128**2 + 4 * 128,
    ("GAM", 512): 6.625 * 512**2 + 5 * 512,
    ("ParNetAttention", 512): 11 * 512**2 + 7 * 512,
    ("LSKA", 1024): 1024**2 + 17 * 1024,
    ("MLCA", 1024): 10,
}
REFUSED = {
    ("CBAM", (1024, 7)): "7 as ratio: write [{ratio: 7}]; 7 as kernel_size: write [{kernel_size: 7}]",
    ("CBAM", (1024, 1024, 3)): "3 as ratio: write [{ratio: 3}]; 3 as kernel_size: write [{kernel_size: 3}]",
    ("ShuffleAttention", (1024, 16, 8)): "write [{G: 8}]",
    ("SpatialGroupEnhance", (8, 0.5)): "too many positional arguments",
    ("GAM", (512, 512, False)): "[{groups: 1}] the dense one",
    ("LSKA", (1024, 9)): "one of 7, 11, 23, 35, 41, 53",
    ("DoubleAttention", (512,)): "ours is A2, and it differs",
    ("C3CBAM", (1024,)): "write C3Attention [channels, CBAM]",
}


@pytest.fixture(scope="module")
def readings():
    return list(read_wild_rows())


def test_every_row_is_built_or_refused_with_its_reason(readings):
    assert [reading.row for reading in readings] == list(WILD_ROWS)
    refused = {(reading.row.block, tuple(reading.row.args)): reading for reading in readings if not reading.built}
    assert set(refused) == set(REFUSED)
    for key, reading in refused.items():
        assert REFUSED[key] in reading.meaning and "\n" not in reading.meaning and reading.parameters is None


def test_rows_that_build_have_the_parameters_of_the_published_classes(readings):
    checked = set()
    for reading in readings:
        key = (reading.row.block, int(reading.row.arrives * reading.row.width))
        if reading.built and key in PUBLISHED:
            assert reading.parameters == PUBLISHED[key], reading
            checked.add(key)
    assert checked == set(PUBLISHED)


@pytest.mark.parametrize(
    ("block", "args", "meaning"),
    [
        ("CBAM", [1024, 1024], "ratio 16, kernel_size 7"),
        ("CBAM", [1024, 16, 7], "ratio 16, kernel_size 7"),
        ("SEAttention", [1024, 1024], "reduction 16"),
        ("SimAM", [1024, 1024], "e_lambda 0.0001"),
        ("CoTAttention", [1024, 1024], "kernel_size 3"),  # and no kernel of 1024
        ("eca_layer", [1024, 5], "k_size 5, gamma 2, b 1"),
        ("eca_layer", [1024], "k_size 3, gamma 2, b 1"),
    ],
)
def test_what_the_numbers_became(block, args, meaning):
    assert read_wild_row(WildRow(block, args, 1024, "forks"), CACHE).meaning == meaning


def test_both_forms_of_sk_say_how_large_they_are(readings):
    ours, dense = (reading for reading in readings if reading.row.block == "SKAttention")
    assert (ours.parameters, dense.parameters) == (790_656, 88_424_512)
    assert "{kernels: [1, 3, 5, 7]}" in ours.meaning
