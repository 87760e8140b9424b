"""The commands of docs/export.md and of the README's section on export do what the pages say."""

import re
import shlex

import numpy as np
import pytest
from exported_files import saved, spread_model
from small_models import SMALL

import detect
import export
import val
from utils.files import ROOT
from utils.images import write_image

for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package, reason=f"the commands of docs/export.md need {package}")

SCRIPTS = {"export.py": export, "detect.py": detect, "val.py": val}


def commands():
    """The lines of the README's section and of the page that run one of the three scripts, in their order."""
    _, _, readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Export\n")
    text = readme.partition("\n## ")[0] + (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == ["python"] and line[1] in SCRIPTS]


def test_the_pages_have_commands():
    assert len(commands()) >= 8 and any("runs/train/exp/weights/best.onnx" in line for line in commands())
    assert {line[0] for line in commands()} == set(SCRIPTS)


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path, monkeypatch, blank_figures):
    """In the page's order, in a folder with a checkpoint, a dataset and images of the names that the page uses."""
    rng = np.random.default_rng(0)
    for part in ("images/train", "labels/train"):
        (tmp_path / part).mkdir(parents=True)
    for number in range(6):
        write_image(tmp_path / "images" / "train" / f"{number}.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        (tmp_path / "labels" / "train" / f"{number}.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    write_image(tmp_path / "images" / "one.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    (tmp_path / "cells.yaml").write_text(
        f"path: {tmp_path}\ntrain: images/train\nval: images/train\nnames: [square, disc, star]\n"
    )
    (tmp_path / "runs" / "train" / "exp" / "weights").mkdir(parents=True)
    for path in ("best.pt", "runs/train/exp/weights/best.pt"):  # the page's and the README's
        saved(spread_model(SMALL), tmp_path / path)
    monkeypatch.chdir(tmp_path)
    for name, *words in commands():
        folder = [] if name == "export.py" else ["--project", str(tmp_path / "runs")]
        script = SCRIPTS[name]
        script.main(script.parse_opt([*words, *folder]))
    written = {path.name for path in tmp_path.iterdir()}
    assert {"best.onnx", "best_openvino_model", "runs"} <= written
    assert not [name for name in written if "differs" in name or "unchecked" in name]
    assert len(list((tmp_path / "runs").rglob("one.png"))) >= 1 and list((tmp_path / "runs").rglob("metrics.json"))
