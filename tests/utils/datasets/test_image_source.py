"""The census of a dataset's objects against loops over its labels."""

import math
from collections import Counter

import numpy as np
import pytest

from utils.datasets.image_source import ObjectCensus
from utils.datasets.label_store import LabelStore
from utils.types import Labels

CLASSES = [[0, 0, 0, 2], [], [0, 0], [2, 5, 0], [0]]
SIZES = [(100, 200), (50, 50), (80, 40), (64, 64), (300, 200)]


def store():
    rng = np.random.default_rng(0)
    labels = [
        Labels(np.array(own, np.int64), rng.uniform(0.1, 0.5, (len(own), 4)).astype(np.float32)) for own in CLASSES
    ]
    return LabelStore.build(map(str, range(5)), SIZES, labels)


def test_objects_are_drawn_by_class_and_images_by_rarity():
    census, rng = ObjectCensus.build(store(), 160), np.random.default_rng(1)
    assert len(census) == 10 and census.counts.tolist() == [7, 0, 2, 0, 0, 1]
    objects = Counter(census.draw_object(rng) for _ in range(6000))
    for image, own in enumerate(CLASSES):
        for place, cls in enumerate(own):
            expected = 6000 / 3 / [7, 0, 2, 0, 0, 1][cls]
            assert objects.pop((image, place)) == pytest.approx(expected, abs=5 * math.sqrt(expected))
    assert not objects
    images = Counter(census.draw_image(rng) for _ in range(6000))
    weights = [max((1 / [7, 0, 2, 0, 0, 1][cls] for cls in own), default=0) for own in CLASSES]
    for image, weight in enumerate(weights):
        assert images[image] == pytest.approx(6000 * weight / sum(weights), abs=5 * math.sqrt(6000 * weight / 2) + 1e-9)
    assert (
        census.rarity(np.array([0, 2])) == pytest.approx((1 / 7 + 1 / 2) / 2) and census.rarity(np.array([], int)) == 0
    )


def test_sizes_are_those_at_the_training_size():
    whole = store()
    sizes = []
    for image, own in enumerate(CLASSES):
        height, width = SIZES[image]
        for w, h in whole.labels(image).xywhn[: len(own), 2:]:
            sizes.append(math.sqrt(w * width * h * height) * 160 / max(height, width))
    low, high = ObjectCensus.build(whole, 160).size_range
    assert low == pytest.approx(np.quantile(sizes, 0.05)) and high == pytest.approx(np.quantile(sizes, 0.95))


def test_a_dataset_without_objects():
    census = ObjectCensus.build(LabelStore.build(["a", "b"], [(8, 8)] * 2, [Labels.none()] * 2), 160)
    assert len(census) == 0 and census.size_range == (1.0, 1.0)
    assert {census.draw_image(np.random.default_rng(n)) for n in range(20)} == {0, 1}
    with pytest.raises(ValueError, match="without objects"):
        census.draw_object(np.random.default_rng(0))
