"""Hooks of mkdocs.yml: the pages outside docs/, links as a code host reads them, and its anchors."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s#]*)(?P<anchor>#[^()\s]*)?\)"
)
_FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def slug(heading: str, separator: str = "-") -> str:
    """Return a heading's anchor as code hosts make it.

    Args:
        heading: Its text without markup.
        separator: What stands for a space.

    Returns:
        Lower case, without punctuation; letters of any script stay.
    """
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", separator)


def source_of(uri: str) -> str:
    """Return the place of a page of the site in the project's folder."""
    return uri if uri in OUTSIDE else f"docs/{uri}"


def site_uri(source: str) -> str | None:
    """Return the page or file of the site that a file of the project is, None if the site has none."""
    if source in OUTSIDE:
        return source
    kept = source.startswith("docs/") and not source.endswith((".json", ".yaml")) and (ROOT / source).is_file()
    return source.removeprefix("docs/") if kept else None


def rewritten(markdown: str, uri: str) -> str:
    """Return a page with its links as the site has them; what only the source has becomes plain text.

    Args:
        markdown: The page.
        uri: Its name on the site.

    Returns:
        The page.
    """
    folder = posixpath.dirname(source_of(uri))

    def replaced(link: "re.Match[str]") -> str:
        target, anchor = link["target"], link["anchor"] or ""
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        found = site_uri(posixpath.normpath(posixpath.join(folder, target)))
        if found is None:
            return link["text"]
        return f"{link['image']}[{link['text']}]({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{anchor})"

    parts = _FENCE.split(markdown)
    text = "".join(
        part if part.startswith("```") else f"\0{index}\0" if index % 2 else part for index, part in enumerate(parts)
    )
    text = _LINK.sub(replaced, text)
    return re.sub(r"\0(\d+)\0", lambda code: parts[int(code[1])], text)


def on_config(config: Any) -> Any:
    """Let headings have the anchors of code hosts, and add the Chinese pages to the navigation."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    config.nav = with_chinese(config.nav)
    return config


def pages_of(nav: Any) -> list[str]:
    """Return the pages of a navigation in their order."""
    if isinstance(nav, str):
        return [nav]
    return [page for each in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(each)]


def with_chinese(nav: list[Any]) -> list[Any]:
    """Return a navigation with a last part: the Chinese editions of its pages, in the same order."""
    chinese = [page.replace(".md", ".zh-CN.md") for page in pages_of(nav)]
    return [*nav, {"中文": [page for page in chinese if (ROOT / source_of(page)).is_file()]}]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/.

    Args:
        files: mkdocs' files.
        config: Its configuration.

    Returns:
        The files, those pages included.
    """
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text with the links of the site.

    Args:
        markdown: The text.
        page: mkdocs' page.

    Returns:
        The text.
    """
    return rewritten(markdown, page.file.src_uri)
