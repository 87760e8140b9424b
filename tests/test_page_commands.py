"""Every command of the pages can be given: programs exist, flags are known, values are allowed."""

import importlib
import re

import pytest
from page_commands import commands_of, pages

from utils.files import ROOT

SCRIPTS = ("train", "val", "detect", "compare", "export", "heatmap")
WITH_PARSE_OPT = ("utils.datasets.check.__main__", "utils.datasets.convert.__main__")
OTHERS = ("pip", "make", "cd", "git", "ls", "cp", "mkdir", "export", "curl", "kill", "sbatch", "cat", "tail", "echo")
NEEDS = ("GPU", "GPUs", "network", "several hosts", "Slurm", "your data", "a browser", "a camera", "YOLOv5")
ALL = [command for page in pages() for command in commands_of(page)]


def program(words):
    """(name of the program, its words) of a command that runs Python, else None."""
    words = list(words)
    if words[0] == "torchrun" or words[1:3] == ["-m", "torch.distributed.run"]:
        start = next(index for index, word in enumerate(words) if word.endswith(".py"))
        words = ["python", *words[start:]]
    if words[0] not in ("python", "python3") or len(words) < 2 or words[1] == "-c":
        return None
    if words[1] == "-m":
        return words[2], words[3:]
    return words[1], words[2:]


def problem(command):
    """What is wrong with a command, "" for nothing."""
    found = program(command.words)
    if found is None:
        known = command.words[0] in OTHERS or command.words[:2] == ("python", "-c")
        return "" if known or command.needs else f"{command.words[0]}: not known to this test"
    name, words = found
    words = [word.strip("[]") for word in words if word != "..."]
    if name.removesuffix(".py") in SCRIPTS:
        return parsed(importlib.import_module(name.removesuffix(".py")).parse_opt, words)
    if f"{name}.__main__" in WITH_PARSE_OPT:
        return parsed(importlib.import_module(f"{name}.__main__").parse_opt, words)
    file = ROOT / name if name.endswith(".py") else ROOT / (name.replace(".", "/") + ".py")
    file = file if file.is_file() else ROOT / name.replace(".", "/") / "__main__.py"
    if not file.is_file():
        return "" if command.needs or name in ("http.server", "venv", "pip", "pytest") else f"{name}: no such program"
    source = file.read_text(encoding="utf-8") + options_beside(file)
    flags = [word.split("=")[0] for word in words if re.match(r"--[a-z]", word)]
    unknown = [flag for flag in flags if f'"{flag}"' not in source and f"{flag[2:].replace('-', '_')}:" not in source]
    return f"{name}: unknown flags {unknown}" if unknown else ""


def options_beside(file):
    """The options that a package's command takes from its dataclass."""
    beside = [*file.parent.glob("*options*.py")] if file.name == "__main__.py" else []
    return "".join(path.read_text(encoding="utf-8") for path in beside)


def parsed(parse_opt, words):
    try:
        parse_opt(words)
    except SystemExit as error:
        return "" if error.code == 0 else f"does not parse: {words}"
    return ""


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in pages()])
def test_each_command_of_a_page_is_known(page):
    problems = [f"{command.line}\n    {text}" for command in ALL if command.page == page and (text := problem(command))]
    assert problems == []


def test_what_a_block_needs_is_one_of_few_things():
    assert {part.strip() for command in ALL if command.needs for part in command.needs.split(",")} <= set(NEEDS)


def test_commands_are_found_and_mistakes_too(tmp_path):
    assert len(ALL) > 100 and len({command.page for command in ALL}) > 15
    page = ROOT / "docs" / "quickstart.md"
    assert [command.needs for command in commands_of(page)].count("network") == 1
    first = commands_of(page)[1]
    mistakes = ("detect.py --no-such-flag", "no_such.py", "-m models.zoo --worse", "detect.py --iou-thres 2")
    wrong = [("python", *words.split()) for words in mistakes]
    assert all(problem(type(first)("x", words, "", "")) for words in wrong) and not problem(first)
