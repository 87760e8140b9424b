"""show, convert, strip, average and diff: what they write is right, and what they read stays as it was."""

import dataclasses
import hashlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from small_models import TINY

from models.yolo import Model
from utils.checkpoint import build_model, checkpoint_of, load_models, read_checkpoint, write_checkpoint
from utils.checkpoint.__main__ import main
from utils.checkpoint.tools import average, convert, differences
from utils.files import ROOT


def tiny_model(seed: int) -> Model:
    torch.manual_seed(seed)
    model = Model(TINY)
    model.names = ["a", "b", "\x1b[31mred"]  # a name that would color a terminal
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(10 * seed)
        elif name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in (1, 2, 3)]


@pytest.fixture()
def files(models, tmp_path):
    """Three epochs of one training."""

    def training(epoch: int) -> dict:
        return {
            "optimizer": {"x": torch.ones(5)},
            "config": {"epochs": 9, "plugin": []},
            "state": {"epoch": epoch, "best_fitness": 0.5},
        }

    return [
        write_checkpoint(checkpoint_of(model, training=training(epoch)), tmp_path / f"epoch{epoch}.pt")
        for epoch, model in enumerate(models, 1)
    ]


@pytest.fixture(autouse=True)
def untouched(request):
    """No command changes what it reads."""
    if "files" not in request.fixturenames:
        yield
        return
    files = request.getfixturevalue("files")
    before = [digest(file) for file in files]
    yield
    if "in_place" not in request.node.name:
        assert [digest(file) for file in files] == before


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def run(capsys, *words) -> tuple[int, str, str]:
    """Exit code, output and errors of a command line; an error is one line."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert err.count("\n") == (1 if code == 2 else 0), err
    return code, out, err


# show ------------------------------------------------------------------------------------------------


def test_show_describes_a_training_file(files, capsys):
    code, text, _ = run(capsys, "show", files[1])
    lines = {line[:11].strip(): line[12:] for line in text.splitlines()}
    assert code == 0
    assert lines["what"] == "checkpoint of this program, format 1, can be resumed"
    assert lines["written by"].startswith(f"torch {torch.__version__}, 20")
    assert lines["file"] == f"{files[1]}, {files[1].stat().st_size:,} bytes" and lines["sha256"] == digest(files[1])
    state = tiny_model(2).state_dict()
    learned = sum(parameter.numel() for parameter in tiny_model(2).parameters())
    size = sum(tensor.nbytes for tensor in state.values())
    assert (
        lines["weights"]
        == f"{len(state)} tensors ({len(state) - 4} float32, 4 int64), {size:,} bytes, {learned:,} parameters"
    )
    assert lines["classes"] == "3: a, b, \\x1b[31mred" and lines["strides"] == "8 16" and "\x1b" not in text
    assert lines["training"] == "epoch 2; best fitness 0.5; 1 tensors, 20 bytes in optimizer, config, state"
    assert lines["settings"] == "epochs=9, plugin=[]"


def test_show_has_one_row_per_layer(files, models, capsys):
    text = run(capsys, "show", files[0], "--tensors")[1]
    rows = [line.split() for line in text.split("\n\n")[1].splitlines()]
    assert rows[0] == ["layer", "reads", "block", "repeats", "tensors", "parameters"]
    for index, (row, layer) in enumerate(zip(rows[1:], models[0].model, strict=True)):
        learned = sum(parameter.numel() for parameter in layer.parameters())
        assert row[0] == str(index) and row[-4:] == [
            type(layer).__name__,
            "1",
            str(len(layer.state_dict())),
            f"{learned:,}",
        ]
    listed = text.split("\n\n")[2].splitlines()
    assert "model.0.conv.weight  8x3x3x3  float32" in listed and len(listed) == len(models[0].state_dict())


def test_show_of_tensors_alone_and_of_nothing(models, tmp_path, capsys):
    torch.save(models[0].state_dict(), tmp_path / "state.pt")
    assert "tensors without a model's description" in run(capsys, "show", tmp_path / "state.pt")[1]
    torch.save([1], tmp_path / "list.pt")
    assert "without a model's description" in run(capsys, "show", tmp_path / "list.pt")[2]
    assert run(capsys, "show", tmp_path / "none.pt")[0] == 2


def test_show_of_a_description_that_cannot_be_read(files, tmp_path, capsys):
    broken = dataclasses.replace(read_checkpoint(files[0]), yaml={"nc": 3, "head": "\x1b[2J"})
    code, text, _ = run(capsys, "show", write_checkpoint(broken, tmp_path / "a.pt"))
    assert code == 0 and "the model description cannot be read: " in text and "\x1b" not in text


# convert ---------------------------------------------------------------------------------------------


def test_the_real_file_converted_computes_the_same(real, tmp_path, capsys):
    source, output = real("weights/yolov5n.pt"), tmp_path / "ours.pt"
    assert run(capsys, "convert", source, output)[0] == 0
    image = torch.rand(1, 3, 320, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # the same kernels on the same numbers
        assert torch.equal(load_models(output)(image)[0], load_models(source)(image)[0])
    assert torch.load(output, weights_only=True)["state"]["model.0.conv.weight"].dtype == torch.float16
    assert output.stat().st_size < source.stat().st_size
    assert run(capsys, "diff", source, output)[:2] == (
        1,
        "settings.converted_from: None and 'yolov5n.pt'\n0 tensors differ, 349 are equal\n",
    )


def test_weights_for_other_programs(files, models, tmp_path, capsys):
    assert run(capsys, "convert", files[0], tmp_path / "state.pt", "--to", "weights")[0] == 0
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    expected = models[0].state_dict()  # here and below tensors are copied, not computed
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in state)


def test_safetensors(files, models, tmp_path, capsys, monkeypatch):
    output = tmp_path / "a.safetensors"
    monkeypatch.setattr("utils.checkpoint.tools.find_spec", lambda name: None)
    code, _, error = run(capsys, "convert", files[0], output)
    assert (
        code == 2
        and "the package safetensors is not installed; pip install safetensors" in error
        and not output.exists()
    )
    saved = {}

    def save(tensors, metadata):
        saved.update(tensors=tensors, metadata=metadata)
        return b"written"

    fake = types.ModuleType("safetensors.torch")
    fake.save = save
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", fake)
    monkeypatch.setattr("utils.checkpoint.tools.find_spec", lambda name: object())
    assert run(capsys, "convert", files[0], output)[0] == 0 and output.read_bytes() == b"written"
    expected = models[0].state_dict()
    assert list(saved["tensors"]) == list(expected)
    assert all(torch.equal(saved["tensors"][name], expected[name]) for name in expected)
    assert (
        all(isinstance(value, str) for value in saved["metadata"].values())
        and '"backbone"' in saved["metadata"]["yaml"]
    )


def test_real_safetensors_read_back(files, models, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = safetensors.load_file(convert(files[0], tmp_path / "a.safetensors"))
    assert all(torch.equal(state[name], tensor) for name, tensor in models[0].state_dict().items())


def test_ours_needs_no_converting(files, tmp_path, capsys):
    assert "is a checkpoint of this program already" in run(capsys, "convert", files[0], tmp_path / "x.pt")[2]


# strip -----------------------------------------------------------------------------------------------


def test_strip_to_another_file(files, tmp_path, capsys):
    assert run(capsys, "strip", files[0], tmp_path / "small.pt")[0] == 0
    content = torch.load(tmp_path / "small.pt", weights_only=True)
    assert content["training"] is None and content["state"]["model.0.conv.weight"].dtype == torch.float16
    assert "weights only" in run(capsys, "show", tmp_path / "small.pt")[1]


def test_strip_in_place_only_when_asked(files, tmp_path, capsys):
    link = tmp_path / "link.pt"
    link.symlink_to(files[0])
    before = digest(files[0])
    assert "--in-place" in run(capsys, "strip", link)[2] and digest(files[0]) == before
    assert "one of the two" in run(capsys, "strip", link, tmp_path / "x.pt", "--in-place")[2]
    assert run(capsys, "strip", link, "--in-place")[0] == 0
    assert link.is_symlink() and read_checkpoint(files[0]).training is None


@pytest.mark.parametrize("words", (["convert", "--to", "weights"], ["strip"], ["average", "--output"]))
def test_an_existing_output_stays(words, files, tmp_path, capsys):
    command, *options = words
    there = tmp_path / "there.pt"
    there.write_bytes(b"precious")
    inputs = files[:2] if command == "average" else files[:1]
    line = [command, *inputs, *options, there] if command == "average" else [command, *inputs, there, *options]
    assert "exists already; --force replaces it" in run(capsys, *line)[2] and there.read_bytes() == b"precious"
    own = [str(files[0]) if word == there else word for word in line]  # an input as output
    assert "exists already" in run(capsys, *own)[2]
    assert run(capsys, *line, "--force")[0] == 0 and there.read_bytes() != b"precious"
    folder = [tmp_path if word == there else word for word in line]
    assert "a folder; name a file" in run(capsys, *folder)[2]
    nowhere = [tmp_path / "no" / "x.pt" if word == there else word for word in line]
    assert "its folder does not exist" in run(capsys, *nowhere)[2]


# average ---------------------------------------------------------------------------------------------


def test_the_mean_of_three(files, models, tmp_path, capsys):
    assert run(capsys, "average", *files, "--output", tmp_path / "mean.pt")[0] == 0
    mean = read_checkpoint(tmp_path / "mean.pt")
    states = [model.state_dict() for model in models]
    for name, tensor in mean.state.items():
        stacked = torch.stack([state[name] for state in states])
        if tensor.is_floating_point():
            # float64 holds the sum of three float32 numbers exactly, in any order
            assert torch.equal(tensor, stacked.double().mean(0).float()), name
        else:
            assert torch.equal(tensor, states[2][name]) and int(tensor) == 30, name
    assert mean.training is None and mean.settings == {"average_of": ["epoch1.pt", "epoch2.pt", "epoch3.pt"]}
    image = torch.rand(1, 3, 64, 64)
    assert build_model(mean)(image)[0].isfinite().all()
    average([files[0], files[0]], tmp_path / "same.pt")
    assert all(
        torch.equal(tensor, states[0][name]) for name, tensor in read_checkpoint(tmp_path / "same.pt").state.items()
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda one: dataclasses.replace(one, names=["a", "b", "c"]), "their classes differ"),
        (lambda one: dataclasses.replace(one, yaml={**one.yaml, "nc": 4}), "their model descriptions differ in nc"),
        (
            lambda one: dataclasses.replace(one, state={**one.state, "more": torch.ones(1)}),
            "only one of them holds more",
        ),
        (
            lambda one: dataclasses.replace(one, state={**one.state, "model.0.conv.weight": torch.ones(1)}),
            "model.0.conv.weight is (1,) and (8, 3, 3, 3)",
        ),
        (
            lambda one: dataclasses.replace(
                one, state={**one.state, "model.0.conv.weight": torch.full((8, 3, 3, 3), torch.nan)}
            ),
            "model.0.conv.weight holds numbers that are not finite",
        ),
    ],
)
def test_only_one_models_files_are_averaged(change, words, files, tmp_path, capsys):
    other = write_checkpoint(change(read_checkpoint(files[1])), tmp_path / "other.pt")
    code, _, error = run(capsys, "average", files[0], other, "-o", tmp_path / "mean.pt")
    assert code == 2 and words in error and str(other) in error and not (tmp_path / "mean.pt").exists()


def test_one_file_makes_no_mean(files, tmp_path, capsys):
    assert "two files or more" in run(capsys, "average", files[0], "-o", tmp_path / "mean.pt")[2]


# diff ------------------------------------------------------------------------------------------------


def test_equal_files_have_no_difference(files, tmp_path, capsys):
    copy = write_checkpoint(read_checkpoint(files[0]), tmp_path / "copy.pt")
    assert run(capsys, "diff", files[0], copy) == (0, "no difference\n", "")


def test_each_difference_is_reported(files, tmp_path, capsys):
    one = read_checkpoint(files[0])
    state = dict(one.state)
    state["model.0.conv.weight"] = state["model.0.conv.weight"].clone()
    state["model.0.conv.weight"][1, 2, 0, 0] += 0.25
    state["model.1.conv.weight"] = state["model.1.conv.weight"] + 1
    state["model.2.conv.weight"] = torch.zeros(2, 2)
    state["model.0.bn.bias"] = state["model.0.bn.bias"].half()
    state["new"] = state.pop("model.3.conv.weight")
    yaml = {
        **one.yaml,
        "backbone": [*one.yaml["backbone"][:2], [-1, 2, "Conv", [8, 3, 2]]],
        "attention_start": "identity",
    }
    other = dataclasses.replace(
        one, state=state, yaml=yaml, names=["a", "x", "c"], training=None, settings={"imgsz": 64}
    )
    path = write_checkpoint(other, tmp_path / "other.pt")
    code, text, _ = run(capsys, "diff", files[0], path)
    assert code == 1 and text.splitlines() == [
        "model.backbone[2][1]: 1 and 2",
        "model.attention_start: None and 'identity'",
        "names[1]: 'b' and 'x'",
        "names[2]: '\\x1b[31mred' and 'c'",
        "settings.imgsz: None and 64",
        f"training: only in {files[0]}",
        f"tensor model.3.conv.weight: only in {files[0]}",
        f"tensor new: only in {path}",
        "tensor model.2.conv.weight: shape (8, 8, 3, 3) and (2, 2)",
        "tensor model.1.conv.weight: max |difference| 1 in 576 of 576 numbers",
        "tensor model.0.conv.weight: max |difference| 0.25 in 1 of 216 numbers",
        "tensor model.0.bn.bias: equal numbers (float32 and float16)",
        f"4 tensors differ, {len(one.state) - 5} are equal",
    ]


def test_diff_shows_the_largest_first(files, capsys):
    whole = run(capsys, "diff", files[0], files[1], "--all")[1].splitlines()
    sizes = [float(line.split("| ")[1].split()[0]) for line in whole[:-1]]
    assert len(sizes) > 5 and sizes == sorted(sizes, reverse=True)
    short = differences(files[0], files[1], most=5)
    assert short == [*whole[:5], f"... and {len(sizes) - 5} tensors more (--all)", whole[-1]]


def test_nan_equals_nan(files, tmp_path):
    one = read_checkpoint(files[0])
    nan = {
        **one.state,
        "model.0.conv.weight": torch.full((8, 3, 3, 3), torch.nan),
        "model.0.bn.bias": torch.full((8,), torch.inf),
    }
    first, second = (
        write_checkpoint(dataclasses.replace(one, state=nan), tmp_path / name) for name in ("a.pt", "b.pt")
    )
    assert differences(first, second) == []
    assert "max |difference| inf in 216" in "\n".join(differences(first, files[0]))


# the command line ------------------------------------------------------------------------------------


def test_help_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport utils.checkpoint.__main__ as command\n"
        "try:\n    command.main(['--help'])\n"
        "except SystemExit:\n    print(sorted({'torch', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("[]\n") and "average" in done.stdout, done.stderr


def test_names_are_found_in_the_package_and_misspelt_ones_are_not():
    import utils.checkpoint

    for name in utils.checkpoint.__all__:
        assert getattr(utils.checkpoint, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'transfer_weight'"):
        utils.checkpoint.transfer_weight  # noqa: B018
