"""Reads official YOLOv5 checkpoints, which are pickled Python objects, without running any of them.

The pickle is interpreted here, one instruction at a time, over a fixed list of names. A name never becomes a
function or a class: it stays a `Name`, and what the pickle builds from it is either a tensor, a container, or
a `Record` that holds the state and does nothing. Any other name, instruction or shape of file is refused."""

import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from utils.errors import CheckpointError

PICKLE_LIMIT = 16 * 1024**2  # bytes; the pickles of official models have under one megabyte
MODULE_LIMIT = 100_000
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch's own mark before version 1.6
_STORAGES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
             "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
             "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
_INERT = {"_codecs.encode", "argparse.Namespace", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath",
          "pathlib.PureWindowsPath", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray._reconstruct",
          "numpy._core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "torch.device",
          "torch.float16", "torch.float32", "torch.float64", "torch.bfloat16", "torch.int64"}
_INERT_CLASSES = re.compile(r"(torch\.nn\.modules\.[a-z_]+|models\.(yolo|common|experimental))\.[A-Za-z]\w*")
_PLAIN = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", *(f"torch.{name}" for name in _STORAGES)}


@dataclass(frozen=True)
class Name:
    """A global that a pickle mentions: its dotted name, and nothing behind it."""

    text: str


@dataclass
class Record:
    """An object of a pickle: the name of its class, what it was made from, and its attributes."""

    name: str
    arguments: tuple = ()
    state: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int


class Archive:
    """A torch zip file whose entries have been checked: `pickle` is its description, `storage` gives tensors."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._zip = _open_zip(self.path)
        try:
            self._folder = _checked_folder(self.path, self._zip)
            self.pickle = self._read("data.pkl")
            self._budget = 4 * self.path.stat().st_size  # bytes that may be read as tensors, shared storages included
            order = f"{self._folder}/byteorder"
            if order in self._zip.namelist() and self._read("byteorder") != b"little":
                raise CheckpointError(f"{self.path}: written on a big-endian machine; save it again on another")
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_):
        self._zip.close()

    def storage(self, storage: _Storage) -> Tensor:
        """Return a storage's numbers as a flat tensor."""
        raw = bytearray(self._read(f"data/{storage.key}"))
        size = torch.empty(0, dtype=storage.dtype).element_size()
        if len(raw) != storage.count * size:
            expected = storage.count * size
            raise CheckpointError(f"{self.path}: damaged: data/{_shown(storage.key)} has {len(raw)} bytes, expected {expected}")
        self._budget -= len(raw)
        if self._budget < 0:
            raise CheckpointError(f"{self.path}: refused: it makes more tensors of its numbers than a checkpoint has")
        return torch.frombuffer(raw, dtype=storage.dtype) if raw else torch.empty(0, dtype=storage.dtype)

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(f"{self._folder}/{name}")
        except KeyError:
            raise CheckpointError(f"{self.path}: damaged: it has no entry {_shown(name)}") from None
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise CheckpointError(f"{self.path}: damaged: {_shown(name)}: {error}") from None

    def is_plain(self) -> bool:
        """Return whether the file mentions tensors and containers only, as this project's checkpoints do."""
        return not list(_mentioned(self.path, self.pickle) - _PLAIN)


def read_restricted(archive: Archive) -> object:
    """Return what a pickled checkpoint holds: containers, plain values, tensors and `Record`s.

    Raises CheckpointError, naming it, for any global outside the fixed list, and for damage."""
    machine = _Machine(archive)
    try:
        return machine.run()
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{archive.path}: damaged or not a checkpoint: {_shown(str(error))}") from None


def module_state(model: Record, source: Path | str) -> dict[str, Tensor]:
    """Return the state dict of a pickled module: parameters and persistent buffers by dotted name, in torch's order."""
    state: dict[str, Tensor] = {}
    _collect(model, "", state, source, budget=[MODULE_LIMIT])
    return state


def plain_value(value: object, source: Path | str) -> object:
    """Return a copy of nested dicts, lists and plain values. Raises CheckpointError for anything else in it."""
    budget = [100_000]

    def copy(item: object, depth: int) -> object:
        budget[0] -= 1
        if depth > 16 or budget[0] < 0:
            raise CheckpointError(f"{source}: damaged: its model description nests without end")
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, (list, tuple)):
            return [copy(part, depth + 1) for part in item]
        if isinstance(item, dict):
            return {key: copy(part, depth + 1) for key, part in item.items()}
        raise CheckpointError(f"{source}: its model description holds a {_shown(getattr(item, 'name', type(item).__name__))}")

    return copy(value, 0)


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Return the open zip file, or raise CheckpointError that says what the file is instead."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(_LEGACY_START))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if start == _LEGACY_START:
        raise CheckpointError(f"{path}: in the format of torch before 1.6; open it there and save it again")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        kind = "truncated or damaged" if start.startswith(b"PK") else "not a checkpoint"
        raise CheckpointError(f"{path}: {kind}; a .pt file is a zip that torch.save wrote") from None


def _checked_folder(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the one folder all entries lie in, having checked names and sizes.

    Torch stores entries as they are; what claims more bytes than the file has is a bomb or damage."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path}: a TorchScript file; give the checkpoint it was exported from")
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if len(parts) < 2 or entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename or ":" in parts[0]:
            raise CheckpointError(f"{path}: refused: an entry is named {_shown(entry.filename)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise CheckpointError(f"{path}: refused: {_shown(entry.filename)} is compressed or encrypted, as torch never writes")
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path}: refused: two entries have the same name")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: refused: its entries claim more bytes than the file has")
    folders = {PurePosixPath(name).parts[0] for name in names}
    if len(folders) != 1:
        raise CheckpointError(f"{path}: not a checkpoint: a zip with {len(folders)} folders at its top, expected one")
    folder = folders.pop()
    if f"{folder}/data.pkl" not in names:
        raise CheckpointError(f"{path}: not a checkpoint: it has no data.pkl")
    if archive.getinfo(f"{folder}/data.pkl").file_size > PICKLE_LIMIT:
        raise CheckpointError(f"{path}: refused: its description is larger than {PICKLE_LIMIT >> 20} MiB")
    return folder


def _mentioned(path: Path, data: bytes) -> set[str]:
    """Return the globals a pickle names, and "?" where they cannot be told without running it."""
    found: set[str] = set()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                found.add(argument.replace(" ", "."))
            elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                found.add("?")
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {_shown(str(error))}") from None
    return found


def _collect(module: object, prefix: str, state: dict[str, Tensor], source: Path | str, budget: list[int]) -> None:
    """Add a module's own tensors to `state`, then its children's. `budget` holds how many modules may still come."""
    budget[0] -= 1
    if not isinstance(module, Record) or prefix.count(".") > 32 or budget[0] < 0:
        raise CheckpointError(f"{source}: damaged: {_shown(prefix) or 'its model'} is not a module, or modules nest without end")
    temporary = module.state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, tensor in _members(module, group, source):
            if isinstance(tensor, Tensor) and not (group == "_buffers" and name in temporary):
                state[f"{prefix}{name}"] = tensor
    for name, child in _members(module, "_modules", source):
        if child is not None:
            _collect(child, f"{prefix}{name}.", state, source, budget)


def _members(module: Record, group: str, source: Path | str) -> list[tuple[str, object]]:
    members = module.state.get(group) or {}
    if not isinstance(members, dict):
        raise CheckpointError(f"{source}: damaged: a module's {group} are a {type(members).__name__}")
    return list(members.items())


def _shown(text: str) -> str:
    """Return text from a file in a form that is safe to print: ASCII, one line, not long."""
    shown = ascii(text)[1:-1]
    return shown if len(shown) <= 100 else f"{shown[:97]}..."


class _Machine:
    """Interprets a pickle's instructions. The stack holds values; `marks` the heights where groups began."""

    def __init__(self, archive: Archive):
        self.archive = archive
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for opcode, argument, _ in pickletools.genops(self.archive.pickle):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise CheckpointError(f"{self.archive.path}: refused: it uses the pickle instruction {opcode.name}")
        raise ValueError("the pickle does not end")

    def since_mark(self) -> list:
        """Return and remove what was pushed since the last mark."""
        height = self.marks.pop()
        group = self.stack[height:]
        del self.stack[height:]
        return group

    def mark(self, _) -> None:
        self.marks.append(len(self.stack))

    def tuple_of(self, _, count: int | None = None) -> None:
        group = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(group))

    def append(self, _) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _) -> None:
        self._extend(self.since_mark())

    def _extend(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(_key, items))
        else:
            raise TypeError(f"append to {type(target).__name__}")

    def set_item(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def set_items(self, _) -> None:
        self._fill(self.since_mark())

    def _fill(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError(f"items set on {type(target).__name__}")
        target.update(zip(map(_key, items[::2]), items[1::2]))

    def remember(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def recall(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    def name(self, argument: str | None) -> None:
        if argument is None:
            last, module = self.stack.pop(), self.stack.pop()
            argument = f"{module} {last}"
        text = argument.replace(" ", ".").replace("__builtin__.", "builtins.", 1)
        if text not in _MAKERS and text not in _INERT and not _INERT_CLASSES.fullmatch(text) and text not in _PLAIN:
            raise CheckpointError(f"{self.archive.path}: refused: it names {_shown(text)}, which no official checkpoint needs; "
                                  "nothing in the file was run")
        self.stack.append(Name(text))

    def make(self, _) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError(f"call of {type(name).__name__}")
        maker: Callable | None = _MAKERS.get(name.text)
        self.stack.append(maker(self.archive, *arguments) if maker else Record(name.text, arguments))

    def build(self, _) -> None:
        """Give the object below its state; only records keep one, and only as data."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state.update(state if isinstance(state, dict) else {"": state})
        elif not isinstance(target, dict):  # an OrderedDict's attributes are of no use here
            raise TypeError(f"state for {type(target).__name__}")

    def storage(self, _) -> None:
        kind, storage, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str) or not isinstance(count, int):
            raise TypeError("a persistent id that is not a storage")
        self.stack.append(_Storage(key, _STORAGES[storage.text.removeprefix("torch.")], count))


def _key(value: object) -> object:
    """Return a dict key or set member; nested ones are refused, because hashing them could take for ever."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} as a key")


def _tensor(archive: Archive, storage: _Storage, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    """Return a tensor of its own from a part of a storage. A view that reads past it or repeats it is refused."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise TypeError("a tensor that is not made of whole numbers")
    count = 1
    for side in size:
        count *= side
    last = offset + sum((side - 1) * step for side, step in zip(size, stride)) if count else 0
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"a tensor of {tuple(size)} in a storage of {storage.count} numbers")
    return archive.storage(storage).as_strided(size, stride, offset).clone()


def _parameter(archive: Archive, tensor: Tensor, *_) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError("a parameter that is not a tensor")
    return tensor


def _ordered_dict(archive: Archive, pairs: object = ()) -> dict:
    if not isinstance(pairs, (list, tuple)):
        raise TypeError("an OrderedDict of something else than pairs")
    return {_key(key): value for key, value in pairs}


def _set(archive: Archive, members: object = ()) -> set:
    if not isinstance(members, (list, tuple)):
        raise TypeError("a set of something else than members")
    return set(map(_key, members))


def _size(archive: Archive, sides: object = ()) -> tuple:
    if not isinstance(sides, (list, tuple)):
        raise TypeError("a size that is not made of sides")
    return tuple(sides)


_MAKERS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_parameter": _parameter, "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict, "builtins.set": _set,
}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
           "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_CONSTANTS: dict[str, Callable] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
                                   "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_ACTIONS: dict[str, Callable] = {
    "MARK": _Machine.mark, "TUPLE": _Machine.tuple_of, "TUPLE1": partial(_Machine.tuple_of, count=1),
    "TUPLE2": partial(_Machine.tuple_of, count=2), "TUPLE3": partial(_Machine.tuple_of, count=3),
    "APPEND": _Machine.append, "APPENDS": _Machine.appends, "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item, "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.remember, "LONG_BINPUT": _Machine.remember, "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall, "LONG_BINGET": _Machine.recall, "GLOBAL": _Machine.name, "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.make, "NEWOBJ": _Machine.make, "BUILD": _Machine.build, "BINPERSID": _Machine.storage,
}
