"""The texts that a file carries, as our record: those of export.py, and those of YOLOv5's own exports."""

import ast
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from utils.config.yaml_files import read_yaml
from utils.errors import CheckpointError, ConfigError, cut, shown
from utils.files import is_file
from utils.runtimes.metadata import FILE_NAME, TASK, ExportMetadata
from utils.runtimes.protocol import InputShape

OURS = "variant"  # a key that only export.py writes
_LONGEST = 1 << 20  # characters of a text that is parsed


def read_metadata(texts: Mapping[str, str], file: object, shape: InputShape | None = None) -> ExportMetadata:
    """Return what a file says of itself.

    Args:
        texts: Its texts by key. YOLOv5's exports have `stride` and `names`, the latter perhaps as Python writes a list
            or dict.
        file: The file, for messages.
        shape: The images that the file takes, if its graph declares them: they count more than the texts. None if it
            does not; then the texts of YOLOv5's exports must have `shape`.

    Returns:
        The checked record.

    Raises:
        CheckpointError: If class names, stride or shape are missing or damaged.
    """
    own = ExportMetadata.from_text(texts, cut(file)) if OURS in texts else _of_yolov5(texts, file, shape)
    if shape is None:
        return own
    return replace(own, imgsz=shape.size or own.imgsz, batch=shape.batch or own.batch, dynamic=shape.size is None)


def declared_shape(metadata: ExportMetadata) -> InputShape:
    """Return the images that a file takes whose graph does not declare them."""
    return InputShape(None, None, None) if metadata.dynamic else InputShape(metadata.batch, *metadata.imgsz)


def texts_of_json(text: str, file: object) -> dict[str, str]:
    """Return JSON texts by key of a text that holds all values as one JSON object.

    Args:
        text: The text; "" if the file carries none.
        file: The file, for messages.

    Returns:
        The texts; none of an empty one.

    Raises:
        CheckpointError: If it is something else.
    """
    try:
        values = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{cut(file)}: its metadata is damaged: {shown(text)}; export the checkpoint again")
    return {key: json.dumps(value) for key, value in values.items()}


def folder_texts(folder: Path) -> dict[str, str]:
    """Return the texts of a format that is a folder: metadata.json, or the yaml that YOLOv5 writes for OpenVINO.

    Raises CheckpointError if the file is damaged; without one there are no texts.
    """
    if is_file(folder / FILE_NAME):
        return texts_of_json((folder / FILE_NAME).read_text(encoding="utf-8", errors="replace"), folder / FILE_NAME)
    yamls = sorted(folder.glob("*.yaml"))
    if len(yamls) != 1:
        return {}
    try:
        return {str(key): json.dumps(value, default=str) for key, value in read_yaml(yamls[0]).items()}
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _of_yolov5(texts: Mapping[str, str], file: object, shape: InputShape | None) -> ExportMetadata:
    needed = ("stride", "names") if shape else ("stride", "names", "shape")
    missing = [key for key in needed if key not in texts]
    if missing:
        raise CheckpointError(
            f"{cut(file)}: carries no metadata of a detector ({', '.join(missing)} missing); export the checkpoint "
            "again with export.py"
        )
    task = texts.get("task", TASK).strip('"')
    if task != TASK:
        raise CheckpointError(f"{cut(file)}: its task is {cut(task)}, and only detectors are run here")
    values = {key: _literal(texts[key], key, file) for key in needed}
    names = values["names"]
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=_class_id)]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise _damaged(file, "names", names)
    stride = values["stride"]
    if not isinstance(stride, int) or not _is_count(stride):
        raise _damaged(file, "stride", stride)
    if shape is not None:
        return ExportMetadata(tuple(names), stride, shape.size or (640, 640), shape.batch or 1)
    sides = values["shape"]
    if not isinstance(sides, list) or len(sides) != 4 or not all(map(_is_count, sides)):
        raise _damaged(file, "shape", sides)
    return ExportMetadata(tuple(names), stride, (sides[2], sides[3]), sides[0])


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 20


def _damaged(file: object, key: str, value: object) -> CheckpointError:
    return CheckpointError(f"{cut(file)}: its metadata is damaged: {key} is {shown(value)}")


def _literal(text: str, key: str, file: object) -> object:
    """A value as JSON or as Python writes it; nothing is executed."""
    if len(text) > _LONGEST:
        raise _damaged(file, key, text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise _damaged(file, key, text) from None


def _class_id(key: object) -> int:
    text = str(key)
    return int(text) if text.isdecimal() and len(text) < 10 else -1
