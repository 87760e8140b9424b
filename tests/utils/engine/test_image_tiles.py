"""Tiles cover an image: every pixel, whole, inside, with the overlap that was asked for."""

import numpy as np
import pytest

from utils.engine.image_tiles import tile_starts, tiles_of

# (height, width), size, overlap -> left, top of the tiles: as SAHI 0.12.8's get_slice_bboxes has them.
PUBLISHED = (
    ((1280, 1920), 640, 0.2, (0, 512, 1024, 1280), (0, 512, 640)),
    ((500, 700), 256, 0.25, (0, 192, 384, 444), (0, 192, 244)),
    ((1000, 640), 640, 0.0, (0,), (0, 360)),
    ((300, 200), 640, 0.2, (0,), (0,)),
)


@pytest.mark.parametrize("shape, size, overlap, lefts, tops", PUBLISHED)
def test_tiles_lie_where_published_ones_do(shape, size, overlap, lefts, tops):
    height, width = (min(side, size) for side in shape)
    expected = [(left, top, left + width, top + height) for top in tops for left in lefts]
    assert [tuple(tile) for tile in tiles_of(shape, size, overlap)] == expected


def test_every_pixel_is_covered_by_whole_tiles_that_overlap_enough():
    rng = np.random.default_rng(0)
    for _ in range(150):
        height, width = (int(side) for side in rng.integers(1, 160, 2))
        size, overlap = int(rng.integers(1, 90)), float(rng.choice([0, 0.1, 0.2, 0.35, 0.5, 0.9]))
        tiles = tiles_of((height, width), size, overlap)
        covered = np.zeros((height, width), int)
        for left, top, right, bottom in tiles:
            assert (right - left, bottom - top) == (min(size, width), min(size, height))
            assert left >= 0 and top >= 0 and right <= width and bottom <= height
            covered[top:bottom, left:right] += 1
        assert covered.min() >= 1
        assert len(set(tiles)) == len(tiles)
        for length in (height, width):
            starts = tile_starts(length, size, overlap)
            shared = [before + size - after for before, after in zip(starts, starts[1:], strict=False)]
            assert all(each >= int(size * overlap) for each in shared)
            # no more tiles than that needs: all but the last pair overlap by just as much
            assert all(each == max(int(size * overlap), 0) or size == 1 for each in shared[:-1])


def test_an_image_no_larger_than_a_tile_is_one_tile():
    assert tiles_of((480, 640), 640, 0.2) == [(0, 0, 640, 480)]
    assert len(tiles_of((480, 641), 640, 0.2)) == 2
