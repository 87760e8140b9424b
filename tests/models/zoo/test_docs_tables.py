"""docs/attention.md in both languages: up to date, alike, with links that exist and figures that are true."""

import re
import shlex

import pytest
import torch
from blocks import cases

from models.recording import KINDS
from models.registry import find, registered
from models.yolo import Model  # noqa: F401  fills the registry
from models.zoo import __main__ as commands
from models.zoo import docs_tables, wild_rows
from models.zoo import table as zoo
from models.zoo.catalogue import CatalogueEntry
from utils.errors import ModelError
from utils.files import ROOT

PAGES = tuple(docs_tables.PAGES)
TUTORIALS = (
    "CoTAttention",
    "CoT",
    "DoubleAttentionLayer",
    "A2",
    "MHSA",
    "BoT",
    "Sea_Attention",
    "ParallelPolarizedSelfAttention",
    "SequentialPolarizedSelfAttention",
    "DAttentionBaseline",
    "LSKA",
    "LSKA_Attention",
    "DLKA",
    "LSKblock",
    "FocusedLinearAttention",
)  # blocks whose heading is another word
HEADINGS = (
    "CoT",
    "A²",
    "ACmix",
    "MHSA",
    "CBAM",
    "DAT",
    "LSKA",
    "D-LKA",
    "HAT",
    "EMA",
    "LSK",
    "MSDA",
    "MLCA",
    "MobileNetV3",
)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def part(name: str, which: str) -> list[list[str]]:
    """The rows of a generated table, without its heads."""
    table = re.search(rf"<!-- made by `[\w .-]+`: {which} -->\n(.*?)<!-- end: {which} -->", page(name), re.DOTALL)[1]
    rows = [line[2:-2].split(" | ") for line in table.strip().splitlines()]
    assert len({len(row) for row in rows}) == 1
    return rows[2:]


# ---- the pages as they are ----


def test_the_pages_are_up_to_date(measured_once):
    """The pages are what `python -m models.zoo document` would write, and every phrase has a translation."""
    assert docs_tables.document(check=True) == ([], [])


@pytest.mark.parametrize("name", PAGES)
def test_every_variant_and_every_block_has_its_row(name):
    base, *rows = part(name, "variants")
    assert [row[0].strip("*") for row in rows] == list(zoo.load_variants())
    assert base[5:7] == ["1,872,157 / 46,563,709", "4.47 / 108.99"]
    shown = {row[0].strip("*"): row for row in rows}
    assert shown["CBAM"][5] == "+8,290 / +131,170" and shown["CBAM-C3"][5] == "-471,186 / -16,935,158"
    assert shown["CoTA"][5] == "+722,176 / +11,490,304"  # 58,054,013 in all, as published with the tutorial's yaml
    blocks = [re.match(r"\[`(\w+)`\]", row[0])[1] for row in part(name, "blocks")]
    assert set(blocks) == {entry for entry, block in registered().items() if block.attention} | {"MobileNetV3Block"}


def test_chinese_words_are_chinese():
    chinese = re.compile("[\u4e00-\u9fff]")
    assert all(chinese.search(row[3]) and chinese.search(row[4]) for row in part("attention.zh-CN.md", "variants")[1:])
    for row in part("attention.zh-CN.md", "blocks"):
        assert chinese.search(row[1]) and (not row[3].strip() or chinese.search(row[3])), row[0]
    assert not any(chinese.search(row[1] + row[3]) for row in part("attention.md", "blocks"))


def test_both_languages_say_the_same():
    """The same figures, commands, parts, headings, tables and names of blocks section by section."""
    english, chinese = (page(name) for name in PAGES)
    for pattern in (r"^```bash\n.*?^```", r"^#+ ", r"^- ", r"<!-- .*? -->"):
        found = [re.findall(pattern, text, re.MULTILINE | re.DOTALL) for text in (english, chinese)]
        assert len(found[0]) == len(found[1]), pattern
    for pattern in (r"^```bash\n.*?^```", r"<!-- .*? -->"):
        assert re.findall(pattern, english, re.MULTILINE | re.DOTALL) == re.findall(
            pattern, chinese, re.MULTILINE | re.DOTALL
        )
    tables = [[line.count("|") for line in text.splitlines() if line.startswith("|")] for text in (english, chinese)]
    assert tables[0] == tables[1]
    audits = [text[text.index("\n**CoT**") :] for text in (english, chinese)]
    names = [set(re.findall(r"`([A-Za-z_]\w+)`", text)) & set(registered()) for text in audits]
    assert names[0] == names[1] and names[0] >= set(TUTORIALS)
    for text in audits:
        assert all(f"\n**{word}**" in text for word in HEADINGS)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = page(name)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert len(links) > 130
    for link in links:
        file, _, anchor = link.partition("#")
        path = (ROOT / "docs" / file) if file else ROOT / "docs" / name
        assert path.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_the_readmes_lead_here():
    assert "(docs/attention.md)" in page("../README.md") and "(docs/attention.zh-CN.md)" in page("../README.zh-CN.md")


def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bash = "".join(re.findall(r"^```bash\n(.*?)^```", page("attention.md"), re.MULTILINE | re.DOTALL))
    calls = [shlex.split(line) for line in bash.splitlines() if line.startswith("python -m models.zoo")]
    assert len(calls) == 4
    for words in calls:
        assert commands.main(words[3:]) == 0, capsys.readouterr().err


# ---- what they state ----


@pytest.mark.parametrize("name", PAGES)
def test_the_damped_blocks_are_those_that_the_tests_list(name):
    listed = re.search(r"\n\n- (.*?)\n\n", page(name)[page(name).index("<!-- end: blocks") :], re.DOTALL)[1]
    damped = {block for block, case in cases().items() if case.spread}
    assert set(re.findall(r"`(\w+)`", listed)) == damped


def test_those_that_start_as_the_identity_do():
    """At another width and size than the page is made with, in training mode too."""
    for block in docs_tables.describe_blocks():
        case = cases().get(block.name)
        if case is None:
            continue
        torch.manual_seed(3)
        entry = find(block.name)
        module = entry.cls(*entry.wiring([32], 1, docs_tables.SCALE, case.args(32)).args).train()
        x = torch.randn(2, 32, 5, 6)
        with torch.no_grad():
            out = module(x)
        # where a zero gate hides the block, x and nothing: no rounding
        assert block.identity == (out.shape == x.shape and torch.equal(out, x)), block.name
        (row,) = [row for row in part("attention.md", "blocks") if f"`{block.name}`" in row[0]]
        assert row[3].endswith("Starts as the identity.") == block.identity


def test_a_block_shows_what_it_is_registered_with():
    (lsk,) = [row for row in part("attention.md", "blocks") if "`LSKblock`" in row[0]]
    assert lsk[4] == "branches, gate" and find("LSKblock").shows == ("branches", "gate")
    (chinese,) = [row for row in part("attention.zh-CN.md", "blocks") if "`LSKblock`" in row[0]]
    assert chinese[4] == "分支权重, 门控"
    explained = page("attention.md").split("The last column says")[1].split("```python")[0]
    assert set(re.findall(r"^- \*(\w+)\*:", explained, re.MULTILINE)) == set(KINDS)


def test_the_memory_of_maps_is_four_bytes_per_pair():
    memory = docs_tables.measure_map_memory()
    assert set(memory) == {
        name for name, entry in registered().items() if entry.attention and entry.cost == "quadratic"
    }
    pairs = [6400**2, 1600**2, 400**2]
    assert memory["MHSA"] == [(4, 16 * pair) for pair in pairs]  # 4 heads, 4 bytes
    assert memory["DAttentionBaseline"] == [
        (heads, 4 * heads * pair) for heads, pair in zip((8, 16, 32), pairs, strict=True)
    ]
    (row,) = [row for row in part("attention.md", "memory") if row[0] == "`MHSA`"]
    assert row[1] == "4 × 163.8 MB = 655 MB"


def test_what_the_pages_state_of_the_tutorials_operators():
    """CoT's fading half, A2's three vectors, and the counts that the pages give."""
    torch.manual_seed(0)
    block = find("CoTAttention").cls(512).eval()
    for side, share in ((8, 0.03), (20, 0.005), (40, 0.001)):
        x = torch.randn(1, 512, side, side)
        with torch.no_grad():
            static = block.key_embed(x)
            assert 0.5 * share < float((block(x) - static).norm() / static.norm()) < 2 * share
    assert sum(each.numel() for each in block.parameters()) == 8.75 * 512**2 + 14 * 512
    with torch.no_grad():
        out = find("DoubleAttentionLayer").cls(64, 64, 3)(torch.randn(1, 64, 9, 9))
    assert torch.linalg.matrix_rank(out[0].flatten(1).double(), rtol=1e-5) == 3
    assert sum(each.numel() for each in find("DLKA").cls(512).parameters()) == 6127 * 512 + 512**2 + 148 == 3_399_316


# ---- how they are made ----


def test_of_a_docstring_the_prose_between_summary_and_sections_is_shown():
    """The arguments of a class are in its `Args:`; the page has a column of its own for them."""
    (cbam,) = [block for block in docs_tables.describe_blocks() if block.name == "CBAM"]
    assert cbam.does == "A gate per channel, then a gate per position." and cbam.notes == ()
    (acmix,) = [block for block in docs_tables.describe_blocks() if block.name == "ACmix"]
    wiring, notes = acmix.notes
    assert wiring.startswith("`[]`, `[c_out, ...]`") and wiring.endswith("from `[c_out, kernel_att]`.")
    assert notes.endswith("`head` divides `out_planes`.")


def test_every_translation_is_used():
    """A phrase that changed takes its translation with it."""
    words = docs_tables.yaml_files.read_yaml(docs_tables.DOCS / docs_tables.WORDS)["words"]
    english = page("attention.md")
    assert not [pair["en"] for pair in words if pair["en"] not in english]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with two short pages, and one record, one block and one row of memory to put into them."""
    record = CatalogueEntry(
        "CBAM",
        "CBAM",
        "A | B, https://arxiv.org/abs/1",
        "before SPPF",
        "linear",
        {"n": 5, "l": -7},
        {"n": 0.25, "l": 1.0},
    )
    block = docs_tables.BlockDescription("CBAM", "../a.py", "It gates.", "`ratio=16`", ("Odd kernels.",), True)
    monkeypatch.setattr(docs_tables.catalogue, "measure_variants", lambda progress: [record])
    monkeypatch.setattr(docs_tables.catalogue, "measure_base", lambda: record)
    monkeypatch.setattr(docs_tables, "measure_map_memory", lambda: {"MHSA": [(1, 10**6)] * 3})
    monkeypatch.setattr(docs_tables, "describe_blocks", lambda: [block])
    built = [docs_tables.aliases.Alias(name, "CBAM", "forks", "Odd kernels.", True, (8,)) for name in ("One", "Two")]
    names = {each.name: each for each in (*built, docs_tables.aliases.Alias("Three", "", "forks", "It gates."))}
    monkeypatch.setattr(docs_tables.aliases, "ALIASES", names)
    monkeypatch.setattr(wild_rows, "WILD_ROWS", wild_rows.WILD_ROWS[:1])
    marks = "\n\n".join(
        f"<!-- made by `{docs_tables.COMMAND}`: {which} -->\nold\n<!-- end: {which} -->"
        for which in ("variants", "memory", "blocks", "names", "rows")
    )
    for name in PAGES:
        (tmp_path / name).write_text(f"# By hand é\n\n{marks}\n\nthe end\n", encoding="utf-8")
    (tmp_path / docs_tables.WORDS).write_text('words:\n- en: "It gates."\n  zh: "门控。"\n', encoding="utf-8")
    return tmp_path


def test_only_the_parts_between_markers_are_written(small):
    before = {name: (small / name).read_bytes() for name in PAGES}
    changed, missing = docs_tables.document(small, check=True)
    assert {path.name for path in changed} == set(PAGES) and before == {
        name: (small / name).read_bytes() for name in PAGES
    }
    assert docs_tables.document(small)[0] == changed and docs_tables.document(small)[0] == []
    english, chinese = ((small / name).read_text(encoding="utf-8") for name in PAGES)
    for text in (english, chinese):
        assert text.startswith("# By hand é\n\n<!-- made") and text.endswith("-->\n\nthe end\n") and "old" not in text
        assert "[A \\| B](https://arxiv.org/abs/1)" in text and "+5 / -7 | +0.25 / +1.00" in text
    assert "| It gates. | `ratio=16` | Odd kernels. Starts as the identity. |" in english
    assert "| 门控。 | `ratio=16` | Odd kernels. Starts as the identity. |" in chinese
    assert (
        "| `One`, `Two` | forks | `CBAM` `[8]` | builds: Odd kernels. |\n| `Three` | forks | – | refused: 门控。 |"
        in chinese
    )
    assert "Odd kernels." in missing and "before SPPF" in missing and "It gates." not in missing
    assert not list(small.glob(".*"))


def test_a_page_without_its_markers_is_an_error(small):
    text = (small / "attention.md").read_text(encoding="utf-8").replace("<!-- end: memory -->", "")
    (small / "attention.md").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"docs/attention.md: needs the lines .*: memory --> and <!-- end: memory -->"):
        docs_tables.document(small)


def test_the_command_lists_what_changed(monkeypatch, capsys):
    answers = {"changed": [], "missing": []}
    monkeypatch.setattr(docs_tables, "document", lambda check: (answers["changed"], answers["missing"]))
    assert commands.main(["document", "--check"]) == 0 and capsys.readouterr().out == "every page is up to date\n"
    answers["changed"] = [ROOT / "docs" / "attention.md"]
    assert commands.main(["document", "--check"]) == 1 and commands.main(["document"]) == 0
    assert capsys.readouterr().out == "docs/attention.md\n" * 2
    answers.update(changed=[], missing=["A new phrase."])
    assert commands.main(["document", "--check"]) == 1 and commands.main(["document"]) == 0
    assert "docs/attention.zh-CN.yaml has no Chinese for:\n  A new phrase." in capsys.readouterr().out
