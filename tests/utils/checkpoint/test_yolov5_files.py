"""convert --to yolov5: a checkpoint of YOLOv5's classes, or a zip for its tree if it lacks a block."""

import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from random_share import share_of
from small_models import SMALL, TINY, with_block
from torch import nn

from models.c3_attention import C3Attention
from models.registry import registered
from models.yolo import Model
from models.zoo.table import load_variants
from utils.checkpoint import build_model, checkpoint_of, read_checkpoint, write_checkpoint
from utils.checkpoint.__main__ import main
from utils.checkpoint.archive import Archive
from utils.checkpoint.restricted import PickledObject, read_restricted
from utils.checkpoint.tools import convert, differences
from utils.checkpoint.yolov5_package import BRANCH, IMPORT_LINE, package_sources
from utils.checkpoint.yolov5_rows import resolve_rows
from utils.errors import CheckpointError

LAYERS = SMALL | {  # one of each layer that YOLOv5's yamls name
    "backbone": [
        [-1, 1, "Focus", [8, 3]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 2, "C3", [16]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "BottleneckCSP", [16]],
        [-1, 1, "GhostConv", [16]],
        [-1, 1, "C3Ghost", [16]],
        [-1, 1, "GhostBottleneck", [16, 3, 2]],
        [-1, 1, "C3TR", [32]],
        [-1, 1, "C3SPP", [16]],
        [-1, 1, "SPP", [16, [3, 5]]],
        [-1, 2, "Bottleneck", [16]],
        [-1, 1, "CrossConv", [16, 3]],
        [-1, 1, "MixConv2d", [16]],
        [-1, 1, "DWConv", [16, 3]],
        [-1, 1, "nn.BatchNorm2d", []],
    ],
    "head": [
        [-1, 1, "Expand", []],
        [-1, 1, "Contract", []],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "SPPF", [16]],
        [[19, 21], 1, "Detect", ["nc", "anchors"]],
    ],
}
# Names that models/yolo.py of YOLOv5 uses itself, which a star import must not replace.
NAMES_OF_YOLOV5 = {
    "Bottleneck",
    "BottleneckCSP",
    "C3",
    "C3Ghost",
    "C3SPP",
    "C3TR",
    "C3x",
    "Classify",
    "Concat",
    "Contract",
    "Conv",
    "CrossConv",
    "DWConv",
    "Detect",
    "Expand",
    "DWConvTranspose2d",
    "DetectMultiBackend",
    "AutoShape",
    "Detections",
    "Ensemble",
    "Focus",
    "GhostBottleneck",
    "GhostConv",
    "MixConv2d",
    "Model",
    "DetectionModel",
    "BaseModel",
    "Proto",
    "SPP",
    "SPPF",
    "Segment",
    "Sum",
    "TransformerBlock",
    "TransformerLayer",
}


def with_statistics(cfg, **settings) -> Model:
    """A model in evaluation mode with running statistics, gates and positions of a trained one."""
    torch.manual_seed(0)
    model = Model(cfg, **settings, report=False)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "gate")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    model.names = [f"class {index}" for index in range(model.nc - 1)] + ["人"]
    return model.eval()


def written(model: Model, folder: Path) -> Path:
    """The checkpoint of a model, as best.pt."""
    return write_checkpoint(checkpoint_of(model), folder / "best.pt")


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


# a checkpoint of YOLOv5's classes --------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [LAYERS, "yolov5n.yaml", "yolov5n6.yaml"], ids=["layers", "yolov5n", "yolov5n6"])
def test_the_file_reads_back_as_the_same_model(cfg, tmp_path):
    model = with_statistics(cfg)
    source = written(model, tmp_path)
    output = convert(source, None, "yolov5")
    assert output == tmp_path / "best_yolov5.pt" and differences(source, output) == []
    back = read_checkpoint(output)
    own = model.state_dict()
    assert list(back.state) == list(own) and all(torch.equal(back.state[name], own[name]) for name in own)
    assert back.names == model.names and back.stride == tuple(model.stride.tolist())
    image = torch.rand(1, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # the same kernels on the same numbers
        assert torch.equal(build_model(back)(image)[0], model(image)[0])


def described(path: Path) -> dict[str, PickledObject]:
    """What the file says of each module, by dotted name."""
    with Archive(path) as archive:
        content = read_restricted(archive)
    assert {key: content[key] for key in ("epoch", "ema", "optimizer", "best_fitness", "updates")} == {
        "epoch": -1,
        **dict.fromkeys(("ema", "optimizer", "best_fitness", "updates")),
    }
    found = {}

    def visit(module: PickledObject, name: str) -> None:
        found[name] = module
        for child, inner in module.state["_modules"].items():
            visit(inner, f"{name}.{child}" if name else child)

    visit(content["model"], "")
    return found


def test_modules_have_the_classes_and_attributes_that_yolov5_reads(tmp_path):
    model = with_statistics(LAYERS)
    modules = described(convert(written(model, tmp_path), None, "yolov5"))
    top = modules[""]
    assert top.name == "models.yolo.Model" and top.state["save"] == model.save and top.state["nc"] == 3
    assert top.state["names"] == model.names and top.state["inplace"] is True
    assert [modules[f"model.{index}"].state["type"] for index in (0, 11, 13, 18, 22)] == [
        "models.common.Focus",
        "models.common.Bottleneck",  # of two, in a Sequential
        "models.experimental.MixConv2d",
        "torch.nn.modules.upsampling.Upsample",
        "models.yolo.Detect",
    ]
    for index, layer in enumerate(model.layers):
        state = modules[f"model.{index}"].state
        assert (state["i"], state["f"], state["np"]) == (layer.i, layer.f, layer.np)
    assert modules["model.2.m.0"].state["add"] is True and modules["model.12"].state["add"] is False
    assert modules["model.8.m"].state["c2"] == 16 and modules["model.8.m"].state["conv"] is None
    assert modules["model.0.conv.bn"].name == "torch.nn.modules.batchnorm.BatchNorm2d"
    assert (modules["model.0.conv.bn"].state["eps"], modules["model.0.conv.bn"].state["momentum"]) == (1e-3, 0.03)
    assert modules["model.0.conv.act"].name == "torch.nn.modules.activation.SiLU"
    assert modules["model.18"].state["mode"] == "nearest" and modules["model.18"].state["scale_factor"] == 2
    assert modules["model.19"].state["d"] == 1 and modules["model.16"].state["gain"] == 2
    head = modules["model.22"].state
    assert {key: head[key] for key in ("nc", "no", "nl", "na", "inplace")} == {
        "nc": 3,
        "no": 8,
        "nl": 2,
        "na": 2,
        "inplace": True,
    }
    assert len(head["grid"]) == len(head["anchor_grid"]) == 2 and head["stride"].shape == (2,)


def test_torch_loads_the_file_as_objects_of_the_named_classes(tmp_path, monkeypatch):
    """Empty classes stand for YOLOv5's; they only have to be found by name."""
    model = with_statistics(TINY)
    output = convert(written(model, tmp_path), None, "yolov5")
    for package, names in (("yolo", ("Model", "Detect")), ("common", ("Conv",))):
        fake = types.ModuleType(f"models.{package}")
        for name in names:
            setattr(fake, name, type(name, (nn.Module,), {"__module__": fake.__name__}))
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    loaded = torch.load(output, weights_only=False)["model"]
    assert type(loaded) is sys.modules["models.yolo"].Model and not any(module.training for module in loaded.modules())
    own = model.state_dict()
    state = loaded.state_dict()
    assert list(state) == list(own) and all(torch.equal(state[name], own[name]) for name in own)
    assert loaded.half().float().model[0].conv(torch.zeros(1, 3, 8, 8)).shape == (1, 8, 4, 4)
    assert type(loaded.model[0].act) is nn.SiLU and loaded.yaml["head"][-1] == [[2, 3], 1, "Detect", ["nc", "anchors"]]


def test_precision_is_kept_and_the_same_file_is_written_again(tmp_path):
    source = written(with_statistics(TINY), tmp_path)
    main(["strip", str(source), str(tmp_path / "half.pt")])
    first, second = (convert(tmp_path / "half.pt", tmp_path / f"{name}.pt", "yolov5") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    state = read_checkpoint(first, full=False).state
    assert state["model.0.conv.weight"].dtype == torch.float16 and state["model.4.anchors"].dtype == torch.float32


def test_every_entry_is_aligned_as_torch_aligns_them(tmp_path):
    output = convert(written(with_statistics(TINY), tmp_path), None, "yolov5")
    with zipfile.ZipFile(output) as archive, output.open("rb") as stream:
        for entry in archive.infolist():
            stream.seek(entry.header_offset + 26)
            lengths = int.from_bytes(stream.read(2), "little") + int.from_bytes(stream.read(2), "little")
            assert (entry.header_offset + 30 + lengths) % 64 == 0
        assert archive.read("archive/data.pkl")[:2] == pickle.PROTO + b"\x02"


@pytest.mark.slow
def test_yolov5_itself_predicts_the_same(tmp_path):
    """With YOLOv5's package if it is installed; in a program of its own, because its packages have our names."""
    if importlib.util.find_spec("yolov5") is None:
        pytest.skip("the package yolov5 is not installed")
    model = with_statistics("yolov5n.yaml")
    output = convert(written(model, tmp_path), None, "yolov5")
    image = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.save((image, model(image)[0]), tmp_path / "expected.pt")
    program = f"""
import sys, pathlib, torch, yolov5
sys.path[0] = str(pathlib.Path(yolov5.__file__).parent)
from yolov5.models.experimental import attempt_load
model = attempt_load({str(output)!r})
image, expected = torch.load({str(tmp_path / "expected.pt")!r})
with torch.no_grad():
    print(type(model).__name__, model.names[79], float((model(image)[0] - expected).abs().max()))
"""
    variables = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLO_OFFLINE": "true"}
    words = [sys.executable, "-W", "ignore", "-X", "utf8", "-c", program]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    kind, name, gap = done.stdout.split()[-3:]
    assert kind == "DetectionModel" and "人" in name and float(gap) < 1e-3  # of pixels up to 200


# a zip for YOLOv5's tree -----------------------------------------------------------------------------


def blocks_of(model: Model, resolved) -> list[tuple]:
    """Block, repeats, arguments, state, input and output of each layer that YOLOv5 lacks."""
    own = {block.__name__ for block in resolved.blocks} | {"Gated"}
    given: dict[int, torch.Tensor] = {}
    results: dict[int, torch.Tensor] = {}
    single = [layer for layer in model.model if isinstance(layer.f, int)]
    hooks = [layer.register_forward_pre_hook(lambda m, x: given.update({m.i: x[0].clone()})) for layer in single]
    hooks += [layer.register_forward_hook(lambda m, x, y: results.update({m.i: y.clone()})) for layer in single]
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    for hook in hooks:
        hook.remove()
    depth = resolved.architecture.settings["depth_multiple"]
    return [
        (
            row.block,
            max(round(row.repeats * depth), 1),
            row.args,
            model.model[index].state_dict(),
            given[index],
            results[index],
        )
        for index, row in enumerate(resolved.architecture.rows)
        if row.block in own
    ]


ALONE = """
import sys
import torch
from torch import nn
from attention_blocks import *

worst = 0.0
for name, repeats, args, state, x, y in torch.load("cases.pt"):
    m, args = eval(name), [eval(arg) if isinstance(arg, str) else arg for arg in args]  # as parse_model does
    assert m in BLOCKS
    c2, *args = args
    layer = nn.Sequential(*(m(*args) for _ in range(repeats))) if repeats > 1 else m(*args)
    layer.load_state_dict(state)
    for module in layer.modules():
        if type(module) is nn.BatchNorm2d:
            module.eps = 1e-3
        if type(module) in (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU):
            module.inplace = True
    with torch.no_grad():
        result = layer.eval()(x)
    assert result.shape[1] == c2
    worst = max(worst, float((result - y).abs().max()))
assert not [name for name in sys.modules if name.split(".")[0] in ("models", "utils")]
print(worst)
"""


def difference_alone(model: Model, folder: Path) -> float:
    """Unpack the zip of a model and run its blocks there, by themselves: the largest difference to ours."""
    source = written(model, folder)
    resolved = resolve_rows(read_checkpoint(source), model)
    output = convert(source, folder / "best.zip", "yolov5", force=True)
    with zipfile.ZipFile(output) as archive:
        archive.extractall(folder)
    torch.save(blocks_of(model, resolved), folder / "cases.pt")
    (folder / "alone.py").write_text(ALONE)
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [sys.executable, "-W", "ignore", "alone.py"]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    ("row", "start"),
    [
        ((-1, 1, "CBAM", []), None),
        ((-1, 2, "SEAttention", [{"reduction": 8}]), None),
        ((-1, 1, "CBAM", [16]), "identity"),
        ((-1, 1, "C3Attention", [64, "CBAM", {"kernel_size": 5}]), "identity"),
        ((-1, 1, "C3Attention", [64, False, "MHSA"]), None),
        ((-1, 1, "MobileNetV3Block", [64, 96, 5, 1, True, True]), None),
    ],
    ids=lambda value: value[2] if isinstance(value, tuple) else str(value),
)
def test_blocks_run_by_themselves(row, start, tmp_path):
    """The same kernels on the same numbers, but for threads; the program's folder is not on the path."""
    assert difference_alone(with_statistics(with_block(*row), attention_start=start), tmp_path) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [f"yolov5n_{name}.yaml" for name in share_of(load_variants(), 1 / 3)])
def test_blocks_of_every_variant_run_by_themselves(cfg, tmp_path):
    assert difference_alone(with_statistics(cfg), tmp_path) < 1e-4


def test_the_zip_holds_what_its_readme_says(tmp_path, capsys):
    model = with_statistics(with_block(-1, 1, "CBAM", [16]))
    source = written(model, tmp_path)
    code, out, _ = run(capsys, "convert", source, "--to", "yolov5")
    output = tmp_path / "best_yolov5.zip"
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"{output}: {output.stat().st_size:,} bytes" and len(lines) == 5
    assert [line[:2] for line in lines[2:]] == ["1.", "2.", "3."]
    with zipfile.ZipFile(output) as archive:
        names = set(archive.namelist())
        readme = archive.read("README.md").decode()
        text = archive.read("attention_blocks/model.yaml").decode("ascii")
        state = torch.load(io.BytesIO(archive.read("attention_blocks/weights.pt")), weights_only=True)
        assert json.loads(archive.read("attention_blocks/names.json")) == model.names
    assert IMPORT_LINE in readme and IMPORT_LINE in lines[3] and all(line in readme for line in BRANCH)
    assert "CBAM" in readme and "GPL-3.0-only" in readme
    folder = {name.removeprefix("attention_blocks/") for name in names} - {"README.md"}
    assert folder == {
        *("__init__.py", "assemble.py", "model.yaml", "names.json", "weights.pt"),
        *("arguments.py", "cbam.py", "errors.py", "numerics.py", "recording.py", "registry.py"),
    }
    own = model.state_dict()
    assert list(state) == list(own) and all(torch.equal(state[name], own[name]) for name in own)
    content = yaml.safe_load(text)
    assert content["backbone"][4] == [-1, 1, "CBAM", [64, 64, 16]] and content["backbone"][0] == SMALL["backbone"][0]
    assert content["head"] == with_block(-1, 1, "CBAM", [16])["head"]


def test_rows_of_yolov5s_layers_stay_and_keywords_become_positions(tmp_path):
    cfg = SMALL | {"backbone": [*SMALL["backbone"][:2], [-1, 2, "C3", [16, {"shortcut": False}]], SMALL["backbone"][3]]}
    model = with_statistics(cfg)
    rows = resolve_rows(checkpoint_of(model), model)
    assert not rows.blocks and rows.architecture.rows[2].args == [16, False, 1, 0.5]
    assert rows.architecture.rows[1].args == [16, 3, 2] and rows.architecture.rows[-1].args == ["nc", "anchors"]


def test_no_block_has_a_name_that_yolov5_uses():
    blocks = [entry.cls for entry in registered().values() if entry.attention] + [C3Attention]
    assert len(blocks) > 60 and not {block.__name__ for block in blocks} & NAMES_OF_YOLOV5
    sources = package_sources(blocks, gated=True)
    assert not {name.removesuffix(".py") for name in sources} & {"assemble"}
    assert not [name for name, text in sources.items() if "from models" in text or "from utils" in text]


# errors ----------------------------------------------------------------------------------------------


def test_errors_are_one_line(tmp_path, capsys):
    source = written(with_statistics(with_block(-1, 1, "CBAM", [])), tmp_path)
    for words, reason in (
        ((source, tmp_path / "a.pt"), "YOLOv5 lacks its CBAM, so what is written is a .zip"),
        ((source, "--output", tmp_path / "no" / "a.zip"), "its folder does not exist"),
        ((tmp_path / "none.pt",), "no such file"),
    ):
        code, _, error = run(capsys, "convert", *words, "--to", "yolov5")
        assert code == 2 and reason in error and error.count("\n") == 1
    plain = write_checkpoint(checkpoint_of(with_statistics(TINY)), tmp_path / "plain.pt")
    code, _, error = run(capsys, "convert", plain, tmp_path / "a.zip", "--to", "yolov5")
    assert code == 2 and "YOLOv5 has all of its layers, so what is written is a .pt" in error
    assert run(capsys, "convert", plain, "-o", tmp_path / "b.pt", "--to", "yolov5")[0] == 0
    code, _, error = run(capsys, "convert", plain, "-o", tmp_path / "b.pt", "--to", "yolov5")
    assert code == 2 and "b.pt: exists already; --force replaces it" in error
    code, _, error = run(capsys, "convert", plain, "--to", "weights")
    assert code == 2 and "name the file to write" in error and error.count("\n") == 1


def test_rows_that_yolov5_cannot_say_are_refused(tmp_path):
    wide = with_statistics(with_block(-1, 2, "MobileNetV3Block", [32, 48, 3, 1]))
    with pytest.raises(CheckpointError, match="layer 4 .MobileNetV3Block.: its copies differ in width"):
        resolve_rows(checkpoint_of(wide), wide)
    other = with_statistics(with_block(-1, 1, "nn.Conv2d", [64, 1]))
    with pytest.raises(CheckpointError, match="YOLOv5's yamls do not build nn.Conv2d"):
        resolve_rows(checkpoint_of(other), other)
