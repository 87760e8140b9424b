"""The loader: the same batches however they are made, in an order that a seed and an epoch decide."""

import gc
import os
import tracemalloc

import numpy as np
import pytest
import torch

from utils.config import Hyperparameters, LoaderOptions, SplitOptions
from utils.datasets import loader as loader_module
from utils.datasets.dataset import DetectionDataset
from utils.datasets.label_store import LabelStore
from utils.datasets.loader import Loader, sampling_weights
from utils.errors import ConfigError, DataError
from utils.images import write_image
from utils.types import Labels

COUNT = 11


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eleven images, the last four upright; image i has i objects of class i % 4."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    sizes = [(48, 64)] * 7 + [(64, 48)] * 4
    paths = [str(folder / f"{number}.png") for number in range(COUNT)]
    for path, size in zip(paths, sizes, strict=True):
        write_image(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    labels = [Labels(np.full(number, number % 4), np.full((number, 4), 0.5, np.float32)) for number in range(COUNT)]
    return LabelStore.build(paths, sizes, labels)


def training(store, size=64, **options):
    return DetectionDataset(store, SplitOptions(size, augment=True, seed=1, **options), hyp=Hyperparameters())


def order(loader, epoch=0):
    return [batch.indices for batch in loader.epoch(epoch)]


def content(loader, epoch):
    return {
        index: (batch.images[place].clone(), batch.targets[batch.targets[:, 0] == place, 1:].clone())
        for batch in loader.epoch(epoch)
        for place, index in enumerate(batch.indices)
    }


def equal(one, other):
    """Whether images and targets are the same to the last bit, whichever process made them.

    Each pixel is rounded from its own neighbours and each target from its own label: nothing is summed up over threads.
    """
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for key in one for a, b in zip(one[key], other[key], strict=True)
    )


def test_workers_and_batch_size_change_nothing(store, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    alone = Loader(training(store), LoaderOptions(4, 0, shuffle=True, seed=5))
    together = Loader(training(store), LoaderOptions(4, 2, shuffle=True, seed=5))
    assert (alone.workers, together.workers) == (0, 2)
    try:
        first = content(alone, 0)
        assert order(alone, 3) == order(together, 3)
        assert equal(content(alone, 3), content(together, 3))
        next(together.epoch(4))  # an epoch that is left half way
        assert equal(first, content(together, 0))
        assert not equal(first, content(alone, 1))
    finally:
        together.close()
    assert equal(first, content(Loader(training(store), LoaderOptions(5, 0, shuffle=True, seed=99)), 0)), (
        "seed of the order only"
    )


def test_workers_that_are_open_close_mosaics_at_the_same_epoch(store, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    closing = Loader(training(store, closed_from=1), LoaderOptions(4, 2, shuffle=True, seed=5))
    plain = Loader(training(store), LoaderOptions(4, 0, shuffle=True, seed=5))
    closed = Loader(training(store, closed_from=0), LoaderOptions(4, 0, shuffle=True, seed=5))
    try:
        assert equal(content(closing, 0), content(plain, 0))
        assert equal(content(closing, 1), content(closed, 1)) and order(closing, 1) == order(plain, 1)
    finally:
        closing.close()


def test_spawned_workers_share_the_memory_cache(store, monkeypatch):
    """The start method of Windows and macOS (and forkserver, of Linux from Python 3.14 on) pickles the dataset."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    before = torch.multiprocessing.get_start_method()
    expected = content(Loader(training(store, cache="ram"), LoaderOptions(6, 0)), 2)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        dataset = training(store, cache="ram")
        assert dataset._images.block.is_shared()
        loader = Loader(dataset, LoaderOptions(6, 1))
        assert equal(expected, content(loader, 2))
        loader.close()
    finally:
        torch.multiprocessing.set_start_method(before, force=True)


def test_every_epoch_has_every_picture_once_in_its_own_order(store):
    loader = Loader(training(store), LoaderOptions(4, 0, shuffle=True, seed=2))
    orders = [sum(order(loader, epoch), ()) for epoch in (0, 1)]
    assert len(loader) == 3 and all(sorted(each) == list(range(COUNT)) for each in orders) and orders[0] != orders[1]
    assert sum(order(Loader(training(store), LoaderOptions(4, 0, shuffle=True, seed=2)), 1), ()) == orders[1]
    assert sum(order(Loader(training(store), LoaderOptions(4, 0)), 1), ()) == tuple(range(COUNT))


def test_last_batches(store):
    dataset = training(store)
    assert [len(batch) for batch in Loader(dataset, LoaderOptions(4, 0)).epoch(0)] == [4, 4, 3]
    assert [len(batch) for batch in Loader(dataset, LoaderOptions(5, 0)).epoch(0)] == [5, 5, 1]
    merged = Loader(dataset, LoaderOptions(5, 0, shuffle=True))
    assert len(merged) == 2 and sorted(len(batch) for batch in merged.epoch(0)) == [5, 6]
    assert [len(batch) for batch in Loader(dataset, LoaderOptions(1, 0, shuffle=True)).epoch(0)] == [1] * COUNT
    dropped = Loader(dataset, LoaderOptions(4, 0, shuffle=True, drop_last=True))
    assert len(dropped) == 2 and [len(batch) for batch in dropped.epoch(0)] == [4, 4]
    assert [len(batch) for batch in Loader(dataset, LoaderOptions(64, 0, shuffle=True)).epoch(0)] == [COUNT]


def test_batches_of_rectangles_hold_one_shape(store):
    validation = Loader(DetectionDataset(store, SplitOptions(64, rect=True, pad=0.5, stride=32)), LoaderOptions(4, 0))
    assert order(validation) == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9, 10)] and len(validation) == 3
    assert [tuple(batch.images.shape[2:]) for batch in validation.epoch(0)] == [(64, 96), (64, 96), (96, 64)]
    wider = Loader(DetectionDataset(store, SplitOptions(64, rect=True, pad=0.5, stride=32)), LoaderOptions(32, 0))
    assert equal(content(validation, 0), content(wider, 0))
    loader = Loader(training(store, rect=True, stride=16), LoaderOptions(3, 0, shuffle=True))
    for epoch in range(2):
        assert (
            sorted(sum(order(loader, epoch), ())) == list(range(COUNT))
            and len(order(loader, epoch)) == len(loader) == 3
        )
    assert order(loader, 0) != order(loader, 1)


def test_image_weights(store):
    # frequencies of the classes 0..3: 4 + 8 = 12, 1 + 5 + 9 = 15, 2 + 6 + 10 = 18, 3 + 7 = 10
    ap = np.array([0.0, 0.5, 1.0, 0.2])
    rarity = 1 / np.array([12, 15, 18, 10])
    expected = [number * (rarity / rarity.sum() * (1 - ap) ** 2)[number % 4] for number in range(COUNT)]
    assert sampling_weights(store, 4, ap) == pytest.approx(expected)
    assert (sampling_weights(store, 4, np.ones(4)) == 1).all()
    loader = Loader(training(store), LoaderOptions(11, 0, shuffle=True), image_weights=np.arange(COUNT) == 3)
    assert order(loader) == [(3,) * COUNT]
    state = {"map": None}
    loader = Loader(training(store), LoaderOptions(11, 0, shuffle=True, seed=4))
    loader.follow(lambda: state["map"])
    assert sorted(order(loader)[0]) == list(range(COUNT))
    state["map"] = []
    drawn = np.bincount(np.concatenate([order(loader, epoch)[0] for epoch in range(20)]), minlength=COUNT)
    assert drawn[0] == 0 and drawn[8:].sum() > drawn[:4].sum() and order(loader, 1) == order(loader, 1)
    state["map"] = [0, 0, 0, 1]
    assert 3 not in order(loader)[0] and 7 not in order(loader)[0]
    rectangles = Loader(
        training(store, rect=True, stride=16), LoaderOptions(3, 0, shuffle=True), image_weights=np.ones(COUNT)
    )
    with pytest.raises(ConfigError, match="--image-weights cannot be used with --rect"):
        next(rectangles.epoch(0))


def test_quad_makes_a_quarter_as_many_twice_as_large(store):
    loader = Loader(training(store), LoaderOptions(8, 0, shuffle=True, quad=True))
    batches = list(loader.epoch(0))
    assert [tuple(batch.images.shape) for batch in batches] == [(2, 3, 128, 128), (1, 3, 128, 128)] or [
        tuple(batch.images.shape) for batch in batches
    ] == [(1, 3, 128, 128), (2, 3, 128, 128)]
    again = list(Loader(training(store), LoaderOptions(8, 0, shuffle=True, quad=True)).epoch(0))
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        for a, b in zip(batches, again, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_ends_the_epoch_in_one_line(store, tmp_path, workers):
    path = str(tmp_path / "gone.png")
    labels = [*map(store.labels, range(COUNT)), Labels.none()]
    broken = LabelStore.build([*store.paths, path], [*map(tuple, store.sizes), (48, 64)], labels)
    loader = Loader(DetectionDataset(broken, SplitOptions(64)), LoaderOptions(4, workers))
    with pytest.raises(DataError, match=r"gone\.png: cannot be read") as error:
        list(loader.epoch(0))
    assert "\n" not in str(error.value)
    loader.close()


def test_worker_count_and_bad_batch_size(store):
    dataset = training(store)
    assert Loader(dataset, LoaderOptions(1, 8)).workers == 0
    assert Loader(dataset, LoaderOptions(4, 8)).workers <= min(3, os.cpu_count())
    with pytest.raises(ConfigError, match="--batch-size 0"):
        Loader(dataset, LoaderOptions(0, 0))


def test_freed_memory_is_given_back_before_workers_inherit_it(store, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    released, opened = [], []
    monkeypatch.setattr(loader_module, "release_freed_memory", lambda: released.append(len(opened)))
    monkeypatch.setattr(loader_module, "DataLoader", lambda *args, **more: opened.append(more["num_workers"]))
    for workers in (0, 2):
        Loader(training(store), LoaderOptions(4, workers=workers))._open()
    assert opened == [0, 2] and released == [1], "once, before the second"


def resident(process_id):
    """Bytes of a process that lie in memory and are its own."""
    with open(f"/proc/{process_id}/statm") as stream:
        _, all_pages, shared_pages, *_ = map(int, stream.read().split())
    return (all_pages - shared_pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory of workers from /proc")
def test_memory_does_not_grow_over_fifty_epochs(store, monkeypatch):
    """Python's own allocations in this process, by tracemalloc, and the resident memory of both workers.

    The images are large, since the allocator of a worker keeps up to some 16 MB more or less, as the mosaics fall.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    size = 320
    loader = Loader(training(store, size), LoaderOptions(2, workers=2, shuffle=True))
    traced, workers = {}, {}
    tracemalloc.start()
    try:
        for epoch in range(60):
            assert sum(len(batch.indices) for batch in loader.epoch(epoch)) == COUNT
            if epoch in (9, 59):  # the first ones fill the allocators' own stores
                gc.collect()
                traced[epoch] = tracemalloc.get_traced_memory()[0]
                workers[epoch] = [resident(worker.pid) for worker in loader._loader._iterator._workers]
    finally:
        tracemalloc.stop()
        loader.close()
    batch_bytes = 2 * size * size * 3
    assert traced[59] - traced[9] < batch_bytes, "300 batches later: not one of them is held, nor a list of their parts"
    for before, after in zip(workers[9], workers[59], strict=True):
        assert after - before < 75 * batch_bytes, "a worker made 150 batches meanwhile: not even half of them are held"
