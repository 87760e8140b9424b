"""The variant table: renumbering, committed yamls, every variant built, trained and evaluated, and the command line."""

import random
import subprocess
import sys

import pytest
import torch
import yaml
from torch import nn

from models import zoo
from models.rows import Architecture, Row, insert_block, read_yaml, render, replace_block
from models.yolo import Model
from utils.errors import ModelError

VARIANTS = zoo.load_table()
BASE = zoo.MODELS / "yolov5l.yaml"
TOTALS = {  # parameters with 80 classes at n, s, m, l, x
    "CoTA": (2_594_333, 10_113_341, 27_657_885, 58_054_013, 104_696_285),
    "DANet": (1_873_411, 7_239_939, 21_200_451, 46_580_995, 86_776_131),
    "CBAM": (1_880_447, 7_268_255, 21_264_383, 46_694_879, 86_954_303),
    "CBAM-C3": (1_400_971, 5_355_627, 14_312_953, 29_628_551, 52_931_349),
    "ACmix": None, "MHSA": None,
}
PLACES = {  # variant: layers that hold its block, Concat sources, Detect sources
    "CoTA": ([21, 25], [[-1, 6], [-1, 4], [-1, 14], [-1, 10]], [17, 21, 25]),
    "DANet": ([3], [[-1, 7], [-1, 5], [-1, 15], [-1, 11]], [18, 21, 24]),
    "CBAM": ([9], [[-1, 6], [-1, 4], [-1, 15], [-1, 11]], [18, 21, 24]),
    "CBAM-C3": ([2, 4, 6, 8], [[-1, 6], [-1, 4], [-1, 14], [-1, 10]], [17, 20, 23]),
    "ACmix": ([10], [[-1, 6], [-1, 4], [-1, 15], [-1, 11]], [18, 21, 24]),
    "MHSA": ([10], [[-1, 6], [-1, 4], [-1, 15], [-1, 11]], [18, 21, 24]),
}


@pytest.fixture
def untouched_weights(monkeypatch):
    """Skip torch's random initialisation: only shapes are looked at."""
    for name in ("kaiming_uniform_", "uniform_", "normal_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def absolute(row, index):
    sources = row.sources if isinstance(row.sources, list) else [row.sources]
    return [index + source if source < 0 else source for source in sources]


# ---- renumbering ----


def random_architecture(draw, length):
    rows = [Row(-1, 1, "layer0", [], "backbone")]
    for index in range(1, length):
        reads = [draw.choice([-1, draw.randrange(-index, 0), draw.randrange(index)]) for _ in range(draw.randint(1, 3))]
        section = "backbone" if index < length // 2 else "head"
        rows.append(Row(reads if len(reads) > 1 else reads[0], 1, f"layer{index}", [], section))
    return Architecture("random.yaml", {}, tuple(rows))


@pytest.mark.parametrize("seed", range(40))
def test_after_an_insertion_every_layer_reads_the_attended_map(seed):
    draw = random.Random(seed)
    before = random_architecture(draw, draw.randint(4, 14))
    after = sorted(draw.sample(range(len(before.rows) - 1), draw.randint(1, 3)))
    result = insert_block(before, "Block", after, [7])
    names = [row.block for row in result.rows]
    places = {row.block: index for index, row in enumerate(result.rows) if row.block != "Block"}
    assert [name for name in names if name != "Block"] == [row.block for row in before.rows]
    for layer in after:  # the block stands right behind its layer and reads it
        place = places[f"layer{layer}"] + 1
        assert result.rows[place].block == "Block" and absolute(result.rows[place], place) == [place - 1]
        assert result.rows[place].section == before.rows[layer].section and result.rows[place].args == [7]
    for index, row in enumerate(before.rows[1:], start=1):
        place = places[row.block]
        expected = [places[f"layer{read}"] + (read in after) for read in absolute(row, index)]
        assert absolute(result.rows[place], place) == expected
        kept = result.rows[place].sources
        for old, new in zip(*([each] if isinstance(each, int) else each for each in (row.sources, kept)), strict=True):
            assert (old < 0) == (new < 0) and (old != -1 or new == -1)


def test_inserting_twice_equals_inserting_at_once():
    base = read_yaml(BASE)
    assert insert_block(insert_block(base, "A", [20]), "A", [24]).rows == insert_block(base, "A", [20, 23]).rows


def test_the_given_architecture_is_left_alone():
    base = read_yaml(BASE)
    text = render(base)
    insert_block(base, "CBAM", [2, 8], [1024])
    replace_block(base, "C3", [2], "CBAM")
    assert render(base) == text


def test_replacing_keeps_sources_and_repeats():
    result = replace_block(read_yaml(BASE), "C3", [6, 13], "CBAM")
    assert [result.rows[index] for index in (6, 13)] == [
        Row(-1, 9, "CBAM", [512], "backbone", "was C3"), Row(-1, 3, "CBAM", [512], "head", "was C3")]
    other = replace_block(read_yaml(BASE), "C3", [6, 13], "CBAM", [[512, 8], [512, 4]])
    assert [other.rows[index].args for index in (6, 13)] == [[512, 8], [512, 4]]


@pytest.mark.parametrize(("after", "words"), [
    ([25], "0 to 23"), ([24], "0 to 23"), ([-1], "0 to 23"), ([8, 8], "twice"), ([], "list"), (8, "list"),
])
def test_places_that_are_not_there(after, words):
    with pytest.raises(ModelError, match=words):
        insert_block(read_yaml(BASE), "CBAM", after)


def test_replacing_another_block_names_where_the_old_one_stands():
    with pytest.raises(ModelError, match=r"layer 5 is Conv, not C3; C3 stands at \[2, 4, 6, 8"):
        replace_block(read_yaml(BASE), "C3", [5], "CBAM")
    with pytest.raises(ModelError, match="no layer is C33.*did you mean C3"):
        replace_block(read_yaml(BASE), "C33", [5], "CBAM")


KEYS = "nc: 2\ndepth_multiple: 1\nwidth_multiple: 1\nanchors: 3\n"
TAIL = "\nhead: [[[0], 1, Detect, [nc, anchors]]]\n"


@pytest.mark.parametrize(("text", "words"), [
    ("nc: 2", "'depth_multiple' is missing"), ("- 1", "not a model yaml"), ("a: [", "mine.yaml:1: not valid yaml"),
    (f"{KEYS}backbone: 3{TAIL}", "backbone must be a list"),
    (f"{KEYS}backbone: [[-1, 1, Conv]]{TAIL}",
     r"mine.yaml:5: layer 0 \(backbone row 1\): a row is \[from, number, module, args\]"),
    (f"{KEYS}backbone: [[-1, 1, Conv, [8]],\n  [-3, 1, Conv, [8]]]{TAIL}",
     r"mine.yaml:6: layer 1 \(backbone row 2\) Conv: source -3 reaches 2 before layer 0; -1 to -1 are there: 0 Conv$"),
    (f"{KEYS}backbone: [[-1, 1, Conv, [8]], [1, 1, SPPF, [8]]]{TAIL}",
     "SPPF: source 1 is the layer itself.*layers 0 to 0: 0 Conv"),
    (f"{KEYS}backbone: [[-1, 1, Conv, [8]], [x, 1, Conv, [8]]]{TAIL}", "a source is a layer's number .* got 'x'"),
    (f"{KEYS}backbone: [[-2, 1, Conv, [8]]]{TAIL}", "layer 0 .* source -2 is no picture; the first layer reads the image, -1"),
])
def test_yamls_that_cannot_be_read_are_named(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match=words) as caught:
        read_yaml(path)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="did you mean mine.yaml"):
        read_yaml(tmp_path / "mien.yaml")


ALL_YAMLS = sorted([*zoo.MODELS.glob("yolo*.yaml"), *zoo.MODELS.glob("hub/*.yaml")])


@pytest.mark.parametrize("path", ALL_YAMLS, ids=lambda path: path.name)
def test_writing_loses_nothing(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "backbone" in content:  # models/hub/anchors.yaml is no model
        assert yaml.safe_load(render(read_yaml(path))) == content


# ---- the variants ----


def test_committed_yamls_are_the_rendered_ones():
    assert set(PLACES) <= set(VARIANTS)
    assert zoo.stale() == []


def test_stale_files_are_found(tmp_path):
    (tmp_path / "yolov5l.yaml").write_bytes(BASE.read_bytes())
    written = zoo.write(tmp_path)
    assert len(written) == 6 * len(VARIANTS) and zoo.stale(tmp_path) == [] and zoo.write(tmp_path) == []
    (tmp_path / "yolov5s_CBAM.yaml").write_text("nc: 3\n")
    (tmp_path / "yolov5_CoTA.yaml").unlink()
    (tmp_path / "yolov5s_Gone.yaml").write_text(f"# {zoo.MADE_BY}\n")
    (tmp_path / "yolov5s_Mine.yaml").write_text("# a user's own\n")
    assert {path.name for path in zoo.stale(tmp_path)} == {"yolov5s_CBAM.yaml", "yolov5_CoTA.yaml", "yolov5s_Gone.yaml"}


@pytest.mark.parametrize("name", PLACES)
def test_blocks_stand_where_the_tutorials_have_them(name):
    places, concats, detect = PLACES[name]
    rows = read_yaml(zoo.MODELS / f"yolov5_{name}.yaml").rows
    assert [index for index, row in enumerate(rows) if row.block == VARIANTS[name].block] == places
    assert [row.sources for row in rows if row.block == "Concat"] == concats
    assert rows[-1].sources == detect


@pytest.mark.parametrize("name", VARIANTS)
def test_every_scale_builds(name, untouched_weights):
    totals = TOTALS.get(name)
    for position, scale in enumerate(zoo.SCALES):
        model = Model(str(zoo.MODELS / f"yolov5{scale}_{name}.yaml"))
        assert model.stride.tolist() == [8, 16, 32]
        if totals:
            assert sum(parameter.numel() for parameter in model.parameters()) == totals[position]
    plain, large = (yaml.safe_load((zoo.MODELS / f"yolov5{scale}_{name}.yaml").read_text()) for scale in ("", "l"))
    assert plain == large


@pytest.mark.parametrize("name", VARIANTS)
def test_trains_evaluates_and_fuses_at_the_n_scale(name):
    torch.manual_seed(0)
    model = Model(str(zoo.MODELS / f"yolov5n_{name}.yaml"), nc=3)
    raw = model.train()(torch.rand(2, 3, 256, 256))
    assert [tuple(each.shape) for each in raw] == [(2, 3, side, side, 8) for side in (32, 16, 8)]
    sum(each.square().mean() for each in raw).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    model.eval()
    image = torch.rand(1, 3, 320, 416)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 256, 256))[0].shape == (1, 3 * (32**2 + 16**2 + 8**2), 8)
        decoded = model(image)[0]
        assert decoded.shape == (1, 3 * (40 * 52 + 20 * 26 + 10 * 13), 8) and decoded.isfinite().all()
        assert (model.fuse()(image)[0] - decoded).abs().max() < 1e-3


@pytest.mark.parametrize("scale", ["n", "m", "x"])
def test_rows_in_the_tutorials_form_build_at_any_scale(scale, untouched_weights):
    """What a reader of the tutorials types: nominal channels behind the layer of that width."""
    base = read_yaml(BASE)
    base = Architecture(base.file, {**base.settings, "depth_multiple": 0.33, "width_multiple": zoo.SCALES[scale][1]}, base.rows)
    for block, after, args in (("CoTAttention", 6, [512]), ("CBAM", 8, [1024]), ("DoubleAttentionLayer", 2, [128, 3]),
                               ("ACmix", 9, [1024]), ("ACmix", 9, [1024, 1024]), ("MHSA", 9, [1024]),
                               ("MHSA", 9, [1024, 14, 14, 4]), ("CBAM", 23, [1024, 16, 7])):
        assert Model(yaml.safe_load(render(insert_block(base, block, [after], args)))).stride.tolist() == [8, 16, 32]


def test_a_width_that_does_not_arrive_is_an_error_that_names_the_row(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(render(insert_block(read_yaml(zoo.MODELS / "yolov5n.yaml"), "CBAM", [8], [512])))
    with pytest.raises(ModelError) as caught:
        Model(str(path))
    message = str(caught.value)
    assert "mine.yaml" in message and "layer 9" in message and "CBAM" in message and "512" in message and "\n" not in message


@pytest.mark.parametrize(("file", "after"), [
    ("yolov3-tiny.yaml", [8, 12]), ("yolov5n6.yaml", [5, 11, 32]), ("yolov5-p2.yaml", [4, 9]), ("yolov5s-ghost.yaml", [8]),
    ("yolov5-bifpn.yaml", [4, 6]),
])
def test_blocks_go_into_other_yamls(file, after, untouched_weights):
    base = read_yaml(zoo.MODELS / "hub" / file)
    small = Architecture(base.file, {**base.settings, "depth_multiple": 0.33, "width_multiple": 0.25}, base.rows)
    plain, changed = (Model(yaml.safe_load(render(each))) for each in (small, insert_block(small, "CBAM", after)))
    assert changed.stride.tolist() == plain.stride.tolist()
    kept = [(layer.type, layer.np) for layer in changed.model if not layer.type.endswith("CBAM")]
    assert kept == [(layer.type, layer.np) for layer in plain.model]


# ---- the table and the command line ----


@pytest.mark.parametrize(("line", "words"), [
    ("{inset: CBAM, after: [8], place: p, paper: q}", "unknown word 'inset'.*did you mean insert"),
    ("{insert: CBAM, place: p, paper: q}", "'insert' needs 'after'"),
    ("{replace: C3, at: [2], place: p, paper: q}", "'replace' needs 'with'"),
    ("{place: p, paper: q}", "neither insert nor replace"), ("{insert: CBAM, after: [8], paper: q}", "needs 'place'"),
    ("3", "expected"),
])
def test_mistakes_in_the_table_are_named(tmp_path, line, words):
    path = tmp_path / "zoo.yaml"
    path.write_text(f"Mine: {line}\n")
    with pytest.raises(ModelError, match=words) as caught:
        zoo.load_table(path)
    assert "variant Mine" in str(caught.value)


def test_reading_editing_and_writing_need_no_torch():
    code = ("import sys; from models import rows, zoo; base = rows.read_yaml('yolov5s.yaml')\n"
            "text = rows.render(rows.insert_block(base, 'CBAM', [8]))\n"
            "print(zoo.main(['write', '--check']), len(text) > 1000, 'torch' in sys.modules)")
    run = subprocess.run([sys.executable, "-c", code], cwd=zoo.ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "0 True False", run.stdout + run.stderr


def test_commands_write_yamls_that_build(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    inserting = ["insert", "CBAM", "--after", "8", "--args", "[1024, 16]", "--into", "yolov5n.yaml", "--output", "mine.yaml"]
    replacing = ["replace", "C3", "--at", "2", "4", "--with", "CBAM", "--into", "mine.yaml", "--output", "both.yaml"]
    assert [zoo.main(inserting), zoo.main(replacing)] == [0, 0]
    assert "mine.yaml: 26 layers, 1 more than yolov5n.yaml; 1,880,447 parameters" in capsys.readouterr().out
    rows = read_yaml("both.yaml").rows
    assert rows[9].block == "CBAM" and rows[9].args == [1024, 16] and rows[2].block == rows[4].block == "CBAM"
    assert (tmp_path / "both.yaml").read_text().startswith("# Made by `python -m models.zoo replace C3 --at 2 4 --with CBAM")


@pytest.mark.parametrize(("call", "words"), [
    (["insert", "CBAM", "--after", "40", "--into", "{base}", "--output", "{out}"], "0 to 23"),
    (["insert", "CBAM", "--after", "8", "--args", "1024", "--into", "{base}", "--output", "{out}"], "not a list"),
    (["insert", "CBAM", "--after", "8", "--into", "nowhere.yaml", "--output", "{out}"], "does not exist"),
    (["insert", "CBAM", "--after", "8", "--into", "yolov55.yaml", "--output", "{out}"], "did you mean"),
    (["insert", "CBAM", "--after", "8", "--into", "{base}", "--output", "{out}/deep/x.yaml"], "folder"),
    (["insert", "CBAM", "--after", "8", "--into", "{base}", "--output", "{out}.txt"], "must end in .yaml"),
    (["insert", "CBMA", "--after", "8", "--into", "{base}", "--output", "{out}"], "unknown block 'CBMA' (did you mean CBAM"),
    (["replace", "C3", "--at", "2", "--with", "CBAN", "--into", "{base}", "--output", "{out}"],
     "unknown block 'CBAN' (did you mean CBAM"),
    (["insert", "CBAM", "--after", "8", "--args", "[512]", "--into", "{base}", "--output", "{out}"],
     "out.yaml: layer 9 (backbone row 10) CBAM: is given 512 channels (512 at this width_multiple) but 1024 arrive"),
    (["insert", "Mine", "--after", "8", "--into", "{base}", "--output", "{out}", "--plugin", "gone.py"],
     "plugin gone.py does not exist"),
])
def test_mistakes_on_the_command_line_end_in_one_line(tmp_path, capsys, call, words):
    code = zoo.main([part.format(base=BASE, out=tmp_path / "out.yaml") for part in call])
    said = capsys.readouterr()
    assert code == 2 and said.err.startswith("error: ") and words in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "out.yaml").exists()


def test_list_shows_every_variant_with_its_size():
    lines = zoo.list_variants().splitlines()
    assert len(lines) == 2 + len(VARIANTS) and lines[1].split()[0] == "base"
    assert any("CBAM" in line and "before SPPF" in line and "1,880,447" in line and "46,694,879" in line for line in lines)
