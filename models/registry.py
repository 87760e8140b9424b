"""The registry of blocks that a model yaml may name, and how each is wired.

A block says how its yaml arguments become constructor arguments when it registers:

    @register()                      # an attention block: as many channels out as in
    class MyBlock(nn.Module):
        def __init__(self, channels, reduction=16): ...

A *wiring* maps (channels of each source, repeats, scale, yaml args) to a `WiringPlan`. The six named ones are in
`WIRINGS`; a block that needs another passes its own function. What the arguments after the widths mean is declared by
`form` (models/arguments.py) and read by `Entry.plan` (models/row_reading.py).
"""

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from models import aliases
from models.arguments import Argument, RowForm, infer_arguments, is_whole
from models.identity_start import STARTS
from models.recording import KINDS
from models.row_reading import LEAST_WIDTH, RowReader, split_keywords
from utils.errors import ModelError, cut, nearest
from utils.files import is_dir, is_file, reject_pointer

# The errors that the code of a block or plugin may raise because of the arguments it was given.
BLOCK_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Scale:
    """The compound scaling of one yaml: `scale(channels)` and `scale.repeats(count)`.

    Attributes:
        depth: The yaml's depth_multiple.
        width: The yaml's width_multiple.
        head_width: na * (nc + 5), a number of channels that is never scaled, as in v6.1.
    """

    depth: float = 1.0
    width: float = 1.0
    head_width: int = 0

    def __call__(self, channels: int) -> int:
        """Return channels * width rounded up to a multiple of 8."""
        if channels == self.head_width:
            return channels
        return math.ceil(channels * self.width / 8) * 8

    def repeats(self, count: int) -> int:
        """Return how often a row's block is repeated: count * depth, at least once."""
        return max(round(count * self.depth), 1) if count > 1 else count


@dataclass(frozen=True)
class WiringPlan:
    """What a wiring decides.

    Attributes:
        args: The block's constructor arguments.
        channels_out: Number of channels of its output.
        copies: Number of copies in sequence; 1 if the block repeats inside itself.
        keywords: Constructor arguments by name, from the row's mapping of keywords.
    """

    args: tuple[Any, ...]
    channels_out: int
    copies: int = 1
    keywords: Mapping[str, Any] = field(default_factory=dict)


Wiring = Callable[[Sequence[int], int, Scale, Sequence[Any]], WiringPlan]
BlockClass = TypeVar("BlockClass", bound=type[nn.Module])
COSTS = ("linear", "windowed", "quadratic")  # in the number of positions; windowed: quadratic within each window


@dataclass(frozen=True)
class Entry:
    """A registered block.

    Attributes:
        name: Its name in yamls.
        cls: Its class.
        wiring: How a row becomes constructor arguments.
        wiring_name: Name of that function.
        cost: How the cost grows with the number of positions, one of `COSTS`.
        start: "identity" if a zero-initialized gate is put around it unless a yaml decides, else "plain".
        form: How its rows are read.
        arguments: The arguments that a row may give.
        alias: The name from elsewhere that the block was found by, if it has arguments of its own.
        shows: The kinds of what it records when it runs, of `models.recording.KINDS`.
    """

    name: str
    cls: type[nn.Module]
    wiring: Wiring
    wiring_name: str
    cost: str = "linear"
    start: str = "plain"
    form: RowForm = field(default_factory=RowForm, compare=False)
    arguments: tuple[Argument, ...] = field(default=(), compare=False)
    alias: aliases.Alias | None = None
    shows: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return self.cls.__module__

    @property
    def attention(self) -> bool:
        """Whether the block is one of models.attention."""
        return self.module.startswith("models.attention.")

    @property
    def inserted(self) -> bool:
        """Whether the block is one that is inserted into a network rather than part of it.

        Such are the blocks of models.attention, and a user's own that keep their number of channels or start as the
        identity.
        """
        keeps = self.wiring_name == "same_width" and not self.module.startswith("torch.")
        return self.attention or keeps or self.start == "identity"

    def plan(self, channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
        """Return how the block is built from a row.

        Args:
            channels: Channels of each source.
            repeats: Repeats of the row, scaled.
            scale: The yaml's scaling.
            args: The row's arguments, of which the last may be a mapping of keywords.

        Returns:
            What the wiring plans, with an output width left out and keywords added.

        Raises:
            ValueError: If the wiring refuses the arguments, or they have two meanings.
        """
        if self.form.reads_keywords:
            return self.wiring(channels, repeats, scale, args)
        positional, keywords = split_keywords(args)
        plan = self.wiring(channels, repeats, scale, positional)
        wired = self._count_wired(len(plan.args))
        values = plan.args[wired:]
        reader = RowReader(self.arguments, self.form, channels[0], scale, len(values) < len(positional))
        read, named = reader.read(values, keywords)
        if self.alias:
            read, named = _fill_in(self.alias, self.arguments, read, named)
        return replace(plan, args=(*plan.args[:wired], *read), keywords=named)

    def _count_wired(self, given: int) -> int:
        return min(count_wired(self.form, self.wiring_name), given)

    def bind(self, plan: WiringPlan) -> dict[str, Any]:
        """Return what a plan makes of each argument that a row may give, defaults included.

        Args:
            plan: What `plan` returned.

        Returns:
            Argument -> value, in the constructor's order.
        """
        given = plan.args[self._count_wired(len(plan.args)) :]
        names = [argument.name for argument in self.arguments if argument.positional]
        bound = {**dict(zip(names, given, strict=False)), **plan.keywords}
        return {argument.name: bound.get(argument.name, argument.default) for argument in self.arguments}


def one_source(channels: Sequence[int]) -> int:
    """Return the channels of the only source; raise ValueError if there are several."""
    if len(channels) != 1:
        raise ValueError(f"takes one source, got {len(channels)}; put a Concat row before it")
    return channels[0]


def no_repeats(repeats: int) -> int:
    """Return 1 for a layer that joins several sources; raise ValueError if it is to be repeated."""
    if repeats != 1:
        raise ValueError(f"joins its sources into one, it cannot repeat {repeats} times; its number must be 1")
    return 1


def _channels_out(scale: Scale, args: Sequence[Any]) -> int:
    if not args or not is_whole(args[0]) or args[0] < 1:
        raise ValueError(f"its first argument must be the number of output channels, got {list(args)}")
    return scale(args[0])


def same_width(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Plan `[...]` -> Block(c_in, ...), which returns c_in channels.

    `[c, ...]` is understood as well if c, scaled or as written, equals c_in; and `[c, c, ...]`, in which the second is
    the output width.

    Args:
        channels: Channels of each source.
        repeats: Repeats of the row, scaled.
        scale: The yaml's scaling.
        args: The row's arguments.

    Returns:
        The plan.

    Raises:
        ValueError: If there are several sources, or the first argument is a number of channels other than c_in.
    """
    c_in = one_source(channels)
    rest = list(args)
    if rest and is_whole(rest[0]):
        if rest[0] == c_in or rest[0] % 8 == 0 and scale(rest[0]) == c_in:
            twice = len(rest) > 1 and is_whole(rest[1]) and rest[1] == rest[0]
            rest = rest[2 if twice else 1 :]
        elif rest[0] >= LEAST_WIDTH:  # a width that does not fit
            raise ValueError(
                f"is given {rest[0]} channels ({scale(rest[0])} at this width_multiple) but {c_in} arrive; "
                f"leave the number out, the block takes what arrives"
            )
    return WiringPlan((c_in, *rest), c_in, repeats)


def widened(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Plan `[c_out, ...]` -> Block(c_in, c_out * width, ...).

    Args:
        channels: Channels of each source.
        repeats: Repeats of the row, scaled.
        scale: The yaml's scaling.
        args: The row's arguments.

    Returns:
        The plan.

    Raises:
        ValueError: If there are several sources, or the first argument is not a number of channels.
    """
    c_out = _channels_out(scale, args)
    return WiringPlan((one_source(channels), c_out, *args[1:]), c_out, repeats)


def stacked(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Plan `[c_out, ...]` -> Block(c_in, c_out * width, repeats, ...).

    Args:
        channels: Channels of each source.
        repeats: Repeats of the row, scaled.
        scale: The yaml's scaling.
        args: The row's arguments.

    Returns:
        The plan.

    Raises:
        ValueError: If there are several sources, or the first argument is not a number of channels.
    """
    c_out = _channels_out(scale, args)
    return WiringPlan((one_source(channels), c_out, repeats, *args[1:]), c_out)


def untouched(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Plan `[...]` -> Module(...), which returns c_in channels.

    Args:
        channels: Channels of each source.
        repeats: Repeats of the row, scaled.
        scale: The yaml's scaling.
        args: The row's arguments.

    Returns:
        The plan.

    Raises:
        ValueError: If there are several sources.
    """
    return WiringPlan(tuple(args), one_source(channels), repeats)


def concatenated(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Plan `[dim]` -> Concat(dim), which returns the sum of its sources' channels.

    Args:
        channels: Channels of each source.
        repeats: Repeats of the row, scaled.
        scale: The yaml's scaling.
        args: The row's arguments.

    Returns:
        The plan.

    Raises:
        ValueError: If the layer is to be repeated.
    """
    return WiringPlan(tuple(args), sum(channels), no_repeats(repeats))


def detection(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Plan `[nc, anchors, ...]` -> Detect(nc, anchors, [c_in ...], ...).

    Args:
        channels: Channels of each source.
        repeats: Repeats of the row, scaled.
        scale: The yaml's scaling.
        args: The row's arguments.

    Returns:
        The plan.

    Raises:
        ValueError: If there are fewer than two arguments.
    """
    if len(args) < 2:
        raise ValueError(f"expects [nc, anchors], got {list(args)}")
    return WiringPlan((args[0], args[1], tuple(channels), *args[2:]), 0)


WIRINGS: dict[str, Wiring] = {
    wiring.__name__: wiring for wiring in (same_width, widened, stacked, untouched, concatenated, detection)
}

# Leading constructor arguments that a wiring fills in.
_WIRED = {"same_width": 1, "widened": 2, "stacked": 3, "untouched": 0, "concatenated": 0, "detection": 3}


def count_wired(form: RowForm, wiring_name: str) -> int:
    """Return how many leading constructor arguments the wiring fills in: 1 if nothing else is known.

    Args:
        form: The block's form, which may say it.
        wiring_name: Name of the wiring.

    Returns:
        The number.
    """
    return _WIRED.get(wiring_name, 1) if form.wired is None else form.wired


# torch.nn modules that take the number of input channels; all others are built from their yaml args alone.
_TORCH_WIRINGS = {"BatchNorm2d": "same_width", "Conv2d": "widened", "ConvTranspose2d": "widened"}

_entries: dict[str, Entry] = {}


def register(
    wiring: str | Wiring = "same_width",
    name: str | None = None,
    cost: str = "linear",
    start: str = "plain",
    form: RowForm | None = None,
    shows: Sequence[str] = (),
) -> Callable[[BlockClass], BlockClass]:
    """Return a class decorator that makes a block known to model yamls.

    Args:
        wiring: A name of `WIRINGS`, or a function (channels, repeats, scale, args) -> WiringPlan, which may raise
            ValueError with the reason why the arguments do not fit.
        name: The block's name in yamls, by default the class's own.
        cost: One of `COSTS`. "quadratic" means an N x N attention map over all positions; such a block says how many
            it computes by an attribute `heads`.
        start: "identity" puts a zero-initialized gate around the block (see models/identity_start.py) if a yaml has
            no attention_start.
        form: How rows of the block are read: kinds of arguments, orders of other implementations.
        shows: The kinds of what the block records when it runs (models/recording.py).

    Returns:
        The decorator, which returns the class as it is.

    Raises:
        ModelError: If the name is taken, or wiring, cost, start or a kind is unknown.
    """
    if not callable(wiring) and wiring not in WIRINGS:
        raise ModelError(f"unknown wiring {wiring!r}{nearest(str(wiring), WIRINGS)}: one of {', '.join(WIRINGS)}")
    if cost not in COSTS:
        raise ModelError(f"unknown cost {cost!r}{nearest(str(cost), COSTS)}: one of {', '.join(COSTS)}")
    if start not in STARTS:
        raise ModelError(f"unknown start {start!r}{nearest(str(start), STARTS)}: one of {', '.join(STARTS)}")
    for kind in shows:
        if kind not in KINDS:
            raise ModelError(f"unknown kind {kind!r}{nearest(str(kind), KINDS)}: one of {', '.join(KINDS)}")
    rule = wiring if callable(wiring) else WIRINGS[wiring]
    form = form or RowForm()

    def add(cls: BlockClass) -> BlockClass:
        arguments = infer_arguments(cls, count_wired(form, rule.__name__), form.kinds)
        entry = Entry(name or cls.__name__, cls, rule, rule.__name__, cost, start, form, arguments, None, tuple(shows))
        taken = _entries.get(entry.name)
        if taken and (taken.module, taken.cls.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ModelError(
                f"two blocks are named {entry.name!r}: {taken.module}.{taken.cls.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}; register one under another name="
            )
        _entries[entry.name] = entry
        return cls

    return add


def registered() -> dict[str, Entry]:
    """Return a copy of the registry by name (importing models.every_block fills it with this project's blocks)."""
    return dict(_entries)


def find(name: str) -> Entry:
    """Return the block of a yaml name, or of an alias (models/aliases.py); "nn.X" is torch.nn's module X.

    Raises:
        ModelError: If there is none, which names the nearest ones, or if the alias means another class.
    """
    if name in _entries:
        return _entries[name]
    if str(name).startswith("nn."):
        return _find_torch(name)
    blocks = {key for key, entry in _entries.items() if "attention" in entry.module}
    alias = aliases.lookup(name, blocks)
    if alias and alias.builds and alias.block in _entries:
        return _find_alias(alias)
    if alias:
        raise ModelError(f"block {alias.refusal()}; that class itself can be given by @register() and --plugin")
    own = "a block of your own needs @register() and --plugin its_file.py"
    raise ModelError(f"unknown block {name!r}{_suggest(name, blocks)}; {own}")


def _suggest(name: str, blocks: set[str]) -> str:
    """Return a hint for an unknown name; attention is hinted at only by names that are surely misspelled."""
    if hasattr(nn, name):
        return f" (did you mean nn.{name}?)"
    attention = aliases.suggest(name, blocks)
    return f" (did you mean {', '.join(attention)}?)" if attention else nearest(name, _entries.keys() - blocks)


def _find_alias(alias: aliases.Alias) -> Entry:
    """Return the block of an alias that builds; its rows are read in the order of the original."""
    entry = _entries[alias.block]
    return entry if alias.plain else replace(entry, alias=alias, form=replace(entry.form, orders=()))


def _fill_in(
    alias: aliases.Alias, arguments: Sequence[Argument], values: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return values and keywords with the defaults of an alias; raise ValueError for values that it does not take."""
    if alias.takes is not None and len(values) > alias.takes:
        raise ValueError(
            f"as {alias.name} it takes {alias.takes or 'no'} arguments after the channels, got {list(values)}; what "
            f"follows means something else in {alias.block}, whose arguments can be given under that name"
        )
    filled = alias.args[len(values) :]
    if not keywords:
        return [*values, *filled], {}
    names = (argument.name for argument in arguments[len(values) :])
    return list(values), {**dict(zip(names, filled, strict=False)), **keywords}


def _find_torch(name: str) -> Entry:
    cls = getattr(nn, name.removeprefix("nn."), None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        known = [
            f"nn.{key}" for key, value in vars(nn).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise ModelError(f"unknown block {name!r}{nearest(name, known)}; torch.nn has no such module")
    wiring_name = _TORCH_WIRINGS.get(cls.__name__, "untouched")
    arguments = infer_arguments(cls, count_wired(RowForm(), wiring_name), {})
    return Entry(name, cls, WIRINGS[wiring_name], wiring_name, arguments=arguments)


def load_plugins(files: Sequence[str | Path]) -> None:
    """Import the files of a --plugin flag in order, as `load_plugin` does."""
    for file in files:
        load_plugin(file)


def load_plugin(path: str | Path) -> None:
    """Import a user's Python file, so that yamls can name the blocks that it registers.

    A file is imported once. If it fails, the blocks that it registered until then are removed again.

    Raises:
        ModelError: If the file is missing or raises an error; names file and line.
    """
    path = Path(path)
    if not is_file(path):
        others = [item.name for item in path.parent.glob("*.py")] if is_dir(path.parent) else []
        raise ModelError(f"plugin {cut(path)} does not exist{nearest(path.name, others)}")
    with path.open("rb") as stream:
        reject_pointer(stream.read(200), path)
    resolved = path.resolve()
    module_name = f"yolo_plugin_{path.stem}_{hashlib.sha1(str(resolved).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, resolved)
    if spec is None or spec.loader is None:
        raise ModelError(f"plugin {path} is not a Python file; it must end in .py")
    module = importlib.util.module_from_spec(spec)
    before = dict(_entries)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (*BLOCK_ERRORS, ModelError) as error:
        sys.modules.pop(module_name)
        _entries.clear()
        _entries.update(before)
        line = _error_line(resolved, error)
        raise ModelError(f"plugin {path}:{line}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _error_line(path: Path, error: BaseException) -> int:
    """Return the last line of `path` that the error passed through."""
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "") == path:
        return error.lineno
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return lines[-1] if lines else 0
