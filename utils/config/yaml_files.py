"""Finding and reading the yaml files that users write, with errors that name file and line."""

from pathlib import Path

from utils.errors import ConfigError, cut, nearest
from utils.files import ROOT, is_file, read_text

MOST_CLASSES = 65_536  # of a data yaml and of a model yaml


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
    from utils.config.yaml_loader import parse_yaml

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
