"""Every lint rule on a yaml that breaks it and on one that only seems to; shipped yamls are clean; `show`."""

import re
from dataclasses import replace

import pytest
from small_models import CACHE, in_tiers

from models.graph.architecture import Row, find_yaml, insert_block, read_yaml, render_yaml
from models.graph.flops import flops
from models.graph.lint import lint_yaml
from models.graph.shapes import infer_shapes, load_spec, totals
from models.yolo import Model
from models.zoo import __main__ as commands
from models.zoo import table as zoo
from utils.errors import ModelError

SHIPPED = sorted([*zoo.MODELS.glob("yolo*.yaml"), *zoo.MODELS.glob("hub/yolo*.yaml")])


def changed(folder, *changes, base="yolov5s.yaml"):
    """A copy of a yaml with texts replaced, each of which must be there."""
    text = find_yaml(base).read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def found(path):
    return [str(finding) for finding in lint_yaml(path, CACHE)]


def line_of(path, text):
    return next(number for number, line in enumerate(path.read_text().splitlines(), start=1) if text in line)


@pytest.mark.parametrize("path", in_tiers(SHIPPED))
def test_shipped_yamls_are_clean(path):
    assert found(path) == [] and len(SHIPPED) > 50


# ---- bypassed stages ----


def test_concats_that_skip_the_c3s(tmp_path):
    """The connections of two well-known forks' yolov5s_bot.yaml: 5 and 3 instead of 6 and 4. It builds."""
    path = changed(
        tmp_path, ("[[-1, 6], 1, Concat", "[[-1, 5], 1, Concat"), ("[[-1, 4], 1, Concat", "[[-1, 3], 1, Concat")
    )
    Model(path)
    first, second = found(path)
    assert first == (
        f"{path}:{line_of(path, '[[-1, 5]')}: layer 12 (head row 3) Concat: it reads layer 5 Conv and so skips "
        f"layer 6 C3, which has the same stride 16 and comes after it; read 6 instead"
    )
    assert f":{line_of(path, '[[-1, 3]')}: layer 16 " in second and "skips layer 4 C3" in second and "read 4" in second


def test_a_join_that_skips_sppf(tmp_path):
    path = changed(tmp_path, ("[[-1, 10], 1, Concat", "[[-1, 8], 1, Concat"))
    (line,) = found(path)
    assert "layer 22 (head row 13) Concat: it reads layer 8 C3 and so skips layer 9 SPPF" in line


def test_attention_that_detect_goes_around(tmp_path):
    """CBAM stands behind the neck's first C3, but Detect still reads that C3."""
    text = render_yaml(insert_block(read_yaml("yolov5s.yaml"), "CBAM", [17]))
    (tmp_path / "mine.yaml").write_text(text.replace("[[18, 21, 24], 1, Detect", "[[17, 21, 24], 1, Detect"))
    (line,) = found(tmp_path / "mine.yaml")
    assert "Detect: it reads layer 17 C3 and so skips layer 18 CBAM" in line and line.endswith("read 18 instead")


def test_attention_that_a_concat_goes_around(tmp_path):
    text = render_yaml(insert_block(read_yaml("yolov5s.yaml"), "CBAM", [6, 14]))
    path = tmp_path / "mine.yaml"
    text = text.replace("[[-1, 7], 1, Concat", "[[-1, 6], 1, Concat").replace(
        "[[-1, 16], 1, Concat", "[[-1, 15], 1, Concat"
    )
    path.write_text(text)
    pattern = re.compile(r"Concat: it reads layer (\d+) \w+ and so skips layer (\d+) CBAM")
    assert [pattern.search(line).groups() for line in found(path)] == [("6", "7"), ("15", "16")]


def test_a_residual_around_attention_is_no_mistake(tmp_path):
    path = changed(
        tmp_path,
        ("  - [-1, 1, SPPF, [1024, 5]]  # 9\n", "  - [-1, 1, CBAM, []]\n  - [[-1, -2], 1, Sum, []]\n"),
        ("[[-1, 10], 1, Concat", "[[-1, 11], 1, Concat"),
        ("[[-1, 14], 1, Concat", "[[-1, 15], 1, Concat"),
        ("[[17, 20, 23], 1, Detect", "[[18, 21, 24], 1, Detect"),
    )
    assert found(path) == []


def test_branches_inside_a_stage_and_a_narrowing_before_the_next_are_no_mistake(tmp_path):
    """A stage written out in rows, as in YOLOv7; the head reads its last row, the next stage a 1x1 Conv of that."""
    stage = (
        "  - [-1, 1, Conv, [256, 1, 1]]\n  - [-2, 1, Conv, [256, 1, 1]]\n  - [-1, 3, Conv, [256, 3, 1]]\n"
        "  - [[-1, -3], 1, Concat, [1]]\n  - [-1, 1, Conv, [512, 1, 1]]\n  - [-1, 1, Conv, [256, 1, 1]]\n"
    )
    old = "  - [-1, 9, C3, [512]]  # 6\n"
    path = changed(
        tmp_path,
        (old, stage),
        ("[[-1, 10], 1, Concat", "[[-1, 15], 1, Concat"),
        ("[[-1, 6], 1, Concat", "[[-1, 10], 1, Concat"),
        ("[[-1, 14], 1, Concat", "[[-1, 19], 1, Concat"),
        ("[[17, 20, 23], 1, Detect", "[[22, 25, 28], 1, Detect"),
    )
    assert found(path) == []
    path.write_text(
        path.read_text().replace("[[-1, 10], 1, Concat", "[[-1, 8], 1, Concat")
    )  # the branch before the join
    (line,) = found(path)
    assert "reads layer 8 Conv and so skips layer 9 Concat, 10 Conv, which" in line and line.endswith("read 10 instead")


# ---- sources that were not moved after an insertion ----


def inserted_by_hand(base, index, block, moved=()):
    """A row put in at `index` with every source left as it was, but for those of the (old) layers `moved`."""
    rows, right = list(base.rows), insert_block(base, block, [index - 1]).rows if index else ()
    for layer in moved:
        rows[layer] = replace(rows[layer], sources=right[layer + (layer >= index)].sources)
    rows.insert(index, Row(-1, 1, block, [], rows[index].section))
    return replace(base, rows=tuple(rows)), [row.sources for row in rows] != [row.sources for row in right]


def faults(architecture):
    try:
        return [str(finding) for finding in lint_yaml(architecture, CACHE)]
    except ModelError as error:  # the maps do not even fit
        return [str(error)]


NECKS = ["yolov5s.yaml", "yolov5s6.yaml"]
MORE_NECKS = ["yolov5n.yaml", "yolov5-p2.yaml", "yolov5-p34.yaml", "yolov5-p7.yaml", "yolov5-panet.yaml"]
MORE_NECKS += ["yolov5-bifpn.yaml", "yolov5-fpn.yaml", "yolov5s-ghost.yaml", "yolov5s-transformer.yaml"]
BASES = [*NECKS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_NECKS)]


@pytest.mark.parametrize("base", BASES)
def test_a_row_inserted_by_hand_without_moving_the_sources_is_found_at_every_index(base):
    """With all sources left, with Detect's moved, and with some joins' moved; and no correct one is flagged."""
    all_ways = base != "yolov5s6.yaml"  # it has four levels, and takes its time
    base = read_yaml(base)
    joins = [index for index, row in enumerate(base.rows) if isinstance(row.sources, list)]
    ways = ((), joins[-1:], joins[:-1], joins[::2])
    wrong = 0
    for index in range(len(base.rows)):
        for moved in ways[: (4 if all_ways else 2) if index else 1]:
            architecture, is_wrong = inserted_by_hand(base, index, "SimAM", moved)
            assert bool(faults(architecture)) == is_wrong, (index, moved)
            wrong += is_wrong
        if index:
            assert faults(insert_block(base, "SimAM", [index - 1])) == []
    assert wrong > len(base.rows)


@pytest.mark.parametrize("base", NECKS)
def test_each_unmoved_concat_is_named_with_the_layer_to_read(base):
    """Rows are inserted before SPPF and behind the last lateral convolution but one; only Concats stay unmoved."""
    base = read_yaml(base)
    laterals = [
        index for index, row in enumerate(base.rows) if index > 9 and row.block == "Conv" and row.args[1:2] == [1]
    ]
    reading = {row.sources[1]: index for index, row in enumerate(base.rows) if row.block == "Concat"}
    for lateral in laterals[:-1] if len(laterals) > 2 else laterals:
        place = laterals[0] - 1
        join = reading[lateral]
        others = [index for index, row in enumerate(base.rows) if isinstance(row.sources, list) and index != join]
        architecture, _ = inserted_by_hand(base, place, "CBAM", others)
        (line,) = faults(architecture)
        name = architecture.rows[lateral].block
        assert f"layer {join + 1} (head row" in line and f"Concat: it reads layer {lateral} {name}, and layer" in line
        assert line.endswith(f"read {lateral + 1} instead")


def test_detect_left_at_the_concats_is_named(tmp_path):
    path = changed(tmp_path, ("[[17, 20, 23], 1, Detect", "[[16, 20, 23], 1, Detect"))
    (first,) = found(path)
    assert "Detect: it reads layer 16 Concat, and layer 17 C3 makes the map of stride 8" in first
    assert first.endswith("read 17 instead")


def test_a_neck_that_joins_the_wide_map_on_purpose_is_no_mistake(tmp_path):
    """As YOLOv7-tiny: the downsampled map is as wide as the one before the lateral convolution, not as that."""
    path = changed(
        tmp_path,
        ("  - [-1, 1, Conv, [256, 3, 2]]  # 18", "  - [-1, 1, Conv, [512, 3, 2]]  # 18"),
        ("[[-1, 14], 1, Concat", "[[-1, 13], 1, Concat"),
    )
    assert found(path) == []


# ---- the other rules ----


def test_layers_that_no_other_reads(tmp_path):
    dead = "  - [10, 1, Conv, [256, 1, 1]]\n  - [-1, 1, CBAM, []]\n"
    path = changed(tmp_path, ("  - [[17, 20, 23], 1, Detect", f"{dead}  - [[17, 20, 23], 1, Detect"))
    first, second = found(path)
    assert first.startswith(
        f"{path}:{line_of(path, '[10, 1, Conv')}: layer 24 (head row 15) Conv: its output never reaches "
        f"the head: only layer 25 CBAM reads it; "
    )
    assert "layer 25 (head row 16) CBAM: its output never reaches the head: no layer reads it; " in second


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            "[20, 17, 23]",
            "its sources [20, 17, 23] have the strides 16, 8, 32, which must increase; write [17, 20, 23]",
        ),
        ("[23, 20, 17]", "have the strides 32, 16, 8, which must increase; write [17, 20, 23]"),
        ("[17, 13, 23]", None),
        ("[17, 20, 13]", "have the strides 8, 16, 16, which must increase; read one map of each stride"),
    ],
)
def test_levels_in_the_wrong_order(tmp_path, sources, message):
    path = changed(tmp_path, ("[[17, 20, 23], 1, Detect", f"[{sources}, 1, Detect"))
    lines = [line for line in found(path) if "strides" in line]
    assert len(lines) == (message is not None)
    assert all("layer 24 (head row 15) Detect" in line and message in line for line in lines)


def test_anchors_that_fall(tmp_path):
    path = changed(
        tmp_path,
        ("[10,13, 16,30, 33,23]", "[116,90, 156,198, 373,325]"),
        ("[116,90, 156,198, 373,326]", "[10,13, 16,30, 33,23]"),
    )
    (line,) = found(path)
    assert "the anchors do not grow" in line


@pytest.mark.parametrize(
    ("base", "width", "others"),
    [
        ("yolov5s.yaml", 512, "0.25 (n), 0.75 (m), 1.25 (x)"),
        ("yolov5n.yaml", 256, "0.5 (s), 0.75 (m), 1 (l), 1.25 (x)"),
    ],
)
def test_widths_that_fit_one_scale_only(tmp_path, base, width, others):
    """512 channels arrive before SPPF at scale s: written as they arrive, they fit no other scale."""
    path = changed(tmp_path, ("  - [-1, 1, SPPF", f"  - [-1, 1, CBAM, [{width}]]\n  - [-1, 1, SPPF"), base=base)
    path.write_text(
        path.read_text()
        .replace("[[-1, 14], 1, Concat", "[[-1, 15], 1, Concat")
        .replace("[[-1, 10], 1, Concat", "[[-1, 11], 1, Concat")
        .replace("[[17, 20, 23]", "[[18, 21, 24]")
    )
    Model(path)
    lines = found(path)
    own = 0.25 if base == "yolov5n.yaml" else 0.5
    assert (
        len(lines) == 1 and f"layer 9 (backbone row 10) CBAM: it builds at width_multiple {own} but not at" in lines[0]
    )
    assert lines[0].endswith("leave the width out, or write that of scale l")
    for other in others.split(", "):
        assert other in lines[0]
    path.write_text(path.read_text().replace(f"CBAM, [{width}]", "CBAM, [1024]"))
    assert found(path) == []


def test_the_command(tmp_path, capsys):
    good = changed(tmp_path)
    assert commands.main(["check", str(good), "yolov5n6.yaml"]) == 0
    assert capsys.readouterr().out == "2 yamls: no mistakes found\n"
    bad = changed(tmp_path, ("[[-1, 6], 1, Concat", "[[-1, 5], 1, Concat"))
    unbuildable = tmp_path / "other.yaml"
    unbuildable.write_text(find_yaml("yolov5s.yaml").read_text().replace("1, SPPF, ", "1, SPPV, "))
    assert commands.main(["check", str(bad), str(unbuildable)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "skips layer 6 C3" in first and "other.yaml" in second and "unknown block 'SPPV' (did you mean SPP" in second


# ---- the model graph ----


def test_show_prints_the_model_graph(tmp_path, capsys):
    path = changed(tmp_path, ("  - [[17, 20, 23], 1, Detect", "  - [10, 1, CBAM, []]\n  - [[17, 20, 23], 1, Detect"))
    assert commands.main(["show", str(path)]) == 0
    lines = [re.sub(r"\s\s+", " | ", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "layer | from | n | block | args | shape | stride | params | read by"
    assert lines[7] == "6 | -1 | 3 | C3 | [512] | 256 x 40 x 40 | 16 | 625,152 | 7, 12"
    assert lines[18] == "17 | -1 | 1 | C3 | [256, False] | 128 x 80 x 80 | 8 | 90,880 | 18, 25"
    assert lines[25].startswith("24 | 10 | 1 | CBAM | [] | 256 x 20 x 20 | 32 |") and lines[25].endswith("| none")
    assert lines[-2] == "unused layers: 24 CBAM"
    assert lines[-1].startswith(f"{path}: 26 layers, 7,243,679 parameters, 16.")


@pytest.mark.parametrize(
    "file", ["yolov5n_MHSA.yaml", "yolov5n_ACmix.yaml", "yolov5s-transformer.yaml", "yolov3-tiny.yaml"]
)
def test_the_graphs_figures_are_the_models(file):
    model, layers = Model(file), infer_shapes(load_spec(file), CACHE)
    assert [layer.stats.parameters for layer in layers] == [layer.np for layer in model.model]
    assert totals(layers)[1] == flops(model)
    assert [layers[source].stride for source in layers[-1].row.sources] == model.stride.tolist()
