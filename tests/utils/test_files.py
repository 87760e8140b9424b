"""Text and JSON files appear whole or not at all, and JSON holds no number that other programs cannot read."""

import json
import math
from pathlib import Path

import pytest

from utils.files import finite_or_none, write_atomically, write_json_atomically, write_text_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text_atomically(tmp_path / "a.txt", "old")

    def fail(stream):
        stream.write(b"half of ")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_text_is_utf8_with_its_line_ends_and_the_bytes_of_any_file_name(tmp_path):
    name = b"no\xe9l.jpg".decode("utf-8", "surrogateescape")
    path = write_text_atomically(tmp_path / "a.txt", f"ö\r\n{name}\n")
    assert path.read_bytes() == "ö\r\n".encode() + b"no\xe9l.jpg\n"


def test_json_numbers_that_are_not_finite_become_null(tmp_path):
    content = {"a": math.nan, "b": (1.5, math.inf, [-math.inf, 2]), "c": {"d": None, "e": "nan"}, "f": True}
    path = write_json_atomically(tmp_path / "a.json", content)
    assert json.loads(path.read_text()) == {
        "a": None,
        "b": [1.5, None, [None, 2]],
        "c": {"d": None, "e": "nan"},
        "f": True,
    }
    assert math.isnan(content["a"]) and finite_or_none(1.5) == 1.5 and finite_or_none(math.nan) is None


def test_json_is_laid_out_as_asked(tmp_path):
    path = tmp_path / "a.json"
    assert write_json_atomically(path, {"ü": [1]}).read_bytes() == '{\n "ü": [\n  1\n ]\n}'.encode()
    assert write_json_atomically(path, {"ü": [1]}, indent=None, ensure_ascii=True).read_bytes() == b'{"\\u00fc": [1]}'
    with pytest.raises(TypeError):
        write_json_atomically(path, {"a": Path("b")})
    assert write_json_atomically(path, {"a": Path("b"), "c": math.nan}, None, default=str).read_text() == (
        '{"a": "b", "c": null}'
    )
