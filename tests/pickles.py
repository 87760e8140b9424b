"""Pickles and zips made by hand, for the tests of the reader that trusts neither."""

import os
import struct
import zipfile
from pathlib import Path

import pytest

from utils.checkpoint.archive import Archive, StoredTensor
from utils.checkpoint.restricted import read_restricted
from utils.errors import CheckpointError


def pt_file(
    path: Path, data: bytes, entries: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a zip as torch.save does, around a pickle of our own making."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in (entries or {}).items():
            archive.writestr(name, content)
    return path


def read(path: Path) -> object:
    """What a file holds, with its tensors read."""
    with Archive(path) as archive:
        return with_numbers(read_restricted(archive), archive)


def with_numbers(value, archive):
    if isinstance(value, StoredTensor):
        return archive.tensor(value)
    if isinstance(value, dict):
        return {key: with_numbers(part, archive) for key, part in value.items()}
    return type(value)(with_numbers(part, archive) for part in value) if isinstance(value, (list, tuple)) else value


def refusal(path: Path) -> str:
    """The message of the CheckpointError that reading must raise: one line that starts with the file's name."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(path)) and text.isascii() and len(text) < 600
    return text


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def name(text: str) -> bytes:
    module, _, last = text.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    """The instructions that push a storage of `count` numbers."""
    return (
        b"(X\x07\0\0\0storage"
        + name(f"torch.{kind}")
        + b"X"
        + struct.pack("<i", len(key))
        + key.encode()
        + b"X\x03\0\0\0cpuJ"
        + struct.pack("<i", count)
        + b"tQ"
    )


def tensor(offset: int = 0, size: tuple = (4,), stride: tuple = (1,), **of) -> bytes:
    """A whole pickle that is one tensor."""

    def integers(numbers):
        return b"(" + b"".join(b"J" + struct.pack("<i", number) for number in numbers) + b"t"

    return (
        b"\x80\x02"
        + name("torch._utils._rebuild_tensor_v2")
        + b"("
        + storage(**of)
        + b"J"
        + struct.pack("<i", offset)
        + integers(size)
        + integers(stride)
        + b"\x89"
        + name("collections.OrderedDict")
        + b")RtR."
    )


FLOATS = {"archive/data/0": struct.pack("<4f", 1, 2, 3, 4)}


def shell(folder: Path) -> Call:
    return Call(os.system, f"touch {folder / 'ran'}")
