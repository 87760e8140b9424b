"""Parts of batches: those of all processes together are the batches of one, sample for sample."""

import cv2
import numpy as np
import pytest
import torch

from utils.config import LoaderOptions, SplitOptions
from utils.datasets.dataset import DetectionDataset
from utils.datasets.label_store import LabelStore
from utils.datasets.loader import Loader
from utils.types import Labels
from utils.world import World


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> LabelStore:
    """Nine images of two shapes, each with one object."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    sizes = [(48, 64) if index % 3 else (64, 40) for index in range(9)]
    paths = [str(folder / f"{index}.png") for index in range(9)]
    for path, size in zip(paths, sizes, strict=True):
        cv2.imwrite(path, generator.integers(0, 255, (*size, 3), np.uint8))
    labels = [Labels(np.array([0]), np.array([[0.5, 0.5, 0.4, 0.3]], np.float32)) for _ in paths]
    return LabelStore.build(paths, sizes, labels)


def loader(store, world: World, batch_size: int, split: dict, order: dict) -> Loader:
    dataset = DetectionDataset(store, SplitOptions(imgsz=64, augment=True, seed=5, **split))
    return Loader(dataset, LoaderOptions(batch_size, shuffle=True, seed=5, world=world, **order))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "batch_size, split, order",
    [(4, {}, {}), (8, {}, {"quad": True}), (4, {"rect": True}, {}), (2, {}, {}), (9, {}, {"workers": 2})],
)
def test_parts_are_the_batch_of_one(store, size, batch_size, split, order):
    whole = loader(store, World(), batch_size, split, order)
    parts = [loader(store, World(rank, size, 0, 1), batch_size, split, order) for rank in range(size)]
    assert {len(part) for part in parts} == {len(whole)}
    for batch, *shares in zip(whole.epoch(3), *(part.epoch(3) for part in parts), strict=True):
        counting = [share for share in shares if share.counts]
        assert torch.equal(torch.cat([share.images for share in counting]), batch.images)
        assert sum((share.indices for share in counting), ()) == batch.indices
        before = np.cumsum([0, *map(len, counting)])[:-1]
        moved = [share.targets + torch.eye(6)[0] * int(start) for share, start in zip(counting, before, strict=True)]
        assert torch.equal(torch.cat(moved), batch.targets)
        for share in shares:
            assert share.images.shape[2:] == batch.images.shape[2:]
            assert share.counts or (len(share) and not len(share.targets))


def test_drawn_by_weight_the_parts_are_the_batch_too(store):
    weights = np.arange(1.0, 10.0)
    loaders = [loader(store, world, 4, {}, {}) for world in (World(), World(0, 2), World(1, 2))]
    for each in loaders:
        each.image_weights = weights
    for batch, first, second in zip(*(each.epoch(0) for each in loaders), strict=True):
        shares = [share for share in (first, second) if share.counts]
        assert sum((share.indices for share in shares), ()) == batch.indices


def test_some_batches_of_an_epoch(store):
    whole = loader(store, World(), 2, {}, {})
    every = [batch.indices for batch in whole.epoch(1)]
    assert [batch.indices for batch in whole.epoch(1, [3, 1])] == [every[3], every[1]]
