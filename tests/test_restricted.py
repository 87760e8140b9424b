"""The reader of official checkpoints: reads what is known, refuses the rest in one line, and runs nothing."""

import collections
import io
import os
import pickle
import random
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from utils.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from utils.checkpoint.archive import Archive, StoredTensor
from utils.checkpoint.description import describe
from utils.errors import CheckpointError
from utils.restricted import Record, module_state, plain_value, read_restricted


def pt_file(path: Path, data: bytes, entries: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip as torch.save does, around a pickle of our own making."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in (entries or {}).items():
            archive.writestr(name, content)
    return path


def read(path: Path) -> object:
    """What a file holds, with its tensors read."""
    with Archive(path) as archive:
        return with_numbers(read_restricted(archive), archive)


def with_numbers(value, archive):
    if isinstance(value, StoredTensor):
        return archive.tensor(value)
    if isinstance(value, dict):
        return {key: with_numbers(part, archive) for key, part in value.items()}
    return type(value)(with_numbers(part, archive) for part in value) if isinstance(value, (list, tuple)) else value


def refusal(path: Path) -> str:
    """The message of the CheckpointError that reading must raise: one line that starts with the file's name."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(path)) and text.isascii() and len(text) < 600
    return text


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def name(text: str) -> bytes:
    module, _, last = text.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    """The instructions that push a storage of `count` numbers."""
    return (b"(X\x07\0\0\0storage" + name(f"torch.{kind}") + b"X" + struct.pack("<i", len(key)) + key.encode()
            + b"X\x03\0\0\0cpuJ" + struct.pack("<i", count) + b"tQ")


def tensor(offset: int = 0, size: tuple = (4,), stride: tuple = (1,), **of) -> bytes:
    """A whole pickle that is one tensor."""
    def integers(numbers):
        return b"(" + b"".join(b"J" + struct.pack("<i", number) for number in numbers) + b"t"
    return (b"\x80\x02" + name("torch._utils._rebuild_tensor_v2") + b"(" + storage(**of) + b"J" + struct.pack("<i", offset)
            + integers(size) + integers(stride) + b"\x89" + name("collections.OrderedDict") + b")RtR.")


FLOATS = {"archive/data/0": struct.pack("<4f", 1, 2, 3, 4)}


# what is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.int64, torch.uint8,
                                   torch.bool))
def test_torchs_own_files_are_read_as_torch_reads_them(tmp_path, dtype):
    base = torch.arange(24).reshape(4, 6)
    saved = {"whole": base.to(dtype), "view": base.to(dtype)[1:, ::2].T, "scalar": torch.tensor(1).to(dtype),
             "parameter": torch.nn.Parameter(torch.ones(2)), "empty": torch.zeros(0, 3), "size": torch.Size([1, 2]),
             "plain": [None, True, -5, 2**70, 1.5, "é", (1, (2,)), {"a": {1, 2}}, b"bytes"],
             "ordered": collections.OrderedDict(b=1, a=2)}
    torch.save(saved, tmp_path / "a.pt")
    back = read(tmp_path / "a.pt")
    for key in ("whole", "view", "scalar", "parameter", "empty"):
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
        record = read_restricted(archive)
        state = {key: archive.tensor(stored) for key, stored in module_state(record, "a.pt").items()}
    assert record.name == "torch.nn.modules.container.Sequential"
    expected = model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("file, count, has_date", (("yolov5n.pt", 349, True), ("yolov5n_v6.0.pt", 350, False)))
def test_official_files_are_read(real, file, count, has_date):
    content = read(real(f"weights/{file}"))
    model = content["model"]
    state = module_state(model, file)
    assert model.name == "models.yolo.Model" and len(state) == count and ("date" in content) == has_date
    assert all(tensor.dtype == torch.float16 for key, tensor in state.items() if not key.endswith("num_batches_tracked"))
    assert state["model.0.conv.weight"].shape == (16, 3, 6, 6)
    assert plain_value(model.state["yaml"], file)["width_multiple"] == 0.25
    assert len(model.state["names"]) == 80 and model.state["names"][0] == "person"


# what is refused -------------------------------------------------------------------------------------


def shell(folder: Path) -> Call:
    return Call(os.system, f"touch {folder / 'ran'}")


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("make, named", [
    (lambda folder: shell(folder), "system"),
    (lambda folder: {"model": [shell(folder)]}, "system"),
    (lambda folder: Call(eval, f"open({str(folder / 'ran')!r}, 'w')"), "eval"),
    (lambda folder: Call(getattr, "a", "b"), "getattr"),
    (lambda folder: Call(io.open, str(folder / "ran"), "w"), "open"),
    (lambda folder: Call(torch.load, "x"), "torch.serialization.load"),
    (lambda folder: Call(torch.nn.functional.relu, 1), "torch.nn.functional.relu"),
    (lambda folder: Call(Path.home), "refused"),
])
def test_other_globals_are_refused_by_name_and_not_run(tmp_path, make, named, protocol):
    path = pt_file(tmp_path / "a.pt", pickle.dumps(make(tmp_path), protocol=protocol))
    text = refusal(path)
    assert named in text and "refused" in text and "nothing in the file was run" in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", (
    "models.common.Conv.__init__", "models.common.__builtins__", "models.evil.Block", "models.yolo.os.system",
    "torch.nn.modules.__init__", "torch.nn.modules.conv.sys.modules", "torch.os.system", "numpy.load",
    "builtins.set.__class__", "__builtin__.eval",
    "collections.namedtuple", "torch.storage._load_from_bytes", "torch.hub.load", "yolo.Model", "posix.system",
))
def test_the_list_of_names_has_no_gaps(tmp_path, text):
    assert "refused: it names" in refusal(pt_file(tmp_path / "a.pt", b"\x80\x02" + name(text) + b"."))
    first, _, rest = text.partition(".")
    stacked = b"\x80\x04\x8c" + bytes([len(first)]) + first.encode() + b"\x8c" + bytes([len(rest)]) + rest.encode() + b"\x93."
    assert "refused: it names" in refusal(pt_file(tmp_path / "b.pt", stacked))


def test_known_names_do_nothing_when_called(tmp_path):
    """models.common.Conv is on the list, but stays a name: called and given state, it is a record and no more."""
    data = b"\x80\x02" + name("models.common.Conv") + b"(X\x04\0\0\0touct" + b"R}X\x01\0\0\0aK\x01sb."
    record = read(pt_file(tmp_path / "a.pt", data))
    assert (record.name, record.arguments, record.state) == ("models.common.Conv", ("touc",), {"a": 1})
    assert read(pt_file(tmp_path / "b.pt", b"\x80\x02" + name("argparse.Namespace") + b")R}b.")).name == "argparse.Namespace"


@pytest.mark.parametrize("data, words", [
    (b"\x80\x02(ios\nsystem\nX\x02\0\0\0lstR.", "INST"),
    (b"\x80\x02\x82\x01.", "EXT1"),
    (b"\x80\x02(" + name("models.common.Conv") + b"o.", "OBJ"),
    (b"\x80\x02X\x01\0\0\0a)R.", "call of str"),
    (b"\x80\x02" + name("models.common.Conv") + b")R)R.", "call of Record"),
    (b"\x80\x02" + name("models.common.Conv") + b"}b.", "state for Name"),
    (b"\x80\x02" + name("models.common.Conv") + b"]R.", "call of Name"),
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
])
def test_strange_instructions_are_refused(tmp_path, data, words):
    assert words in refusal(pt_file(tmp_path / "a.pt", data))


@pytest.mark.parametrize("data, words", [
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
])
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
    assert "more tensors" in refusal(pt_file(tmp_path / "c.pt", b"\x80\x02](" + part * 20 + b"e.", numbers))


@pytest.mark.parametrize("entry", ("/etc/x", "archive/../x", "../x", "archive\\x", "C:/x", "loose"))
def test_entries_that_climb_are_refused(tmp_path, entry):
    assert "refused: an entry is named" in refusal(pt_file(tmp_path / "a.pt", b"\x80\x02N.", {entry: b"1"}))


def test_bombs_are_refused_unread(tmp_path):
    path = pt_file(tmp_path / "a.pt", b"\x80\x02N.", {"archive/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    lying = pt_file(tmp_path / "b.pt", b"\x80\x02N.", FLOATS).read_bytes()
    at = lying.rindex(struct.pack("<II", 16, 16))  # sizes in the central directory
    (tmp_path / "b.pt").write_bytes(lying[:at] + struct.pack("<II", 2**31 - 1, 2**31 - 1) + lying[at + 8:])
    assert "more bytes than the file has" in refusal(tmp_path / "b.pt")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = pt_file(tmp_path / "c.pt", b"\x80\x02N.", {"archive/data.pkl": b"\x80\x02)."})
    assert "same name" in refusal(twice)


def test_other_files_are_told_apart(tmp_path):
    pt_file(tmp_path / "script.pt", b"\x80\x02N.", {"archive/constants.pkl": b"", "archive/code/a.py": b""}, zipfile.ZIP_DEFLATED)
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
    expected = {"script": "TorchScript", "old": "before 1.6", "cut": "truncated", "text": "not a checkpoint",
                "empty": "not a checkpoint", "pickle": "not a checkpoint", "zip": "no data.pkl",
                "flipped": "damaged", "nowhere": "cannot be read"}
    for file, words in expected.items():
        assert words in refusal(tmp_path / f"{file}.pt"), file
    assert not (tmp_path / "ran").exists()


def test_structures_that_never_end_are_refused(tmp_path):
    cycle = Record("models.yolo.Model")
    cycle.state["_modules"] = {"0": cycle}
    with pytest.raises(CheckpointError, match="without end"):
        module_state(cycle, "a.pt")
    wide: object = Record("torch.nn.modules.linear.Identity")
    for _ in range(30):  # two names for each child: a billion paths to a handful of records
        wide = Record("torch.nn.modules.container.Sequential", state={"_modules": {"a": wide, "b": wide}})
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
        plain_value({"nc": Record("os.system")}, "a.pt")


# hostile files of every kind -------------------------------------------------------------------------


def reading(path: Path) -> str:
    """The refusal of the reader that every command uses."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(str(path)) and len(text) < 600
    return text


def ours(**change) -> dict:
    """The content of a file of ours, with something in it changed."""
    return {"format": "yolov5-attention", "version": 1, "yaml": {"nc": 1}, "names": ["a"], "stride": [8.0],
            "state": {"model.0.weight": torch.ones(3)}, "training": None, "settings": {}, "date": "", "written_by": "", **change}


def saved(content, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("key", ("yaml", "settings", "training", "state", "names"))
def test_a_call_anywhere_in_a_file_of_ours(key, tmp_path):
    content = ours(**{key: {"x": shell(tmp_path)} if key != "names" else [shell(tmp_path)]})
    assert "refused: it names" in reading(saved(content, tmp_path / "a.pt"))
    assert not (tmp_path / "ran").exists()


def test_nested_pickles_stay_bytes(tmp_path):
    """A pickle inside a pickle is a row of bytes; who would open it is not on the list."""
    inner = pickle.dumps(shell(tmp_path))
    assert read(saved({"a": inner}, tmp_path / "a.pt"))["a"].name == "_codecs.encode"  # how protocol 2 writes bytes
    assert "its settings holds a _codecs.encode" in reading(saved(ours(settings={"a": inner}), tmp_path / "b.pt"))
    for index, opener in enumerate((pickle.loads, torch.storage._load_from_bytes, torch.load)):
        path = saved(ours(settings={"a": Call(opener, inner)}), tmp_path / f"c{index}.pt")
        assert "refused: it names" in reading(path)
    assert not (tmp_path / "ran").exists()


def test_containers_that_hold_themselves(tmp_path):
    loop: dict = {"epochs": 3}
    loop["again"] = loop
    ring: list = [1]
    ring.append(ring)
    for index, key in enumerate(("yaml", "settings", "training")):
        assert f"{'model description' if key == 'yaml' else key} nests without end" in reading(
            saved(ours(**{key: loop}), tmp_path / f"{index}.pt"))
    assert "nests without end" in reading(saved(ours(settings={"a": ring}), tmp_path / "ring.pt"))


@pytest.mark.parametrize("key", ("yaml", "settings", "training"))
def test_a_list_doubled_forty_times(key, tmp_path):
    """Forty lists in the file, 2**40 in the tree that they make."""
    doubled: list = ["ha"]
    for _ in range(40):
        doubled = [doubled, doubled]
    path = saved(ours(**{key: {"a": doubled}}), tmp_path / "a.pt")
    started = time.perf_counter()
    assert "nests without end" in reading(path)
    with pytest.raises(CheckpointError, match="nests without end"):
        describe(path)
    assert time.perf_counter() - started < 20


def test_memo_bombs_in_the_description_end(tmp_path):
    """Instructions are counted: each makes at most one object."""
    data = b"\x80\x02]" + b"(" + b"]" * 1_000_001 + b"e."
    assert "has over 1000000 instructions" in refusal(pt_file(tmp_path / "a.pt", data))
    assert "larger than 16 MiB" in refusal(pt_file(tmp_path / "b.pt", b"\x80\x02" + bytes(16 * 1024**2)))


@pytest.mark.parametrize("data, words", [
    (tensor(size=(1,) * 17, stride=(1,) * 17), "whole numbers"),
    (tensor(size=(2**31 - 1,) * 4, stride=(0,) * 4), "in a storage of 4"),
    (tensor(size=(4,), stride=(0,)), None),
    (tensor(kind="ComplexFloatStorage"), "refused: it names torch.ComplexFloatStorage"),
    (tensor(kind="UntypedStorage"), "refused: it names torch.UntypedStorage"),
    (tensor(kind="DoubleStorage"), "has 16 bytes, expected 32"),
    (tensor(count=2**31 - 1, size=(2**31 - 1,)), "has 16 bytes, expected 8589934588"),
])
def test_claims_about_tensors(data, words, tmp_path):
    path = pt_file(tmp_path / "a.pt", data, FLOATS)
    if words is None:  # four times the first number: odd, but no more memory than the file
        assert torch.equal(read(path), torch.ones(4))
    else:
        assert words in refusal(path)


def test_numbers_without_end_are_refused(tmp_path):
    assert "LONG4" in refusal(pt_file(tmp_path / "a.pt", b"\x80\x02\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b"."))
    assert "damaged" in refusal(pt_file(tmp_path / "b.pt", b"\x80\x02L" + b"9" * 5000 + b"L\n."))
    assert "its strides not numbers" in reading(saved(ours(stride=[2**2000]), tmp_path / "c.pt"))
    assert describe(saved(ours(settings={"a": 2**2000}, training={"state": {"epoch": 2**2000}}), tmp_path / "d.pt"))


@pytest.mark.parametrize("change, words", [
    (dict(state={"a": "text"}), "something else than tensors"), (dict(state={1: torch.ones(1)}), "something else than tensors"),
    (dict(names=[1]), "names are not text"), (dict(stride=["8"]), "strides not numbers"),
    (dict(version="\x1b[2J\n"), "its format \\x1b[2J\\n is newer"),
])
def test_a_file_of_ours_with_the_wrong_things_in_it(change, words, tmp_path):
    assert words in reading(saved(ours(**change), tmp_path / "a.pt"))


def test_a_missing_part_is_named(tmp_path):
    for key in ("yaml", "names", "stride", "state", "training", "settings"):
        content = ours()
        del content[key]
        assert f"its {key} is missing" in reading(saved(content, tmp_path / "a.pt"))


@pytest.mark.parametrize("entry", ("/etc/x", "archive/../../x", "..", "archive/..", "C:/x", "archive\\..\\x"))
def test_names_that_climb_write_nothing(entry, tmp_path, monkeypatch):
    folder = tmp_path / "inner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = saved(ours(), folder / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, b"1")
    assert "refused: an entry is named" in reading(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["inner", "a.pt"]


def test_a_list_of_entries_too_long_is_not_even_opened(tmp_path):
    """Each entry costs the zip reader ten times its own bytes, so the length is looked up first."""
    path = saved(ours(), tmp_path / "a.pt")
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x05\x06") + 12
    raw[at:at + 4] = struct.pack("<I", 17 * 1024**2)
    path.write_bytes(raw)
    assert "its list of entries has 17825792 bytes" in reading(path)
    end_64 = b"PK\x06\x06" + bytes(36) + struct.pack("<QQ", 2**40, 0)
    raw[at:at + 4] = b"\xff" * 4
    path.write_bytes(raw[:at - 12] + end_64 + raw[at - 12:])
    assert f"its list of entries has {2**40} bytes" in reading(path)


def test_every_truncation_is_one_line(tmp_path):
    raw = saved(ours(), tmp_path / "a.pt").read_bytes()
    for length in range(0, len(raw), 61):
        (tmp_path / "cut.pt").write_bytes(raw[:length])
        assert reading(tmp_path / "cut.pt")


def test_random_damage_is_one_line_or_none(tmp_path):
    """Four hundred files whose description was changed at random places: each is read or refused, in no time."""
    numbers = random.Random(0)
    optimizer = {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    path = saved(ours(training={"optimizer": optimizer, "state": {"epoch": 1}}), tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    description = next(name for name in entries if name.endswith("data.pkl"))
    refused = 0
    for _ in range(400):
        data = bytearray(entries[description])
        for _ in range(numbers.choice((1, 1, 2, 5))):
            at = numbers.randrange(len(data))
            if numbers.random() < 0.6:
                data[at] = numbers.randrange(256)
            else:
                data[at:at + numbers.randrange(4)] = numbers.choices(b"().NRQbtuqe]}0a\x81\x85\x86\x93h2K", k=numbers.randrange(5))
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, bytes(data) if name == description else content)
        try:
            read_checkpoint(path)
            describe(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert refused > 200


def test_torch_reads_our_files_as_we_do(tmp_path):
    """Nothing but tensors and plain values is in them, so torch's own careful reader agrees to the last bit."""
    base = torch.arange(12.0).reshape(3, 4)
    training = {"a": base.T, "b": base[1:, ::2], "shared": (base, base.view(-1)), "half": base.half(), "flags": base > 3,
                "empty": torch.zeros(0, 2), "scalar": torch.tensor(2), "n": None, "big": 2**100, "text": "狗"}
    path = write_checkpoint(Checkpoint({"nc": 1}, ["a"], {"w": base.half()}, (8.0,), training=training), tmp_path / "a.pt")
    expected, found = torch.load(path, weights_only=True)["training"], read_checkpoint(path).training
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
        elif key != "shared":
            assert found[key] == value and type(found[key]) is type(value), key
    assert found["shared"][0].data_ptr() == found["shared"][1].data_ptr() and torch.equal(found["shared"][1], base.view(-1))
    assert found["b"].untyped_storage().nbytes() == 4 * found["b"].numel()  # a part does not hold the whole
