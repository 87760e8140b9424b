"""What the README shows is true: its commands run as written, its block trains, its table holds the models' figures."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from small_data import drawn_yaml
from torch import nn

from models.yolo import Model
from models.zoo import __main__ as zoo_commands
from models.zoo import table as zoo
from utils.files import ROOT

READMES = ("README.md", "README.zh-CN.md")


def fences(name: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(name: str, start: str) -> list[list[str]]:
    """The words of every command that begins with `start`."""
    lines = "".join(fences(name, "bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def table(name: str) -> dict[str, list[str]]:
    """variant -> the cells behind it."""
    rows = re.findall(r"^\| (.+) \|$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split(" | ")] for row in rows]
    return {
        re.sub(r"\[(.+?)\].*", r"\1", first): rest for first, *rest in cells if re.match(r"[\d,]+ / [\d,]+$", rest[-1])
    }


def run(words: list[str], folder, *more: str) -> str:
    """Run a command of the README, given for the project's folder, in `folder`; return what it printed."""
    assert words[0] == "python"
    script = words[1:] if words[1] == "-m" else [str(ROOT / words[1]), *words[2:]]
    done = subprocess.run(
        [sys.executable, *script, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_block_of_your_own_is_inserted_and_trained(tmp_path):
    """The README's block and its two commands, the training on 8 small images for one epoch."""
    (insert,) = [words for words in commands("README.md", "python -m models.zoo") if "--plugin" in words]
    (train,) = [words for words in commands("README.md", "python train.py") if "--plugin" in words]
    (source,) = fences("README.md", "python")
    name = source.splitlines()[0].removeprefix("# ")
    assert name == insert[insert.index("--plugin") + 1] == train[train.index("--plugin") + 1]
    (tmp_path / name).write_text(source)
    said = run(insert, tmp_path)
    assert "26 layers, 1 more than models/yolov5n.yaml" in said
    drawn_yaml(tmp_path, train=8, val=2)
    small = "--data small.yaml --imgsz 64 --epochs 1 --batch-size 4 --workers 0 --noautoanchor"
    small += f" --project {tmp_path} --name run"
    run(train, tmp_path, *small.split(), "--device", "cpu")
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 2


def test_both_languages_show_the_same_code():
    for language in ("python", "bash", "yaml"):
        english, chinese = ([re.sub(r"\s*#.*", "", block) for block in fences(name, language)] for name in READMES)
        assert english == chinese


def test_insert_and_replace_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = [words for words in commands("README.md", "python -m models.zoo") if "--plugin" not in words]
    assert {words[3] for words in shown} == {"insert", "replace", "show", "check"}
    for words in shown:
        assert zoo_commands.main(words[3:]) == 0
        if "--output" in words:
            assert (tmp_path / words[words.index("--output") + 1]).is_file()


def test_files_and_folders_that_are_named_exist():
    for name in READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
        assert len(links) >= 3 and all((ROOT / link).exists() for link in links)
        for words in commands(name, "python "):
            for path in (word for word in words if word.startswith("models/") and word.endswith(".yaml")):
                assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("name", READMES)
def test_the_tables_figures_are_the_models(name, monkeypatch):
    for function in ("kaiming_uniform_", "uniform_", "normal_", "xavier_uniform_"):  # only shapes are looked at
        monkeypatch.setattr(nn.init, function, lambda tensor, *args, **kwargs: tensor)
    shown, variants = table(name), zoo.load_variants()
    assert (
        {"base", "CoTA", "DANet", "CBAM", "CBAM-neck", "C3CBAM", "ACmix", "MHSA"} <= set(shown) <= {"base", *variants}
    )
    for variant, (block, _, place, figures) in shown.items():
        files = [
            f"yolov5{scale}.yaml" if variant == "base" else f"yolov5{scale}_{variant}.yaml" for scale in ("n", "l")
        ]
        built = [sum(parameter.numel() for parameter in Model(zoo.MODELS / file).parameters()) for file in files]
        assert figures == " / ".join(f"{number:,}" for number in built), variant
        if variant != "base":
            assert block == f"`{variants[variant].block}`"
            assert place == variants[variant].place or name != "README.md"


@pytest.mark.parametrize(("name", "start"), [("README.md", "The others: "), ("README.zh-CN.md", "其余：")])
def test_every_variant_is_named_and_counted(name, start):
    text = (ROOT / name).read_text(encoding="utf-8")
    others = re.findall(r"`(.+?)`", text.split(start)[1].split("\n\n")[0])
    assert [*others, *table(name)] and set(others) | set(table(name)) == {"base", *zoo.load_variants()}
    assert not set(others) & set(table(name))
    assert re.search(rf"\b{len(zoo.load_variants())}\b", text.split(start)[0].split("## ")[-1])


def test_list_prints_the_tables_figures(measured_once):
    """The list says what a variant adds, the table what that comes to."""
    printed = {
        line.split()[0]: [int(number.replace(",", "")) for number in line.split()[3:5]]
        for line in zoo_commands.list_variants().splitlines()[1:]
    }
    for variant, cells in table("README.md").items():
        added = [0, 0] if variant == "base" else printed[variant]
        assert cells[-1] == " / ".join(
            f"{total + more:,}" for total, more in zip(printed["base"], added, strict=True)
        ), variant
