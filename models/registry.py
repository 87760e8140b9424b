"""Which blocks a model yaml may name, and how each is wired.

A block says how its yaml arguments become constructor arguments when it registers:

    @register()                      # an attention block: same width out as in
    class MyBlock(nn.Module):
        def __init__(self, channels, reduction=16): ...

A *wiring* maps (channels arriving, repeats, scale, yaml args) to a `WiringPlan`. The six named
ones are in `WIRINGS`; a block with other habits passes a function of its own.
"""

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models.identity_start import STARTS
from utils.errors import ModelError, nearest

# What a block's or a plugin's own code may raise because of the arguments it was given.
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
    """The compound scaling of one yaml: `scale(channels)` and `scale.repeats(n)`.

    depth, width: the yaml's multiples; head_width: na*(nc+5), a width that is never scaled, as in v6.1.
    """

    depth: float = 1.0
    width: float = 1.0
    head_width: int = 0

    def __call__(self, channels: int) -> int:
        """Return channels * width rounded up to a multiple of 8."""
        if channels == self.head_width:
            return channels
        return math.ceil(channels * self.width / 8) * 8

    def repeats(self, number: int) -> int:
        """Return how often a row's block stands: number * depth, at least once."""
        return max(round(number * self.depth), 1) if number > 1 else number


@dataclass(frozen=True)
class WiringPlan:
    """What a wiring decides: constructor arguments, the width that leaves, and how many
    copies stand one behind the other (1 where the block repeats inside itself).
    """

    args: tuple[Any, ...]
    channels_out: int
    copies: int = 1


Wiring = Callable[[Sequence[int], int, Scale, Sequence[Any]], WiringPlan]
COSTS = (
    "linear",
    "windowed",
    "quadratic",
)  # in the number of positions; windowed: a window's positions look at each other


@dataclass(frozen=True)
class Entry:
    """A registered block: its yaml name, its class, its wiring, and how its cost grows with the number of positions."""

    name: str
    cls: type[nn.Module]
    wiring: Wiring
    wiring_name: str
    cost: str = "linear"
    start: str = "plain"

    @property
    def module(self) -> str:
        return self.cls.__module__

    @property
    def attention(self) -> bool:
        """Whether the block belongs to the catalogue models.attention."""
        return self.module.startswith("models.attention.")

    @property
    def inserted(self) -> bool:
        """Whether the block is one that is put into a network rather than part of it: attention of the catalogue, or a
        block of a user's that keeps its width or asks to start as the identity.
        """
        keeps = self.wiring_name == "same_width" and not self.module.startswith("torch.")
        return self.attention or keeps or self.start == "identity"


def one_source(channels: Sequence[int]) -> int:
    """Return the width of the only source. Raises ValueError where there are several."""
    if len(channels) != 1:
        raise ValueError(f"takes one source, got {len(channels)}; put a Concat row before it")
    return channels[0]


def no_repeats(repeats: int) -> int:
    """Return 1 for a layer that joins several sources, and refuse to repeat it."""
    if repeats != 1:
        raise ValueError(f"joins its sources into one, it cannot repeat {repeats} times; its number must be 1")
    return 1


def _is_channels(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _channels_out(scale: Scale, args: Sequence[Any]) -> int:
    if not args or not _is_channels(args[0]) or args[0] < 1:
        raise ValueError(f"its first argument must be the number of output channels, got {list(args)}")
    return scale(args[0])


def same_width(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """Block(c_in, ...) leaves c_in. `[c, ...]` is understood where c, scaled or as it stands, is what arrives."""
    c_in = one_source(channels)
    rest = list(args)
    if rest and _is_channels(rest[0]):
        if rest[0] == c_in or rest[0] % 8 == 0 and scale(rest[0]) == c_in:
            rest = rest[1:]
        elif rest[0] >= 64:  # no kernel, head count or reduction: a width that does not fit
            raise ValueError(
                f"is given {rest[0]} channels ({scale(rest[0])} at this width_multiple) but {c_in} arrive; "
                f"leave the number out, the block takes what arrives"
            )
    return WiringPlan((c_in, *rest), c_in, repeats)


def widened(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[c_out, ...]` -> Block(c_in, c_out * width, ...)."""
    c_out = _channels_out(scale, args)
    return WiringPlan((one_source(channels), c_out, *args[1:]), c_out, repeats)


def stacked(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[c_out, ...]` -> Block(c_in, c_out * width, repeats, ...)."""
    c_out = _channels_out(scale, args)
    return WiringPlan((one_source(channels), c_out, repeats, *args[1:]), c_out)


def untouched(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[...]` -> Module(...) leaves c_in."""
    return WiringPlan(tuple(args), one_source(channels), repeats)


def concatenated(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[dim]` -> Concat(dim) leaves the sum of its sources."""
    return WiringPlan(tuple(args), sum(channels), no_repeats(repeats))


def detection(channels: Sequence[int], repeats: int, scale: Scale, args: Sequence[Any]) -> WiringPlan:
    """`[nc, anchors, ...]` -> Detect(nc, anchors, [c_in ...], ...)."""
    if len(args) < 2:
        raise ValueError(f"expects [nc, anchors], got {list(args)}")
    return WiringPlan((args[0], args[1], tuple(channels), *args[2:]), 0)


WIRINGS: dict[str, Wiring] = {
    wiring.__name__: wiring for wiring in (same_width, widened, stacked, untouched, concatenated, detection)
}

# torch.nn modules that need to be told the width that arrives; all others are built from their yaml args alone.
_TORCH_WIRINGS = {"BatchNorm2d": "same_width", "Conv2d": "widened", "ConvTranspose2d": "widened"}

_entries: dict[str, Entry] = {}


def register(
    wiring: str | Wiring = "same_width", name: str | None = None, cost: str = "linear", start: str = "plain"
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Return a class decorator that makes a block known to model yamls.

    wiring: a name of `WIRINGS` or a function (channels_in, repeats, scale, args) -> WiringPlan, which may
    raise ValueError with the reason why the arguments do not fit; name: the yaml's word, by default the
    class's own; cost: one of `COSTS`, "quadratic" where every position looks at every other (such a block
    tells its number of N x N maps as `heads`); start: "identity" puts the block behind a zero gate (see
    models/identity_start.py) where a yaml does not say attention_start. Raises ModelError when the name is taken or a word is unknown.
    """
    if not callable(wiring) and wiring not in WIRINGS:
        raise ModelError(f"unknown wiring {wiring!r}{nearest(str(wiring), WIRINGS)}: one of {', '.join(WIRINGS)}")
    if cost not in COSTS:
        raise ModelError(f"unknown cost {cost!r}{nearest(str(cost), COSTS)}: one of {', '.join(COSTS)}")
    if start not in STARTS:
        raise ModelError(f"unknown start {start!r}{nearest(str(start), STARTS)}: one of {', '.join(STARTS)}")
    rule = wiring if callable(wiring) else WIRINGS[wiring]

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        entry = Entry(name or cls.__name__, cls, rule, rule.__name__, cost, start)
        taken = _entries.get(entry.name)
        if taken and (taken.module, taken.cls.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ModelError(
                f"two blocks are called {entry.name!r}: {taken.module}.{taken.cls.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}; register one under another name="
            )
        _entries[entry.name] = entry
        return cls

    return add


def registered() -> dict[str, Entry]:
    """Return a copy of the table of blocks by name (importing models.common fills it with ours)."""
    return dict(_entries)


def find(name: str) -> Entry:
    """Return the block that a yaml calls `name`; "nn.X" is torch.nn's module X.

    Raises ModelError with the nearest names when there is none.
    """
    if name in _entries:
        return _entries[name]
    if str(name).startswith("nn."):
        return _find_torch(name)
    similar = f" (did you mean nn.{name}?)" if hasattr(nn, name) else nearest(name, _entries)
    raise ModelError(f"unknown block {name!r}{similar}; a block of your own needs @register() and --plugin its_file.py")


def _find_torch(name: str) -> Entry:
    cls = getattr(nn, name.removeprefix("nn."), None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        known = [
            f"nn.{key}" for key, value in vars(nn).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise ModelError(f"unknown block {name!r}{nearest(name, known)}; torch.nn has no such module")
    wiring_name = _TORCH_WIRINGS.get(cls.__name__, "untouched")
    return Entry(name, cls, WIRINGS[wiring_name], wiring_name)


def load_plugins(files: Sequence[str | Path]) -> None:
    """Import the files of a --plugin flag in their order. Raises ModelError as `load_plugin` does."""
    for file in files:
        load_plugin(file)


def load_plugin(path: str | Path) -> None:
    """Import a user's Python file so that the blocks it registers can stand in yamls.

    A file is imported once. Raises ModelError when it is missing or raises, naming file and line;
    the blocks it had registered until then are forgotten.
    """
    path = Path(path)
    if not path.is_file():
        there = [item.name for item in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ModelError(f"plugin {path} does not exist{nearest(path.name, there)}")
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
        line = _line_in(resolved, error)
        raise ModelError(f"plugin {path}:{line}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _line_in(path: Path, error: BaseException) -> int:
    """Return the last line of `path` that the error passed through."""
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "") == path:
        return error.lineno
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return lines[-1] if lines else 0
