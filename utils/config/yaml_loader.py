"""The yaml loader: PyYAML's, with limits on size, nesting and what aliases repeat, and errors of one line with the row.

The limits are far above those of any data, hyp, study or model yaml. They bound what a few lines of a stranger's file
can take in time and memory, and how large a value can be that a message shows.
"""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import ConfigError, UserError, cut, shown

MOST_CHARACTERS = 4_000_000  # of a yaml file
MOST_LEVELS = 32  # lists and mappings inside one another
MOST_REPEATED = 1_000_000  # characters that aliases add to those written
MOST_BITS = 1000  # of a whole number, so that it has a floating-point value
_MOST_DIGITS = 400  # of a number's text; PyYAML takes 1:30:00 for a number and needs quadratic time for a long one
_TOO_LARGE = 1 << (MOST_BITS + 1)
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What PyYAML raises besides YAMLError for text that its types do not take, such as `!!int ''` or 2024-13-45.
_VALUE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


def parse_yaml(
    text: str, where: Path | str, texts_only: bool = False, error_class: type[UserError] = ConfigError
) -> tuple[Any, yaml.Node | None]:
    """Return the content of a yaml text, and the nodes that it was made from.

    Args:
        text: The yaml.
        where: The file, for messages.
        texts_only: Keep every scalar as the text that was written.
        error_class: Class of the error.

    Returns:
        (content, root node); (None, None) for a text without content.

    Raises:
        UserError: Of `error_class`, in one line that names file and line, if PyYAML cannot read the text, or it is
            beyond a limit of this module.
    """
    if len(text) > MOST_CHARACTERS:
        raise error_class(f"{cut(where)}: {len(text):,} characters; a yaml here has at most {MOST_CHARACTERS:,}")
    loader = None
    try:
        loader = (_TextLoader if texts_only else _ValueLoader)(text)
        node = loader.get_single_node()
        return (None, None) if node is None else (loader.construct_document(node), node)
    except (yaml.YAMLError, *_VALUE_ERRORS) as error:
        line = _line_of(error, text) or (loader.line + 1 if loader else 1)
        problem = getattr(error, "problem", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
        raise error_class(f"{cut(where)}:{line}: not valid yaml: {cut(problem)}") from None
    finally:
        if loader:
            loader.dispose()


def _line_of(error: Exception, text: str) -> int:
    """Return the line, from 1, that an error of PyYAML is about; 0 if it does not say."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return mark.line + 1
    position = getattr(error, "position", None)  # of a character that yaml does not allow
    return text.count("\n", 0, position) + 1 if isinstance(position, int) else 0


class _LimitedNodes:
    """Composition of nodes with limits, for a loader of PyYAML.

    A node is complete before an alias can repeat it, so its size and its levels are known then. An alias to a node
    that is not complete would make a value that holds itself.
    """

    peek_event: Any

    def __init__(self, text: str):
        super().__init__(text)  # type: ignore[call-arg]  # of the loader that this class is mixed into
        self._complete: dict[int, tuple[int, int]] = {}  # id of a node -> its characters and levels
        self._level = self._repeated = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        self._level += 1
        if self._level > MOST_LEVELS and not is_alias:
            _refuse(event, f"more than {MOST_LEVELS} levels of lists and mappings")
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self._level -= 1
        if is_alias:
            self._charge(node, event)
        else:
            self._complete[id(node)] = self._measure(node)
        return node

    def _charge(self, node: Any, event: Any) -> None:
        """Count what an alias repeats."""
        if id(node) not in self._complete:
            _refuse(event, f"the alias *{cut(event.anchor, 50)} stands inside what it repeats")
        size, levels = self._complete[id(node)]
        self._repeated += size
        if self._repeated > MOST_REPEATED:
            _refuse(event, f"aliases repeat more than {MOST_REPEATED:,} characters")
        if self._level + levels > MOST_LEVELS:
            _refuse(event, f"more than {MOST_LEVELS} levels of lists and mappings")

    def _measure(self, node: Any) -> tuple[int, int]:
        """Return the characters and the levels of a node whose children are complete."""
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value), 1
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        sizes = [self._complete[id(child)] for child in children]
        return 1 + sum(size for size, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)


def _refuse(event: Any, problem: str) -> None:
    raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


class _TextLoader(_LimitedNodes, yaml.BaseLoader):
    """Keeps every scalar as text."""


class _ValueLoader(_LimitedNodes, yaml.SafeLoader):
    """Makes numbers, dates and so on of scalars; what cannot be made is an error with the line."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        is_scalar = isinstance(node, yaml.ScalarNode)
        try:
            is_long = is_scalar and node.tag in _NUMBER_TAGS and len(node.value) > _MOST_DIGITS
            value = _TOO_LARGE if is_long else super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except _VALUE_ERRORS:
            value = _TOO_LARGE
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            text = shown(node.value, 80) if is_scalar else f"a {node.id}"
            problem = f"{text} is no {cut(node.tag.rpartition(':')[2], 50)} that can be used"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value
