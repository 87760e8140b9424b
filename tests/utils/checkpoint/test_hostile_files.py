"""Hostile files of every kind, through the reader that every command uses: one line each, and nothing runs."""

import pickle
import random
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from pickles import FLOATS, Call, pt_file, read, refusal, shell, tensor

from utils.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from utils.checkpoint.description import describe
from utils.errors import CheckpointError


def reading(path: Path) -> str:
    """The refusal of the reader that every command uses."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(path)) and len(text) < 600
    return text


def ours(**change) -> dict:
    """The content of a file of ours, with something in it changed."""
    return {
        "format": "yolov5-attention",
        "version": 1,
        "yaml": {"nc": 1},
        "names": ["a"],
        "stride": [8.0],
        "state": {"model.0.weight": torch.ones(3)},
        "training": None,
        "settings": {},
        "date": "",
        "written_by": "",
        **change,
    }


def saved(content, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("key", ("yaml", "settings", "training", "state", "names"))
def test_a_call_anywhere_in_a_file_of_ours(key, tmp_path):
    content = ours(**{key: {"x": shell(tmp_path)} if key != "names" else [shell(tmp_path)]})
    assert "refused: it names" in reading(saved(content, tmp_path / "a.pt"))
    assert not (tmp_path / "ran").exists()


def test_nested_pickles_stay_bytes(tmp_path):
    """A pickle inside a pickle is a row of bytes; what would open it is not on the list."""
    inner = pickle.dumps(shell(tmp_path))
    assert read(saved({"a": inner}, tmp_path / "a.pt"))["a"].name == "_codecs.encode"  # how protocol 2 writes bytes
    assert "its settings holds a _codecs.encode" in reading(saved(ours(settings={"a": inner}), tmp_path / "b.pt"))
    for index, opener in enumerate((pickle.loads, torch.storage._load_from_bytes, torch.load)):
        path = saved(ours(settings={"a": Call(opener, inner)}), tmp_path / f"c{index}.pt")
        assert "refused: it names" in reading(path)
    assert not (tmp_path / "ran").exists()


def test_containers_that_hold_themselves(tmp_path):
    loop: dict = {"epochs": 3}
    loop["again"] = loop
    ring: list = [1]
    ring.append(ring)
    for index, key in enumerate(("yaml", "settings", "training")):
        assert f"{'model description' if key == 'yaml' else key} nests without end" in reading(
            saved(ours(**{key: loop}), tmp_path / f"{index}.pt")
        )
    assert "nests without end" in reading(saved(ours(settings={"a": ring}), tmp_path / "ring.pt"))


@pytest.mark.parametrize("key", ("yaml", "settings", "training"))
def test_a_list_doubled_forty_times(key, tmp_path):
    """Forty lists in the file, 2**40 in the tree that they make."""
    doubled: list = ["ha"]
    for _ in range(40):
        doubled = [doubled, doubled]
    path = saved(ours(**{key: {"a": doubled}}), tmp_path / "a.pt")
    started = time.perf_counter()
    assert "nests without end" in reading(path)
    with pytest.raises(CheckpointError, match="nests without end"):
        describe(path)
    assert time.perf_counter() - started < 20


def test_memo_bombs_in_the_description_end(tmp_path):
    """Instructions are counted: each makes at most one object."""
    data = b"\x80\x02]" + b"(" + b"]" * 1_000_001 + b"e."
    assert "has over 1000000 instructions" in refusal(pt_file(tmp_path / "a.pt", data))
    assert "larger than 16 MiB" in refusal(pt_file(tmp_path / "b.pt", b"\x80\x02" + bytes(16 * 1024**2)))


@pytest.mark.parametrize(
    "data, words",
    [
        (tensor(size=(1,) * 17, stride=(1,) * 17), "whole numbers"),
        (tensor(size=(2**31 - 1,) * 4, stride=(0,) * 4), "in a storage of 4"),
        (tensor(size=(4,), stride=(0,)), None),
        (tensor(kind="ComplexFloatStorage"), "refused: it names torch.ComplexFloatStorage"),
        (tensor(kind="UntypedStorage"), "refused: it names torch.UntypedStorage"),
        (tensor(kind="DoubleStorage"), "has 16 bytes, expected 32"),
        (tensor(count=2**31 - 1, size=(2**31 - 1,)), "has 16 bytes, expected 8589934588"),
    ],
)
def test_claims_about_tensors(data, words, tmp_path):
    path = pt_file(tmp_path / "a.pt", data, FLOATS)
    if words is None:  # four times the first number: odd, but no more memory than the file
        assert torch.equal(read(path), torch.ones(4))
    else:
        assert words in refusal(path)


def test_numbers_without_end_are_refused(tmp_path):
    assert "LONG4" in refusal(
        pt_file(tmp_path / "a.pt", b"\x80\x02\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b".")
    )
    assert "damaged" in refusal(pt_file(tmp_path / "b.pt", b"\x80\x02L" + b"9" * 5000 + b"L\n."))
    assert "its strides not numbers" in reading(saved(ours(stride=[2**2000]), tmp_path / "c.pt"))
    assert describe(saved(ours(settings={"a": 2**2000}, training={"state": {"epoch": 2**2000}}), tmp_path / "d.pt"))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(state={"a": "text"}), "something else than tensors"),
        (dict(state={1: torch.ones(1)}), "something else than tensors"),
        (dict(names=[1]), "names are not text"),
        (dict(stride=["8"]), "strides not numbers"),
        (dict(version="\x1b[2J\n"), "its format \\x1b[2J\\n is newer"),
    ],
)
def test_a_file_of_ours_with_the_wrong_things_in_it(change, words, tmp_path):
    assert words in reading(saved(ours(**change), tmp_path / "a.pt"))


def test_a_missing_part_is_named(tmp_path):
    for key in ("yaml", "names", "stride", "state", "training", "settings"):
        content = ours()
        del content[key]
        assert f"its {key} is missing" in reading(saved(content, tmp_path / "a.pt"))


@pytest.mark.parametrize("entry", ("/etc/x", "archive/../../x", "..", "archive/..", "C:/x", "archive\\..\\x"))
def test_names_that_climb_write_nothing(entry, tmp_path, monkeypatch):
    folder = tmp_path / "inner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = saved(ours(), folder / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, b"1")
    assert "refused: an entry is named" in reading(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["inner", "a.pt"]


def test_a_list_of_entries_too_long_is_not_even_opened(tmp_path):
    """Each entry costs the zip reader ten times its own bytes, so the length is looked up first."""
    path = saved(ours(), tmp_path / "a.pt")
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x05\x06") + 12
    raw[at : at + 4] = struct.pack("<I", 17 * 1024**2)
    path.write_bytes(raw)
    assert "its list of entries has 17825792 bytes" in reading(path)
    end_64 = b"PK\x06\x06" + bytes(36) + struct.pack("<QQ", 2**40, 0)
    raw[at : at + 4] = b"\xff" * 4
    path.write_bytes(raw[: at - 12] + end_64 + raw[at - 12 :])
    assert f"its list of entries has {2**40} bytes" in reading(path)


def test_every_truncation_is_one_line(tmp_path):
    raw = saved(ours(), tmp_path / "a.pt").read_bytes()
    for length in range(0, len(raw), 61):
        (tmp_path / "cut.pt").write_bytes(raw[:length])
        assert reading(tmp_path / "cut.pt")


def test_random_damage_is_one_line_or_none(tmp_path):
    """Four hundred files whose description was changed at random places: each is read or refused, in no time."""
    numbers = random.Random(0)
    optimizer = {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    path = saved(ours(training={"optimizer": optimizer, "state": {"epoch": 1}}), tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    description = next(name for name in entries if name.endswith("data.pkl"))
    refused = 0
    for _ in range(400):
        data = bytearray(entries[description])
        for _ in range(numbers.choice((1, 1, 2, 5))):
            at = numbers.randrange(len(data))
            if numbers.random() < 0.6:
                data[at] = numbers.randrange(256)
            else:
                more = numbers.choices(b"().NRQbtuqe]}0a\x81\x85\x86\x93h2K", k=numbers.randrange(5))
                data[at : at + numbers.randrange(4)] = more
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, bytes(data) if name == description else content)
        try:
            read_checkpoint(path)
            describe(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert refused > 200


def test_torch_reads_our_files_as_we_do(tmp_path):
    """Nothing but tensors and plain values is in them, so torch's own careful reader agrees to the last bit."""
    base = torch.arange(12.0).reshape(3, 4)
    training = {
        "a": base.T,
        "b": base[1:, ::2],
        "shared": (base, base.view(-1)),
        "half": base.half(),
        "flags": base > 3,
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(2),
        "n": None,
        "big": 2**100,
        "text": "狗",
    }
    path = write_checkpoint(
        Checkpoint({"nc": 1}, ["a"], {"w": base.half()}, (8.0,), training=training), tmp_path / "a.pt"
    )
    expected, found = torch.load(path, weights_only=True)["training"], read_checkpoint(path).training
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):  # read, not computed
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
        elif key != "shared":
            assert found[key] == value and type(found[key]) is type(value), key
    assert found["shared"][0].data_ptr() == found["shared"][1].data_ptr() and torch.equal(
        found["shared"][1], base.view(-1)
    )
    assert found["b"].untyped_storage().nbytes() == 4 * found["b"].numel()  # a part does not hold the whole
