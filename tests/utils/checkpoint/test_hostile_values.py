"""Values of a file are checked before they are formatted, copied or used; each refusal is one printable line.

The files are tiny, and doubled containers are shallow: a refusal shows the rule, no test waits for what it prevents.
"""

import csv
import struct
from pathlib import Path

import pytest
import torch
from pickles import FLOATS, name, pt_file, read, refusal, storage, tensor

from utils.checkpoint import Checkpoint, build_model, read_checkpoint, restricted
from utils.checkpoint.archive import Archive, Storage, StoredTensor, printable
from utils.checkpoint.description import describe
from utils.checkpoint.official import official_checkpoint
from utils.checkpoint.restricted import PickledObject, module_state, plain_value
from utils.errors import CheckpointError, ModelError
from utils.transfer.alignment import layer_signatures
from utils.transfer.pretrained import plan_transfer

CONTROL = "\x1b[2J\x07狗\u202e\n"  # clears a terminal, rings, is not ASCII, turns the line round, ends it
NESTED = [["a", "a"], ["a", "a"]]


def one_line(error: Exception) -> str:
    text = str(error)
    assert text.isascii() and text.isprintable() and len(text) < 1200
    return text


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    return b"X" + struct.pack("<i", len(value)) + value.encode()


# ---- the plain type comes before the text ----


@pytest.mark.parametrize(
    "module, last", [(b"]", text("set")), (text("builtins"), b"]"), (b"K\x01", text("a")), (b"N", b")")]
)
def test_a_name_is_made_of_text(module, last, tmp_path):
    assert "a name made of" in refusal(pt_file(tmp_path / "a.pt", b"\x80\x04" + module + last + b"\x93."))


def test_a_name_is_short(tmp_path):
    long = "torch.nn.modules.conv." + "A" * restricted.NAME_LIMIT
    stacked = b"\x80\x04" + text(long.rpartition(".")[0]) + text(long.rpartition(".")[2]) + b"\x93."
    for index, data in enumerate((b"\x80\x02" + name(long) + b".", stacked)):
        assert "which is too long" in refusal(pt_file(tmp_path / f"{index}.pt", data))


@pytest.mark.parametrize("version", [NESTED, {"a": NESTED}, (1,), torch.ones(1)])
def test_a_version_is_no_container(version, tmp_path):
    torch.save({"format": "yolov5-attention", "version": version}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert "its format version is no number" in one_line(caught.value)


def test_a_text_in_many_places_counts_each_time(monkeypatch):
    monkeypatch.setattr(restricted, "TEXT_LIMIT", 100)
    long = "a" * 30
    assert plain_value([long] * 3, "a.pt") == [long] * 3
    for value in ([long] * 4, [{long: 1}] * 4):
        with pytest.raises(CheckpointError, match="over 100 characters"):
            plain_value(value, "a.pt")


# ---- items are copied within a budget ----


@pytest.mark.parametrize(
    "call",
    [
        name("torch.Size") + b"h\x00\x85R",
        name("collections.OrderedDict") + b"h\x00\x85R",
        name("builtins.set") + b"h\x00\x85R",
    ],
    ids=("size", "dict", "set"),
)
def test_calls_that_copy_a_list_have_a_budget(call, tmp_path, monkeypatch):
    """Each call copies a memoized list, of pairs for a dict; without the budget, memory is calls times items."""
    monkeypatch.setattr(restricted, "COPY_LIMIT", 20)
    item = b"K\x01K\x02\x86" if b"Ordered" in call else b"K\x01"
    head = b"\x80\x02](" + item * 4 + b"eq\x00]("  # the list, then an empty one that takes what is made
    assert len(read(pt_file(tmp_path / "a.pt", head + call * 4 + b"e."))) == 4
    assert "copies over 20 items" in refusal(pt_file(tmp_path / "b.pt", head + call * 5 + b"e."))


def test_states_and_arguments_have_the_same_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted, "COPY_LIMIT", 20)
    state = b"\x80\x02}(" + b"".join(b"K" + bytes([index]) + b"N" for index in range(10)) + b"uq\x00]("
    build = name("models.common.Conv") + b")Rh\x00b"
    assert len(read(pt_file(tmp_path / "a.pt", state + build * 2 + b"e."))) == 2
    assert "copies over 20 items" in refusal(pt_file(tmp_path / "b.pt", state + build * 3 + b"e."))
    arguments = b"\x80\x02(" + b"N" * 21 + b"t" + b"q\x00" + name("torch._utils._rebuild_tensor_v2") + b"h\x00R."
    assert "copies over 20 items" in refusal(pt_file(tmp_path / "c.pt", arguments))


@pytest.mark.parametrize("size, stride", [([4], [1]), ({4: 1}, (1,)), ((1,) * 17, (1,) * 17), ((4,), "1")])
def test_the_sides_of_a_tensor_are_a_short_tuple(size, stride):
    with pytest.raises(TypeError):
        restricted._make_tensor(None, Storage("0", torch.float32, 4), 0, size, stride)


def test_the_budget_is_far_above_real_files(real, monkeypatch):
    monkeypatch.setattr(restricted, "COPY_LIMIT", restricted.COPY_LIMIT // 10)
    assert describe(real("weights/yolov5n.pt"))


def test_modules_that_share_their_members_are_counted(monkeypatch):
    monkeypatch.setattr(restricted, "MEMBER_LIMIT", 10)
    stored = StoredTensor(Storage("0", torch.float32, 1), 0, (1,), (1,))
    shared = {f"w{index}": stored for index in range(4)}
    modules = [PickledObject("torch.nn.modules.linear.Linear", state={"_parameters": shared}) for _ in range(2)]
    model = PickledObject("models.yolo.Model", state={"_modules": dict(zip("ab", modules, strict=True))})
    assert len(module_state(model, "a.pt")) == 8
    model.state["_modules"]["c"] = modules[0]
    with pytest.raises(CheckpointError, match="without end"):
        module_state(model, "a.pt")


# ---- one storage, one type ----


def both(first: dict, second: dict) -> bytes:
    """A pickle of two tensors, each over the storage that it declares."""
    return b"\x80\x02](" + tensor(**first)[2:-1] + tensor(**second)[2:-1] + b"e."


@pytest.mark.parametrize("kind, count", [("HalfStorage", 8), ("IntStorage", 4), ("DoubleStorage", 2)])
def test_a_storage_declared_with_two_types(kind, count, tmp_path):
    other = {"kind": kind, "count": count, "size": (count,)}
    for index, pair in enumerate((({}, other), (other, {}))):
        assert "declares data/0 twice" in refusal(pt_file(tmp_path / f"{index}.pt", both(*pair), FLOATS))
    assert "declares data/0 twice" in refusal(pt_file(tmp_path / "c.pt", both({}, {"count": 5}), FLOATS))
    assert len(read(pt_file(tmp_path / "d.pt", both({}, {"size": (2,)}), FLOATS))) == 2


def test_an_archive_keeps_storages_of_two_types_apart(tmp_path):
    path = pt_file(tmp_path / "a.pt", b"\x80\x02" + storage() + b".", FLOATS)
    with Archive(path) as archive:
        for dtype, count in ((torch.float32, 4), (torch.float16, 8)):
            stored = StoredTensor(Storage("0", dtype, count), 0, (count,), (1,))
            assert archive.tensor(stored, full=True).shape == (count,)


# ---- malformed official modules ----


@pytest.fixture()
def archive(tmp_path):
    with Archive(pt_file(tmp_path / "a.pt", b"\x80\x02N.", FLOATS)) as opened:
        yield opened


def official(**change) -> PickledObject:
    """A model with a norm and a head; `change` goes by "model", "norm" and "head" into their states."""
    stored = StoredTensor(Storage("0", torch.float32, 4), 0, (4,), (1,))
    norm = PickledObject(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        state={"_parameters": {"weight": stored}, "_buffers": {}, "eps": 1e-3, **change.get("norm", {})},
    )
    head = PickledObject("models.yolo.Detect", state={"_buffers": {"anchors": stored}, **change.get("head", {})})
    return PickledObject(
        "models.yolo.Model",
        state={"_modules": {"0": norm, "1": head}, "yaml": {"nc": 1}, "names": ["a"], **change.get("model", {})},
    )


def test_a_well_formed_module_is_read(archive):
    assert list(official_checkpoint({"model": official()}, archive).state) == ["0.weight", "1.anchors"]


MALFORMED = [
    1,
    1.5,
    True,
    "anchors",
    b"anchors",
    ["anchors"],
    ("anchors",),
    {"anchors"},
    PickledObject("models.yolo.Model"),
]


@pytest.mark.parametrize(
    "value", [*MALFORMED, {1: None}, {None: None}, {"a" * 201: None}], ids=lambda value: str(value)[:20]
)
@pytest.mark.parametrize("group", ("_parameters", "_buffers", "_modules"))
@pytest.mark.parametrize("where", ("model", "norm", "head"))
def test_members_are_a_dict_of_short_names(where, group, value, archive):
    if (where, group) == ("head", "_buffers") and value == {"anchors"}:
        value = {"anchors": 1, 2: 3}
    with pytest.raises(CheckpointError) as caught:
        official_checkpoint({"model": official(**{where: {group: value}})}, archive)
    assert f"{archive.path}: " in one_line(caught.value)


@pytest.mark.parametrize("value", [1, ["a"], {"a": 1}, "a"])
def test_other_attributes_of_a_module(value, archive):
    with pytest.raises(CheckpointError, match="non-persistent buffers are no set"):
        official_checkpoint({"model": official(norm={"_non_persistent_buffers_set": value})}, archive)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"norm": {"eps": NESTED}}, "its norms add what is no number"),
        ({"norm": {"eps": PickledObject("torch.float64", (NESTED,))}}, "its norms add what is no number"),
        ({"norm": {"eps": CONTROL}}, "its norms add what is no number"),
        ({"norm": {"eps": 1}}, "its norms add 1 to"),
        ({"model": {"names": [NESTED]}}, "its names hold something else than text"),
        ({"model": {"names": {0: NESTED}}}, "its names hold something else than text"),
        ({"model": {"names": [None]}}, "its names hold something else than text"),
        ({"model": {"names": {"a": PickledObject("models.yolo.Model")}}}, "its names holds a models.yolo.Model"),
        ({"model": {"yaml": 1}}, "has no model description"),
        ({"model": {"yaml": ["nc"]}}, "has no model description"),
        ({"model": {"yaml": {"nc": NESTED}}}, "does not give the number of classes"),
        ({"model": {"_modules": {"0": 1}}}, "holds no YOLOv5 detection model"),
        ({"head": {"_modules": {"a": 1}}}, "1.a. is not a module"),
    ],
)
def test_attributes_of_a_malformed_module(change, words, archive):
    with pytest.raises(CheckpointError) as caught:
        official_checkpoint({"model": official(**change)}, archive)
    assert words in one_line(caught.value)


@pytest.mark.parametrize("anchors", [[[2**100, 1]], [["a", None]], [[1.5, 2**40]], 1, NESTED])
def test_odd_anchors_in_the_yaml(anchors, archive):
    """Anchors of three axes and a stride for each level bring in the yaml's, which may be anything."""
    numbers = Storage("0", torch.float32, 4)
    head = {"_buffers": {"anchors": StoredTensor(numbers, 0, (1, 1, 2), (2, 2, 1))}}
    model = {"stride": StoredTensor(numbers, 3, (1,), (1,)), "yaml": {"nc": 1, "anchors": anchors}}
    assert official_checkpoint({"model": official(head=head, model=model)}, archive).stride == (4.0,)


# ---- messages are printable ASCII ----


@pytest.mark.parametrize("limit", (10, 100, 1000))
def test_printable_text_has_a_limit(limit):
    assert printable("a" * limit, limit) == "a" * limit
    assert printable("a" * (limit + 1), limit) == "a" * (limit - 3) + "..."
    assert printable(CONTROL, 1000) == r"\x1b[2J\x07\u72d7\u202e\n"


ROW = [-1, 1, "Conv", [8, 1, 1]]
DESCRIPTION = {
    "nc": 1,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[1, 2]],
    "backbone": [ROW],
    "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
}
STRANGE = [
    {"backbone": [[-1, 1, CONTROL, []]]},
    {"backbone": [[-1, 1, f"nn.{CONTROL}", []]]},
    {"backbone": [[-1, 1, "Conv", [CONTROL]]]},
    {"backbone": [[CONTROL, 1, "Conv", [8]]]},
    {"backbone": [CONTROL]},
    {"backbone": CONTROL, "yaml_file": CONTROL},
    {"yaml_file": CONTROL, "anchors": CONTROL},
    {"attention_start": CONTROL},
    {"depth_multiple": CONTROL},
    {"ch": CONTROL},
    {"nc": CONTROL, "ch": CONTROL},
    {"head": [[[0], 1, "Detect", [CONTROL, CONTROL]]]},
]


@pytest.mark.parametrize("change", STRANGE)
def test_a_model_that_cannot_be_built(change, caplog):
    checkpoint = Checkpoint({**DESCRIPTION, **change}, ["a"], {}, (1.0,), source="a.pt")
    with caplog.at_level("INFO"), pytest.raises(ModelError) as caught:
        build_model(checkpoint)
    assert one_line(caught.value)
    assert all(record.getMessage().isascii() and record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("change", STRANGE[3:6])
def test_a_transfer_from_a_description_that_cannot_be_read(change):
    with pytest.raises(CheckpointError) as caught:
        layer_signatures({**DESCRIPTION, **change}, {})
    assert "cannot be read" in one_line(caught.value)


def test_a_transfer_report_of_strange_names(tmp_path: Path):
    source = {**DESCRIPTION, "backbone": [[-1, 1, CONTROL, []]]}
    shapes = {"model.0.w": (1,)}
    report = plan_transfer(DESCRIPTION, shapes, source, {f"model.0.{CONTROL}": (1,)}, "a.pt")
    assert report.main_reason().isascii() and report.main_reason().isprintable()
    with open(report.write_csv(tmp_path / "a.csv"), encoding="utf-8", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert all(cell.isascii() and (not cell or cell.isprintable()) for cell in cells)
