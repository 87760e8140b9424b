"""What an exported file says of itself: class names, stride, input size and where its weights came from."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import CheckpointError, shown

TASK = "detect"
PROJECT_VERSION = "6.1.0"  # that of pyproject.toml
INPUT, OUTPUT = "images", "output"  # v6.1's names of a file's input and output
NMS_INPUTS = ("conf", "iou")
NMS_OUTPUTS = ("boxes", "scores", "classes", "counts")
FILE_NAME = "metadata.json"  # in formats that are folders


@dataclass(frozen=True)
class ExportMetadata:
    """The description that every exported file carries, as text by key.

    Attributes:
        names: Class names by class id.
        stride: Pixels of which the input's sides are multiples.
        imgsz: (height, width) of the input in pixels that the file was exported with.
        batch: Images per batch that the file was exported with.
        dynamic: Whether batch, height and width may differ from that.
        variant: Stem of the model yaml, such as "yolov5n_CBAM".
        weights: SHA-256 of the weights file, hexadecimal.
        half: Whether weights and activations are in half precision.
        int8: Whether convolutions compute with 8-bit integers.
        nms: Whether the outputs are suppressed boxes (`NMS_OUTPUTS`), not (B, N, 5+nc) of `OUTPUT`.
        task: "detect".
        version: Version of this project that wrote it.
        confidence: The calibrated confidence of the weights, 0 if they carry none or an older version wrote the file.
    """

    names: tuple[str, ...]
    stride: int
    imgsz: tuple[int, int]
    batch: int = 1
    dynamic: bool = False
    variant: str = ""
    weights: str = ""
    half: bool = False
    int8: bool = False
    nms: bool = False
    task: str = TASK
    version: str = ""
    confidence: float = 0.0

    def as_text(self) -> dict[str, str]:
        """Return all values as JSON text by key: `stride` and `names` are what v6.1 and its successors read."""
        return {key: json.dumps(value, ensure_ascii=False) for key, value in dataclasses.asdict(self).items()}

    def as_json(self) -> str:
        """Return all values as one JSON object, with v6.1's key `shape`: for formats that keep one text."""
        shape = [self.batch, 3, *self.imgsz]
        return json.dumps({"shape": shape, **dataclasses.asdict(self)}, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str, file: object) -> "ExportMetadata":
        """Return the record of a JSON object.

        Args:
            text: What `as_json` wrote.
            file: The file, for messages.

        Returns:
            The checked record.

        Raises:
            CheckpointError: As `from_text`.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: its metadata is damaged; export the checkpoint again")
        return cls.from_text({key: json.dumps(value) for key, value in values.items()}, file)

    @classmethod
    def from_text(cls, text: Mapping[str, str], file: object) -> "ExportMetadata":
        """Return the record of a file's texts.

        Args:
            text: JSON text by key; keys that are not known here are left out.
            file: The file, for messages.

        Returns:
            The checked record.

        Raises:
            CheckpointError: If keys are missing or hold something else; such a file was not exported here.
        """
        try:
            older = {"confidence": "0.0", **text}
            values = {field.name: json.loads(older[field.name]) for field in dataclasses.fields(cls)}
        except KeyError as error:
            raise CheckpointError(
                f"{file}: its metadata lacks {error.args[0]}: not written by export.py; export the checkpoint again"
            ) from None
        except (ValueError, RecursionError):
            raise CheckpointError(f"{file}: its metadata is damaged; export the checkpoint again") from None
        return cls._checked(values, file)

    @classmethod
    def _checked(cls, values: dict, file: object) -> "ExportMetadata":
        expected: dict[str, type] = {field.name: _kind(field.type) for field in dataclasses.fields(cls)}
        for key, kind in expected.items():
            if type(values[key]) is not kind:
                raise CheckpointError(f"{file}: its metadata is damaged: {key} is {shown(values[key])}")
        names, imgsz = values["names"], values["imgsz"]
        if not names or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{file}: its metadata is damaged: names is {shown(names)}")
        numbers = [*imgsz, values["stride"], values["batch"]]
        if len(imgsz) != 2 or not all(type(number) is int and 0 < number < 1 << 20 for number in numbers):
            raise CheckpointError(f"{file}: its metadata is damaged: imgsz, stride or batch is {shown(numbers)}")
        return cls(**{**values, "names": tuple(names), "imgsz": tuple(imgsz)})


def _kind(annotation: object) -> type:
    """Return what JSON makes of a field's type: a tuple is a list there."""
    return annotation if isinstance(annotation, type) and annotation in (int, float, str, bool) else list
