"""The dataset: what a seed, an epoch and an index give, and that no cache changes it."""

import os
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from utils.config import Hyperparameters, SplitOptions
from utils.datasets import image_cache
from utils.datasets.dataset import DetectionDataset, collate, without_mixing
from utils.datasets.label_store import LabelStore
from utils.errors import ConfigError, DataError
from utils.images import write_image
from utils.types import Labels

SIZES = [(60, 80), (80, 60), (50, 50), (300, 400), (30, 90), (60, 80), (200, 101)]


@pytest.fixture
def store(tmp_path):
    """Seven images on disk, of several sizes and kinds, with a few objects each and none on the third."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    rng, paths, labels = np.random.default_rng(0), [], []
    for number, (height, width) in enumerate(SIZES):
        path = folder / f"{number}{'.jpg' if number in (3, 5) else '.png'}"
        write_image(path, cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height)))
        count = 0 if number == 2 else number + 1
        size = rng.uniform(0.1, 0.5, (count, 2)).astype(np.float32)
        paths.append(str(path))
        center = size / 2 + rng.uniform(0, 1, (count, 2)).astype(np.float32) * (1 - size)
        labels.append(Labels(np.arange(count) % 3, np.concatenate((center, size), 1)))
    return LabelStore.build(paths, SIZES, labels)


def same(one, other):
    return (
        one.image.shape == other.image.shape
        and (one.image == other.image).all()
        and (one.labels.cls == other.labels.cls).all()
        and (one.labels.xywhn == other.labels.xywhn).all()
    )


def test_a_sample_depends_on_seed_epoch_and_index_alone(store):
    first = DetectionDataset(store, SplitOptions(64, augment=True, seed=3), hyp=Hyperparameters(mixup=0.5))
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    forwards = [first[(2, index)] for index in range(7)]
    backwards = [pickle.loads(pickle.dumps(first))[(2, index)] for index in reversed(range(7))][::-1]
    assert all(map(same, forwards, backwards))
    assert not same(first[(1, 0)], first[(2, 0)]) and not same(first[(2, 0)], first[(2, 1)])
    assert not same(DetectionDataset(store, SplitOptions(64, augment=True, seed=4))[(2, 0)], first[(2, 0)])
    assert same(first[5], first[(0, 5)])
    assert (np.random.get_state()[1] == state[0]).all() and (torch.get_rng_state() == state[1]).all(), (
        "global, left alone"
    )


def test_closed_epochs_show_one_image_and_those_before_are_what_they_were(store):
    hyp = Hyperparameters(mixup=0.5, degrees=10)
    options = SplitOptions(64, augment=True, seed=3)
    closing = DetectionDataset(store, replace(options, closed_from=2), hyp)
    plain, single = DetectionDataset(store, options, hyp), DetectionDataset(store, options, hyp.replace(mosaic=0))
    read = set()
    closing.image = lambda index, zoom: read.add(index) or DetectionDataset.image(closing, index, zoom)
    for index in range(7):
        assert same(closing[(1, index)], plain[(1, index)])
        for epoch in (2, 3):
            read.clear()
            sample = closing[(epoch, index)]
            assert read <= {index} and len(sample.labels) <= len(store.labels(index))
            assert same(sample, single[(epoch, index)]) and not same(sample, plain[(epoch, index)])
    assert same(closing.sample(2, 5, []), single[(2, 5)])


def test_nothing_joins_images_in_closed_epochs():
    mixing = Hyperparameters(mosaic=1, mosaic9=1, mixup=1, copy_paste=1, box_paste=1, fliplr=0.3)
    assert without_mixing(mixing) == Hyperparameters(mosaic=0, fliplr=0.3)


def test_validation_inputs_are_the_resized_picture_on_grey(store):
    dataset = DetectionDataset(store, SplitOptions(64, rect=True, pad=0.5, stride=32))
    assert dataset.shapes.tolist() == [[64, 96], [96, 64], [96, 96], [64, 96], [64, 96], [64, 96], [96, 64]]
    sample = dataset[0]
    image = cv2.resize(cv2.imread(store.paths[0])[..., ::-1], (64, 48), interpolation=cv2.INTER_AREA)
    expected = np.full((64, 96, 3), 114, np.uint8)
    expected[8:56, 16:80] = image
    assert (sample.image == expected).all() and sample.letterbox.pad == (16, 8)
    assert sample.index == 0 and sample.path == store.paths[0]
    x, y, w, h = store.labels(0).xywhn[0]
    assert sample.labels.xywhn[0] == pytest.approx(
        [(x * 64 + 16) / 96, (y * 48 + 8) / 64, w * 64 / 96, h * 48 / 64], abs=1e-6
    )
    small = dataset[2]  # 50 x 50 is enlarged to 64 x 64, and has no labels
    assert (small.image[:16] == 114).all() and (small.image[16:80, 16:80] != 114).any() and len(small.labels) == 0
    assert DetectionDataset(store, SplitOptions(64))[1].image.shape == (64, 64, 3)


def test_boxes_of_validation_inputs_map_back_to_the_picture(store):
    for sample in (DetectionDataset(store, SplitOptions(64, rect=True, pad=0.5))[index] for index in range(7)):
        height, width = sample.image.shape[:2]
        xywh = sample.labels.xywhn * np.float32([width, height, width, height])
        back = sample.letterbox.to_native(
            np.concatenate((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1)
        )
        own = store.labels(sample.index).xywhn * np.float32([*SIZES[sample.index][::-1]] * 2)
        assert back == pytest.approx(
            np.concatenate((own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2), 1), abs=1e-3
        )


def test_rect_training_uses_one_picture_in_its_own_shape(store):
    still = replace(Hyperparameters(), translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    dataset = DetectionDataset(store, SplitOptions(64, augment=True, rect=True), hyp=still)
    for index in (0, 4, 6):
        plain = DetectionDataset(store, SplitOptions(64, rect=True))[index]
        sample = dataset[index]
        assert sample.image.shape == plain.image.shape and len(sample.labels) == len(store.labels(index))
        assert sample.labels.xywhn == pytest.approx(plain.labels.xywhn, abs=0.01)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_caches_give_the_same_validation_pixels(store, cache):
    plain = DetectionDataset(store, SplitOptions(64, rect=True, pad=0.5))
    cached = pickle.loads(pickle.dumps(DetectionDataset(store, SplitOptions(64, rect=True, pad=0.5, cache=cache))))
    for path in store.paths:
        os.rename(path, path + ".away")
    stored = [cached[index] for index in range(7)]
    for path in store.paths:
        os.rename(path + ".away", path)
    assert all(same(plain[index], stored[index]) for index in range(7))


def test_disk_cache_notices_changes_and_keeps_to_its_folder(store, tmp_path):
    DetectionDataset(store, SplitOptions(64, cache="disk"))
    folder = tmp_path / "data" / "images_npy"
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        os.path.basename(path) + ".npy" for path in store.paths
    )
    copies = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert np.load(folder / "3.jpg.npy").shape == (48, 64, 3), "a plain .npy, at the training size"
    DetectionDataset(store, SplitOptions(64, cache="disk"))
    assert copies == {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}, (
        "nothing changed, nothing is written"
    )
    write_image(store.paths[0], np.full((60, 80, 3), 7, np.uint8))
    assert (DetectionDataset(store, SplitOptions(64, cache="disk"))[0].image[10:50] == 7).all()
    assert DetectionDataset(store, SplitOptions(32, cache="disk"))[0].image.shape == (32, 32, 3)


def test_a_cache_larger_than_memory_is_filled_in_part_and_said(store, monkeypatch, caplog):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 30_000)
    monkeypatch.setattr(image_cache.LOGGER, "propagate", True)
    dataset = DetectionDataset(store, SplitOptions(64, cache="ram"))
    assert dataset._images.count == 2 and len(dataset._images.block) == 2 * 64 * 48 * 3
    assert "2 of 7 images are cached" in caplog.text
    plain = DetectionDataset(store, SplitOptions(64))
    assert all(same(plain[index], dataset[index]) for index in range(7))
    with pytest.raises(ConfigError, match="expected ram or disk"):
        DetectionDataset(store, SplitOptions(64, cache="rma"))


def counting_reads(monkeypatch):
    """Count the image files that are read and decoded from now on."""
    reads, read_image = [], image_cache.read_image
    monkeypatch.setattr(image_cache, "read_image", lambda path, *rest: reads.append(path) or read_image(path, *rest))
    return reads


@pytest.mark.parametrize("scale", [0.25, 0.9])  # zooms of 0.1 to 1.9 meet every reduction
def test_images_of_a_small_dataset_are_decoded_once_and_samples_stay_the_same(store, monkeypatch, scale):
    options, hyp = SplitOptions(64, augment=True), Hyperparameters(scale=scale, mixup=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "SMALL_DATASET", 0)
        plain = DetectionDataset(store, options, hyp=hyp)
    keys = [(epoch, index) for epoch in range(6) for index in range(7)]
    expected = [plain[key] for key in keys]
    reads = counting_reads(monkeypatch)
    kept = pickle.loads(pickle.dumps(DetectionDataset(store, options, hyp=hyp)))
    assert sorted(reads) == sorted(store.paths), "each once"
    reads.clear()
    assert all(map(same, expected, (kept[key] for key in keys)))
    if scale == 0.25:  # a JPEG that is sometimes shown at an eighth, and a PNG of thrice the training size
        assert set(reads) == {store.paths[3], store.paths[6]}
    held = sum(height * width * 3 for height, width in SIZES[:3] + SIZES[4:6]) + 75 * 100 * 3 + 100 * 51 * 3
    assert len(kept._images.block) == held


def test_images_are_kept_only_if_all_fit_and_will_be_read_again(store, monkeypatch):
    options = SplitOptions(64, augment=True)
    kept_bytes = len(DetectionDataset(store, options)._images.block)
    reads = counting_reads(monkeypatch)
    assert isinstance(DetectionDataset(store, SplitOptions(64))._images, image_cache.ImageFiles), "validation"
    for name, value in (("SMALL_DATASET", kept_bytes - 1), ("available_memory", lambda: 16 * kept_bytes - 16)):
        with monkeypatch.context() as patch:
            patch.setattr(image_cache, name, value)
            assert isinstance(DetectionDataset(store, options)._images, image_cache.ImageFiles)
    monkeypatch.setattr(torch.multiprocessing, "get_start_method", lambda: "spawn")
    assert isinstance(DetectionDataset(store, options)._images, image_cache.ImageFiles)
    assert reads == []


def test_an_image_that_cannot_be_decoded_at_first_is_read_when_a_sample_needs_it(store):
    os.rename(store.paths[1], store.paths[1] + ".away")
    dataset = DetectionDataset(store, SplitOptions(64, augment=True), hyp=Hyperparameters(mosaic=0))
    os.rename(store.paths[1] + ".away", store.paths[1])
    whole = DetectionDataset(store, SplitOptions(64, augment=True), hyp=Hyperparameters(mosaic=0))
    assert all(same(dataset[index], whole[index]) for index in range(7))


def test_a_picture_that_goes_or_changes_is_named(store):
    dataset = DetectionDataset(store, SplitOptions(64))
    write_image(store.paths[0], np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"0\.png: is 20 x 20 pixels now, was 80 x 60"):
        dataset[0]
    with open(store.paths[1], "wb") as stream:
        stream.write(b"no image")
    os.remove(store.paths[4])
    for index in (1, 4):
        with pytest.raises(DataError, match=rf"{index}\.png: ") as error:
            dataset[index]
        assert "\n" not in str(error.value)


def test_single_class_and_statistics(store):
    dataset = DetectionDataset(store, SplitOptions(64, single_cls=True))
    cls, wh = dataset.store.cls, dataset.box_sizes
    assert (cls == 0).all() and len(wh) == len(store.cls) and (dataset[6].labels.cls == 0).all()
    first = store.labels(0).xywhn[0]
    assert wh[0] == pytest.approx([first[2] * 64, first[3] * 48])
    assert dataset.sizes.tolist() == [list(size) for size in SIZES]


def test_collate(store):
    dataset = DetectionDataset(store, SplitOptions(64))
    batch = collate([dataset[1], dataset[2], dataset[3]])
    assert batch.images.shape == (3, 3, 64, 64) and batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.images[2].permute(1, 2, 0).numpy() == dataset[3].image).all()
    assert batch.targets[:, 0].tolist() == [0.0] * 2 + [2.0] * 4 and batch.targets.dtype == torch.float32
    assert batch.targets[2:, 2:].numpy() == pytest.approx(dataset[3].labels.xywhn)
    assert (
        batch.targets[:, 1].tolist() == [0, 1, 0, 1, 2, 0]
        and batch.indices == (1, 2, 3)
        and batch.paths[0] == store.paths[1]
    )
    assert collate([dataset[2]]).targets.shape == (0, 6)


def test_real_boxes_stay_on_their_objects(real):
    """White blood cells are dark purple: inside their boxes blue exceeds green by far more than outside."""
    from utils.datasets.labels import read_labels

    store = read_labels(real("bccd/images/train"), 3, SplitOptions(cache_labels=False))
    dataset = DetectionDataset(
        store, SplitOptions(320, augment=True), hyp=replace(Hyperparameters(), hsv_h=0, hsv_s=0, hsv_v=0, degrees=10)
    )
    inside, outside = [], []
    for index in range(30):
        sample = dataset[(0, index)]
        purple = sample.image[..., 2].astype(float) - sample.image[..., 1]
        mask = np.zeros(purple.shape, bool)
        for cls, (x, y, w, h) in zip(sample.labels.cls, sample.labels.xywhn * 320, strict=True):
            if cls == 1:  # the middle half of the box
                mask[int(y - h / 4) : int(y + h / 4) + 1, int(x - w / 4) : int(x + w / 4) + 1] = True
        inside.append(purple[mask])
        outside.append(purple[~mask])
    assert np.median(np.concatenate(inside)) > np.median(np.concatenate(outside)) + 30
