"""From a dataclass to a command line and back: a flag is defined once, as a field of its script's configuration.

A field made by `flag()` carries its help, aliases, bounds and choices. `parse` builds the parser from
the fields, `from_options` builds the same record from keyword arguments, and both check every value.
"""

import argparse
import difflib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from utils.errors import ConfigError, cut, nearest, shown
from utils.files import ROOT

ConfigType = TypeVar("ConfigType", bound="Options")
Default = TypeVar("Default")
_KINDS: dict[str, type] = {"text": str, "integer": int, "number": float}
_EXPECTED = {"text": "text", "integer": "a whole number", "number": "a number"}


@dataclass(frozen=True)
class Flag:
    """What a field knows about its flag.

    Attributes:
        help: What `--help` says, without the default.
        kind: "text", "integer", "number", "switch" (absent or present) or "choice" (--x, --no-x or neither).
        many: It takes one value or more and becomes a tuple.
        repeatable: It may be given several times.
        aliases: Further names, with dashes.
        const: The value of the bare flag.
        choices: The texts that it may have.
        words: Texts that it may have besides numbers.
        open_choices: Any other text is taken too.
        low: Inclusive lower bound.
        high: Inclusive upper bound.
        new: v6.1 does not have it.
        surplus: What to do if several values are given and it takes one.
    """

    help: str
    kind: str
    many: bool = False
    repeatable: bool = False
    aliases: tuple[str, ...] = ()
    const: object = None
    choices: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()
    open_choices: bool = False
    low: float = -math.inf
    high: float = math.inf
    new: bool = False
    surplus: str = ""


def flag(default: Default, help: str, kind: str = "text", **details: Any) -> Default:
    """Return a dataclass field that is also a command-line flag.

    The declared type is the default's, as for `dataclasses.field`, so that a type checker reads the fields of a
    configuration as what they hold.

    Args:
        default: The value if the flag is not given.
        help: What `--help` says, without the default.
        kind: One of `Flag`'s kinds.
        **details: Further fields of `Flag`.

    Returns:
        A field for the body of an `Options` class.

    Example:
        >>> @dataclass(frozen=True)
        ... class Small(Options):
        ...     epochs: int = flag(300, "passes over the training images", "integer", low=1)
        >>> from_options(Small, epochs=3).epochs
        3
    """
    return field(default=default, metadata={"flag": Flag(help, kind, **details)})


def flag_fields(config: "Options | type[Options]") -> tuple[Field, ...]:
    """Return the fields of a configuration that are flags, in the order of `--help`."""
    return tuple(each for each in fields(config) if "flag" in each.metadata)


@dataclass(frozen=True)
class Options:
    """Base of the scripts' configurations: values are checked and made uniform when the record is made.

    Attributes:
        given: Names of the options that stood on the command line (`parse`) or were passed (`from_options`).
    """

    given: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False, compare=False)

    @classmethod
    def refused(cls) -> dict[str, str]:
        """Return the flags of v6.1 that are answered with advice instead of being accepted."""
        return {}

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        """Return the flags of other versions and of forks, with what each is here; only whole names count."""
        return {}

    def __post_init__(self):
        for each in flag_fields(self):
            object.__setattr__(self, each.name, _checked(each, getattr(self, each.name)))
        for name, value in self.implied().items():
            object.__setattr__(self, name, value)
        self.check()

    def implied(self) -> dict[str, object]:
        """Return the options that follow from others, by name. For subclasses to extend."""
        return {}

    def check(self) -> None:
        """Raise ConfigError if values do not go together. For subclasses to extend."""

    def as_dict(self) -> dict[str, object]:
        """Return the options as plain values, fit for a yaml file."""
        values = {each.name: getattr(self, each.name) for each in flag_fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def from_options(config_class: type[ConfigType], **options) -> ConfigType:
    """Return a configuration with `options` in place of the defaults.

    Args:
        config_class: Which script's configuration.
        **options: Values by the flags' names with underscores, or by an alias such as `img`.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: For an unknown name, with the nearest known one, and for a value that cannot be.
    """
    names = {each.name: each.name for each in flag_fields(config_class)}
    for each in flag_fields(config_class):
        names.update({alias.lstrip("-").replace("-", "_"): each.name for alias in each.metadata["flag"].aliases})
    refused = {text.lstrip("-").replace("-", "_"): advice for text, advice in config_class.refused().items()}
    known: dict[str, Any] = {}
    retired = config_class.retired()
    for name, value in options.items():
        if name in refused:
            if value not in (None, "", False, -1, "latest"):  # v6.1's defaults: asked for nothing
                raise ConfigError(f"{name}: {refused[name]}")
        elif name not in names:
            advice = next(
                (retired[text] for text in (f"--{name}", f"--{name.replace('_', '-')}") if text in retired), ""
            )
            raise ConfigError(f"{cut(name)}: {advice or f'no such option{nearest(name, names)}'}")
        elif names[name] in known:
            raise ConfigError(f"{name}: the option {names[name]} is given twice")
        else:
            known[names[name]] = value
    return config_class(**known, given=frozenset(known))


def parse(
    config_class: type[ConfigType],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
) -> ConfigType:
    """Return the configuration that a command line asks for.

    Unambiguous prefixes of flags are accepted. A mistake ends the program as argparse does, with exit code 2, after
    one line that says what is wrong.

    Args:
        config_class: Which script's configuration.
        argv: The command line without the program's name; `sys.argv` if None.
        description: The first paragraph of `--help`.
        prog: The program's name in messages; that of `sys.argv` if None.

    Returns:
        The checked configuration; its `given` names what stood on the command line.
    """
    parser = build_parser(config_class, description, prog)
    argv = list(sys.argv[1:] if argv is None else argv)
    argv = _with_old_prefixes(config_class, argv)
    problem = _retired_problem(config_class, argv)
    if problem:
        parser.error(problem)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown_problem(config_class, argv, unknown[0]))
    try:
        return config_class(**vars(options), given=frozenset(vars(options)))
    except ConfigError as error:
        parser.error(str(error))


def _retired_problem(config_class: type[Options], argv: list[str]) -> str:
    """Return what the first flag of another version in a command line is here, "" if it has none."""
    retired = config_class.retired()
    current = {name for each in flag_fields(config_class) for name in flag_names(each)}
    for word in argv:
        name = word.partition("=")[0]
        if name in retired and name not in current:
            return f"{name}: {retired[name]}"
    return ""


def _unknown_problem(config_class: type[Options], argv: list[str], word: str) -> str:
    """Return what is wrong with a word that no flag of a command line takes, and what to write instead."""
    by_name = {name: each for each in flag_fields(config_class) for name in flag_names(each)}
    text, equals, value = word.partition("=")
    problem = f"unrecognized argument {cut(word)}"
    if text.startswith("-"):
        return problem + _nearest_flag(text, list(by_name))
    name = f"--{text.replace('_', '-')}"
    if equals and name in config_class.retired():
        return f"{problem}; {name}: {config_class.retired()[name]}"
    if equals and _with_old_prefixes(config_class, [name])[0] in by_name:
        return f"{problem}; flags are written with dashes: {cut(f'{name} {value}')}"
    given, values = _flag_before(argv, word, by_name)
    surplus = by_name[given].metadata["flag"].surplus if given else ""
    hint = f"; {surplus}" if surplus else _expanded_pattern_hint(text)
    return f"{problem}: {given} takes one value, got {cut(' '.join(values))}{hint}" if given else problem + hint


def _flag_before(argv: list[str], word: str, known: Mapping[str, Field]) -> tuple[str, list[str]]:
    """Return the flag of one value that a word is one value too many of, and all its values; "" if there is none."""
    at, given = 0, ""
    for index, each in enumerate(argv):
        if each.startswith("--"):
            at, given = index, each
        elif each == word and index > at + 1 and given in known:
            spec: Flag = known[given].metadata["flag"]
            if not spec.many and spec.kind not in ("switch", "choice"):
                return given, argv[at + 1 : index + 1]
    return "", []


def _expanded_pattern_hint(text: str) -> str:
    """What to do if a value too many is a file: the shell made several of a pattern such as images/*.jpg."""
    return "; put a pattern in quotes, or name its folder: one source is read" if os.path.exists(text) else ""


def build_parser(
    config_class: type[Options], description: str | None = None, prog: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a configuration: one argument per flag, and one per refused flag.

    Args:
        config_class: Which script's configuration.
        description: The first paragraph of `--help`.
        prog: The program's name in messages.

    Returns:
        A parser whose mistakes are one line.
    """
    parser = _Parser(prog=prog, description=description)
    for each in flag_fields(config_class):
        parser.add_argument(*flag_names(each), **_argument(each))
    for name, advice in config_class.refused().items():
        parser.add_argument(
            name, action=_Refuse, advice=advice, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def flag_names(each: Field) -> tuple[str, ...]:
    """Return a field's flags, the main one first: batch_size -> --batch-size."""
    return (f"--{each.name.replace('_', '-')}", *each.metadata["flag"].aliases)


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


class _Refuse(argparse.Action):
    """A flag that is known and answered with what to use instead."""

    def __init__(self, *args, advice: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.advice = advice

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{self.option_strings[0]}: {self.advice}")


def _argument(each: Field) -> dict[str, Any]:
    """Return what argparse is told about a field."""
    spec: Flag = each.metadata["flag"]
    argument: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": _help(each)}
    if spec.kind == "switch":
        return {**argument, "action": "store_true"}
    if spec.kind == "choice":
        return {**argument, "action": argparse.BooleanOptionalAction}
    argument["type"] = partial(_number_or_word, _KINDS[spec.kind]) if spec.words else _KINDS[spec.kind]
    argument["metavar"] = each.name.upper() if spec.choices is None else "{" + ",".join(spec.choices) + "}"
    if spec.choices is not None and not spec.open_choices:
        argument["choices"] = spec.choices
    if spec.repeatable:
        argument["action"] = "append"
    elif spec.many:
        argument["nargs"] = "+"
    elif spec.const is not None:
        argument.update(nargs="?", const=spec.const)
    return argument


def _number_or_word(kind: type[int] | type[float], text: str) -> float | str:
    """A number of the kind if it is one, else the text, which the record checks."""
    try:
        return kind(text)
    except ValueError:
        return text


def _help(each: Field) -> str:
    """Return a flag's help with its default at the end."""
    default = each.default
    if isinstance(default, tuple):
        default = " ".join(str(value) for value in default)
    text = each.metadata["flag"].help
    if default not in (None, False, ""):
        relative = str(default).removeprefix(f"{ROOT}{'/' if '/' in str(ROOT) else chr(92)}")
        text += f" (default: {relative})"
    return text.replace("%", "%%")


def _with_old_prefixes(config_class: type[Options], argv: list[str]) -> list[str]:
    """Return argv with those prefixes written out that were unambiguous among v6.1's flags.

    So a flag that came later (--labels) does not break an old habit (--label 0.1).
    """
    old = {
        name: each.name
        for each in flag_fields(config_class)
        if not each.metadata["flag"].new
        for name in flag_names(each)
    }
    old.update({name: name for name in config_class.refused()})
    every = {name for each in flag_fields(config_class) for name in flag_names(each)} | set(old)
    written: list[str] = []
    for word in argv:
        head, equals, tail = word.partition("=")
        if head.startswith("--") and len(head) > 2 and head not in every:
            matches = [name for name in old if name.startswith(head)]
            if matches and len({old[name] for name in matches}) == 1:
                word = matches[0] + equals + tail
        written.append(word)
    return written


def _nearest_flag(text: str, flags: list[str]) -> str:
    matches = difflib.get_close_matches(text.replace("_", "-"), flags, n=2, cutoff=0.6)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


def _checked(each: Field, value: Any) -> object:
    """Return a field's value in its type, or raise ConfigError that names the flag."""
    spec: Flag = each.metadata["flag"]
    name = f"--{each.name.replace('_', '-')}"
    if value is None and spec.repeatable:
        return ()
    if spec.kind in ("switch", "choice"):
        if not isinstance(value, bool) and not (value is None and spec.kind == "choice"):
            raise ConfigError(f"{name}: expected True or False, got {shown(value)}")
        return value
    if spec.many or spec.repeatable:
        if value is None and each.default is None:
            return None
        values = tuple(value) if isinstance(value, (list, tuple, range)) else (value,)
        if not values and spec.many:
            raise ConfigError(f"{name}: expected one value or more, got none")
        return tuple(_single(name, spec, item) for item in values)
    if value is each.default or (spec.const is not None and value is spec.const):
        return value
    return _single(name, spec, value)


def _single(name: str, spec: Flag, value: Any) -> object:
    """Return one value as its flag's type, inside its bounds and among its choices."""
    if value in spec.words:
        return value
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if spec.kind == "text":
        if isinstance(value, Path) or (plain and spec.choices is None):
            value = str(value)
        right = isinstance(value, str)
    else:
        right = plain and (spec.kind == "number" or int(value) == value if math.isfinite(value) else False)
    if not right:
        expected = " or ".join((_EXPECTED[spec.kind], *spec.words))
        surplus = f"; {spec.surplus}" if spec.surplus and isinstance(value, list | tuple) else ""
        raise ConfigError(f"{name}: expected {expected}, got {shown(value)}{nearest(str(value), spec.words)}{surplus}")
    if spec.choices is not None and not spec.open_choices and value not in spec.choices:
        raise ConfigError(
            f"{name} {cut(value)}: expected one of {', '.join(spec.choices)}{nearest(value, spec.choices)}"
        )
    if spec.kind == "text":
        return value
    if not spec.low <= value <= spec.high:
        bounds = f"at least {spec.low:g}" if spec.high == math.inf else f"{spec.low:g} to {spec.high:g}"
        raise ConfigError(f"{name} {value:g}: expected {bounds}")
    return _KINDS[spec.kind](value)
