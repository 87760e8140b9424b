"""Boxes of several tiles become one per object: compared with slow, literal oracles and with published numbers."""

import numpy as np
import pytest
import torch

from utils.config import Slicing
from utils.engine.image_tiles import ImageTile, tiles_of
from utils.engine.tile_merging import BORDER_PIXELS, BORDER_SHARE, merge_views
from utils.types import Detections

SHAPE = (200, 300)
WHOLE = ImageTile(0, 0, 300, 200)
LEFT, RIGHT = ImageTile(0, 0, 160, 200), ImageTile(140, 0, 300, 200)


def detections(*rows):
    """Rows of left, top, right, bottom, confidence, class."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def merged(found, tiles, slicing=None, **options):
    result = merge_views(found, tiles, SHAPE, slicing or Slicing(160), **options)
    return [tuple(round(value, 3) for value in row) for row in result.rows().tolist()]


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def common(a, b):
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def overlap(a, b, match):
    shared = common(a, b)
    return shared / (min(area(a), area(b)) if match == "ios" else area(a) + area(b) - shared)


def is_cut(box, tile):
    """Whether a box ends at a side of its tile that is not a side of the image."""
    reach = [max(BORDER_PIXELS, BORDER_SHARE * (box[2] - box[0])), max(BORDER_PIXELS, BORDER_SHARE * (box[3] - box[1]))]
    edges = (0, 0, SHAPE[1], SHAPE[0])
    return any(abs(box[i] - tile[i]) <= reach[i % 2] and tile[i] != edges[i] for i in range(4))


def literal(found, tiles, slicing, agnostic, max_det):
    """One box after the other, as docs/slicing.md says."""
    boxes = [
        (tuple(row[:4]), row[4], row[5], view) for view, one in enumerate(found) for row in one.rows().double().tolist()
    ]
    boxes.sort(key=lambda box: -box[1])

    def same(a, b):
        return agnostic or a[2] == b[2]

    if slicing.match == "border":
        whole = [box for box in boxes if not is_cut(box[0], tiles[box[3]])]

        def is_part(box):
            return any(
                same(box, other)
                and other[3] != box[3]
                and area(other[0]) >= area(box[0])
                and common(box[0], other[0]) > slicing.threshold * area(box[0])
                for other in whole
            )

        boxes = [box for box in boxes if box in whole or not is_part(box)]
    if slicing.merge == "nms":
        kept = []
        for box in boxes:
            if not any(
                same(box, other) and other[3] != box[3] and overlap(box[0], other[0], slicing.match) > slicing.threshold
                for other in kept
            ):
                kept.append(box)
        return [(*box[0], box[1], box[2]) for box in kept[:max_det]]
    fused = []  # [box, members]
    for box in boxes:
        near = [(overlap(box[0], each[0], slicing.match), each) for each in fused if same(box, each[1][0])]
        best = max(near, key=lambda pair: pair[0], default=(0, None))
        if best[0] > slicing.threshold:
            members = best[1][1] + [box]
            weight = sum(each[1] for each in members)
            best[1][:] = [
                tuple(sum(each[1] * each[0][side] for each in members) / weight for side in range(4)),
                members,
            ]
        else:
            fused.append([box[0], [box]])
    return [(*box, members[0][1], members[0][2]) for box, members in fused][:max_det]


@pytest.mark.parametrize("merge", ("nms", "wbf"))
@pytest.mark.parametrize("match", ("border", "iou", "ios"))
def test_merging_does_what_the_page_says(merge, match):
    rng = np.random.default_rng([len(merge), len(match)])
    tiles = [*tiles_of(SHAPE, 120, 0.2), WHOLE]
    fewer = 0
    for trial in range(25):
        objects = np.concatenate((rng.uniform(0, 1, (8, 2)) * (270, 170), rng.uniform(8, 90, (8, 2))), 1)
        found = []
        for left, top, right, bottom in tiles:  # what a detector sees of each object in each tile, a little off
            rows = []
            for number, (x, y, width, height) in enumerate(objects):
                box = np.array([max(x, left), max(y, top), min(x + width, right), min(y + height, bottom)])
                if box[2] - box[0] > 4 and box[3] - box[1] > 4:
                    rows.append([*(box + rng.normal(0, 0.7, 4)), rng.uniform(0.05, 0.95), number % 2])
            found.append(detections(*rows))
        slicing = Slicing(120, 0.2, merge, match, float(rng.choice([0.3, 0.5, 0.7])))
        agnostic, max_det = trial % 5 == 0, int(rng.choice([4, 300]))
        result = merge_views(found, tiles, SHAPE, slicing, agnostic, max_det).rows().double().numpy()
        expected = np.array(literal(found, tiles, slicing, agnostic, max_det))
        assert np.allclose(result, expected, atol=1e-3)
        fewer += sum(map(len, found)) - len(result)
    assert fewer > 100


def test_a_fragment_yields_to_its_whole_however_confident_it_is():
    whole, fragment = (100, 50, 220, 110, 0.4, 0), (100, 50, 160, 110, 0.9, 0)
    found, tiles = [detections(fragment), detections(whole)], [LEFT, WHOLE]
    assert merged(found, tiles) == [pytest.approx(whole, abs=1e-3)]
    assert merged(found, tiles, Slicing(160, match="ios")) == [pytest.approx(fragment, abs=1e-3)]  # the whole is lost
    assert len(merged(found, tiles, Slicing(160, match="iou", threshold=0.6))) == 2  # both stay
    within = (100, 50, 150, 110, 0.9, 0)  # ends ten pixels before the border: an object of its own
    assert len(merged([detections(within), detections(whole)], tiles)) == 2
    other_class = (*fragment[:5], 1)
    assert len(merged([detections(other_class), detections(whole)], tiles)) == 2
    assert len(merged([detections(other_class), detections(whole)], tiles, agnostic=True)) == 1


def test_edges_of_the_image_cut_nothing():
    """A box at the image's left edge is whole in a tile that begins there."""
    at_edge, larger = (0, 50, 40, 110, 0.9, 0), (0, 40, 90, 130, 0.4, 0)
    assert len(merged([detections(at_edge), detections(larger)], [LEFT, WHOLE])) == 2


def test_an_object_in_the_part_that_tiles_share_is_one():
    left, right = (142, 20, 156, 40, 0.7, 0), (142.5, 20, 156.5, 40.5, 0.8, 0)
    for merge in ("nms", "wbf"):
        (row,) = merged([detections(left), detections(right)], [LEFT, RIGHT], Slicing(160, 0.1, merge, "iou"))
        assert row[4] == pytest.approx(0.8)
    assert row[0] == pytest.approx((0.7 * 142 + 0.8 * 142.5) / 1.5, abs=1e-3)


def test_boxes_of_one_view_are_left_to_its_own_suppression():
    near = detections((10, 10, 60, 60, 0.9, 0), (14, 10, 64, 60, 0.8, 0))
    assert len(merged([near, detections()], [LEFT, RIGHT])) == 2


def test_fusion_equals_the_published_one():
    """Figures of ensemble-boxes 1.0.9: weighted_boxes_fusion(..., iou_thr=0.55, conf_type="max")."""
    rows = [
        *((10, 10, 50, 40, 0.9, 0), (12, 8, 52, 44, 0.6, 0), (30, 60, 70, 100, 0.5, 1)),
        *((11, 10, 49, 41, 0.3, 0), (33, 58, 73, 104, 0.8, 1), (80, 80, 120, 120, 0.7, 0)),
    ]
    result = merged([detections(*rows)], [WHOLE], Slicing(160, 0.2, "wbf", "iou", 0.55))
    expected = [
        (10.8333, 9.3333, 50.5, 41.5, 0.9, 0),
        (31.8462, 58.7692, 71.8462, 102.4615, 0.8, 1),
        (80, 80, 120, 120, 0.7, 0),
    ]
    assert np.allclose(result, expected, atol=1e-3)


def test_equally_confident_boxes_come_in_the_order_of_the_tiles():
    one, other = (10, 10, 30, 30, 0.5, 0), (200, 10, 230, 30, 0.5, 0)
    assert merged([detections(one), detections(other)], [LEFT, RIGHT]) == [one, other]
    assert merged([detections(other), detections(one)], [RIGHT, LEFT]) == [other, one]


def test_nothing_found_is_nothing_merged():
    for merge in ("nms", "wbf"):
        result = merge_views([detections(), detections()], [LEFT, RIGHT], SHAPE, Slicing(160, merge=merge))
        assert len(result) == 0 and result.cls.dtype == torch.int64
