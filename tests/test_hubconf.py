"""hubconf.py: the entry points that torch.hub lists and loads, from any folder, beside other packages."""

import ast
import subprocess
import sys
import textwrap

import pytest
import torch
from small_models import TINY

import hubconf
from models.yolo import Model
from models.zoo.table import load_variants
from utils.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from utils.compat.auto_shape import AutoShape
from utils.compat.hub_models import load_custom, load_named
from utils.errors import CheckpointError, UserError
from utils.files import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    return write_checkpoint(checkpoint_of(Model(TINY), names=["a", "b", "c"]), path)


def python(code, folder, **files):
    """Run code in a folder, without this project on the path."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "main.py").write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, "main.py"], cwd=folder, capture_output=True, text=True, env={"PATH": "", "HOME": str(folder)}
    )


def load(name, *args, **options):
    return torch.hub.load(str(ROOT), name, *args, source="local", **options)


def test_every_variant_at_every_size_is_an_entry_point():
    """What torch.hub.list does with a repository."""
    listed = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    sizes = {f"yolov5{size}{head}" for size in "nsmlx" for head in ("", "6")}
    variants = {name.removesuffix(".yaml") for each in load_variants().values() for name in each.file_names()}
    assert listed == {"custom"} | sizes | variants
    assert hubconf.yolov5n_CBAM.__doc__.startswith("Load the variant CBAM of YOLOv5 n.")  # what torch.hub.help prints
    assert getattr(hubconf, "yolov5_CBAM-C3").__name__ == "yolov5_CBAM-C3"
    with pytest.raises(AttributeError):
        _ = hubconf.yolov5q


def test_importing_is_cheap():
    tree = ast.parse((ROOT / "hubconf.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"functools", "pathlib", "sys", "typing"}


def test_custom_from_another_folder_where_utils_lies_too(checkpoint, tmp_path):
    (tmp_path / "utils").mkdir()
    done = python(
        f"""
        import torch, numpy
        model = torch.hub.load({str(ROOT)!r}, "custom", path={str(checkpoint)!r}, source="local", device="cpu")
        results = model(numpy.zeros((40, 50, 3), numpy.uint8), size=64)
        results.print()
        results.save()
        print(model.names, type(model).__name__)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "image 1/1: 40x50 (no detections)" in done.stdout and "['a', 'b', 'c'] AutoShape" in done.stdout
    assert (tmp_path / "runs" / "detect" / "exp" / "image0.jpg").is_file()


@pytest.mark.parametrize("name", ["utils", "models"])
def test_other_packages_of_these_names_are_one_line(checkpoint, tmp_path, name):
    done = python(
        f"""
        import {name}, torch
        try:
            torch.hub.load({str(ROOT)!r}, "custom", path={str(checkpoint)!r}, source="local")
        except ImportError as error:
            print(error)
        """,
        tmp_path,
        **{name: "mine = 1"},
    )
    assert done.stdout.count("\n") == 1, done.stderr
    assert f"another module '{name}' is loaded already ({tmp_path / name}.py)" in done.stdout


def test_networks_of_other_classes_and_channels(capsys):
    model = load("yolov5n_CBAM", pretrained=False, channels=1, classes=3, autoshape=False, _verbose=False, device="cpu")
    assert isinstance(model, Model) and model.nc == 3 and model.training
    assert model.eval()(torch.zeros(1, 1, 64, 64))[0].shape == (1, 252, 8)
    assert capsys.readouterr().out == ""
    shaped = load("yolov5n_SE", pretrained=False, device=torch.device("cpu"))
    assert isinstance(shaped, AutoShape) and not shaped.model.training


def test_weights_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.checkpoint.store.ROOT", tmp_path)
    for name in ("yolov5n", "yolov5n_CBAM"):
        with pytest.raises(CheckpointError, match=r"yolov5n.pt: not on disk; .*, and download=True fetches it"):
            load(name)
    with pytest.raises(CheckpointError, match=r"yolov5l.pt: not on disk"):
        load("yolov5_CBAM")
    with pytest.raises(UserError, match="gone.pt: no such checkpoint"):
        load("custom", path="gone.pt")


def test_a_variant_starts_from_the_weights_of_its_size(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov5n.pt").write_bytes(real("weights/yolov5n.pt").read_bytes())
    expected = read_checkpoint("yolov5n.pt").state
    variant = load("yolov5n_CBAM", autoshape=False, device="cpu")
    state = variant.state_dict()
    assert torch.equal(state["model.0.conv.weight"], expected["model.0.conv.weight"])
    assert torch.equal(state["model.25.m.0.weight"], expected["model.24.m.0.weight"])  # behind the inserted block
    assert variant.names[:2] == ["person", "bicycle"]
    plain = load("yolov5n", device="cpu")
    assert plain.pt and [len(rows) for rows in plain(real("images/bus.jpg")).xyxy] == [5]


def test_a_checkpoint_without_autoshape_can_be_trained(checkpoint):
    model = load("custom", path=checkpoint, autoshape=False, device="cpu")
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    assert any(isinstance(each, torch.nn.BatchNorm2d) for each in model.modules())


@pytest.mark.parametrize("options", [{"classes": 0}, {"classes": "a"}, {"channels": -1}])
def test_a_number_that_is_none_is_one_line(options):
    (word,) = options
    with pytest.raises(UserError, match=f"^{word} = .*at least 1$"):
        load_named("yolov5n", pretrained=False, **options)


@pytest.mark.parametrize("path", [None, 3, [], [None]])
def test_a_path_that_is_none_is_one_line(path):
    with pytest.raises(UserError, match=r"^path = .*expected a file such as 'best.pt', or a list of files$"):
        load_custom(path)
