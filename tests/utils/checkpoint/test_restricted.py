"""The reader of official checkpoints: reads what is known, refuses the rest in one line, and runs nothing."""

import collections
import io
import pickle
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from pickles import FLOATS, Call, name, pt_file, read, refusal, shell, tensor

from utils.checkpoint.archive import Archive
from utils.checkpoint.restricted import PickledObject, module_state, plain_value, read_restricted
from utils.errors import CheckpointError

# what is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", (torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
)
def test_torchs_own_files_are_read_as_torch_reads_them(tmp_path, dtype):
    base = torch.arange(24).reshape(4, 6)
    saved = {
        "whole": base.to(dtype),
        "view": base.to(dtype)[1:, ::2].T,
        "scalar": torch.tensor(1).to(dtype),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "size": torch.Size([1, 2]),
        "plain": [None, True, -5, 2**70, 1.5, "é", (1, (2,)), {"a": {1, 2}}, b"bytes"],
        "ordered": collections.OrderedDict(b=1, a=2),
    }
    torch.save(saved, tmp_path / "a.pt")
    back = read(tmp_path / "a.pt")
    for key in ("whole", "view", "scalar", "parameter", "empty"):  # here and below tensors are read, not computed
        assert back[key].dtype == saved[key].dtype and torch.equal(back[key], saved[key]), key
    assert back["size"] == (1, 2) and list(back["ordered"].items()) == [("b", 1), ("a", 2)]
    assert back["plain"][:-1] == saved["plain"][:-1]


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_modules_become_state(tmp_path, protocol):
    inner = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False)])
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), inner)
    model.register_buffer("kept", torch.ones(1))
    model.register_buffer("dropped", torch.ones(1), persistent=False)
    torch.save(model, tmp_path / "a.pt", pickle_protocol=protocol)
    with Archive(tmp_path / "a.pt") as archive:
        module = read_restricted(archive)
        state = {key: archive.tensor(stored) for key, stored in module_state(module, "a.pt").items()}
    assert module.name == "torch.nn.modules.container.Sequential"
    expected = model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("file, count, has_date", (("yolov5n.pt", 349, True), ("yolov5n_v6.0.pt", 350, False)))
def test_official_files_are_read(real, file, count, has_date):
    content = read(real(f"weights/{file}"))
    model = content["model"]
    state = module_state(model, file)
    assert model.name == "models.yolo.Model" and len(state) == count and ("date" in content) == has_date
    assert all(
        tensor.dtype == torch.float16 for key, tensor in state.items() if not key.endswith("num_batches_tracked")
    )
    assert state["model.0.conv.weight"].shape == (16, 3, 6, 6)
    assert plain_value(model.state["yaml"], file)["width_multiple"] == 0.25
    assert len(model.state["names"]) == 80 and model.state["names"][0] == "person"


# what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize(
    "make, named",
    [
        (lambda folder: shell(folder), "system"),
        (lambda folder: {"model": [shell(folder)]}, "system"),
        (lambda folder: Call(eval, f"open({str(folder / 'ran')!r}, 'w')"), "eval"),
        (lambda folder: Call(getattr, "a", "b"), "getattr"),
        (lambda folder: Call(io.open, str(folder / "ran"), "w"), "open"),
        (lambda folder: Call(torch.load, "x"), "torch.serialization.load"),
        (lambda folder: Call(torch.nn.functional.relu, 1), "torch.nn.functional.relu"),
        (lambda folder: Call(Path.home), "refused"),
    ],
)
def test_other_globals_are_refused_by_name_and_not_run(tmp_path, make, named, protocol):
    path = pt_file(tmp_path / "a.pt", pickle.dumps(make(tmp_path), protocol=protocol))
    text = refusal(path)
    assert named in text and "refused" in text and "nothing in the file was run" in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    (
        "models.common.Conv.__init__",
        "models.common.__builtins__",
        "models.evil.Block",
        "models.yolo.os.system",
        "torch.nn.modules.__init__",
        "torch.nn.modules.conv.sys.modules",
        "torch.os.system",
        "numpy.load",
        "builtins.set.__class__",
        "__builtin__.eval",
        "collections.namedtuple",
        "torch.storage._load_from_bytes",
        "torch.hub.load",
        "yolo.Model",
        "posix.system",
    ),
)
def test_the_list_of_names_has_no_gaps(tmp_path, text):
    assert "refused: it names" in refusal(pt_file(tmp_path / "a.pt", b"\x80\x02" + name(text) + b"."))
    first, _, rest = text.partition(".")
    stacked = (
        b"\x80\x04\x8c" + bytes([len(first)]) + first.encode() + b"\x8c" + bytes([len(rest)]) + rest.encode() + b"\x93."
    )
    assert "refused: it names" in refusal(pt_file(tmp_path / "b.pt", stacked))


def test_known_names_do_nothing_when_called(tmp_path):
    """models.common.Conv is on the list, but stays a name: called and given state, it is a PickledObject."""
    data = b"\x80\x02" + name("models.common.Conv") + b"(X\x04\0\0\0touct" + b"R}X\x01\0\0\0aK\x01sb."
    called = read(pt_file(tmp_path / "a.pt", data))
    assert (called.name, called.arguments, called.state) == ("models.common.Conv", ("touc",), {"a": 1})
    assert (
        read(pt_file(tmp_path / "b.pt", b"\x80\x02" + name("argparse.Namespace") + b")R}b.")).name
        == "argparse.Namespace"
    )


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\x80\x02(ios\nsystem\nX\x02\0\0\0lstR.", "INST"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02(" + name("models.common.Conv") + b"o.", "OBJ"),
        (b"\x80\x02X\x01\0\0\0a)R.", "call of str"),
        (b"\x80\x02" + name("models.common.Conv") + b")R)R.", "call of a pickled object"),
        (b"\x80\x02" + name("models.common.Conv") + b"}b.", "state for a name"),
        (b"\x80\x02" + name("models.common.Conv") + b"]R.", "call of a name"),
        (b"\x80\x02]K\x01K\x02s.", "items set on list"),
        (b"\x80\x02})K\x01s.", "tuple as a key"),
        (b"\x80\x02K\x01Q.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02N", "damaged"),
        (b"\x80\x02X\xff\0\0\0a.", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"", "damaged"),
    ],
)
def test_strange_instructions_are_refused(tmp_path, data, words):
    assert words in refusal(pt_file(tmp_path / "a.pt", data))


@pytest.mark.parametrize(
    "data, words",
    [
        (tensor(size=(5,)), "in a storage of 4"),
        (tensor(offset=1), "in a storage of 4"),
        (tensor(size=(2, 2), stride=(4, 1)), "in a storage of 4"),
        (tensor(size=(10**9, 10**9), stride=(0, 0)), "in a storage of 4"),
        (tensor(offset=-1, size=(1,)), "whole numbers"),
        (tensor(size=(-1,)), "whole numbers"),
        (tensor(size=(2,), stride=(-1,)), "whole numbers"),
        (tensor(size=(2, 2)), "whole numbers"),
        (tensor(count=1000, size=(1000,)), "expected 4000"),
        (tensor(count=-4), "expected -16"),
        (tensor(key="1"), "no entry data/1"),
        (tensor(key="../../etc"), "no entry"),
        (tensor(kind="HalfStorage"), "expected 8"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, data, words):
    assert words in refusal(pt_file(tmp_path / "a.pt", data, FLOATS))


def test_a_tensor_of_the_right_size_is_read(tmp_path):
    assert torch.equal(read(pt_file(tmp_path / "a.pt", tensor(), FLOATS)), torch.tensor([1.0, 2, 3, 4]))


def test_one_storage_cannot_be_read_without_end(tmp_path):
    """Twenty tensors over one whole storage share it in memory as in the file; parts of it are copies, and end."""
    numbers = {"archive/data/0": bytes(4 * 1_000_000)}
    whole, part = (tensor(count=1_000_000, size=(size,))[2:-1] for size in (1_000_000, 999_999))
    shared = read(pt_file(tmp_path / "a.pt", b"\x80\x02](" + whole * 20 + b"e.", numbers))
    assert len(shared) == 20 and len({one.data_ptr() for one in shared}) == 1
    assert len(read(pt_file(tmp_path / "b.pt", b"\x80\x02](" + part + b"e.", numbers))) == 1
    assert "more memory" in refusal(pt_file(tmp_path / "c.pt", b"\x80\x02](" + part * 20 + b"e.", numbers))


@pytest.mark.parametrize("entry", ("/etc/x", "archive/../x", "../x", "archive\\x", "C:/x", "loose"))
def test_entries_that_climb_are_refused(tmp_path, entry):
    assert "refused: an entry is named" in refusal(pt_file(tmp_path / "a.pt", b"\x80\x02N.", {entry: b"1"}))


def test_bombs_are_refused_unread(tmp_path):
    path = pt_file(tmp_path / "a.pt", b"\x80\x02N.", {"archive/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    lying = pt_file(tmp_path / "b.pt", b"\x80\x02N.", FLOATS).read_bytes()
    at = lying.rindex(struct.pack("<II", 16, 16))  # sizes in the central directory
    (tmp_path / "b.pt").write_bytes(lying[:at] + struct.pack("<II", 2**31 - 1, 2**31 - 1) + lying[at + 8 :])
    assert "more bytes than the file has" in refusal(tmp_path / "b.pt")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = pt_file(tmp_path / "c.pt", b"\x80\x02N.", {"archive/data.pkl": b"\x80\x02)."})
    assert "same name" in refusal(twice)


def test_other_files_are_named(tmp_path):
    pt_file(
        tmp_path / "script.pt",
        b"\x80\x02N.",
        {"archive/constants.pkl": b"", "archive/code/a.py": b""},
        zipfile.ZIP_DEFLATED,
    )
    torch.save({"a": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    good = tmp_path / "good.pt"
    torch.save({"a": torch.zeros(1000)}, good)
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:2500])
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(shell(tmp_path)))
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/readme", "")
    raw = bytearray(good.read_bytes())
    raw[raw.index(b"data/0") + 200] ^= 0xFF  # inside the tensor's numbers
    (tmp_path / "flipped.pt").write_bytes(raw)
    expected = {
        "script": "TorchScript",
        "old": "before 1.6",
        "cut": "truncated",
        "text": "not a checkpoint",
        "empty": "not a checkpoint",
        "pickle": "not a checkpoint",
        "zip": "no data.pkl",
        "flipped": "damaged",
        "nowhere": "cannot be read",
    }
    for file, words in expected.items():
        assert words in refusal(tmp_path / f"{file}.pt"), file
    assert not (tmp_path / "ran").exists()


def test_structures_that_never_end_are_refused(tmp_path):
    cycle = PickledObject("models.yolo.Model")
    cycle.state["_modules"] = {"0": cycle}
    with pytest.raises(CheckpointError, match="without end"):
        module_state(cycle, "a.pt")
    wide: object = PickledObject("torch.nn.modules.linear.Identity")
    for _ in range(30):  # two names for each child: a billion paths to a handful of objects
        wide = PickledObject("torch.nn.modules.container.Sequential", state={"_modules": {"a": wide, "b": wide}})
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="without end"):
        module_state(wide, "a.pt")
    nested: list = []
    nested.append(nested)
    doubled: list = [1]
    for _ in range(14):
        doubled = [doubled, doubled, doubled]
    for value in (nested, {"a": doubled}):
        with pytest.raises(CheckpointError, match="nests without end"):
            plain_value(value, "a.pt")
    assert time.perf_counter() - started < 5
    with pytest.raises(CheckpointError, match="os.system"):
        plain_value({"nc": PickledObject("os.system")}, "a.pt")
