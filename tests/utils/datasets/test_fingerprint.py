"""The fingerprint of a dataset: equal for one that was moved, another for every change that training would see."""

import dataclasses
import shutil

import numpy as np
import pytest

from utils.datasets.fingerprint import changes, class_changes, fingerprint_of
from utils.datasets.label_store import LabelStore
from utils.types import Labels


def store_in(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number + 1))
    labels = [Labels(np.array([number % 2]), np.full((1, 4), 0.25, np.float32)) for number in range(count)]
    return LabelStore.build(list(map(str, paths)), [(10, 20)] * count, labels)


def test_a_moved_dataset_is_the_same(tmp_path):
    before = fingerprint_of(store_in(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "deeper" / "b")
    assert fingerprint_of(store_in(tmp_path / "deeper" / "b")) == before and changes(before, before) == []
    assert before["images"] == 3 and before["objects"] == 3


def test_each_change_is_named(tmp_path):
    store = store_in(tmp_path / "a")
    before = fingerprint_of(store)
    moved = store.xywhn.copy()
    moved[1, 0] += 1e-6
    assert changes(before, fingerprint_of(dataclasses.replace(store, xywhn=moved))) == ["other labels"]
    more = fingerprint_of(store_in(tmp_path / "b", 4))
    assert changes(before, more)[:2] == ["4 images, were 3", "4 objects, were 3"]
    (tmp_path / "a" / "2.png").write_bytes(b"longer than before")
    assert changes(before, fingerprint_of(store)) == ["other images"]
    (tmp_path / "a" / "2.png").rename(tmp_path / "a" / "9.png")
    renamed = dataclasses.replace(store, paths=[*store.paths[:2], str(tmp_path / "a" / "9.png")])
    assert "other file names" in changes(before, fingerprint_of(renamed))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (("cat", "dog", "cow"), ""),
        (("dog", "cat", "cow"), "the same names in another order: class 0 was 'cat', is 'dog' now, and 1 more"),
        (("cat", "dog", "ox"), "class 2 was 'cow', is 'ox' now"),
    ],
)
def test_classes_that_differ_are_named(now, said):
    text = class_changes(("cat", "dog", "cow"), now)
    assert text.startswith(said) and bool(text) == bool(said)
