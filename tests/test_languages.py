"""Every page has a Chinese edition that says the same: headings, commands, tables, figures and links."""

import re
from collections import Counter
from pathlib import Path

import pytest

from utils.files import ROOT

DOCS = ROOT / "docs"
ENGLISH_ONLY = {"architecture.md"}  # for developers
MISSING: set[str] = set()  # still to be translated; a page leaves this list with its Chinese edition
COMMAND = re.compile(r"(?:python|torchrun|pip|make|srun|curl|mkdir|apt-get|OMP_NUM_THREADS=\d+) ")
UNITS = {"million": 10**6, "billion": 10**9, "万": 10**4, "亿": 10**8}


def chinese(page: Path) -> Path:
    """The Chinese edition of an English page."""
    return page.with_name(page.name.replace(".md", ".zh-CN.md"))


def english(name: str) -> str:
    """The English page of a link to either edition."""
    return name.replace(".zh-CN.md", ".md")


FOUND = [*DOCS.glob("*.md"), *DOCS.glob("studies/*/README.md")]
PAGES = sorted(page for page in FOUND if not page.name.endswith(".zh-CN.md"))
PAIRS = [page for page in [ROOT / "README.md", *PAGES] if chinese(page).is_file()]
FREE = (ROOT / "README.md", DOCS / "attention.md")  # written for Chinese readers, not sentence by sentence
TRANSLATED = pytest.mark.parametrize("page", [page for page in PAIRS if page not in FREE], ids=lambda page: page.stem)
BOTH = pytest.mark.parametrize("page", PAIRS, ids=lambda page: page.stem)


def text(page: Path) -> str:
    """The page's text."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of every code block."""
    return re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", text(page), re.MULTILINE | re.DOTALL)


def headings(page: Path) -> list[tuple[int, str]]:
    """Level and words of every heading."""
    return [(len(level), words) for level, words in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    found: Counter = Counter()
    names = set()
    for _, words in headings(page):
        words = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", words)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def links(page: Path) -> list[tuple[str, str]]:
    """File and anchor of every link that stays in the tree."""
    found = re.findall(r"\[[^\]]*\]\(([^)\s#]*)#?([^)\s]*)\)", re.sub(r"`[^`\n]*`", "", prose(page)))
    return [(name, anchor) for name, anchor in found if not re.match(r"\w+:", name)]


def numbers(cells: str) -> Counter:
    """How often each number is in a text; 5000 万 is 50 million."""
    found = re.findall(r"(\d+(?:,\d{3})+|\d+(?:\.\d+)?(?:e[+-]?\d+)?) ?(million|billion|万|亿)?", cells)
    return Counter(float(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in found)


def tables(page: Path) -> list[list[str]]:
    """The rows of every table."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", prose(page) + "\n", re.MULTILINE)]


def shown_commands(page: Path) -> list[str]:
    """The commands, in code blocks and within the text, without remarks and in order."""
    found = []
    for _, block in code_blocks(page):
        lines = [re.sub(r"\s+#.*", "", line).strip().removeprefix("$ ").split("   ")[0] for line in block.splitlines()]
        found += [line for line in lines if COMMAND.match(line)]
    return found + sorted(code for code in code_spans(page) if COMMAND.match(code))


def code_spans(page: Path) -> list[str]:
    """What stands in code within the text."""
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose(page))]


def sections(page: Path) -> list[str]:
    """The text under every heading, without tables and targets of links."""
    lines = [line for line in prose(page).splitlines() if not line.startswith("|")]
    return re.split(r"^#+ .*$", re.sub(r"\]\([^)]*\)", "]", "\n".join(lines)), flags=re.MULTILINE)


def test_every_page_has_a_chinese_edition_or_is_listed_as_missing():
    without = {page.name for page in PAGES if not chinese(page).is_file()}
    assert without - ENGLISH_ONLY == MISSING, "translate the page, or list it in MISSING"
    orphans = [page.name for page in DOCS.glob("*.zh-CN.md") if not (DOCS / english(page.name)).is_file()]
    assert orphans == []


def test_the_readme_links_pages_that_exist():
    listed = {name for name, _ in links(ROOT / "README.zh-CN.md")}
    assert all((ROOT / name).exists() for name in listed)
    for page in PAGES:
        if page.name not in ENGLISH_ONLY | MISSING and f"docs/{page.name}" in text(ROOT / "README.md"):
            assert f"docs/{chinese(page).name}" in listed, "README.zh-CN.md links the Chinese edition"


@BOTH
def test_the_editions_link_each_other_at_the_top(page):
    other = chinese(page)
    assert f"({other.name})" in "\n".join(text(page).splitlines()[:4])
    assert f"[English]({page.name})" in "\n".join(text(other).splitlines()[:4])


@BOTH
def test_headings_are_alike(page):
    ours, theirs = headings(page), headings(chinese(page))
    assert [level for level, _ in ours] == [level for level, _ in theirs]
    assert all(re.search(r"[\u4e00-\u9fff]", words) or words.isascii() for _, words in theirs)


@BOTH
def test_code_is_alike(page):
    ours, theirs = code_blocks(page), code_blocks(chinese(page))
    assert [language for language, _ in ours] == [language for language, _ in theirs]
    assert shown_commands(page) == shown_commands(chinese(page))
    for (language, block), (_, other) in zip(ours, theirs, strict=True):
        assert numbers(block) == numbers(other)
        if language in ("bash", "python", "yaml", "console"):
            assert re.sub(r"\s*# .*", "", block) == re.sub(r"\s*# .*", "", other)


@TRANSLATED
def test_text_is_alike(page):
    """Section by section: as many paragraphs and items, the same numbers; the same names in code."""
    ours, theirs = sections(page), sections(chinese(page))
    for section, other in zip(ours, theirs, strict=True):
        for mark in (r"\n\s*\n", r"^(?:- |\d+\. )"):
            assert len(re.findall(mark, section, re.MULTILINE)) == len(re.findall(mark, other, re.MULTILINE)), other
        assert numbers(section) == numbers(other), other
    names, other_names = ({name for name in code_spans(edition) if name.isascii()} for edition in (page, chinese(page)))
    assert names ^ other_names == set()


@BOTH
def test_tables_hold_the_same_numbers(page):
    if page.name == "attention.md":
        pytest.skip("tests/models/zoo/test_docs_tables.py compares the tables, which a program makes, with the code")
    ours, theirs = tables(page), tables(chinese(page))
    assert [len(table) for table in ours] == [len(table) for table in theirs]
    for table, other in zip(ours, theirs, strict=True):
        for row, translated in zip(table, other, strict=True):
            assert numbers(row) == numbers(translated), f"{row}\n{translated}"


@BOTH
def test_images_and_links_are_the_same(page):
    drawn = [re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text(edition)) for edition in (page, chinese(page))]
    assert drawn[0] == drawn[1]
    ours, theirs = ({english(name) for name, _ in links(edition)} for edition in (page, chinese(page)))
    assert ours == theirs


@pytest.mark.parametrize(
    "page",
    [*PAGES, *map(chinese, PAIRS), ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
    ids=lambda page: page.name,
)
def test_links_and_anchors_resolve(page):
    for name, anchor in links(page):
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), name
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name}#{anchor}"
        if ".zh-CN" in page.name and target.name != english(page.name) and target.suffix == ".md":
            assert not chinese(target).is_file(), f"{page.name} links {name}, which has a Chinese edition"
