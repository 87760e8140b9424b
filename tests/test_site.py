"""The pages as a site: each is in its navigation, every link and anchor resolves, and it builds without the network."""

import re
import subprocess
import sys

import pytest
import site_hooks
import yaml

from utils.files import ROOT

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
SOURCES = [*site_hooks.OUTSIDE, *PAGES]


def prose(source):
    """A page without its code."""
    text = (ROOT / source).read_text(encoding="utf-8")
    return re.sub(
        r"^```.*?^```|`[^`\n]+`", lambda code: re.sub(r"[\[\]()#]", "_", code[0]), text, flags=re.MULTILINE | re.DOTALL
    )


def anchors(source):
    """The anchors of a page's headings; repeated ones are numbered."""
    text = re.sub(r"^```.*?^```", "", (ROOT / source).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = site_hooks.slug(re.sub(r"[`*]", "", plain))
        repeated = sum(re.sub(r"-\d+$", "", each) == anchor for each in found)
        found.append(f"{anchor}-{repeated}" if repeated else anchor)
    return set(found)


def test_every_page_is_in_the_navigation_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [site_hooks.source_of(page) for page in site_hooks.pages_of(site_hooks.with_chinese(settings["nav"]))]
    assert sorted(listed) == sorted(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
def test_every_link_of_a_page_resolves(source):
    broken = []
    for target, anchor in re.findall(r"\]\(([^()\s#]*)(#[^()\s]*)?\)", prose(source)):
        if re.match(r"[a-z]+:", target):
            continue
        file = (ROOT / source).parent / target if target else ROOT / source
        if not file.exists() or (
            anchor
            and file.suffix == ".md"
            and anchor[1:]
            not in anchors(
                file.relative_to(ROOT).as_posix() if not target else file.resolve().relative_to(ROOT).as_posix()
            )
        ):
            broken.append(f"{target}{anchor}")
    assert broken == []


def test_links_are_those_of_the_site():
    read = site_hooks.rewritten
    assert read("[a](docs/check.md#flags)", "README.md") == "[a](check.md#flags)"
    assert read("[a](../README.md) [b](../models/yolov5n.yaml)", "check.md") == "[a](README.md) b"
    assert read("[a](../../compare.md)", "studies/bccd/README.md") == "[a](../../compare.md)"
    assert read("`[a](docs/check.md)` [x](https://a.b)", "README.md") == "`[a](docs/check.md)` [x](https://a.b)"


def test_anchors_are_those_of_code_hosts():
    assert site_hooks.slug("The border, and YOLOv5's figures") == "the-border-and-yolov5s-figures"
    assert site_hooks.slug("我该选哪一个") == "我该选哪一个"


def test_the_site_builds_and_asks_nobody(tmp_path):
    pytest.importorskip("mkdocs", reason="the site is built by mkdocs (requirements-docs.txt)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    fetched = r'<(?:script|link|img|source)[^>]*(?:src|href)="(?:https?:)?//'
    assert len(pages) > len(SOURCES) and (tmp_path / "site" / "index.html").is_file()
    for page in pages:
        if page.name not in ("report.html",):
            assert not re.search(fetched, page.read_text(encoding="utf-8")), page
