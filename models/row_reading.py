"""What the arguments of a row mean: which are widths, which argument each number is, and which form has two meanings.

A row may end in a mapping of keywords: [1024, {kernel_size: 7}]. Rows come from tutorials, papers and other code bases,
where the same numbers stand in other orders; `RowForm.orders` of a block lists those. A number that two orders read
differently, each plausibly, is refused with both readings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.arguments import REDUCTION, Argument, RowForm, is_whole, kind_of_name, shorten
from utils.errors import nearest

LEAST_WIDTH = 64  # from this on, a number is no reduction, kernel or number of heads but a width


def split_keywords(args: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return a row's arguments by position, and those by name: the mapping that may be its last element.

    Args:
        args: The row's arguments.

    Returns:
        (by position, by name).

    Raises:
        ValueError: If a mapping stands elsewhere, or a key is no name.
    """
    *before, last = args or [None]
    keywords = dict(last) if isinstance(last, Mapping) else {}
    positional = list(before if isinstance(last, Mapping) else args)
    if any(isinstance(value, Mapping) for value in positional):
        raise ValueError("a mapping of keywords such as {kernel_size: 7} must be the last argument, and the only one")
    for name in keywords:
        if not isinstance(name, str):
            raise ValueError(f"a keyword is a name, such as {{kernel_size: 7}}, got {shorten(name)}")
    return positional, keywords


def argument_of(args: Sequence[Any], index: int, name: str, default: Any) -> Any:
    """Return one argument of a row as it is written, by position or by keyword.

    Args:
        args: The row's arguments.
        index: Its position.
        name: Its keyword.
        default: The value if the row does not say it.

    Returns:
        The value.

    Example:
        >>> argument_of([64, {"stride": 2}], 2, "stride", 1), argument_of([64, 3, 2], 2, "stride", 1)
        (2, 2)
    """
    keywords = args[-1] if args and isinstance(args[-1], Mapping) else {}
    count = len(args) - 1 if keywords else len(args)
    return args[index] if index < count else keywords.get(name, default)


@dataclass(frozen=True)
class RowReader:
    """Reads what follows the width in rows of one block.

    Attributes:
        arguments: Those of the block.
        form: What is declared of its rows.
        channels: Channels that arrive.
        nominal: What a number, scaled as a width, comes to.
        has_width: Whether the row names the width before these values.
    """

    arguments: Sequence[Argument]
    form: RowForm
    channels: int
    nominal: Any
    has_width: bool

    def read(self, values: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the values and keywords for the constructor.

        Args:
            values: The row's values after the width.
            keywords: The row's keywords.

        Returns:
            (values, keywords): without an output width, and by name if only another order makes sense of them.

        Raises:
            ValueError: If a keyword is unknown or given twice, or the values have two plausible meanings.
        """
        values = list(values)
        if self._begins_with_width(values):
            values = values[1:]
        _check_names(self.arguments, keywords)
        readings = self._plausible_readings(values, keywords)
        own = self._name(self._own_order(), values)
        if len(readings) > 1 or readings and own not in readings:
            first = readings[0]
            if len(readings) == 1 and all(name in self._names() for name in first):
                return [], {**first, **keywords}
            raise ValueError(self._describe_readings(values, readings, keywords))
        self._check_reduction(values)
        for name in list(own or {}) if keywords else ():
            if name in keywords:
                raise ValueError(
                    f"{name} is given twice: {shorten((own or {})[name])} and {name}: {shorten(keywords[name])}"
                )
        return values, dict(keywords)

    def _names(self) -> set[str]:
        return {argument.name for argument in self.arguments}

    def _own_order(self) -> list[str]:
        return [argument.name for argument in self.arguments if argument.positional]

    def _begins_with_width(self, values: Sequence[Any]) -> bool:
        """Return whether the first value is the output width: what arrives, and implausible as the first argument."""
        if not (self.has_width and values and is_whole(values[0]) and values[0] >= LEAST_WIDTH and self.arguments):
            return False
        arrives = self.channels in (values[0], self.nominal(values[0]))
        return arrives and not self.arguments[0].fits(values[0], self.channels)

    def _name(self, order: Sequence[str], values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the values by name in that order, None if there are more than names."""
        return dict(zip(order, values, strict=False)) if len(values) <= len(order) else None

    def _plausible_readings(self, values: Sequence[Any], keywords: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the different meanings that the values have in the orders of this and other implementations."""
        readings: list[dict[str, Any]] = []
        others = [order for order in self.form.orders if len(order) == len(values)]
        for order in (self._own_order(), *others) if values and others else ():
            named = self._name(order, values)
            if named is None or set(named) & set(keywords) or named in readings:
                continue
            if all(self._fits(name, value) for name, value in named.items()):
                readings.append(named)
        return readings

    def _fits(self, name: str, value: Any) -> bool:
        """Return whether a value is plausible as an argument of this or another implementation."""
        for argument in self.arguments:
            if argument.name == name:
                return argument.fits(value, self.channels)
        return (self.form.kinds.get(name) or kind_of_name(name)).fits(value, self.channels)

    def _describe_readings(
        self, values: Sequence[Any], readings: Sequence[Mapping[str, Any]], keywords: Mapping[str, Any]
    ) -> str:
        """Return the message that names every reading and how to write it."""
        texts = []
        for named in readings:
            known = {name: value for name, value in named.items() if name in self._names()}
            unused = [name for name in named if name not in known]
            meant = " and ".join(f"{shorten(value)} as {name}" for name, value in named.items())
            reasons = [f"{name} {self.form.elsewhere.get(name, 'has no use here')}" for name in unused]
            note = f" ({', '.join(reasons)})" if unused else ""
            says_how = not known and any(name in self.form.elsewhere for name in unused)
            texts.append(f"{meant}{note}" + ("" if says_how else f": write {write_keywords({**known, **keywords})}"))
        shown = f"{shorten(values)} {'behind the width ' if self.has_width else ''}"
        count = {1: "has another meaning elsewhere", 2: "has two meanings"}.get(len(readings), "has several meanings")
        return f"{shown}{count}: {'; '.join(texts)}"

    def _check_reduction(self, values: Sequence[Any]) -> None:
        """Refuse another width in the place of a reduction: the output width of a block that changes it."""
        if not (self.has_width and values and self.arguments and self.arguments[0].kind is REDUCTION):
            return
        if is_whole(values[0]) and values[0] >= LEAST_WIDTH:
            name = self.arguments[0].name
            raise ValueError(
                f"{shorten(values)} behind the width has two meanings: {values[0]} as output width: write [], the "
                f"{self.channels} channels that arrive also leave; {values[0]} as {name}: write "
                f"{write_keywords({name: values[0]})}"
            )


def write_keywords(keywords: Mapping[str, Any]) -> str:
    """Return the arguments of a row that gives these keywords: [{kernel_size: 7}], or [] for none."""
    words = ", ".join(f"{name}: {shorten(value)}" for name, value in keywords.items())
    return f"[{{{words}}}]" if words else "[]"


def _check_names(arguments: Sequence[Argument], keywords: Mapping[str, Any]) -> None:
    names = [argument.name for argument in arguments]
    for keyword in keywords:
        if keyword not in names:
            raise ValueError(
                f"no argument is called {shorten(keyword)}{nearest(keyword, names)}; "
                f"its rows take {', '.join(names) or 'no arguments'}"
            )
