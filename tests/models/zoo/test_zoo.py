"""The variant table: renumbering, committed yamls, every variant built, trained and evaluated, and the command line."""

import random
import subprocess
import sys

import pytest
import torch
import yaml
from small_models import CACHE, in_tiers
from torch import nn

from models.graph.architecture import Architecture, Row, insert_block, read_yaml, render_yaml, replace_block
from models.graph.flops import flops
from models.graph.shapes import infer_shapes, load_spec, totals
from models.graph.spec import read_spec
from models.registry import registered
from models.yolo import Model
from models.zoo import __main__ as commands
from models.zoo import catalogue
from models.zoo import table as zoo
from utils.errors import ModelError

VARIANTS = zoo.load_variants()
BASE = zoo.MODELS / "yolov5l.yaml"
TOTALS = {  # parameters with 80 classes at n, s, m, l, x
    "CoTA": (2_594_333, 10_113_341, 27_657_885, 58_054_013, 104_696_285),
    "DANet": (1_873_411, 7_239_939, 21_200_451, 46_580_995, 86_776_131),
    "CBAM": (1_880_447, 7_268_255, 21_264_383, 46_694_879, 86_954_303),
    "CBAM-C3": (1_400_971, 5_355_627, 14_312_953, 29_628_551, 52_931_349),
    "ACmix": None,
    "MHSA": None,
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


def source_indices(row, index):
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
        assert result.rows[place].block == "Block" and source_indices(result.rows[place], place) == [place - 1]
        assert result.rows[place].section == before.rows[layer].section and result.rows[place].args == [7]
    for index, row in enumerate(before.rows[1:], start=1):
        place = places[row.block]
        expected = [places[f"layer{read}"] + (read in after) for read in source_indices(row, index)]
        assert source_indices(result.rows[place], place) == expected
        kept = result.rows[place].sources
        for old, new in zip(*([each] if isinstance(each, int) else each for each in (row.sources, kept)), strict=True):
            assert (old < 0) == (new < 0) and (old != -1 or new == -1)


def test_inserting_twice_equals_inserting_at_once():
    base = read_yaml(BASE)
    assert insert_block(insert_block(base, "A", [20]), "A", [24]).rows == insert_block(base, "A", [20, 23]).rows


def test_the_given_architecture_is_left_alone():
    base = read_yaml(BASE)
    text = render_yaml(base)
    insert_block(base, "CBAM", [2, 8], [1024])
    replace_block(base, "C3", [2], "CBAM")
    assert render_yaml(base) == text


def test_replacing_keeps_sources_and_repeats():
    result = replace_block(read_yaml(BASE), "C3", [6, 13], "CBAM")
    assert [result.rows[index] for index in (6, 13)] == [
        Row(-1, 9, "CBAM", [512], "backbone", "was C3"),
        Row(-1, 3, "CBAM", [512], "head", "was C3"),
    ]
    other = replace_block(read_yaml(BASE), "C3", [6, 13], "CBAM", [[512, 8], [512, 4]])
    assert [other.rows[index].args for index in (6, 13)] == [[512, 8], [512, 4]]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ([25], "0 to 23"),
        ([24], "0 to 23"),
        ([-1], "0 to 23"),
        ([8, 8], "twice"),
        ([], "list"),
        (8, "list"),
    ],
)
def test_places_that_are_not_there(after, message):
    with pytest.raises(ModelError, match=message):
        insert_block(read_yaml(BASE), "CBAM", after)


def test_replacing_another_block_names_where_the_old_one_stands():
    with pytest.raises(ModelError, match=r"layer 5 is Conv, not C3; C3 is at \[2, 4, 6, 8"):
        replace_block(read_yaml(BASE), "C3", [5], "CBAM")
    with pytest.raises(ModelError, match="no layer is C33.*did you mean C3"):
        replace_block(read_yaml(BASE), "C33", [5], "CBAM")


KEYS = "nc: 2\ndepth_multiple: 1\nwidth_multiple: 1\nanchors: 3\n"
TAIL = "\nhead: [[[0], 1, Detect, [nc, anchors]]]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nc: 2", "'depth_multiple' is missing"),
        ("- 1", "not a model yaml"),
        ("a: [", "mine.yaml:1: not valid yaml"),
        (f"{KEYS}backbone: 3{TAIL}", "backbone must be a list"),
        (
            f"{KEYS}backbone: [[-1, 1, Conv]]{TAIL}",
            r"mine.yaml:5: layer 0 \(backbone row 1\): a row is \[from, number, module, args\]",
        ),
        (
            f"{KEYS}backbone: [[-1, 1, Conv, [8]],\n  [-3, 1, Conv, [8]]]{TAIL}",
            r"mine.yaml:6: layer 1 \(backbone row 2\) Conv: "
            "source -3 reaches 2 before layer 0; -1 to -1 exist: 0 Conv$",
        ),
        (
            f"{KEYS}backbone: [[-1, 1, Conv, [8]], [1, 1, SPPF, [8]]]{TAIL}",
            "SPPF: source 1 is the layer itself.*layers 0 to 0: 0 Conv",
        ),
        (f"{KEYS}backbone: [[-1, 1, Conv, [8]], [x, 1, Conv, [8]]]{TAIL}", "a source is a layer's index .* got 'x'"),
        (
            f"{KEYS}backbone: [[-2, 1, Conv, [8]]]{TAIL}",
            "layer 0 .* source -2 is not the image; the first layer reads the image, -1",
        ),
    ],
)
def test_yamls_that_cannot_be_read_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        read_yaml(path)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="did you mean mine.yaml"):
        read_yaml(tmp_path / "mien.yaml")


ALL_YAMLS = sorted([*zoo.MODELS.glob("yolo*.yaml"), *zoo.MODELS.glob("hub/*.yaml")])


@pytest.mark.parametrize("path", in_tiers(ALL_YAMLS))
def test_writing_loses_nothing(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "backbone" in content:  # models/hub/anchors.yaml is no model
        assert yaml.safe_load(render_yaml(read_yaml(path))) == content


# ---- the variants ----


def test_every_block_has_a_variant_and_every_variant_a_block():
    blocks = {name for name, entry in registered().items() if entry.attention}
    used = {variant.block for variant in VARIANTS.values()}
    assert blocks - used == set()
    assert used - set(registered()) == set()
    for name, variant in VARIANTS.items():
        rows = variant.architecture().rows
        named = {row.block for row in rows} | {str(arg) for row in rows for arg in row.args}
        assert variant.block in named, name


def test_tags_are_unlike_each_other_and_papers_can_be_found():
    assert len({name.lower() for name in VARIANTS}) == len(VARIANTS)  # one file each where case does not count
    for name, variant in VARIANTS.items():
        title, url = variant.paper.rsplit(", ", 1)
        assert len(title) > 10, name
        assert url.startswith(("https://arxiv.org/abs/", "https://doi.org/", "https://proceedings.mlr.press/")), name
    assert not {"PSA", "GCNet", "Attention"} & set(VARIANTS)  # each means several papers


def test_committed_yamls_are_the_rendered_ones():
    assert set(PLACES) <= set(VARIANTS)
    assert zoo.find_stale() == []


def test_stale_files_are_found(tmp_path):
    table = tmp_path / "zoo.yaml"
    table.write_text(
        "CBAM: {insert: CBAM, at: before-sppf, paper: p}\n"
        "CoTA: {replace: C3, at: [2], with: CoTAttention, place: q, paper: p}\n"
    )
    (tmp_path / BASE.name).write_bytes(BASE.read_bytes())
    written = zoo.write_yamls(tmp_path, table)
    assert len(written) == 6 * 2 and zoo.find_stale(tmp_path, table) == [] and zoo.write_yamls(tmp_path, table) == []
    (tmp_path / "yolov5s_CBAM.yaml").write_text("nc: 3\n")
    (tmp_path / "yolov5_CoTA.yaml").unlink()
    (tmp_path / "yolov5s_Gone.yaml").write_text(f"# {zoo.GENERATED_BY}\n")
    (tmp_path / "yolov5s_Mine.yaml").write_text("# a user's own\n")
    assert {path.name for path in zoo.find_stale(tmp_path, table)} == {
        "yolov5s_CBAM.yaml",
        "yolov5_CoTA.yaml",
        "yolov5s_Gone.yaml",
    }


@pytest.mark.parametrize("name", PLACES)
def test_blocks_stand_where_the_tutorials_have_them(name):
    places, concats, detect = PLACES[name]
    rows = read_yaml(zoo.MODELS / f"yolov5_{name}.yaml").rows
    assert [index for index, row in enumerate(rows) if row.block == VARIANTS[name].block] == places
    assert [row.sources for row in rows if row.block == "Concat"] == concats
    assert rows[-1].sources == detect


@pytest.mark.parametrize("name", VARIANTS)
def test_every_scale_builds(name):
    """Layer by layer on shapes; that the planned widths are those that leave is checked on the way."""
    for position, scale in enumerate(zoo.SCALES):
        spec = load_spec(zoo.MODELS / f"yolov5{scale}_{name}.yaml")
        layers = infer_shapes(spec, CACHE)
        assert (spec.scale.depth, spec.scale.width) == zoo.SCALES[scale]
        assert [layers[source].stride for source in layers[-1].row.sources] == [8, 16, 32]
        if TOTALS.get(name):
            assert totals(layers)[0] == TOTALS[name][position]
    plain, large = (read_yaml(zoo.MODELS / f"yolov5{scale}_{name}.yaml") for scale in ("", "l"))
    assert (plain.settings, plain.rows) == (large.settings, large.rows)


@pytest.mark.parametrize("name", VARIANTS)
def test_trains_evaluates_and_fuses_at_the_n_scale(name):
    torch.manual_seed(0)
    path = str(zoo.MODELS / f"yolov5n_{name}.yaml")
    model = Model(path, nc=3)
    assert sum(each.numel() for each in model.parameters()) == totals(infer_shapes(read_spec(path, nc=3), CACHE))[0]
    trains(model)
    with torch.no_grad():
        for height, width in ((128, 128), (384, 256), (160, 224)):
            image = torch.rand(1, 3, height, width)
            decoded = model(image)[0]
            assert decoded.shape == (1, 3 * sum((height // side) * (width // side) for side in (8, 16, 32)), 8)
            assert decoded.isfinite().all()
        model, image = model.double(), image.double()
        decoded = model(image)[0]
        torch.testing.assert_close(model.fuse()(image)[0], decoded, rtol=1e-9, atol=1e-9)


def trains(model):
    """One step of plain descent at 128 x 128 moves what has a gradient, and every parameter has a finite one."""
    raw = model.train()(torch.rand(2, 3, 128, 128))
    assert [tuple(each.shape) for each in raw] == [(2, 3, side, side, 8) for side in (16, 8, 4)]
    sum(each.square().mean() for each in raw).backward()
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert sum(not torch.equal(parameter, before[key]) for key, parameter in model.named_parameters()) > 0.9 * len(
        before
    )
    model.eval()


@pytest.mark.parametrize("scale", ["n", "m", "x"])
def test_rows_in_the_tutorials_form_build_at_any_scale(scale, untouched_weights):
    """What a reader of the tutorials types: nominal channels behind the layer of that width."""
    base = read_yaml(BASE)
    base = Architecture(
        base.file, {**base.settings, "depth_multiple": 0.33, "width_multiple": zoo.SCALES[scale][1]}, base.rows
    )
    for block, after, args in (
        ("CoTAttention", 6, [512]),
        ("CBAM", 8, [1024]),
        ("DoubleAttentionLayer", 2, [128, 3]),
        ("ACmix", 9, [1024]),
        ("ACmix", 9, [1024, 1024]),
        ("MHSA", 9, [1024]),
        ("MHSA", 9, [1024, 14, 14, 4]),
        ("CBAM", 23, [1024, 16, 7]),
    ):
        assert Model(yaml.safe_load(render_yaml(insert_block(base, block, [after], args)))).stride.tolist() == [
            8,
            16,
            32,
        ]


def test_a_width_that_does_not_arrive_is_an_error_that_names_the_row(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(render_yaml(insert_block(read_yaml(zoo.MODELS / "yolov5n.yaml"), "CBAM", [8], [512])))
    with pytest.raises(ModelError) as caught:
        Model(str(path))
    message = str(caught.value)
    assert (
        "mine.yaml" in message
        and "layer 9" in message
        and "CBAM" in message
        and "512" in message
        and "\n" not in message
    )


@pytest.mark.parametrize(
    ("file", "after"),
    [
        ("yolov3-tiny.yaml", [8, 12]),
        ("yolov5n6.yaml", [5, 11, 32]),
        ("yolov5-p2.yaml", [4, 9]),
        ("yolov5s-ghost.yaml", [8]),
        ("yolov5-bifpn.yaml", [4, 6]),
    ],
)
def test_blocks_go_into_other_yamls(file, after, untouched_weights):
    base = read_yaml(zoo.MODELS / "hub" / file)
    small = Architecture(base.file, {**base.settings, "depth_multiple": 0.33, "width_multiple": 0.25}, base.rows)
    plain, changed = (Model(yaml.safe_load(render_yaml(each))) for each in (small, insert_block(small, "CBAM", after)))
    assert changed.stride.tolist() == plain.stride.tolist()
    kept = [(layer.type, layer.np) for layer in changed.model if not layer.type.endswith("CBAM")]
    assert kept == [(layer.type, layer.np) for layer in plain.model]


# ---- the table and the command line ----


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{inset: CBAM, after: [8], place: p, paper: q}", "unknown key 'inset'.*did you mean insert"),
        ("{insert: CBAM, place: p, paper: q}", "'insert' needs 'after'"),
        ("{replace: C3, at: [2], place: p, paper: q}", "'replace' needs 'with'"),
        ("{place: p, paper: q}", "neither insert nor replace"),
        ("{insert: CBAM, after: [8], paper: q}", "needs 'place'"),
        ("{insert: CBAM, at: [nekc], paper: q}", "needs 'place'"),
        ("{insert: CBAM, at: neck}", "needs 'paper'"),
        ("{base: hub/yolov5-p2.yaml, place: p, paper: q}", "nor base and block"),
        ("3", "expected"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path, line, message):
    path = tmp_path / "zoo.yaml"
    path.write_text(f"Mine: {line}\n")
    with pytest.raises(ModelError, match=message) as caught:
        zoo.load_variants(path)
    assert "variant Mine" in str(caught.value)


def test_reading_editing_and_writing_need_no_torch():
    code = (
        "import sys; from models.graph.architecture import insert_block, read_yaml, render_yaml\n"
        "from models.zoo import __main__ as commands\n"
        "text = render_yaml(insert_block(read_yaml('yolov5s.yaml'), 'CBAM', [8]))\n"
        "print(commands.main(['write', '--check']), len(text) > 1000, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=zoo.ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "0 True False", run.stdout + run.stderr


def test_commands_write_yamls_that_build(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    inserting = [
        "insert",
        "CBAM",
        "--after",
        "8",
        "--args",
        "[1024, 16]",
        "--into",
        "yolov5n.yaml",
        "--output",
        "mine.yaml",
    ]
    replacing = ["replace", "C3", "--at", "2", "4", "--with", "CBAM", "--into", "mine.yaml", "--output", "both.yaml"]
    assert [commands.main(inserting), commands.main(replacing)] == [0, 0]
    assert "mine.yaml: 26 layers, 1 more than yolov5n.yaml; 1,880,447 parameters" in capsys.readouterr().out
    rows = read_yaml("both.yaml").rows
    assert rows[9].block == "CBAM" and rows[9].args == [1024, 16] and rows[2].block == rows[4].block == "CBAM"
    assert (
        (tmp_path / "both.yaml")
        .read_text()
        .startswith("# Made by `python -m models.zoo replace C3 --at 2 4 --with CBAM")
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["insert", "CBAM", "--after", "40", "--into", "{base}", "--output", "{out}"], "0 to 23"),
        (["insert", "CBAM", "--after", "8", "--args", "1024", "--into", "{base}", "--output", "{out}"], "not a list"),
        (["insert", "CBAM", "--after", "8", "--into", "nowhere.yaml", "--output", "{out}"], "does not exist"),
        (["insert", "CBAM", "--after", "8", "--into", "yolov55.yaml", "--output", "{out}"], "did you mean"),
        (["insert", "CBAM", "--after", "8", "--into", "{base}", "--output", "{out}/deep/x.yaml"], "folder"),
        (["insert", "CBAM", "--after", "8", "--into", "{base}", "--output", "{out}.txt"], "must end in .yaml"),
        (
            ["insert", "CBMA", "--after", "8", "--into", "{base}", "--output", "{out}"],
            "unknown block 'CBMA' (did you mean CBAM",
        ),
        (
            ["replace", "C3", "--at", "2", "--with", "CBAN", "--into", "{base}", "--output", "{out}"],
            "unknown block 'CBAN' (did you mean CBAM",
        ),
        (
            ["insert", "CBAM", "--after", "8", "--args", "[512]", "--into", "{base}", "--output", "{out}"],
            "out.yaml: layer 9 (backbone row 10) CBAM: "
            "is given 512 channels (512 at this width_multiple) but 1024 arrive",
        ),
        (
            ["insert", "Mine", "--after", "8", "--into", "{base}", "--output", "{out}", "--plugin", "gone.py"],
            "plugin gone.py does not exist",
        ),
    ],
)
def test_mistakes_on_the_command_line_end_in_one_line(tmp_path, capsys, call, message):
    code = commands.main([part.format(base=BASE, out=tmp_path / "out.yaml") for part in call])
    output = capsys.readouterr()
    assert code == 2 and output.err.startswith("error: ") and message in output.err and output.err.count("\n") == 1
    assert not (tmp_path / "out.yaml").exists()


def test_a_line_may_be_a_yaml_as_it_is(tmp_path):
    path = tmp_path / "zoo.yaml"
    path.write_text("Mine: {base: hub/yolov5-p2.yaml, block: C3, place: p, paper: q}\n")
    variant = zoo.load_variants(path)["Mine"]
    texts = zoo.render_variant(variant)
    assert texts["yolov5m_Mine.yaml"].splitlines()[0] == "# yolov5m_Mine.yaml: the layers of yolov5-p2.yaml at scale m"
    content = yaml.safe_load(texts["yolov5m_Mine.yaml"])
    base = yaml.safe_load((zoo.MODELS / "hub" / "yolov5-p2.yaml").read_text())
    assert (content["depth_multiple"], content["width_multiple"]) == (0.67, 0.75)
    assert all(content[key] == base[key] for key in ("backbone", "head", "anchors"))


# ---- the catalogue ----


def test_the_catalogues_figures(measured_once):
    found = {record.tag: record for record in measured_once}
    base = catalogue.measure_base()
    assert list(found) == list(VARIANTS) and base.parameters == {"n": 1_872_157, "l": 46_563_709}
    for name, totals_ in TOTALS.items():
        if totals_:
            assert found[name].parameters == {"n": totals_[0] - 1_872_157, "l": totals_[3] - 46_563_709}
    assert found["MHSA"].cost == "quadratic" and found["CBAM"].cost == "linear"
    for name in ("MHSA", "ACmix", "C3CBAM"):  # torch's counter on the whole models
        more = flops(Model(zoo.MODELS / f"yolov5n_{name}.yaml")) - flops(Model(zoo.MODELS / "yolov5n.yaml"))
        assert found[name].gflops["n"] == pytest.approx(more / 1e9, rel=1e-6, abs=1e-9)
    lines = catalogue.format_catalogue(list(found.values())).splitlines()
    assert len(lines) == 2 + len(VARIANTS)
    assert lines[1].split()[:7] == ["base", "-", "-", "1,872,157", "46,563,709", "4.47", "108.99"]
    assert lines[4].split()[:7] == ["CBAM", "CBAM", "linear", "+8,290", "+131,170", "+0.00", "+0.00"]


def test_a_tag_names_its_block(tmp_path):
    assert (
        commands.main(
            ["insert", "SE", "--at", "before-sppf", "--into", "yolov5n.yaml", "--output", str(tmp_path / "a.yaml")]
        )
        == 0
    )
    assert read_yaml(tmp_path / "a.yaml").rows[9].block == "SEAttention"
    assert (
        commands.main(["insert", "EMA", "--at", "neck", "--into", "yolov5n.yaml", "--output", str(tmp_path / "b.yaml")])
        == 0
    )
    assert [row.block for row in read_yaml(tmp_path / "b.yaml").rows].count("EMA") == 3
