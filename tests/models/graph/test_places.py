"""Places by name: the layers they mean in many yamls, the connections they lead to, C3Attention, what is refused."""

import pytest
import yaml

from models.graph.architecture import find_yaml, read_yaml
from models.graph.places import PLACES, STAGE_BLOCKS, insert_at, layers_at
from models.graph.shapes import check_quadratic_attention, infer_shapes, load_spec
from models.registry import load_plugin, registered
from models.zoo import __main__ as commands
from models.zoo import table as zoo
from utils.errors import ModelError

BASE = zoo.MODELS / "yolov5l.yaml"
WHERE = {  # yaml: layers of before-sppf, after-sppf, backbone, neck, neck-p4p5, last-neck
    "yolov5l.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 23], [20, 23], [23]),
    "yolov5-bifpn.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 23], [20, 23], [23]),
    "yolov5-panet.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 23], [20, 23], [23]),
    "yolov5-p34.yaml": ([8], [9], [2, 4, 6, 8], [17, 20], [20], [20]),
    "yolov5-p2.yaml": ([8], [9], [2, 4, 6, 8], [21, 24, 27, 30], [24, 27, 30], [30]),
    "yolov5s6.yaml": ([10], [11], [2, 4, 6, 8, 10], [23, 26, 29, 32], [26, 29, 32], [32]),
    "yolov5-p7.yaml": ([12], [13], [2, 4, 6, 8, 10, 12], [29, 32, 35, 38, 41], [32, 35, 38, 41], [41]),
    "yolov5-fpn.yaml": ([8], [9], [2, 4, 6, 8], [10, 14, 18], [10, 14], [18]),  # its head goes from P5 to P3
    "yolov5s-transformer.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 23], [20, 23], [23]),
    "yolov5s-ghost.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 23], [20, 23], [23]),
    "yolov5_CBAM.yaml": ([9], [10], [2, 4, 6, 8], [18, 21, 24], [21, 24], [24]),  # attention stands there already
    "yolov5_CoTA.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 24], [20, 24], [24]),  # and here Detect reads it
    "yolov5_CBAM-neck.yaml": ([8], [9], [2, 4, 6, 8], [17, 21, 25], [21, 25], [25]),
    "yolov5_C3CBAM.yaml": ([8], [9], [2, 4, 6, 8], [17, 20, 23], [20, 23], [23]),
}
NAMES = ("before-sppf", "after-sppf", "backbone", "neck", "neck-p4p5", "last-neck")


@pytest.mark.parametrize("file", WHERE)
def test_the_layers_that_a_place_means(file):
    architecture = read_yaml(file)
    assert tuple(layers_at(architecture, name) for name in NAMES) == WHERE[file]


CONNECTIONS = [  # places, layers that hold the block, sources of the four Concats, of Detect
    (["before-sppf"], [9], [[-1, 6], [-1, 4], [-1, 15], [-1, 11]], [18, 21, 24]),
    (["after-sppf"], [10], [[-1, 6], [-1, 4], [-1, 15], [-1, 11]], [18, 21, 24]),
    (["neck"], [18, 22, 26], [[-1, 6], [-1, 4], [-1, 14], [-1, 10]], [18, 22, 26]),
    (["last-neck"], [24], [[-1, 6], [-1, 4], [-1, 14], [-1, 10]], [17, 20, 24]),
    (["neck-p4p5"], [21, 25], [[-1, 6], [-1, 4], [-1, 14], [-1, 10]], [17, 21, 25]),
    ([2], [3], [[-1, 7], [-1, 5], [-1, 15], [-1, 11]], [18, 21, 24]),
    ([4, 6, "after-sppf"], [5, 8, 12], [[-1, 8], [-1, 5], [-1, 17], [-1, 13]], [20, 23, 26]),
    ([4, 6, "before-sppf"], [5, 8, 11], [[-1, 8], [-1, 5], [-1, 17], [-1, 13]], [20, 23, 26]),
    (["before-sppf", "neck"], [9, 19, 23, 27], [[-1, 6], [-1, 4], [-1, 15], [-1, 11]], [19, 23, 27]),
    (["backbone"], [3, 6, 9, 12], [[-1, 9], [-1, 6], [-1, 18], [-1, 14]], [21, 24, 27]),
]


@pytest.mark.parametrize(("places", "blocks", "concats", "detect"), CONNECTIONS)
def test_the_connections_that_places_lead_to(places, blocks, concats, detect):
    rows = insert_at(read_yaml(BASE), "CBAM", places).rows
    assert [index for index, row in enumerate(rows) if row.block == "CBAM"] == blocks
    assert [row.sources for row in rows if row.block == "Concat"] == concats
    assert rows[-1].sources == detect
    assert insert_at(read_yaml(BASE), "CBAM", places[0] if len(places) == 1 else tuple(places)).rows == rows


def test_every_stage_of_the_registry_counts_as_one():
    assert {name for name, entry in registered().items() if entry.wiring_name == "stacked"} | {
        "C3Attention",
        "C3SPP",
    } == STAGE_BLOCKS


def test_the_older_order_of_the_backbone(tmp_path):
    """v5.0's: SPP before the last C3; and a 1x1 convolution between the neck's C3 and Detect."""
    text = (
        BASE.read_text()
        .replace("- [-1, 3, C3, [1024]]", "- [-1, 1, SPP, [1024, [5, 9, 13]]]")
        .replace("- [-1, 1, SPPF, [1024, 5]]", "- [-1, 3, C3, [1024]]")
        .replace("- [[17, 20, 23], 1, Detect", "- [-1, 1, Conv, [1024, 1, 1]]\n  - [[17, 20, 24], 1, Detect")
    )
    (tmp_path / "old.yaml").write_text(text)
    architecture = read_yaml(tmp_path / "old.yaml")
    assert [layers_at(architecture, name) for name in ("before-sppf", "after-sppf", "backbone", "neck")] == [
        [7],
        [8],
        [2, 4, 6, 9],
        [17, 20, 23],
    ]


@pytest.mark.parametrize(
    ("file", "place", "message"),
    [
        (
            "yolov3.yaml",
            "neck",
            "no place 'neck', which needs a C3 in the head that Detect reads; it has no named place",
        ),
        (
            "yolov3-spp.yaml",
            "in-c3",
            "no place 'in-c3', which needs a plain C3 in the backbone; it has before-sppf, after-sppf",
        ),
        ("yolov3-tiny.yaml", "before-sppf", "needs an SPP or SPPF layer; it has no named place"),
        ("yolov5l.yaml", "nekc", r"unknown place 'nekc' \(did you mean neck"),
        ("yolov5l.yaml", ["in-c3", "neck"], "in-c3 changes layers and cannot be combined"),
        ("yolov5l.yaml", [8, "before-sppf"], r"names a layer twice"),
        ("yolov5l.yaml", [40], "0 to 23"),
    ],
)
def test_places_that_a_yaml_does_not_have(file, place, message):
    with pytest.raises(ModelError, match=message) as caught:
        insert_at(read_yaml(file), "CBAM", place)
    assert file in str(caught.value) and "\n" not in str(caught.value)


def test_in_c3_keeps_channels_and_a_shortcut_that_was_written(tmp_path):
    result = insert_at(read_yaml(BASE), "CBAM", "in-c3")
    before = read_yaml(BASE).rows
    changed = [index for index, row in enumerate(result.rows) if row != before[index]]
    assert changed == [2, 4, 6, 8]
    assert [(row.repeats, row.block, row.args) for row in (result.rows[index] for index in changed)] == [
        (3, "C3Attention", [128, "CBAM"]),
        (6, "C3Attention", [256, "CBAM"]),
        (9, "C3Attention", [512, "CBAM"]),
        (3, "C3Attention", [1024, "CBAM"]),
    ]
    text = BASE.read_text().replace("C3, [128]", "C3, [128, False]").replace("C3, [256]", "C3, [256, true]")
    (tmp_path / "mine.yaml").write_text(text)
    result = insert_at(read_yaml(tmp_path / "mine.yaml"), "CBAM", ["in-c3"], [8, 3])
    assert [result.rows[index].args for index in (2, 4, 6)] == [
        [128, False, "CBAM", 8, 3],
        [256, True, "CBAM", 8, 3],
        [512, "CBAM", 8, 3],
    ]
    (tmp_path / "mine.yaml").write_text(BASE.read_text().replace("C3, [128]", "C3, [128, False, 2]"))
    with pytest.raises(
        ModelError, match=r"mine.yaml:\d+: layer 2 .*\[128, False, 2\] are more than \[channels, shortcut\]"
    ):
        insert_at(read_yaml(tmp_path / "mine.yaml"), "CBAM", "in-c3")
    rows = insert_at(read_yaml("yolov5s-transformer.yaml"), "CBAM", "in-c3").rows  # its last stage is a C3TR
    assert [row.args for row in rows if row.block == "C3Attention"] == [[128, "CBAM"], [256, "CBAM"], [512, "CBAM"]]


# ---- quadratic blocks ----


@pytest.mark.parametrize(
    ("place", "layer", "message"),
    [
        ("backbone", 3, r"stride 4 \(P2\): 4 x 25600 x 25600 numbers take 10.5 GB per image and 167.8 GB at batch 16"),
        ("neck", 18, r"stride 8 \(P3\): 4 x 6400 x 6400 numbers take 655 MB per image and 10.5 GB at batch 16"),
        ("in-c3", 2, r"stride 4 \(P2\): 4 x 25600 x 25600"),
        ("neck-p4p5", None, ""),
        ("after-sppf", None, ""),
    ],
)
def test_quadratic_blocks_on_large_maps_are_refused(place, layer, message):
    result = insert_at(read_yaml(zoo.MODELS / "yolov5n.yaml"), "MHSA", place)
    layers, new = infer_shapes(load_spec(result)), [index for index, row in enumerate(result.rows) if row.note]
    if layer is None:
        check_quadratic_attention(layers, new, "x")
        return
    with pytest.raises(
        ModelError, match=f"layer {layer} .*MHSA is of quadratic cost and would be at {message}.*, or mean it$"
    ):
        check_quadratic_attention(layers, new, "mean it")


def test_several_bottlenecks_hold_several_maps():
    layers = infer_shapes(load_spec(insert_at(read_yaml(BASE), "MHSA", "in-c3")))
    assert [sum(heads for _, heads in layers[index].stats.attention_maps) for index in (2, 4, 6, 8)] == [12, 24, 36, 12]
    assert layers[8].attention_map_bytes == 12 * 400**2 * 4


def test_the_command_refuses_without_force(tmp_path, capsys):
    call = ["insert", "MHSA", "--at", "neck", "--into", "yolov5n.yaml", "--output", str(tmp_path / "out.yaml")]
    assert commands.main(call) == 2
    output = capsys.readouterr().err
    assert (
        "not written: layer 18 MHSA" in output
        and "655 MB per image" in output
        and "--force" in output
        and output.count("\n") == 1
    )
    assert not (tmp_path / "out.yaml").exists()
    assert commands.main([*call, "--force"]) == 0
    assert "--at neck --force --into" in (tmp_path / "out.yaml").read_text()


def test_the_table_refuses_without_force(tmp_path):
    path = tmp_path / "zoo.yaml"
    path.write_text("Mine: {insert: MHSA, at: backbone, paper: q}\n")
    with pytest.raises(ModelError, match="zoo.yaml: variant Mine: layer 3 MHSA.*10.5 GB.*force: true"):
        zoo.check_costs(path)
    path.write_text("Mine: {insert: MHSA, at: backbone, force: true, paper: q}\n")
    zoo.check_costs(path)
    zoo.check_costs()  # the shipped table


# ---- the command line ----


@pytest.mark.parametrize(("place", "after"), [("before-sppf", "10"), ("neck", "23 26 29 32"), ("last-neck", "32")])
def test_names_and_numbers_lead_to_one_yaml(tmp_path, place, after):
    texts = []
    for flags in (["--at", place], ["--after", *after.split()]):
        assert (
            commands.main(["insert", "CBAM", *flags, "--into", "yolov5n6.yaml", "--output", str(tmp_path / "out.yaml")])
            == 0
        )
        texts.append(yaml.safe_load((tmp_path / "out.yaml").read_text()))
    assert texts[0] == texts[1]


def test_replace_takes_the_places_of_c3s(tmp_path, capsys):
    call = ["replace", "C3", "--with", "CBAM", "--into", "yolov5n.yaml", "--output", str(tmp_path / "out.yaml"), "--at"]
    assert commands.main([*call, "backbone"]) == 0
    variant = read_yaml(zoo.MODELS / "yolov5n_CBAM-C3.yaml")
    assert read_yaml(tmp_path / "out.yaml").rows == tuple(row for row in variant.rows)
    assert commands.main([*call, "in-c3"]) == 2 and "in-c3 is a place for insert" in capsys.readouterr().err


PLUGIN = """
from models.layers import C3
from models.registry import register


@register("stacked")
class MyStage(C3):
    pass
"""


def test_a_users_own_stage_counts_as_a_c3(tmp_path):
    (tmp_path / "stage.py").write_text(PLUGIN)
    text = find_yaml("yolov5n.yaml").read_text()
    text = text.replace("C3, [128]", "MyStage, [128]").replace("C3, [256, False]", "MyStage, [256, False]")
    (tmp_path / "mine.yaml").write_text(text)
    load_plugin(tmp_path / "stage.py")
    call = [
        "insert",
        "CBAM",
        "--plugin",
        str(tmp_path / "stage.py"),
        "--into",
        str(tmp_path / "mine.yaml"),
        "--output",
        str(tmp_path / "out.yaml"),
        "--at",
        "backbone",
        "neck",
    ]
    assert commands.main(call) == 0
    rows = read_yaml(tmp_path / "out.yaml").rows
    assert [index for index, row in enumerate(rows) if row.block == "CBAM"] == [3, 6, 9, 12, 22, 26, 30]
    assert layers_at(read_yaml(tmp_path / "mine.yaml"), "neck") == [20, 23]  # without the plugin there is no stage


def test_every_place_is_explained():
    assert all(PLACES.values()) and set(PLACES) == {*NAMES, "in-c3"}


@pytest.mark.parametrize(
    ("written", "neck"),
    [
        ("[1024, 1, 1]", [17, 20, 23]),
        ("[1024, 1, {stride: 1}]", [17, 20, 23]),
        ("[1024, 3, 2]", [17, 20]),  # what is read through a stride is no stage of Detect's level
        ("[1024, 3, {stride: 2}]", [17, 20]),
        ("[1024, {kernel: 3, stride: 2}]", [17, 20]),
    ],
)
def test_a_stride_is_read_by_position_and_by_keyword(tmp_path, written, neck):
    head = f"- [-1, 1, Conv, {written}]\n  - [[17, 20, 24], 1, Detect"
    (tmp_path / "one.yaml").write_text(BASE.read_text().replace("- [[17, 20, 23], 1, Detect", head))
    assert layers_at(read_yaml(tmp_path / "one.yaml"), "neck") == neck
