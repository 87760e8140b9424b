"""Kinds of the numbers that a row gives to a block, each with the range in which such a number makes sense.

A block builds from many numbers that nobody means: a reduction equal to the channels leaves one hidden unit. So each
argument of a block has a kind. It is inferred from the argument's name and default, and a block whose names say too
little or something else declares its own:

    @register(form=RowForm(kinds={"rate": REDUCTION}))

A range says what is plausible, not what can be computed: values outside build, with a warning.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class ArgumentKind:
    """What an argument counts or measures.

    Attributes:
        name: The kind in a word or two.
        fits: Whether a value is plausible for a block on that number of channels.
        describe_range: The plausible values in words, for that number of channels.
        whole: Whether the values are whole numbers, or lists of them.
        listed: Whether the values are lists.
    """

    name: str
    fits: Callable[[Any, int], bool]
    describe_range: Callable[[int], str]
    whole: bool = False
    listed: bool = False


def is_whole(value: Any) -> bool:
    """Return whether `value` is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Return whether `value` is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole_kind(name: str, least: int, most: int) -> ArgumentKind:
    """Return the kind of whole numbers from `least` to `most`.

    Args:
        name: The kind in a word or two.
        least: The smallest plausible value.
        most: The largest.

    Returns:
        The kind.
    """
    return ArgumentKind(
        name,
        lambda value, channels: is_whole(value) and least <= value <= most,
        lambda channels: f"a whole number from {least} to {most}",
        whole=True,
    )


def number_kind(name: str, above: float, most: float, including: bool = False) -> ArgumentKind:
    """Return the kind of numbers above `above`, up to `most`.

    Args:
        name: The kind in a word or two.
        above: The lower limit.
        most: The largest plausible value.
        including: Whether the lower limit itself is plausible.

    Returns:
        The kind.
    """
    lower = "from" if including else "above"
    return ArgumentKind(
        name,
        lambda value, channels: (
            is_finite_number(value) and value <= most and (value > above or including and value == above)
        ),
        lambda channels: f"a number {lower} {above:g}, at most {most:g}",
    )


def choice_kind(name: str, choices: Sequence[Any]) -> ArgumentKind:
    """Return the kind of values of which each is one of `choices`, or a list of some.

    Args:
        name: The kind in a word or two.
        choices: All plausible values.

    Returns:
        The kind.
    """

    def fits(value: Any, channels: int) -> bool:
        given = value if isinstance(value, list | tuple) else [value]
        return bool(given) and all(each in choices and not isinstance(each, bool) for each in given)

    return ArgumentKind(name, fits, lambda channels: f"one of {', '.join(map(str, choices))}")


def list_kind(name: str, item: ArgumentKind) -> ArgumentKind:
    """Return the kind of lists of values of another kind.

    Args:
        name: The kind in a word or two.
        item: The kind of each value.

    Returns:
        The kind.
    """

    def fits(value: Any, channels: int) -> bool:
        return isinstance(value, list | tuple) and bool(value) and all(item.fits(each, channels) for each in value)

    return ArgumentKind(
        name, fits, lambda channels: f"a list, each of it {item.describe_range(channels)}", item.whole, True
    )


def either_kind(first: ArgumentKind, second: ArgumentKind) -> ArgumentKind:
    """Return the kind of values that are plausible for one of two kinds.

    Args:
        first: One kind, whose name is kept.
        second: The other.

    Returns:
        The kind.
    """
    return ArgumentKind(
        first.name,
        lambda value, channels: first.fits(value, channels) or second.fits(value, channels),
        lambda channels: f"{first.describe_range(channels)}, or {second.describe_range(channels)}",
        first.whole and second.whole,
    )


# ---- the kinds ----

MOST_HEADS, MOST_KERNEL = 64, 31

REDUCTION = ArgumentKind(  # of channels to a hidden width
    "reduction",
    lambda value, channels: is_whole(value) and 1 <= value < channels,
    lambda channels: f"a whole number below the {channels} channels, from 1 to {channels - 1}",
    whole=True,
)
KERNEL = ArgumentKind(
    "kernel",
    lambda value, channels: is_whole(value) and value % 2 == 1 and 1 <= value <= MOST_KERNEL,
    lambda channels: f"an odd number from 1 to {MOST_KERNEL}",
    whole=True,
)
GROUPS = ArgumentKind(
    "groups",
    lambda value, channels: is_whole(value) and 1 <= value <= channels and channels % value == 0,
    lambda channels: f"a divisor of the {channels} channels",
    whole=True,
)
HEADS = ArgumentKind(
    "heads",
    lambda value, channels: is_whole(value) and 1 <= value <= min(MOST_HEADS, channels),
    lambda channels: f"a whole number from 1 to {min(MOST_HEADS, channels)}",
    whole=True,
)
WIDTH = ArgumentKind(
    "width",
    lambda value, channels: is_whole(value) and 1 <= value <= channels,
    lambda channels: f"a whole number from 1 to the {channels} channels",
    whole=True,
)
WINDOW = whole_kind("window", 1, 64)
SIDE = whole_kind("side of a table", 1, 256)
COUNT = whole_kind("count", 1, 16)
DILATION = whole_kind("dilation", 1, 16)
STRIDE = whole_kind("stride", 1, 8)
EPSILON = ArgumentKind(
    "epsilon",
    lambda value, channels: is_finite_number(value) and 0 < value < 1,
    lambda channels: "a number above 0 and below 1",
)
SHARE = number_kind("share", 0, 1)
FACTOR = number_kind("factor", 0, 16)
FLAG = ArgumentKind("flag", lambda value, channels: isinstance(value, bool), lambda channels: "true or false")
KERNELS = list_kind("kernels", KERNEL)
ANY = ArgumentKind("value", lambda value, channels: True, lambda channels: "any value")  # not declared

_NAMES: dict[str, ArgumentKind] = {
    name: kind
    for kind, names in (
        (REDUCTION, "reduction ratio rate reduction_ratio"),
        (KERNEL, "kernel kernel_size k_size ksize h_kernel_size v_kernel_size band_kernel_size square_kernel_size"),
        (KERNELS, "kernels conv_kernels group_kernel_sizes"),
        (GROUPS, "groups group num_groups n_groups"),
        (HEADS, "heads head num_heads n_heads head_num"),
        (WINDOW, "window window_size n_win"),
        (SIDE, "width height feat_size"),
        (COUNT, "num_layers recurrence"),
        (DILATION, "dilation"),
        (STRIDE, "stride"),
        (EPSILON, "e_lambda eps epsilon"),
        (FACTOR, "expansion mlp_ratio attn_ratio"),
    )
    for name in names.split()
}


def kind_of_name(name: str) -> ArgumentKind:
    """Return the kind that arguments of that name have; `ANY` if the name says nothing."""
    return _NAMES.get(name, ANY)


# ---- the arguments of a block ----


@dataclass(frozen=True)
class Argument:
    """One argument that a row may give to a block.

    Attributes:
        name: Its name in the constructor, and as a keyword in a row.
        kind: What it is.
        default: The constructor's default, `inspect.Parameter.empty` if it must be given.
        positional: Whether it may be given without its name.
    """

    name: str
    kind: ArgumentKind
    default: Any
    positional: bool = True

    def fits(self, value: Any, channels: int) -> bool:
        """Return whether a value is plausible.

        Args:
            value: As the row gives it.
            channels: Channels that arrive.

        Returns:
            Whether it is the default or in the kind's range.
        """
        return type(value) is type(self.default) and value == self.default or self.kind.fits(value, channels)


@dataclass(frozen=True)
class RowForm:
    """How rows of a block are read, as far as it does not follow from the constructor.

    Attributes:
        kinds: Kinds of arguments that the names and defaults do not show, or show wrongly.
        wired: How many leading constructor arguments the wiring fills in; None follows from the wiring.
        orders: Orders of arguments after the channels in which other implementations take them; each is read if a row
            has as many. Names that are none of the block's own may be among them.
        elsewhere: Argument -> how other implementations differ and how to write theirs: in its default if the argument
            is the block's own, in what it does if it is theirs alone.
        reads_keywords: Whether the wiring itself takes a row's mapping of keywords, as its last argument.
    """

    kinds: Mapping[str, ArgumentKind] = field(default_factory=dict)
    wired: int | None = None
    orders: tuple[tuple[str, ...], ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    reads_keywords: bool = False


def infer_arguments(cls: type, wired: int, kinds: Mapping[str, ArgumentKind]) -> tuple[Argument, ...]:
    """Return the arguments that a row may give to a class: its constructor's, without those that the wiring fills in.

    Args:
        cls: The class.
        wired: Number of leading arguments that are left out.
        kinds: Kinds by name, in place of the inferred ones.

    Returns:
        The arguments in the constructor's order; none for a class without a readable signature.
    """
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (ValueError, TypeError):
        return ()
    named = [each for each in parameters[wired:] if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return tuple(
        Argument(each.name, kinds.get(each.name) or _infer_kind(each), each.default, each.kind != each.KEYWORD_ONLY)
        for each in named
    )


def _infer_kind(parameter: inspect.Parameter) -> ArgumentKind:
    """Return the kind that a name has, unless the default is of another sort; flags follow from the default alone."""
    default = parameter.default
    if isinstance(default, bool):
        return FLAG
    kind = kind_of_name(parameter.name)
    if isinstance(default, list | tuple) != kind.listed and default not in (None, inspect.Parameter.empty):
        return ANY
    return ANY if kind.whole and isinstance(default, float | str) else kind


def shorten(value: Any) -> str:
    """Return a row's value as a message shows it: printable ASCII, of limited length."""
    text = f"{value:g}" if isinstance(value, float) else ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
