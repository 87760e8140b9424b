"""Messages on the console."""

import io
import logging
import sys

import pytest

from utils.log import LOGGER, configure, without_controls


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_every_name_of_a_file_can_be_printed(monkeypatch, encoding):
    """A byte that is not UTF-8, a sequence that colors terminals, and letters that an encoding lacks."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(logging, "raiseExceptions", True)
    configure()
    LOGGER.info("na\udcefve.jpg \x1b[31m 图\tnext\nline")
    sys.stdout.flush()
    shown = "图" if encoding == "utf-8" else "\\u56fe"
    assert raw.getvalue().decode(encoding) == f"na\\udcefve.jpg \\x1b[31m {shown}\tnext\nline\n"


def test_text_without_controls_stays():
    assert without_controls("naïve 图\t1\n2 €") == "naïve 图\t1\n2 €"
    assert without_controls("\r\x07\x9b") == "\\r\\x07\\x9b"
