"""Writer of torch.save's files from data alone: what `restricted` reads back, and torch.load as objects.

A file that names classes which are not there, such as YOLOv5's, cannot be written by Python's pickler, which asks for
the classes. Here a `PickledObject` gives the class's name and the object's attributes, and is written as the
instructions that pickle would have written for it, in protocol 2.
"""

import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from utils.checkpoint.restricted import STORAGES, PickledObject
from utils.errors import CheckpointError
from utils.files import write_atomically

_STORAGE_NAMES = {dtype: f"torch.{name}" for name, dtype in STORAGES.items()}
_FOLDER = "archive"
_VERSION = b"3\n"  # of the zip's layout, as torch.save has written since 1.6
_ALIGNMENT = 64  # bytes; torch can map a file into memory if the elements of its storages begin at such addresses
_PADDING_FIELD = 0x4246  # "FB", torch's own extra field of a zip entry
_LOCAL_HEADER = 30  # bytes of a zip entry's header without name and extra field
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same content is the same file


def write_pickled(content: object, path: Path | str) -> Path:
    """Write content as torch.save would, atomically.

    Args:
        content: Containers, plain values, tensors, parameters and `PickledObject`s without cycles.
        path: The file; its folder exists.

    Returns:
        `path` as a Path.

    Raises:
        TypeError: If it holds something else; nothing is written.
        CheckpointError: If the file cannot be written.
    """
    pickler = _Pickler()
    description = pickler.pickle(content)
    try:
        return write_atomically(path, lambda stream: _write_zip(stream, description, pickler.storages))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def _write_zip(stream: BinaryIO, description: bytes, storages: list[Tensor]) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        _write_entry(archive, stream, "data.pkl", description)
        _write_entry(archive, stream, "byteorder", sys.byteorder.encode())
        for key, elements in enumerate(storages):
            _write_entry(archive, stream, f"data/{key}", elements.view(torch.uint8).numpy().data)
        _write_entry(archive, stream, "version", _VERSION)


def _write_entry(archive: zipfile.ZipFile, stream: BinaryIO, name: str, content: bytes | memoryview) -> None:
    """Write an entry, its content aligned by an extra field, as torch does."""
    entry = zipfile.ZipInfo(f"{_FOLDER}/{name}", _DATE)
    start = stream.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    entry.extra = struct.pack("<HH", _PADDING_FIELD, -start % _ALIGNMENT) + b"Z" * (-start % _ALIGNMENT)
    archive.writestr(entry, content)


class _Pickler:
    """Writes one pickle; `storages` are the flat tensors that it refers to, by their index as key."""

    def __init__(self):
        self.storages: list[Tensor] = []
        self._parts: list[bytes] = []
        self._names: dict[str, int] = {}

    def pickle(self, content: object) -> bytes:
        self._parts = [pickle.PROTO, b"\x02"]
        self._write(content)
        return b"".join([*self._parts, pickle.STOP])

    def _write(self, value: object) -> None:
        if value is None or isinstance(value, bool):
            self._parts.append({None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value])
        elif isinstance(value, Tensor):
            self._write_tensor(value)
        elif isinstance(value, PickledObject):
            self._write_name(value.name)
            self._write(value.arguments)
            self._parts.append(pickle.NEWOBJ)
            self._write(value.state)
            self._parts.append(pickle.BUILD)
        elif isinstance(value, dict):
            self._write_dict(value)
        elif isinstance(value, set):
            self._call("__builtin__.set", sorted(value))
        elif isinstance(value, (list, tuple)):
            self._write_sequence(value)
        else:
            self._write_plain(value)

    def _write_each(self, *values: object) -> None:
        for value in values:
            self._write(value)

    def _write_plain(self, value: object) -> None:
        if isinstance(value, int) and -(2**31) <= value < 2**31:
            self._parts += [pickle.BININT, struct.pack("<i", value)]
        elif isinstance(value, int):
            digits = pickle.encode_long(value)
            self._parts += [pickle.LONG1, struct.pack("<B", len(digits)), digits]
        elif isinstance(value, float):
            self._parts += [pickle.BINFLOAT, struct.pack(">d", value)]
        elif isinstance(value, str):
            text = value.encode("utf-8", "surrogatepass")
            self._parts += [pickle.BINUNICODE, struct.pack("<I", len(text)), text]
        else:
            raise TypeError(f"a {type(value).__name__} is neither a tensor nor plain")

    def _write_dict(self, value: dict) -> None:
        if isinstance(value, OrderedDict):
            self._call("collections.OrderedDict")
        else:
            self._parts.append(pickle.EMPTY_DICT)
        self._parts.append(pickle.MARK)
        for key, item in value.items():
            self._write(key)
            self._write(item)
        self._parts.append(pickle.SETITEMS)

    def _write_sequence(self, value: list | tuple) -> None:
        is_list = isinstance(value, list)
        self._parts += [pickle.EMPTY_LIST, pickle.MARK] if is_list else [pickle.MARK]
        for item in value:
            self._write(item)
        self._parts.append(pickle.APPENDS if is_list else pickle.TUPLE)

    def _write_tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor, nn.Parameter):
            self._call("torch._utils._rebuild_parameter", tensor.data, tensor.requires_grad, OrderedDict())
            return
        elements = tensor.detach().cpu().contiguous().reshape(-1)
        self._write_name("torch._utils._rebuild_tensor_v2")
        self._parts += [pickle.MARK, pickle.MARK]
        self._write("storage")
        self._write_name(_STORAGE_NAMES[tensor.dtype])
        self._write_each(str(len(self.storages)), "cpu", elements.numel())
        self._parts += [pickle.TUPLE, pickle.BINPERSID]
        self._write_each(0, tuple(tensor.shape), tensor.detach().contiguous().stride(), False, OrderedDict())
        self._parts += [pickle.TUPLE, pickle.REDUCE]
        self.storages.append(elements)

    def _call(self, name: str, *arguments: object) -> None:
        self._write_name(name)
        self._write(arguments)
        self._parts.append(pickle.REDUCE)

    def _write_name(self, name: str) -> None:
        """Write a global, the first time by name and then from the memo."""
        if name in self._names:
            self._parts += [pickle.LONG_BINGET, struct.pack("<I", self._names[name])]
            return
        module, _, last = name.rpartition(".")
        index = self._names[name] = len(self._names)
        self._parts += [pickle.GLOBAL, f"{module}\n{last}\n".encode(), pickle.LONG_BINPUT, struct.pack("<I", index)]
