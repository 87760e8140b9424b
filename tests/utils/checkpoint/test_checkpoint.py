"""Checkpoints: what goes in comes out, official files become models, and a bad file is one line."""

import errno
import io
import os
import pickle
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
import torch
from small_models import TINY

from models.yolo import Model
from utils.checkpoint import (
    Checkpoint,
    build_model,
    checkpoint_of,
    find_weights,
    load_models,
    read_checkpoint,
    store,
    strip,
    write_checkpoint,
)
from utils.download import fetch
from utils.errors import CheckpointError, UserError


@pytest.fixture()
def tiny():
    torch.manual_seed(0)
    model = Model(TINY)
    model.names = ["a", "b", "狗"]
    with torch.no_grad():
        for index, (_, tensor) in enumerate(model.state_dict().items()):
            if tensor.is_floating_point() and tensor.ndim:
                tensor.add_(0.01 * index)  # no two alike
    return model


@pytest.fixture()
def tiny_file(tiny, tmp_path):
    return write_checkpoint(checkpoint_of(tiny, training={"epoch": 1}), tmp_path / "tiny.pt")


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(first: dict, second: dict) -> bool:
    """Whether both hold the same tensors, to the last bit: a file copies numbers and computes none."""
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


# our files -------------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_went(tiny, tmp_path):
    tiny.head.anchors.mul_(1.5)  # autoanchor may have changed them
    write_checkpoint(checkpoint_of(tiny, settings={"imgsz": 320}), tmp_path / "é.pt")
    back = read_checkpoint(tmp_path / "é.pt")
    assert (back.names, back.nc, back.stride, back.training, back.settings) == (
        tiny.names,
        3,
        (8.0, 16.0),
        None,
        {"imgsz": 320},
    )
    assert back.source == str(tmp_path / "é.pt") and back.date and back.written_by.startswith("torch ")
    model = build_model(back)
    assert same(model.state_dict(), tiny.state_dict()) and model.names == tiny.names and not model.training
    image = torch.rand(2, 3, 64, 96)
    assert torch.equal(model(image)[0], tiny.eval()(image)[0])  # the same kernels on the same numbers
    fused = build_model(back, fuse=True)
    # weights folded in float32, sums in float64
    assert torch.allclose(fused.double()(image.double())[0], tiny.double()(image.double())[0], rtol=1e-5, atol=1e-3)
    assert not any("bn" in name for name in fused.state_dict())


def test_training_state_comes_back_bit_for_bit(tiny, tmp_path):
    optimizer = torch.optim.SGD(tiny.parameters(), lr=0.1, momentum=0.9)
    sum(part.sum() for part in tiny.train()(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    numbers = np.random.default_rng(3)
    training = {
        "optimizer": optimizer.state_dict(),
        "generators": {"torch": torch.get_rng_state(), "cuda": [], "numpy": numbers.bit_generator.state},
        "state": {"epoch": 3, "best_fitness": np.float64(0.1), "class_map": [0.25, np.float32(0.5)]},
        "config": {"plugin": (), "data": tmp_path, "amp": None},
        "model_state": tiny.state_dict(),
    }
    write_checkpoint(checkpoint_of(tiny, training=training), tmp_path / "last.pt")
    back = read_checkpoint(tmp_path / "last.pt").training
    assert back["state"] == {"epoch": 3, "best_fitness": 0.1, "class_map": [0.25, 0.5]}
    assert type(back["state"]["best_fitness"]) is float
    assert back["config"] == {"plugin": (), "data": str(tmp_path), "amp": None}
    assert same(back["model_state"], tiny.state_dict())
    assert torch.equal(back["generators"]["torch"], training["generators"]["torch"])
    assert back["generators"]["numpy"] == training["generators"]["numpy"]
    other = torch.optim.SGD(tiny.parameters(), lr=0.5)
    other.load_state_dict(back["optimizer"])
    for key, moments in optimizer.state_dict()["state"].items():
        assert torch.equal(other.state_dict()["state"][key]["momentum_buffer"], moments["momentum_buffer"])
    assert other.param_groups[0]["lr"] == 0.1 and other.param_groups[0]["momentum"] == 0.9


def test_a_file_is_tensors_and_plain_values(tiny_file):
    content = torch.load(tiny_file, weights_only=True)
    assert content["format"] == "yolov5-attention" and content["version"] == 1
    with zipfile.ZipFile(tiny_file) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    named = {argument for opcode, argument, _ in pickle_operations(data) if opcode.name == "GLOBAL"}
    assert named <= {
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
        "collections OrderedDict",
    }


def pickle_operations(data: bytes):
    import pickletools

    return pickletools.genops(data)


@pytest.mark.parametrize("value", (object(), {1, 2}, np.zeros(2), lambda: 0, torch.nn.ReLU()))
def test_other_values_are_not_written(tiny, tmp_path, value):
    with pytest.raises(TypeError, match=r"training\.x\[0\] is a"):
        write_checkpoint(checkpoint_of(tiny, training={"x": [value]}), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_writing_is_all_or_nothing(tiny, tiny_file, monkeypatch):
    before = tiny_file.read_bytes()

    def half_way(content, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_way)
    assert "No space left" in message(lambda: write_checkpoint(checkpoint_of(tiny), tiny_file))
    assert tiny_file.read_bytes() == before and list(tiny_file.parent.iterdir()) == [tiny_file]
    monkeypatch.undo()
    assert "cannot be written" in message(
        lambda: write_checkpoint(checkpoint_of(tiny), tiny_file.parent / "no" / "a.pt")
    )


def test_a_full_disk_is_one_line(tiny, tmp_path, monkeypatch):
    def to_full_disk(path, write):
        write(FullDisk())

    class FullDisk(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write_atomically", to_full_disk)
    with pytest.raises(CheckpointError, match="last.pt: cannot be written: No space left on device"):
        write_checkpoint(checkpoint_of(tiny), tmp_path / "last.pt")


def test_strip_halves_and_drops_training(tiny, tmp_path):
    with torch.no_grad():
        tiny.model[0].bn.running_var[0] = 1e6  # half precision ends at 65504
        tiny.head.anchors.fill_(1.2345678)
    full = checkpoint_of(tiny, training={"model_state": tiny.state_dict()}, settings={"imgsz": 64})
    path = write_checkpoint(full, tmp_path / "a.pt")
    size = path.stat().st_size
    strip(path, settings={"iou_thres": 0.6})
    raw = torch.load(path, weights_only=True)
    assert raw["training"] is None and raw["settings"] == {"imgsz": 64, "iou_thres": 0.6} and path.stat().st_size < size
    assert raw["state"]["model.0.conv.weight"].dtype == torch.float16
    back = read_checkpoint(path)
    for name, tensor in tiny.state_dict().items():
        assert back.state[name].dtype == tensor.dtype
        exact = name.endswith(".anchors") or name == "model.0.bn.running_var" or not tensor.is_floating_point()
        assert torch.equal(back.state[name], tensor if exact else tensor.half().float()), name
    strip(path, tmp_path / "copy.pt")
    assert same(read_checkpoint(tmp_path / "copy.pt").state, back.state)  # twice changes nothing more


@pytest.mark.parametrize(
    "change, words",
    [
        ({"format": "other"}, "without a model's description"),
        ({"version": 2}, "newer than this program"),
        ({"version": None}, "newer than this program"),
        ({"state": None}, "its state is missing"),
        ({"yaml": "x"}, "its yaml is missing"),
        ({"state": {"a": 1}}, "something else than tensors"),
    ],
)
def test_a_file_of_another_kind_is_refused(tiny_file, change, words):
    torch.save({**torch.load(tiny_file, weights_only=True), **change}, tiny_file)
    text = message(lambda: read_checkpoint(tiny_file))
    assert words in text and str(tiny_file) in text


def test_other_files_are_refused(tiny_file, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({**torch.load(tiny_file, weights_only=True), "settings": Trap()}, tmp_path / "trap.pt")
    torch.save(torch.load(tiny_file, weights_only=True)["state"], tmp_path / "state.pt")
    torch.save([1], tmp_path / "list.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    (tmp_path / "cut.pt").write_bytes(tiny_file.read_bytes()[:-100])
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Trap()))
    expected = {
        "trap": "refused: it names",
        "state": "without a model's description",
        "list": "without a model's description",
        "module": "no YOLOv5 detection model",
        "cut": "truncated",
        "pickle": "not a checkpoint",
        "nowhere": "no such file",
    }
    for name, words in expected.items():
        text = message(lambda file=tmp_path / f"{name}.pt": read_checkpoint(file))
        assert words in text and f"{name}.pt" in text, text
    assert "a folder" in message(lambda: read_checkpoint(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda state: state.pop("model.0.conv.weight"), "lack model.0.conv.weight"),
        (lambda state: state.update({"model.0.conv.weight": torch.zeros(1)}), "expected (8, 3, 3, 3)"),
        (lambda state: state.update({"stray": torch.zeros(1)}), "stray (1,)"),
    ],
)
def test_weights_that_do_not_fit_their_description(tiny_file, damage, words):
    checkpoint = read_checkpoint(tiny_file)
    damage(checkpoint.state)
    assert words in message(lambda: build_model(checkpoint))


# official files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ("yolov5n.pt", "yolov5n_v6.0.pt"))
def test_an_official_file_becomes_a_model(real, file, tmp_path):
    checkpoint = read_checkpoint(real(f"weights/{file}"))
    assert (checkpoint.nc, checkpoint.names[:2], checkpoint.stride) == (80, ["person", "bicycle"], (8.0, 16.0, 32.0))
    assert len(checkpoint.state) == 349 and checkpoint.training is None
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in checkpoint.state.values())
    model = build_model(checkpoint)
    assert same(model.state_dict(), checkpoint.state)
    write_checkpoint(checkpoint, tmp_path / "ours.pt")  # the same in our format
    assert same(read_checkpoint(tmp_path / "ours.pt").state, checkpoint.state)


def test_an_official_moving_average_comes_first(real):
    """An unfinished official last.pt holds both; prediction uses the average. Arranged from the reader's own output."""
    from utils.checkpoint.official import official_checkpoint
    from utils.checkpoint.restricted import Archive, read_restricted

    with Archive(real("weights/yolov5n.pt")) as archive:
        content, other = read_restricted(archive), read_restricted(archive)["model"]
        first = next(iter(other.state["_modules"]["model"].state["_modules"].values()))
        weights = first.state["_modules"]["conv"].state["_parameters"]
        weights["weight"] = "average"  # not a tensor, so that it is missing
        assert "model.0.conv.weight" not in official_checkpoint({**content, "ema": other}, archive).state
        assert "model.0.conv.weight" in official_checkpoint({**content, "ema": None}, archive).state


# many ------------------------------------------------------------------------------------------------


def test_several_files_make_an_ensemble(tiny, tiny_file, tmp_path):
    single = load_models(tiny_file)
    assert isinstance(single, Model) and not single.training and not any(p.requires_grad for p in single.parameters())
    image = torch.rand(1, 3, 64, 64)
    both = load_models([tiny_file, tiny_file])
    # each network alone on the same image: the same kernels on the same numbers
    assert torch.equal(both(image)[0], torch.cat([single(image)[0]] * 2, 1))
    write_checkpoint(checkpoint_of(tiny, names=["x", "y", "z"]), tmp_path / "other.pt")
    assert "different classes" in message(lambda: load_models([tiny_file, tmp_path / "other.pt"]))
    assert "no weights given" in message(lambda: load_models([]))


def test_a_checkpoint_needs_no_file(tiny):
    assert isinstance(checkpoint_of(tiny), Checkpoint) and checkpoint_of(tiny, names=("x", "y", "z")).names == [
        "x",
        "y",
        "z",
    ]


# finding and fetching --------------------------------------------------------------------------------


class Answer(io.BytesIO):
    """What urlopen returns, with a chosen Content-Length."""

    def __init__(self, content: bytes, length: int | None = None):
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": str(length)}


@pytest.fixture()
def network(monkeypatch):
    """A network that records what it is asked and gives the answer put into it; nothing leaves the machine."""
    asked = []

    def open_address(address, deadline):
        asked.append(address)
        if isinstance(network.answer, Exception):
            raise network.answer
        return network.answer

    def network(answer):
        network.answer = answer
        return asked

    monkeypatch.setattr("utils.download._open", open_address)
    return network


def test_weights_are_found_without_network(tiny_file, network, monkeypatch, tmp_path):
    asked = network(OSError("asked"))
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert find_weights(tiny_file, download=True) == tiny_file
    assert find_weights("tiny.pt") == tmp_path / "tiny.pt"
    text = message(lambda: find_weights("yolov5s.pt"))
    assert "https://github.com/ultralytics/yolov5/releases/download/v6.1/yolov5s.pt" in text and "--download" in text
    assert "did you mean tiny.pt" in message(lambda: find_weights(tmp_path / "tinny.pt", download=True))
    assert "a folder" in message(lambda: find_weights(tmp_path))
    assert asked == []


def test_published_weights_are_fetched_on_request(network, tmp_path):
    content = os.urandom(200_000)
    asked = network(Answer(content, len(content)))
    path = tmp_path / "new" / "yolov5n6.pt"
    assert find_weights(path, download=True) == path and path.read_bytes() == content
    assert asked == ["https://github.com/ultralytics/yolov5/releases/download/v6.1/yolov5n6.pt"]
    assert find_weights(path, download=True) == path and len(asked) == 1


@pytest.mark.parametrize(
    "answer, words",
    [
        (Answer(b"x" * 200_000, 300_000), "200000 bytes came, expected 300000"),
        (Answer(b"<html>", 6), "6 bytes came"),
        (Answer(b"<html>"), "6 bytes came"),
        (urllib.error.URLError("no route to host"), "no route to host"),
        (urllib.error.HTTPError("u", 404, "Not Found", {}, None), "Not Found"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_a_failed_download_leaves_nothing(network, tmp_path, answer, words):
    network(answer)
    assert words in message(lambda: find_weights(tmp_path / "yolov5s.pt", download=True))
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_fetched(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert fetch((tmp_path / "a").as_uri(), tmp_path / "b", minimum=1).read_bytes() == b"1234"


def test_missing_weights_are_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError):
        find_weights(tmp_path / "yolov5s.pt")
