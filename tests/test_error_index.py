"""docs/errors.md: its table is that of the source, and what it says first is what the program says."""

import ast
import re

import error_index
from source_texts import blanked, template


def text_of(source):
    return template(ast.parse(source, mode="eval").body)


def test_the_table_is_that_of_the_source():
    """`python tools/error_index.py` writes it."""
    page, chinese = (each.read_text(encoding="utf-8") for each in (error_index.PAGE, error_index.CHINESE_PAGE))
    assert page == error_index.with_table(page)
    assert chinese == error_index.with_table(chinese, error_index.chinese())


def test_every_message_says_what_to_do():
    found = error_index.entries()
    assert len(found) > 450 and all(all(entry.parts) for entry in found)
    assert {entry.kind for entry in found} == set(error_index.KINDS)


def test_what_users_meet_most_is_raised_by_the_source():
    """Each message of the first tables, with fields as <name>, is part of one that the source raises."""
    page = error_index.PAGE.read_text(encoding="utf-8").split("## All messages")[0]
    shown = re.findall(r"^\| `(.+?)` \| .+ \| .+ \|$", page, re.MULTILINE)
    every = [blanked(entry.message) for entry in error_index.entries()]
    missing = [text for text in shown if not any(re.sub(r"<[^<>]*>", "{}", text) in message for message in every)]
    assert len(shown) >= 40 and missing == []


def test_texts_are_read_with_the_names_of_their_fields():
    assert text_of('f"{path}: {len(rows)} rows, {error.strerror}"') == "{path}: {rows} rows, {strerror}"
    assert text_of("f\"--x {', '.join(map(str, names))}: \" + more") == "--x {join}: {more}"
    assert text_of("1 + 2") is None and text_of("name") is None
    assert blanked("{a}: no {b}") == "{}: no {}"
