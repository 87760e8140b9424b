"""Restricted unpickler: reads checkpoints, which are pickled Python objects, without running any code in them.

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
from typing import Any, TypeVar, cast

import torch

from utils.checkpoint.archive import PICKLE_LIMIT, Archive, Storage, StoredTensor, printable
from utils.errors import CheckpointError

INSTRUCTION_LIMIT = 1_000_000  # of a pickle; yolov5n's has 34,000
COPY_LIMIT = 1_000_000  # items that its calls and states copy, all together
NAME_LIMIT = 200  # characters of a global's name or a module member's
NODE_LIMIT = 200_000  # values in a tree that is copied
TEXT_LIMIT = PICKLE_LIMIT  # characters in such a tree
DEPTH_LIMIT = 64  # levels of such a tree
MEMBER_LIMIT = 100_000  # modules and tensors of a model
AXES_LIMIT = 16  # axes of a tensor
STORAGES = {
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
_DATA_NAMES = {
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
_DATA_CLASSES = re.compile(r"(torch\.nn\.modules\.[a-z_]+|models\.(yolo|common|experimental))\.[A-Za-z]\w*")
_STORAGE_NAMES = {f"torch.{name}" for name in STORAGES}
_EXPLANATIONS = {  # prefixes of the names in well-known files, and what those files are
    "ultralytics.": "an Ultralytics model, YOLOv8 or later, is not a YOLOv5 network and cannot be used here",
    "models.": "the class is of a changed YOLOv5; save model.state_dict() and the yaml where that class is known",
    "utils.activations.": "activations of YOLOv5 before 4.0 are not built here; take a later release of the weights",
    "utils.": "the file keeps an object of its own program; save it there as YOLOv5's train.py does",
    "torch.nn.parallel.": "the model was saved inside its parallel wrapper; save model.module instead",
    "torch.nn.": "the model is not one of YOLOv5's; save its state_dict() instead",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Name:
    """A global that a pickle mentions: its dotted name as text. The class or function itself is never looked up."""

    text: str


@dataclass
class PickledObject:
    """An object of a pickle, as data.

    Attributes:
        name: The dotted name of its class or of the function that would have made it.
        arguments: What it would have been called with.
        state: Its attributes by name; a state that is no dict is kept under the key "".
    """

    name: str
    arguments: tuple = ()
    state: dict = field(default_factory=dict)


def read_restricted(archive: Archive) -> object:
    """Return what a pickled checkpoint holds: containers, plain values, `StoredTensor`s and `PickledObject`s.

    Raises:
        CheckpointError: If the pickle names a global outside the fixed list (the message names it), uses another
            instruction than torch writes, claims what the archive does not hold, or is damaged.
    """
    interpreter = _Interpreter(archive)
    try:
        return interpreter.run()
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{archive.path}: damaged or not a checkpoint: {printable(str(error))}") from None


def module_state(model: PickledObject, source: Path | str) -> dict[str, StoredTensor]:
    """Return the state dict of a pickled module: parameters and persistent buffers by dotted name, in torch's order.

    Args:
        model: The module.
        source: The file's name, for messages.

    Returns:
        Tensors that are still in the file, by name.

    Raises:
        CheckpointError: If something that is no module stands among the modules, a module's members are malformed, or
            modules nest without end.
    """
    state: dict[str, StoredTensor] = {}
    _collect_state(model, "", state, source, budget=[MEMBER_LIMIT])
    return state


def module_members(module: PickledObject, group: str, source: Path | str) -> dict[str, object]:
    """Return the parameters, buffers or children of a pickled module by name.

    Args:
        module: The module.
        group: "_parameters", "_buffers" or "_modules".
        source: The file's name, for messages.

    Returns:
        The members, {} if it has no such attribute.

    Raises:
        CheckpointError: If the attribute is no dict, or a name in it is no text or has over NAME_LIMIT characters.
    """
    members = module.state.get(group)
    if members is None:
        return {}
    if not isinstance(members, dict):
        raise CheckpointError(f"{source}: damaged: a module's {group} are no dict")
    if not all(isinstance(name, str) and len(name) <= NAME_LIMIT for name in members):
        raise CheckpointError(f"{source}: damaged: a name in a module's {group} is no text or too long")
    return members


def plain_value(
    value: T, source: Path | str, what: str = "model description", convert: Callable[[object], object] | None = None
) -> T:
    """Return a copy of nested containers and plain values.

    Args:
        value: Lists, tuples and dicts of None, booleans, numbers and text, and items that `convert` knows.
        source: The file's name, for messages.
        what: What the value is, for messages.
        convert: Returns the plain value of an item that is neither a container nor plain, or None if it has none.

    Returns:
        The copy. A container stays of its type; only an item that `convert` replaces may become another type.

    Raises:
        CheckpointError: If an item is neither plain nor converted, or if the tree has more than NODE_LIMIT values,
            TEXT_LIMIT characters or DEPTH_LIMIT levels. So the copy can be printed and compared.
    """
    nodes, characters = NODE_LIMIT, TEXT_LIMIT

    def copy(item: object, depth: int) -> object:
        nonlocal nodes, characters
        nodes -= 1
        if isinstance(item, str):
            characters -= len(item)
        elif isinstance(item, dict):
            characters -= sum(len(key) for key in item if isinstance(key, str))
        if depth > DEPTH_LIMIT or nodes < 0:
            raise CheckpointError(f"{source}: damaged: its {what} nests without end")
        if characters < 0:  # one text may stand in many places
            raise CheckpointError(f"{source}: damaged: its {what} has over {TEXT_LIMIT} characters of text")
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, (list, tuple)):
            return type(item)(copy(part, depth + 1) for part in item)
        if isinstance(item, dict):
            return {key: copy(part, depth + 1) for key, part in item.items()}
        converted = convert(item) if convert else None
        if converted is not None:
            return converted
        kind = getattr(item, "name", None) or getattr(item, "text", None) or type(item).__name__
        raise CheckpointError(f"{source}: its {what} holds a {printable(kind)}")

    return cast("T", copy(value, 0))


def _collect_state(
    module: object, prefix: str, state: dict[str, StoredTensor], source: Path | str, budget: list[int]
) -> None:
    """Add a module's own tensors to `state`, then its children's. `budget` holds how many more members are allowed."""
    if not isinstance(module, PickledObject):
        raise CheckpointError(f"{source}: damaged: {printable(prefix) or 'its model'} is not a module")
    parameters, buffers, children = (
        module_members(module, group, source) for group in ("_parameters", "_buffers", "_modules")
    )
    budget[0] -= len(parameters) + len(buffers) + len(children)
    if prefix.count(".") > 32 or budget[0] < 0:
        raise CheckpointError(f"{source}: damaged: at {printable(prefix) or 'its model'} modules nest without end")
    non_persistent = module.state.get("_non_persistent_buffers_set")
    if not isinstance(non_persistent, (set, type(None))):
        raise CheckpointError(f"{source}: damaged: a module's non-persistent buffers are no set")
    kept = {name: tensor for name, tensor in buffers.items() if name not in (non_persistent or ())}
    for members in (parameters, kept):
        for name, tensor in members.items():
            if isinstance(tensor, StoredTensor):
                state[f"{prefix}{name}"] = tensor
    for name, child in children.items():
        if child is not None:
            _collect_state(child, f"{prefix}{name}.", state, source, budget)


class _Interpreter:
    """Interprets a pickle's instructions.

    `stack` holds values, `marks` the heights of the stack at which groups begin, `memo` values to be pushed again.
    An instruction makes one object and moves items that others pushed; what copies items of a memoized container is
    charged to `copies_left`, so that memory and time stay in proportion to the file.
    """

    def __init__(self, archive: Archive):
        self.archive = archive
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}
        self.copies_left = COPY_LIMIT

    def run(self) -> object:
        for index, (opcode, argument, _) in enumerate(pickletools.genops(self.archive.pickle)):
            if opcode.name == "STOP":
                return self.stack.pop()
            if index > INSTRUCTION_LIMIT:
                raise CheckpointError(
                    f"{self.archive.path}: refused: its description has over {INSTRUCTION_LIMIT} instructions"
                )
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _STACK_OPERATIONS:
                _STACK_OPERATIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise CheckpointError(f"{self.archive.path}: refused: it uses the pickle instruction {opcode.name}")
        raise ValueError("the pickle does not end")

    def charge_copies(self, container: object) -> None:
        """Take the items of a container off the budget of copied items."""
        self.copies_left -= len(container) if isinstance(container, (list, tuple, dict)) else 0
        if self.copies_left < 0:
            raise CheckpointError(
                f"{self.archive.path}: refused: its description copies over {COPY_LIMIT} items of its containers"
            )

    def pop_to_mark(self) -> list:
        """Remove and return what was pushed since the last mark."""
        height = self.marks.pop()
        group = self.stack[height:]
        del self.stack[height:]
        return group

    def push_mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def push_tuple(self, _: object, count: int | None = None) -> None:
        group = self.pop_to_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(group))

    def append(self, _: object) -> None:
        self._extend_top([self.stack.pop()])

    def appends(self, _: object) -> None:
        self._extend_top(self.pop_to_mark())

    def _extend_top(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(_checked_key, items))
        else:
            raise TypeError(f"append to {_kind(target)}")

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def set_items(self, _: object) -> None:
        self._set_items(self.pop_to_mark())

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError(f"items set on {_kind(target)}")
        target.update(zip(map(_checked_key, items[::2]), items[1::2], strict=True))

    def memoize(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def push_memo(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    def push_name(self, argument: str | None) -> None:
        if argument is None:
            last, module = self.stack.pop(), self.stack.pop()
            if not isinstance(module, str) or not isinstance(last, str):
                raise TypeError(f"a name made of {_kind(module)} and {_kind(last)}")
            argument = f"{module[:NAME_LIMIT]} {last[:NAME_LIMIT]}"  # whole, or refused as too long below
        if len(argument) > NAME_LIMIT:
            raise CheckpointError(f"{self.archive.path}: refused: it names {printable(argument)}, which is too long")
        text = argument.replace(" ", ".").replace("__builtin__.", "builtins.", 1)
        if (
            text not in _CONSTRUCTORS
            and text not in _DATA_NAMES
            and not _DATA_CLASSES.fullmatch(text)
            and text not in _STORAGE_NAMES
        ):
            kind = next((f": {meaning}" for start, meaning in _EXPLANATIONS.items() if text.startswith(start)), "")
            raise CheckpointError(
                f"{self.archive.path}: refused: it names {printable(text)}, which no YOLOv5 detection checkpoint "
                f"needs{kind}; nothing in the file was run"
            )
        self.stack.append(Name(text))

    def construct(self, _: object) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError(f"call of {_kind(name)}")
        constructor: Callable | None = _CONSTRUCTORS.get(name.text)
        if constructor:  # which is called with its arguments, and may copy the items of the first
            for container in (arguments, *arguments[:1]):
                self.charge_copies(container)
        self.stack.append(constructor(self.archive, *arguments) if constructor else PickledObject(name.text, arguments))

    def set_state(self, _: object) -> None:
        """Set the state of the object below it on the stack; only a `PickledObject` keeps one, and only as data."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, PickledObject):
            self.charge_copies(state)
            target.state.update(state if isinstance(state, dict) else {"": state})
        elif not isinstance(target, dict):  # an OrderedDict's attributes are of no use here
            raise TypeError(f"state for {_kind(target)}")

    def push_storage(self, _: object) -> None:
        kind, storage, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str) or not isinstance(count, int):
            raise TypeError("a persistent id that is not a storage")
        dtype = STORAGES[storage.text.removeprefix("torch.")]
        found = self.storages.get(key)
        if found is None:
            found = self.storages[key] = self.archive.check(Storage(key, dtype, count))
        elif (found.dtype, found.count) != (dtype, count):
            raise CheckpointError(
                f"{self.archive.path}: damaged: it declares data/{printable(key)} twice, with different types or sizes"
            )
        self.stack.append(found)


def _kind(value: object) -> str:
    """Return what a value of the pickle is, for messages."""
    return _KINDS.get(type(value), type(value).__name__)


def _checked_key(value: object) -> object:
    """Return a dict key or set member. Nested ones are refused, because hashing them could take exponential time."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{_kind(value)} as a key")


def _make_tensor(archive: Archive, storage: Storage, offset: int, size: tuple, stride: tuple, *_) -> StoredTensor:
    """Return a tensor in a storage. A view that reaches past the storage or has more elements than it is refused."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise TypeError("a tensor that is not made of a storage and whole numbers")
    if len(size) != len(stride) or len(size) > AXES_LIMIT:
        raise TypeError(f"a tensor of {len(size)} axes and {len(stride)} strides, not as many whole numbers")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        raise TypeError("a tensor that is not made of whole numbers")
    stored = StoredTensor(storage, offset, size, stride)
    count = stored.numel()
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) if count else 0
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"a tensor of {size} in a storage of {storage.count} numbers")
    return stored


def _make_parameter(archive: Archive, tensor: StoredTensor, *_) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise TypeError("a parameter that is not a tensor")
    return tensor


def _make_dict(archive: Archive, pairs: object = ()) -> dict:
    if not isinstance(pairs, (list, tuple)):
        raise TypeError("an OrderedDict of something else than pairs")
    return {_checked_key(key): value for key, value in pairs}


def _make_set(archive: Archive, members: object = ()) -> set:
    if not isinstance(members, (list, tuple)):
        raise TypeError("a set of something else than members")
    return set(map(_checked_key, members))


def _make_size(archive: Archive, sides: object = ()) -> tuple:
    if not isinstance(sides, (list, tuple)):
        raise TypeError("a size that is not made of sides")
    return tuple(sides)


_KINDS: dict[type, str] = {
    Name: "a name",
    PickledObject: "a pickled object",
    Storage: "a storage",
    StoredTensor: "a tensor",
}
_CONSTRUCTORS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
    "torch.Size": _make_size,
    "collections.OrderedDict": _make_dict,
    "builtins.set": _make_set,
}
_LITERALS = {
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
_STACK_OPERATIONS: dict[str, Callable] = {
    "MARK": _Interpreter.push_mark,
    "TUPLE": _Interpreter.push_tuple,
    "TUPLE1": partial(_Interpreter.push_tuple, count=1),
    "TUPLE2": partial(_Interpreter.push_tuple, count=2),
    "TUPLE3": partial(_Interpreter.push_tuple, count=3),
    "APPEND": _Interpreter.append,
    "APPENDS": _Interpreter.appends,
    "ADDITEMS": _Interpreter.appends,
    "SETITEM": _Interpreter.set_item,
    "SETITEMS": _Interpreter.set_items,
    "BINPUT": _Interpreter.memoize,
    "LONG_BINPUT": _Interpreter.memoize,
    "MEMOIZE": _Interpreter.memoize,
    "BINGET": _Interpreter.push_memo,
    "LONG_BINGET": _Interpreter.push_memo,
    "GLOBAL": _Interpreter.push_name,
    "STACK_GLOBAL": _Interpreter.push_name,
    "REDUCE": _Interpreter.construct,
    "NEWOBJ": _Interpreter.construct,
    "BUILD": _Interpreter.set_state,
    "BINPERSID": _Interpreter.push_storage,
}
