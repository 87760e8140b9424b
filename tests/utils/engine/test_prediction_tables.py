"""Tables of predictions: whole at every moment, whatever ends the program, and with the right counts."""

import csv
import errno
import io
import json

import numpy as np
import pytest
import torch

from utils.datasets.sources import Frame
from utils.engine import prediction_tables
from utils.engine.prediction_tables import CountsWriter, CsvWriter, JsonWriter
from utils.engine.predictor import Prediction
from utils.log import LOGGER
from utils.types import Detections, Speeds


def prediction_of(*class_ids: int, number: int = 0) -> Prediction:
    boxes = torch.tensor([[0.0, 0.0, 5.0 + index, 5.0] for index in range(len(class_ids))]).reshape(-1, 4)
    found = Detections(boxes, torch.full((len(class_ids),), 0.5), torch.tensor(class_ids, dtype=torch.int64))
    kind = "video" if number else "image"
    frame = Frame(np.zeros((8, 8, 3), np.uint8), "in/a", "a", kind, 0, 1, number, 0, 10.0, max(number - 1, 0) / 10)
    return Prediction(frame, found, ("cat", "red thing", "dog"), (8, 8), Speeds(1.0, 2.0, 3.0))


def rows_of(file) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_tables_are_whole_after_every_frame(tmp_path):
    """Nothing is flushed or closed: what a program that is killed leaves is what is read here."""
    json_writer, csv_writer = JsonWriter(tmp_path), CsvWriter(tmp_path)
    expected = []
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    for ids in ((), (1, 0), (), (2,), (0, 0, 0)):
        prediction = prediction_of(*ids)
        expected += prediction.records()
        json_writer.after_frame(prediction)
        csv_writer.after_frame(prediction)
        assert json.loads((tmp_path / "predictions.json").read_text()) == expected
        assert len(rows_of(tmp_path / "predictions.csv")) == len(expected) + 1
    assert (tmp_path / "predictions.json").read_text().count("\n") == 8  # a line per record and two brackets


def test_counts_per_class_and_frame_and_their_totals(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO")
    writer = CountsWriter(tmp_path, ("cat", "red thing", "dog"))
    for number, ids in enumerate(((1, 1, 0), (), (1,), (1, 1, 1)), 1):
        writer.after_frame(prediction_of(*ids, number=number))
    assert rows_of(tmp_path / "counts.csv") == [
        ["file", "frame", "time", "detections", "cat", "red thing", "dog"],
        ["in/a", "1", "0.0", "3", "1", "2", "0"],
        ["in/a", "2", "0.1", "0", "0", "0", "0"],
        ["in/a", "3", "0.2", "1", "0", "1", "0"],
        ["in/a", "4", "0.3", "3", "0", "3", "0"],
    ]
    writer.close()
    assert rows_of(tmp_path / "counts_total.csv") == [
        ["class_id", "name", "detections", "frames_with_it", "most_in_one_frame", "mean_per_frame"],
        ["0", "cat", "1", "1", "1", "0.25"],
        ["1", "red thing", "6", "3", "3", "1.5"],
        ["2", "dog", "0", "0", "0", "0.0"],
    ]
    assert caplog.messages == ["Detections in 4 frames: 6 red thing, 1 cat"]


def test_counts_have_columns_of_the_chosen_classes(tmp_path):
    writer = CountsWriter(tmp_path, ("cat", "red thing", "dog"), classes=(2, 0, 2))
    writer.after_frame(prediction_of(0))
    writer.close()
    assert rows_of(tmp_path / "counts.csv") == [
        ["file", "frame", "time", "detections", "cat", "dog"],
        ["in/a", "0", "0.0", "1", "1", "0"],
    ]
    assert [row[0] for row in rows_of(tmp_path / "counts_total.csv")] == ["class_id", "0", "2"]


@pytest.mark.parametrize("replaced", [b"", b"]\n"])
def test_a_disk_that_fills_up_leaves_a_table_as_it_was(tmp_path, replaced):
    class Filling(io.FileIO):
        def write(self, content):
            if self.tell() >= 8:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content[: 8 - self.tell()])

    path = tmp_path / "a.json"
    path.write_bytes(b"[1\n]\n")
    with Filling(path, "rb+") as stream, pytest.raises(OSError, match="No space left") as error:
        prediction_tables._write_whole(stream, b",\n22222\n]\n", replaced)
    assert path.read_bytes() == b"[1\n]\n" and error.value.filename == path
