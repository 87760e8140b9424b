"""The texts that a file carries, as our record: those of export.py, and those of YOLOv5's own exports."""

import ast
import json
from collections.abc import Mapping
from dataclasses import replace

from utils.errors import CheckpointError, cut, shown
from utils.runtimes.metadata import ExportMetadata
from utils.runtimes.protocol import InputShape

OURS = "variant"  # a key that only export.py writes
NEEDED = ("stride", "names")
_LONGEST = 1 << 20  # characters of a text that is parsed
_USUAL_SIZE = (640, 640)


def read_metadata(texts: Mapping[str, str], shape: InputShape, file: object) -> ExportMetadata:
    """Return what a file says of itself.

    Args:
        texts: Its texts by key. YOLOv5's exports have `stride` and `names`, as Python writes a list or dict.
        shape: The images that the file takes, as its graph declares them. They count more than the texts.
        file: The file, for messages.

    Returns:
        The checked record.

    Raises:
        CheckpointError: If the class names or the stride are missing or damaged.
    """
    own = ExportMetadata.from_text(texts, file) if OURS in texts else _of_yolov5(texts, file)
    return replace(own, imgsz=shape.size or own.imgsz, batch=shape.batch or own.batch, dynamic=shape.size is None)


def _of_yolov5(texts: Mapping[str, str], file: object) -> ExportMetadata:
    missing = [key for key in NEEDED if key not in texts]
    if missing:
        raise CheckpointError(
            f"{cut(file)}: carries no metadata ({' and '.join(missing)} missing), so its classes are unknown; export "
            "the checkpoint again with export.py"
        )
    task = texts.get("task", "detect")
    if task != "detect":
        raise CheckpointError(f"{cut(file)}: its task is {cut(task)}; only detectors are run here")
    stride, names = (_literal(texts[key], key, file) for key in NEEDED)
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=_class_id)]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{cut(file)}: its metadata is damaged: names is {shown(names)}")
    if type(stride) is not int or not 0 < stride < 1 << 20:
        raise CheckpointError(f"{cut(file)}: its metadata is damaged: stride is {shown(stride)}")
    return ExportMetadata(tuple(names), stride, _USUAL_SIZE)


def _literal(text: str, key: str, file: object) -> object:
    """A value as JSON or as Python writes it; nothing is executed."""
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"{len(text)} characters")
        try:
            return json.loads(text)
        except ValueError:
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise CheckpointError(f"{cut(file)}: its metadata is damaged: {key} is {shown(text)}") from None


def _class_id(key: object) -> int:
    text = str(key)
    return int(text) if text.isdecimal() else -1
