"""Tables of predictions: detections as csv and json, and how many there are per frame and class.

Rows are written as they come, each frame's with one call, so a file is whole also if the process is ended: the csv ends
with a whole row, and the json is valid at every moment.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from utils.engine.predictor import Prediction, PredictionHook
from utils.log import LOGGER

_FIELDS = ("file", "frame", "time", "class_id", "name", "confidence", "x1", "y1", "x2", "y2")
_JSON_END, _EMPTY_JSON = b"\n]\n", b"[]\n"
_MOST_LISTED = 10  # classes of a summary


def _write_whole(stream: io.FileIO, content: bytes, replaced: bytes = b"") -> None:
    """Write at a file's end, or over its last bytes; on a full disk it stays as it was, and the error names it."""
    start = stream.seek(-len(replaced), os.SEEK_END)
    try:
        written = 0
        while written < len(content):  # a disk that fills up takes a part without an error
            written += stream.write(content[written:])
    except OSError as error:
        stream.seek(start)
        stream.write(replaced)
        stream.truncate(start + len(replaced))
        error.filename = stream.name
        raise


class _RowFile:
    """A csv file that grows by whole rows. A byte of a file name that is not UTF-8 is escaped."""

    def __init__(self, file: Path, header: Iterable[object]):
        self._stream = file.open("wb", buffering=0)
        self.write([header])

    def write(self, rows: Iterable[Iterable[object]]) -> None:
        """Append rows with one call."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        if text.tell():
            _write_whole(self._stream, text.getvalue().encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        self._stream.close()


class CsvWriter(PredictionHook):
    """predictions.csv: one row per detection."""

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path):
        self._table = _RowFile(save_dir / "predictions.csv", _FIELDS)

    def after_frame(self, prediction: Prediction) -> None:
        self._table.write(record.values() for record in prediction.records())

    def close(self) -> None:
        self._table.close()


class JsonWriter(PredictionHook):
    """predictions.json: a list of the same records. The list is closed behind every frame, and opened for the next.

    A byte of a file name that is not UTF-8 stands as JSON's escape of the surrogate that Python reads it as.
    """

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path):
        self._stream = (save_dir / "predictions.json").open("wb", buffering=0)
        self._stream.write(_EMPTY_JSON)
        self._is_empty = True

    def after_frame(self, prediction: Prediction) -> None:
        records = [json.dumps(record, ensure_ascii=False) for record in prediction.records()]
        if not records:
            return
        opening, replaced = ("[\n", _EMPTY_JSON) if self._is_empty else (",\n", _JSON_END)
        content = (opening + ",\n".join(records)).encode("utf-8", "backslashreplace") + _JSON_END
        _write_whole(self._stream, content, replaced)
        self._is_empty = False

    def close(self) -> None:
        self._stream.close()


class CountsWriter(PredictionHook):
    """counts.csv: the number of detections per frame and class; counts_total.csv: their totals, at the end.

    Detections are counted, not objects: one that is seen in ten frames counts ten times.

    Args:
        save_dir: The run folder.
        names: Class names by class id.
        classes: Ids of the classes that have a column; None for all.
    """

    background: ClassVar[bool] = True

    def __init__(self, save_dir: Path, names: Sequence[str], classes: Sequence[int] | None = None):
        self._names = list(names)
        self._ids = sorted(set(classes)) if classes is not None else list(range(len(names)))
        self._folder = save_dir
        self._frames = 0
        self._found: Counter[int] = Counter()
        self._frames_with: Counter[int] = Counter()
        self._most: Counter[int] = Counter()
        titles = [self._names[class_id] for class_id in self._ids]
        self._table = _RowFile(save_dir / "counts.csv", ("file", "frame", "time", "detections", *titles))

    def after_frame(self, prediction: Prediction) -> None:
        counts = Counter(prediction.detections.cls.tolist())
        frame = prediction.frame
        self._frames += 1
        for class_id, count in counts.items():
            self._found[class_id] += count
            self._frames_with[class_id] += 1
            self._most[class_id] = max(self._most[class_id], count)
        columns = (counts[class_id] for class_id in self._ids)
        self._table.write([(frame.path, frame.number, round(frame.seconds, 3), counts.total(), *columns)])

    def close(self) -> None:
        """Write the totals, and log them in one line."""
        self._table.close()
        totals = _RowFile(
            self._folder / "counts_total.csv",
            ("class_id", "name", "detections", "frames_with_it", "most_in_one_frame", "mean_per_frame"),
        )
        for class_id in self._ids:
            mean = round(self._found[class_id] / self._frames, 4) if self._frames else 0
            numbers = (self._found[class_id], self._frames_with[class_id], self._most[class_id], mean)
            totals.write([(class_id, self._names[class_id], *numbers)])
        totals.close()
        ranked = [(self._names[class_id], count) for class_id, count in self._found.most_common(_MOST_LISTED)]
        listed = ", ".join(f"{count} {name}" for name, count in ranked)
        LOGGER.info(f"Detections in {self._frames} frames: {listed or 'none'}")
