"""The pages and settings of the project agree: one version, and what they name exists."""

import re

import pytest
import yaml

from utils.files import ROOT


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_one():
    version = re.search(r'^version = "(.+)"$', text("pyproject.toml"), re.MULTILINE)[1]
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version
    released = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == version or f"This will be {version}" in text("CHANGELOG.md")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_files_and_targets_that_are_named_exist(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text(page)) if not link.startswith("http")]
    assert links and all((ROOT / link).exists() for link in links)
    targets = re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE)
    assert {word for word in re.findall(r"`make ([a-z-]+)", text(page))} <= set(targets)


def test_a_skipped_test_points_to_a_section_that_exists():
    assert "see Reference data in CONTRIBUTING.md" in text("tests/conftest.py")
    assert "### Reference data" in text("CONTRIBUTING.md")


def test_words_to_replace_are_in_the_dictionary_form():
    lines = text(".codespell-words.txt").splitlines()
    assert lines and all(re.fullmatch(r"[a-z]+->[a-z ]+", line) for line in lines)


def test_lint_is_pinned_and_its_ratchet_was_made_with_the_same_mypy():
    pins = dict(line.split("==") for line in text("requirements-lint.txt").splitlines() if not line.startswith("#"))
    assert yaml.safe_load(text("tools/mypy_ratchet.json"))["versions"]["mypy"] == pins["mypy"]
