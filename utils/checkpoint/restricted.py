"""Reads checkpoints, which are pickled Python objects, without running any of them.

The pickle is interpreted here, one instruction at a time, over a fixed list of names. A name never becomes a
function or a class: it stays a `Name`, and what the pickle builds from it is either a `StoredTensor`, a container,
or a `PickledObject` that holds the state and does nothing. Any other name, instruction or shape of file is refused.
"""

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from utils.checkpoint.archive import Archive, Storage, StoredTensor, shown
from utils.errors import CheckpointError

INSTRUCTION_LIMIT = 1_000_000  # of a pickle; yolov5n's has 34,000
NODE_LIMIT = 200_000  # values in a tree that is copied
DEPTH_LIMIT = 64
MODULE_LIMIT = 100_000
AXES_LIMIT = 16
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_INERT = {
    "_codecs.encode",
    "argparse.Namespace",
    "torch.device",
    *(f"pathlib.{kind}" for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")  # before and since numpy 2
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    ),
    *(f"torch.{name}" for name in ("float16", "float32", "float64", "bfloat16", "int64")),
}
_INERT_CLASSES = re.compile(r"(torch\.nn\.modules\.[a-z_]+|models\.(yolo|common|experimental))\.[A-Za-z]\w*")
_STORAGE_NAMES = {f"torch.{name}" for name in _STORAGES}
_KINDS = {  # how the names of well-known files begin, and what those files are
    "ultralytics.": "an Ultralytics model, YOLOv8 or later, is not a YOLOv5 network and cannot be used here",
    "models.": "the class is of a changed YOLOv5; save model.state_dict() and the yaml where that class is known",
    "utils.activations.": "activations of YOLOv5 before 4.0 are not built here; take a later release of the weights",
    "utils.": "the file keeps an object of its own program; save it there as YOLOv5's train.py does",
    "torch.nn.parallel.": "the model was saved inside its parallel wrapper; save model.module instead",
    "torch.nn.": "the model is not one of YOLOv5's; save its state_dict() instead",
}


@dataclass(frozen=True)
class Name:
    """A global that a pickle mentions: its dotted name, and nothing behind it."""

    text: str


@dataclass
class PickledObject:
    """An object of a pickle: the name of its class, what it was made from, and its attributes."""

    name: str
    arguments: tuple = ()
    state: dict = field(default_factory=dict)


def read_restricted(archive: Archive) -> object:
    """Return what a pickled checkpoint holds: containers, plain values, `StoredTensor`s and `PickledObject`s.

    Raises CheckpointError, naming it, for any global outside the fixed list, and for damage.
    """
    machine = _Machine(archive)
    try:
        return machine.run()
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{archive.path}: damaged or not a checkpoint: {shown(str(error))}") from None


def module_state(model: PickledObject, source: Path | str) -> dict[str, StoredTensor]:
    """Return the state dict of a pickled module: parameters and persistent buffers by dotted name, in torch's order."""
    state: dict[str, StoredTensor] = {}
    _collect(model, "", state, source, budget=[MODULE_LIMIT])
    return state


def plain_value(
    value: object, source: Path | str, what: str = "model description", other: Callable[[object], object] | None = None
) -> object:
    """Return a copy of nested containers and plain values. `other` gives the value of an item that is neither, or None.

    Raises CheckpointError for what remains, and for a tree without end.
    """
    budget = [NODE_LIMIT]

    def copy(item: object, depth: int) -> object:
        budget[0] -= 1
        if depth > DEPTH_LIMIT or budget[0] < 0:
            raise CheckpointError(f"{source}: damaged: its {what} nests without end")
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, (list, tuple)):
            return type(item)(copy(part, depth + 1) for part in item)
        if isinstance(item, dict):
            return {key: copy(part, depth + 1) for key, part in item.items()}
        value = other(item) if other else None
        if value is not None:
            return value
        kind = getattr(item, "name", None) or getattr(item, "text", None) or type(item).__name__
        raise CheckpointError(f"{source}: its {what} holds a {shown(kind)}")

    return copy(value, 0)


def _collect(
    module: object, prefix: str, state: dict[str, StoredTensor], source: Path | str, budget: list[int]
) -> None:
    """Add a module's own tensors to `state`, then its children's. `budget` holds how many modules may still come."""
    budget[0] -= 1
    if not isinstance(module, PickledObject) or prefix.count(".") > 32 or budget[0] < 0:
        raise CheckpointError(
            f"{source}: damaged: {shown(prefix) or 'its model'} is not a module, or modules nest without end"
        )
    temporary = module.state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, tensor in _members(module, group, source):
            if isinstance(tensor, StoredTensor) and not (group == "_buffers" and name in temporary):
                state[f"{prefix}{name}"] = tensor
    for name, child in _members(module, "_modules", source):
        if child is not None:
            _collect(child, f"{prefix}{name}.", state, source, budget)


def _members(module: PickledObject, group: str, source: Path | str) -> list[tuple[str, object]]:
    members = module.state.get(group) or {}
    if not isinstance(members, dict):
        raise CheckpointError(f"{source}: damaged: a module's {group} are a {type(members).__name__}")
    return list(members.items())


class _Machine:
    """Interprets a pickle's instructions. The stack holds values; `marks` the heights where groups began."""

    def __init__(self, archive: Archive):
        self.archive = archive
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[tuple[str, str], Storage] = {}

    def run(self) -> object:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(self.archive.pickle)):
            if opcode.name == "STOP":
                return self.stack.pop()
            if number > INSTRUCTION_LIMIT:
                raise CheckpointError(
                    f"{self.archive.path}: refused: its description has over {INSTRUCTION_LIMIT} instructions"
                )
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
        if (
            text not in _MAKERS
            and text not in _INERT
            and not _INERT_CLASSES.fullmatch(text)
            and text not in _STORAGE_NAMES
        ):
            kind = next((f": {meaning}" for start, meaning in _KINDS.items() if text.startswith(start)), "")
            raise CheckpointError(
                f"{self.archive.path}: refused: it names {shown(text)}, which no YOLOv5 detection checkpoint "
                f"needs{kind}; nothing in the file was run"
            )
        self.stack.append(Name(text))

    def make(self, _) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError(f"call of {type(name).__name__}")
        maker: Callable | None = _MAKERS.get(name.text)
        self.stack.append(maker(self.archive, *arguments) if maker else PickledObject(name.text, arguments))

    def build(self, _) -> None:
        """Give the object below its state; only records keep one, and only as data."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, PickledObject):
            target.state.update(state if isinstance(state, dict) else {"": state})
        elif not isinstance(target, dict):  # an OrderedDict's attributes are of no use here
            raise TypeError(f"state for {type(target).__name__}")

    def storage(self, _) -> None:
        kind, storage, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str) or not isinstance(count, int):
            raise TypeError("a persistent id that is not a storage")
        found = self.storages.get((key, storage.text))
        if found is None or found.count != count:
            found = self.archive.check(Storage(key, _STORAGES[storage.text.removeprefix("torch.")], count))
            self.storages[key, storage.text] = found
        self.stack.append(found)


def _key(value: object) -> object:
    """Return a dict key or set member; nested ones are refused, because hashing them could take for ever."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} as a key")


def _tensor(archive: Archive, storage: Storage, offset: int, size: tuple, stride: tuple, *_) -> StoredTensor:
    """Return a tensor in a storage. A view that reaches past it or repeats it is refused."""
    numbers = (offset, *size, *stride)
    whole = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    if not isinstance(storage, Storage) or len(size) != len(stride) or not whole or len(size) > AXES_LIMIT:
        raise TypeError("a tensor that is not made of whole numbers")
    stored = StoredTensor(storage, offset, tuple(size), tuple(stride))
    count = stored.numel()
    last = offset + sum((side - 1) * step for side, step in zip(size, stride)) if count else 0
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"a tensor of {tuple(size)} in a storage of {storage.count} numbers")
    return stored


def _parameter(archive: Archive, tensor: StoredTensor, *_) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
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
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict,
    "builtins.set": _set,
}
_VALUES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}
_CONSTANTS: dict[str, Callable] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_ACTIONS: dict[str, Callable] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_of,
    "TUPLE1": partial(_Machine.tuple_of, count=1),
    "TUPLE2": partial(_Machine.tuple_of, count=2),
    "TUPLE3": partial(_Machine.tuple_of, count=3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.make,
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
