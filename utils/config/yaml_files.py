"""Finding and reading the yaml files that users write, with errors that name file and line.

PyYAML's loader is made safe for files of strangers: whatever it raises becomes one error with the line, and size,
nesting and what aliases repeat are limited. These limits are far above those of any data, hyp, study or model yaml.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import ConfigError, UserError, cut, nearest, shown
from utils.files import ROOT, is_file, read_text

if TYPE_CHECKING:
    import yaml

MOST_CHARACTERS = 4_000_000  # of a yaml file
MOST_LEVELS = 32  # lists and mappings inside one another
MOST_REPEATED = 1_000_000  # characters that aliases add to those written, so that a few lines do not become gigabytes
MOST_CLASSES = 65_536  # of a data yaml and of a model yaml
MOST_BITS = 1000  # of a whole number, so that it has a floating-point value
_MOST_DIGITS = 400  # of a number's text; PyYAML takes 1:30:00 for a number and needs quadratic time for a long one
_TOO_LARGE = 1 << (MOST_BITS + 1)
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What PyYAML raises besides YAMLError for text that its types do not take, such as `!!int ''` or 2024-13-45.
_VALUE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


def find_yaml(name: Path | str, folder: str, kind: str) -> Path:
    """Return the file that a name means.

    Args:
        name: A path, a path below the project's root, or a file's name in `folder`, with or without .yaml.
        folder: Folder of the project that holds files of this kind, such as "data/hyps".
        kind: What the file is, for the message.

    Returns:
        The path of an existing file.

    Raises:
        ConfigError: If there is none, with near names.
    """
    project_folder = ROOT / folder
    for candidate in (Path(name), ROOT / name, project_folder / name, project_folder / f"{name}.yaml"):
        if is_file(candidate):
            return candidate
    known = [path.name for path in project_folder.glob("*.yaml")]
    hint = nearest(Path(name).name, known)
    raise ConfigError(f"{cut(name)}: no such {kind}; looked in the current folder, {ROOT} and {project_folder}{hint}")


def read_yaml(path: Path, texts_only: bool = False) -> dict:
    """Return the mapping in a yaml file.

    Args:
        path: The file.
        texts_only: Keep every scalar as the text that was written.

    Returns:
        Its top-level mapping.

    Raises:
        ConfigError: Naming the line, if the file is not yaml, or not a mapping.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"{cut(path)}: cannot be read: {error.strerror}") from None
    content, _ = parse_yaml(text, path, texts_only=texts_only)
    if content is None:
        raise ConfigError(f"{cut(path)}: the file is empty; expected lines of the form `key: value`")
    if not isinstance(content, dict):
        raise ConfigError(f"{cut(path)}: expected lines of the form `key: value`, got {type(content).__name__}")
    return content


def parse_yaml(
    text: str, where: Path | str, texts_only: bool = False, error_class: type[UserError] = ConfigError
) -> tuple[Any, "yaml.Node | None"]:
    """Return the content of a yaml text, and the nodes that it was made from.

    Args:
        text: The yaml.
        where: The file, for messages.
        texts_only: Keep every scalar as the text that was written.
        error_class: Class of the error.

    Returns:
        (content, root node); (None, None) for a text without content.

    Raises:
        UserError: Of `error_class`, in one line that names file and line, if PyYAML cannot read the text, or size,
            levels or repeated characters are beyond the limits.
    """
    import yaml

    if len(text) > MOST_CHARACTERS:
        raise error_class(f"{cut(where)}: {len(text):,} characters; a yaml here has at most {MOST_CHARACTERS:,}")
    loader = None
    try:
        loader = _loader_class(texts_only)(text)
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


@functools.cache
def _loader_class(texts_only: bool) -> Any:
    """Return PyYAML's safe loader, or its loader of texts, with the limits of this module and errors that have a line.

    A node is complete before an alias can repeat it, so its size and its levels are known then. An alias to a node
    that is not complete would make a value that holds itself.
    """
    import yaml

    class LimitedLoader(yaml.BaseLoader if texts_only else yaml.SafeLoader):  # type: ignore[misc]  # either of two
        def __init__(self, stream: str):
            super().__init__(stream)
            self._complete: dict[int, tuple[int, int]] = {}  # id of a node -> its characters and levels
            self._level = self._repeated = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            is_alias = isinstance(event, yaml.AliasEvent)
            self._level += 1
            if self._level > MOST_LEVELS and not is_alias:
                self._refuse(event, f"more than {MOST_LEVELS} levels of lists and mappings")
            node = super().compose_node(parent, index)
            self._level -= 1
            if not is_alias:
                self._complete[id(node)] = self._measure(node)
                return node
            if id(node) not in self._complete:
                self._refuse(event, f"the alias *{cut(event.anchor, 50)} stands inside what it repeats")
            size, levels = self._complete[id(node)]
            self._repeated += size
            if self._repeated > MOST_REPEATED:
                self._refuse(event, f"aliases repeat more than {MOST_REPEATED:,} characters")
            if self._level + levels > MOST_LEVELS:
                self._refuse(event, f"more than {MOST_LEVELS} levels of lists and mappings")
            return node

        def _measure(self, node: Any) -> tuple[int, int]:
            if isinstance(node, yaml.ScalarNode):
                return 1 + len(node.value), 1
            pairs = isinstance(node, yaml.MappingNode)
            children = [child for pair in node.value for child in pair] if pairs else node.value
            sizes = [self._complete[id(child)] for child in children]
            return 1 + sum(size for size, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)

        def _refuse(self, event: Any, problem: str) -> None:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)

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
                kind = str(node.tag).rpartition(":")[2]
                text = shown(node.value, 80) if is_scalar else f"a {node.id}"
                problem = f"{text} is no {cut(kind, 50)} that can be used"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return value

    return LimitedLoader
