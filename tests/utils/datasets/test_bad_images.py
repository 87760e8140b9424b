"""Images that go bad in mid-run: retried, replaced by a neighbor of the seed's choice, left out, counted, listed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.config import Hyperparameters, LoaderOptions, SplitOptions, parse_image_limit
from utils.datasets import bad_images
from utils.datasets.bad_images import BadImage, BadImages, Retries, UnreadableImageError, neighbors
from utils.datasets.dataset import DetectionDataset
from utils.datasets.label_store import LabelStore
from utils.datasets.loader import Loader
from utils.errors import ConfigError, DataError
from utils.images import write_image
from utils.types import Labels

COUNT = 12
BAD = 5


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(bad_images, "RETRY_AFTER", (0.0, 0.0))


@pytest.fixture
def store(tmp_path):
    """Twelve images of one size; image i has one object, of class i."""
    rng, paths = np.random.default_rng(0), [str(tmp_path / f"{number:02}.png") for number in range(COUNT)]
    for path in paths:
        write_image(path, rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    labels = [Labels(np.array([number]), np.full((1, 4), 0.5, np.float32)) for number in range(COUNT)]
    return LabelStore.build(paths, [(48, 64)] * COUNT, labels)


def damage(store, index=BAD):
    path = Path(store.paths[index])
    path.write_bytes(path.read_bytes()[:100])


def training(store, seed=1, mosaic=0.0, limit="100%", **options):
    hyp = Hyperparameters(mosaic=mosaic, degrees=0.0, translate=0.0, scale=0.0, fliplr=0.0)
    return DetectionDataset(store, SplitOptions(64, augment=True, seed=seed, max_bad_images=limit, **options), hyp)


def first_neighbor(seed=1):
    return next(neighbors(BAD, np.zeros((COUNT, 2)), seed))


def classes(batch):
    return [int(row[1]) for row in batch.targets]


def test_the_seed_determines_the_neighbors():
    order = list(neighbors(BAD, np.zeros((COUNT, 2)), 1))
    assert sorted(order) == [index for index in range(COUNT) if index != BAD]
    assert order == list(neighbors(BAD, np.zeros((COUNT, 2)), 1))
    assert order != list(neighbors(BAD, np.zeros((COUNT, 2)), 2)) and order != list(
        neighbors(4, np.zeros((COUNT, 2)), 1)
    )
    groups = np.array([[64, 64]] * 4 + [[64, 96]] * 8)
    assert sorted(neighbors(BAD, groups, 1)) == [4, 6, 7, 8, 9, 10, 11]


def test_a_damaged_image_is_replaced_with_its_labels(store):
    before = training(store).sample(0, BAD, [])
    damage(store)
    bad = []
    sample = training(store).sample(0, BAD, bad)
    assert before.labels.cls.tolist() == [BAD] and sample.labels.cls.tolist() == [first_neighbor()]
    assert bad == [
        BadImage(
            store.paths[BAD],
            f"{store.paths[BAD]}: {bad[0].reason.split(': ', 1)[1]}",
            f"replaced by {store.paths[first_neighbor()]}",
        )
    ]


def test_a_neighbor_that_is_bad_too_is_passed_over(store):
    damage(store)
    second = list(neighbors(BAD, np.zeros((COUNT, 2)), 1))[1]
    damage(store, first_neighbor())
    bad = []
    assert training(store).sample(0, BAD, bad).labels.cls.tolist() == [second]
    assert [each.path for each in bad] == [store.paths[BAD], store.paths[first_neighbor()]]


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_workers_do_not_change_what_replaces_an_image(store, mosaic, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    damage(store)
    found = []
    for workers in (0, 2):
        loader = Loader(training(store, mosaic=mosaic), LoaderOptions(4, workers, shuffle=True, seed=3))
        assert loader.workers == workers
        found.append([(batch.images.clone(), batch.targets) for epoch in range(2) for batch in loader.epoch(epoch)])
        assert loader.bad_images.paths == {store.paths[BAD]}
        loader.close()
    # pixels are rounded from whole numbers, each by one process: no sum depends on an order
    assert all(torch.equal(one, other) for pairs in zip(*found, strict=True) for one, other in zip(*pairs, strict=True))


def test_without_a_limit_the_first_ends_the_epoch(store):
    damage(store)
    with pytest.raises(DataError, match=r"05\.png: cannot be"):
        list(Loader(training(store, limit=""), LoaderOptions(4)).epoch(0))


def test_an_image_to_be_evaluated_is_left_out(store):
    damage(store)
    dataset = DetectionDataset(store, SplitOptions(64, rect=True, max_bad_images="1"))
    loader = Loader(dataset, LoaderOptions(4))
    assert [batch.indices for batch in loader.epoch(0)] == [(0, 1, 2, 3), (4, 6, 7), (8, 9, 10, 11)]
    single = Loader(dataset, LoaderOptions(1))
    assert sum((batch.indices for batch in single.epoch(0)), ()) == tuple(i for i in range(COUNT) if i != BAD)


def test_what_vanishes_for_a_moment_is_read_again(store, monkeypatch):
    """The file is back at the second try: nothing is replaced and nothing is counted."""
    path, away = Path(store.paths[BAD]), Path(store.paths[BAD]).with_suffix(".away")
    expected = training(store).sample(0, BAD, [])
    path.rename(away)
    pauses = []

    def comes_back(seconds):
        pauses.append(seconds)
        away.rename(path)

    monkeypatch.setattr(bad_images.time, "sleep", comes_back)
    bad = []
    sample = training(store).sample(0, BAD, bad)
    assert pauses == [0.0] and bad == [] and (sample.image == expected.image).all()


def test_only_the_first_failure_waits(monkeypatch):
    pauses, tries = [], []
    monkeypatch.setattr(bad_images, "RETRY_AFTER", (0.1, 0.4))
    monkeypatch.setattr(bad_images.time, "sleep", pauses.append)

    def fail():
        tries.append(1)
        raise DataError("a.png: cannot be read")

    retries = Retries()
    for _ in range(2):
        with pytest.raises(UnreadableImageError) as caught:
            retries.read(7, fail)
    assert caught.value.index == 7 and pauses == [0.1, 0.4] and len(tries) == 4
    assert retries.read(7, lambda: "good") == "good" and retries.failed == set()


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_is_filled_without_what_is_damaged(store, cache):
    damage(store)
    bad = []
    dataset = training(store, cache=cache)
    assert dataset.sample(0, BAD, bad).labels.cls.tolist() == [first_neighbor()] and len(bad) == 1
    assert dataset.sample(0, 0, []).labels.cls.tolist() == [0]


def test_a_folder_that_is_gone_ends_the_run_soon(store):
    for path in store.paths:
        Path(path).unlink()
    with pytest.raises(DataError, match="there is no other image of its shape"):
        training(store).sample(0, BAD, [])


@pytest.mark.parametrize(
    ("text", "value"), [("1%", (0.01, True)), ("0", (0.0, False)), ("5", (5.0, False)), ("0.5 %", (0.005, True))]
)
def test_limits_are_shares_or_numbers(text, value):
    assert parse_image_limit(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "101%", "nan", "inf", "many"])
def test_other_limits_are_refused(text):
    with pytest.raises(ConfigError, match="expected a share such as 1%"):
        parse_image_limit(text)


@pytest.mark.parametrize(("text", "images", "limit"), [("1%", 1000, 10), ("1%", 24, 1), ("0%", 24, 0), ("0", 24, 0)])
def test_a_share_allows_at_least_one_image(text, images, limit):
    assert BadImages.limited(text, images, "train", None).limit == limit


def test_images_are_counted_once_listed_and_limited(tmp_path, caplog):
    record = BadImages.limited("1", 10, "train", tmp_path)
    record.add(BadImage("a.png", "a.png: is empty", "replaced by b.png"), 2)
    record.add(BadImage("a.png", "a.png: is empty", "replaced by b.png"), 3)
    assert len(caplog.messages) == 1
    with pytest.raises(DataError, match=r"train: 2 images cannot be read, the last c.png .*--max-bad-images"):
        record.add(BadImage("c.png", "c.png: is empty", "replaced by d.png"), 4)
    assert (tmp_path / "bad_images.csv").read_text().splitlines() == [
        "split,epoch,file,reason,action",
        "train,2,a.png,is empty,replaced by b.png",
        "train,4,c.png,is empty,replaced by d.png",
    ]
