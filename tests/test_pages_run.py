"""Commands of the pages for beginners, run as they stand, on small drawn data: the start, training, own blocks."""

import importlib
import re
import shlex

import numpy as np
import pytest
import yaml
from page_commands import commands_of
from small_data import drawn_yaml

from utils.files import ROOT
from utils.images import write_image

SMALL = {  # what is added to a command so that it is done in seconds
    "train.py": "--batch-size 4 --workers 0 --noautoanchor --device cpu --epochs 1 --imgsz 64",
    "val.py": "--workers 0 --device cpu --imgsz 64",
    "detect.py": "--device cpu --imgsz 64",
}


@pytest.fixture
def folder(tmp_path, monkeypatch, blank_figures):
    """A folder as the pages suppose it: cells.yaml, images/, my_block.py."""
    data = yaml.safe_load(drawn_yaml(tmp_path, train=6, val=2).read_text(encoding="utf-8"))
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    (source,) = re.findall(r"```python\n(# my_block.py\n.*?)```", page("blocks").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_block.py").write_text(source, encoding="utf-8")
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "one.png", np.full((48, 64, 3), 90, np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page(name):
    return ROOT / "docs" / f"{name}.md"


def run(words, folder):
    """Run a command of a page in this process; what it writes goes below the folder."""
    assert words[0] == "python"
    if words[1] == "-m":
        module = importlib.import_module(f"{words[2]}.__main__")
        return (module.script if hasattr(module, "script") else module.main)(list(words[3:]))
    name = words[1].removesuffix(".py")
    script = importlib.import_module(name)
    more = shlex.split(SMALL[words[1]])
    return script.main(script.parse_opt([*words[2:], *more, "--project", str(folder / "runs" / name)]))


@pytest.mark.slow
def test_a_block_of_ones_own_is_inserted_trained_validated_and_used(folder, capsys):
    commands = [command.words for command in commands_of(page("blocks"))]
    assert [words[1] for words in commands] == ["-m", "-m", "train.py", "val.py", "detect.py"]
    for words in commands:
        result = run(words, folder)
        assert words[1] != "-m" or result == 0
    assert "ChannelGate" in (folder / "my.yaml").read_text() and "ChannelGate" in capsys.readouterr().out
    assert (folder / "runs" / "train" / "exp" / "weights" / "best.pt").is_file()
    assert (folder / "runs" / "val" / "exp" / "metrics.json").is_file()


@pytest.mark.slow
def test_the_pages_of_the_start_and_of_training_do_what_they_say(folder):
    """The check, a training without downloaded weights, its validation, and the quick start's detection with them."""
    check, train, val, compare = [command.words for command in commands_of(page("train"))]
    assert compare[1] == "compare.py" and run([*check, "--project", "checked"], folder) in (0, 1)
    assert (folder / "checked" / "exp" / "check.html").is_file()
    weights = train.index("--weights")
    trained = run([*train[:weights], *train[weights + 2 :]], folder)
    validated = run(val, folder)
    assert validated.evaluation.metrics.images == 2
    best = trained.save_dir / "weights" / "best.pt"
    (folder / "yolov5n.pt").write_bytes(best.read_bytes())
    install, detect, *_ = [command.words for command in commands_of(page("quickstart"))]
    assert install[0] == "pip"
    run(detect, folder)
    assert list((folder / "runs" / "detect" / "exp").rglob("*.*"))
