"""What the numbers of a row become: widths, keywords, ranges of all blocks, and forms with two meanings."""

import inspect
import logging

import pytest
import torch
import yaml
from blocks.instances import BLOCKS, CASES
from small_models import CACHE, with_block

from models.arguments import ANY, KERNEL, REDUCTION, RowForm, infer_arguments
from models.common import SKAttention
from models.graph.architecture import find_yaml, read_yaml, render_yaml
from models.graph.lint import lint_yaml
from models.graph.shapes import format_graph, infer_shapes, input_channels, load_spec
from models.graph.spec import read_spec
from models.registry import Scale, find, register, registered
from models.yolo import Model
from models.zoo import __main__ as commands
from models.zoo.table import MODELS
from utils.checkpoint import checkpoint_of, load_models, write_checkpoint
from utils.errors import ModelError
from utils.files import ROOT

ONES = Scale()
BLOCK_NAMES = sorted(BLOCKS)
WIDTH = 64
IMPLAUSIBLE = {  # kind -> a value that is outside its range on WIDTH channels
    "reduction": WIDTH,
    "kernel": 33,
    "kernels": [3, 33],
    "groups": 2 * WIDTH,
    "heads": 2 * WIDTH,
    "width": WIDTH + 1,
    "window": 65,
    "side of a table": 257,
    "count": 17,
    "dilation": 17,
    "dilations": [17],
    "stride": 9,
    "epsilon": 5.0,
    "share": 1.5,
    "factor": 17,
    "summand": 17,
    "flag": 3,
    "memory": 4097,
    "least length": 1025,
    "agents": 1025,
    "areas": 65,
    "regions": 65,
    "extent": 128,
    "pooling": "max",
    "fusion": "channel_max",
    "shift": 65,
    "positions": 0,
    "size": [0, 7],
    "frequencies": [[0, 256]],
    "activation": "Tanh",
}


def block_yaml(name, args):
    """The content of a yaml whose layer 4 is the block, on WIDTH channels."""
    return with_block(-1, 1, name, args)


def plan(name, args, channels=1024, scale=ONES):
    return find(name).plan([channels], 1, scale, args)


def became(name, args, channels=1024, scale=ONES):
    """What each argument of a row is."""
    return find(name).bind(plan(name, args, channels, scale))


def refusal(name, args, channels=1024):
    with pytest.raises(ValueError) as error:
        plan(name, args, channels)
    return str(error.value)


# ---- widths ----


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
@pytest.mark.parametrize("name", [name for name in BLOCK_NAMES if name != "DoubleAttentionLayer"])
def test_a_second_width_is_the_output_width_and_is_dropped(name, width):
    scale = Scale(width=width)
    arriving = scale(256)
    expected = plan(name, [], arriving, scale)
    assert plan(name, [256, 256], arriving, scale) == plan(name, [arriving, arriving], arriving, scale) == expected
    assert expected.channels_out == arriving


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("CBAM", [1024, 512]),  # the first as at width 1.0, the second as it really is
        ("CBAM", [512, 1024]),
        ("SEAttention", [1024, 512]),
        ("SimAM", [1024, 512]),
        ("CoordAtt", [1024, 512]),
    ],
)
def test_the_two_widths_may_be_the_nominal_and_the_real_one(name, args):
    assert plan(name, args, 512, Scale(width=0.5)) == plan(name, [], 512, Scale(width=0.5))


def test_a_number_that_is_plausible_stays_though_it_is_the_width_that_arrives():
    """[256, 128] means 128 memory slots at every scale, at s too, where 128 channels arrive."""
    assert [became("ExternalAttention", [256, 128], Scale(width=w)(256), Scale(width=w))["S"] for w in (0.5, 1)] == [
        128,
        128,
    ]
    assert became("SEAttention", [64, 16], 64) == {"reduction": 16}


def test_a_width_that_does_not_leave_is_not_read_as_a_reduction():
    text = refusal("SEAttention", [1024, 512])
    assert "512 as output width: write []" in text and "512 as reduction: write [{reduction: 512}]" in text
    assert became("SEAttention", [{"reduction": 512}]) == {"reduction": 512}


# ---- keywords ----


def test_rows_take_keywords():
    assert became("CBAM", [{"kernel_size": 5}]) == {"ratio": 16, "kernel_size": 5}
    assert became("CBAM", [1024, 8, {"kernel_size": 5}]) == {"ratio": 8, "kernel_size": 5}
    assert became("ACmix", [1024, {"head": 8}])["head"] == 8
    assert became("C2PSA", [{"e": 0.25}]) == {"e": 0.25, "heads": None}
    assert plan("DoubleAttentionLayer", [128, {"c_n": 5, "reconstruct": True}], 64).channels_out == 64
    assert plan("DoubleAttentionLayer", [128, 3, {"reconstruct": True}], 64).args == (64, 128, 3, True)
    assert plan("Conv", [64, {"kernel": 3, "stride": 2}], 3).keywords == {"kernel": 3, "stride": 2}
    assert plan("nn.Upsample", [{"scale_factor": 2}], 8).keywords == {"scale_factor": 2}


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("CBAM", [{"kernal_size": 7}], "no argument is called 'kernal_size' (did you mean kernel_size?)"),
        ("CBAM", [{"c1": 7}], "its rows take ratio, kernel_size"),
        ("ESE", [{"reduction": 7}], "its rows take no arguments"),
        ("CBAM", [8, {"ratio": 4}], "ratio is given twice: 8 and ratio: 4"),
        ("CBAM", [{"ratio": 4}, 7], "a mapping of keywords such as {kernel_size: 7} must be the last argument"),
        ("CBAM", [{7: 4}], "a keyword is a name"),
        ("DoubleAttentionLayer", [128, 3, {"c_n": 4}], "'c_n' is out of place or given twice"),
        ("DoubleAttentionLayer", [128, 3, {"cn": 4}], "'cn' is no argument"),
    ],
)
def test_keywords_that_do_not_fit_are_one_line(name, args, message):
    text = refusal(name, args)
    assert message in text and "\n" not in text and len(text) < 300


def test_a_number_beyond_all_limits_is_refused_as_a_keyword_too():
    with pytest.raises(ModelError, match="are at most"):
        read_spec(block_yaml("ExternalAttention", [{"S": 10**9}]))


def test_keyword_only_arguments_of_a_plugin_are_keywords(restored_registry):
    @register()
    class Own(torch.nn.Module):
        def __init__(self, channels, *, strength=2.0):
            super().__init__()
            self.strength = strength

    entry = find("Own")
    own = entry.plan([8], 1, ONES, [{"strength": 3.0}])
    assert Own(*own.args, **own.keywords).strength == 3.0 and entry.bind(own) == {"strength": 3.0}


@pytest.fixture
def restored_registry():
    from models import registry

    before = registered()
    yield
    registry._entries.clear()
    registry._entries.update(before)


def test_keywords_in_a_yaml_build_the_network_that_positions_build(tmp_path):
    positional, named = (block_yaml("CBAM", args) for args in ([8, 5], [{"ratio": 8, "kernel_size": 5}]))
    torch.manual_seed(0)
    one = Model(positional).state_dict()
    torch.manual_seed(0)
    two = Model(named).state_dict()
    assert list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)
    path = tmp_path / "named.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in named.items() if key != "yaml_file"}))
    (tmp_path / "again.yaml").write_text(render_yaml(read_yaml(path)))
    again = read_spec(tmp_path / "again.yaml")
    assert [row.args for row in again.rows if row.block == "CBAM"] == [({"ratio": 8, "kernel_size": 5},)]


def test_the_values_of_keywords_are_read_like_other_arguments():
    content = block_yaml("ExternalAttention", [{"S": "nc"}])
    row = next(row for row in read_spec(content).rows if row.block == "ExternalAttention")
    assert row.args == ({"S": content["nc"]},)


# ---- two meanings ----


def test_the_kernel_of_the_forks_and_the_ratio_of_the_tutorials():
    for args in ([1024, 7], [1024, 1024, 7], [7]):
        text = refusal("CBAM", args)
        assert "7 as ratio: write [{ratio: 7}]" in text and "7 as kernel_size: write [{kernel_size: 7}]" in text
    assert became("CBAM", [1024, 16]) == {"ratio": 16, "kernel_size": 7}  # no kernel is even
    assert became("CBAM", [1024, 33]) == {"ratio": 33, "kernel_size": 7}  # nor that large
    assert became("CBAM", [1024, 16, 7]) == {"ratio": 16, "kernel_size": 7}
    assert became("CBAM", [1024, 5, {"ratio": 8}]) == {"ratio": 8, "kernel_size": 5}  # only one meaning is left


@pytest.mark.parametrize(
    ("name", "args", "parts"),
    [
        ("ShuffleAttention", [1024, 16], ("16 as G: write [{G: 16}]", "16 as reduction", "write []")),
        ("ShuffleAttention", [1024, 16, 8], ("another meaning elsewhere", "write [{G: 8}]")),
        ("GAM", [1024, 1024, False], ("False as group", "[{groups: 1}] the dense one")),
        ("GAM", [1024, True, 8], ("True as group and 8 as rate", "write [{rate: 8}]")),
        ("FcaNet", [1024, 7, 7], ("7 as reduction and 7 as num_freq", "7 as dct_h and 7 as dct_w")),
        ("Agent", [1024, 400, 8], ("400 as num_patches and 8 as num_heads", "write [{num_heads: 8}]")),
        ("LiteMLA", [1024, 1024, 8], ("8 as dim: write [{dim: 8}]", "8 as heads")),
        ("EPSA", [1024, 1024, [3, 5, 7, 9], 1], ("1 as stride", "write [{conv_kernels: [3, 5, 7, 9]}]")),
    ],
)
def test_orders_of_other_implementations_are_refused_with_every_reading(name, args, parts):
    text = refusal(name, args)
    assert all(part in text for part in parts) and "\n" not in text


def test_an_order_of_which_all_numbers_are_ours_is_read_if_ours_is_implausible():
    assert became("DAttentionBaseline", [1024, [20, 20]])["q_size"] == [20, 20]
    assert became("DAttentionBaseline", [1024, [20, 20], 8, 4])["n_groups"] == 4
    assert became("MSDA", [1024, 8, False])["num_heads"] == 8
    assert became("FcaNet", [1024, 16])["reduction"] == 16  # the original needs both of its first numbers


def test_what_a_refusal_says_to_write_builds_what_it_says():
    for name, args in (("CBAM", [1024, 7]), ("ShuffleAttention", [1024, 16]), ("LiteMLA", [1024, 8])):
        text = refusal(name, args)
        for written in (part.split(" ")[0] + "".join(part.split(" ")[1:]) for part in text.split("write ")[1:]):
            again = yaml.safe_load(written.split(";")[0].replace(":", ": ").split("(")[0])
            assert find(name).cls(*plan(name, again).args, **plan(name, again).keywords)


def test_the_circulating_form_of_sk_is_named_where_ours_is_built():
    described = find_description(block_yaml("SKAttention", [WIDTH]))
    assert "forks' dense ones, 84 C^2 parameters, are {kernels: [1, 3, 5, 7]}" in described
    count = sum(parameter.numel() for parameter in SKAttention(512, [1, 3, 5, 7]).parameters())
    assert count == 22_110_240 and 84 * 512**2 == 22_020_096
    assert "forks" not in find_description(block_yaml("SKAttention", [{"kernels": [1, 3, 5, 7]}]))


@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_what_is_said_of_other_implementations_names_arguments_that_exist(name):
    form = find(name).form
    own = {argument.name for argument in find(name).arguments}
    theirs = {each for order in form.orders for each in order}
    assert set(form.elsewhere) <= own | theirs and set(form.kinds) <= own | theirs


# ---- ranges ----


def arguments():
    return [(name, argument) for name in BLOCK_NAMES for argument in find(name).arguments]


def test_every_argument_of_every_block_has_a_kind():
    assert len(BLOCK_NAMES) == 61 and len(arguments()) > 100
    assert [(name, argument.name) for name, argument in arguments() if argument.kind is ANY] == []


@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_the_arguments_are_those_of_the_constructor_that_the_wiring_leaves(name):
    entry = find(name)
    parameters = list(inspect.signature(entry.cls).parameters)
    wired = len(entry.wiring([WIDTH], 1, ONES, CASES[name].args(WIDTH)).args) - len(CASES[name].args(WIDTH))
    wired += name == "DoubleAttentionLayer"  # its first number is a width
    assert [argument.name for argument in entry.arguments] == parameters[wired:]


@pytest.mark.parametrize("channels", [64, 128, 320, 1024])
@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_defaults_are_in_their_ranges(name, channels):
    for argument in find(name).arguments:
        if argument.default not in (None, inspect.Parameter.empty):
            assert argument.kind.fits(argument.default, channels), argument


def row_args(name, keywords):
    return [*CASES[name].args(WIDTH), keywords] if name != "DoubleAttentionLayer" else [WIDTH, {"c_n": 3, **keywords}]


WIDE_UNFOLD = ("MSDA", "ACmix", "CoT", "LSConv")  # k^2 copies of the map, which take seconds at 33


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        pytest.param(
            name,
            argument,
            id=f"{name}-{argument.name}",
            marks=pytest.mark.slow if name in WIDE_UNFOLD and argument.kind is KERNEL else (),
        )
        for name, argument in arguments()
    ],
)
def test_zoo_check_flags_each_value_outside_its_range(name, argument):
    value = IMPLAUSIBLE[argument.kind.name]
    assert not argument.fits(value, WIDTH)
    problems = flagged(block_yaml(name, row_args(name, {argument.name: value})))
    assert len(problems) == 1 and " layer 4 " in problems[0], problems
    assert argument.name in problems[0] or name in problems[0]


@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_zoo_check_passes_defaults(name):
    assert flagged(block_yaml(name, CASES[name].args(WIDTH))) == []


def flagged(content):
    """What `zoo check` prints of a yaml's implausible numbers, or why the block refuses them itself."""
    try:
        return [str(finding) for finding in lint_yaml(content, CACHE) if "plausible" in str(finding)]
    except ModelError as error:
        return [str(error)]


def find_description(content):
    lines = format_graph(load_spec(content), infer_shapes(load_spec(content), CACHE)).splitlines()
    return next(line for line in lines if line.startswith("layer 4 "))


def test_the_message_names_value_range_and_remedy():
    (problem,) = flagged(block_yaml("CBAM", [{"ratio": 64}]))
    assert problem.endswith(
        "CBAM: ratio 64 is no plausible reduction, which is a whole number below the 64 channels, from 1 to 63; "
        "leave it out for the default, which is 16, or name what is meant: {ratio: ...}"
    )


def test_kinds_are_inferred_from_name_and_default():
    class Own(torch.nn.Module):
        def __init__(self, channels, ratio=16, share: float = 0.5, flag=True, kernel_size=3, other=None, ratio2=0.25):
            super().__init__()

    kinds = {argument.name: argument.kind for argument in infer_arguments(Own, 1, {})}
    assert kinds["ratio"] is REDUCTION and kinds["kernel_size"] is KERNEL and kinds["flag"].name == "flag"
    assert kinds["other"] is ANY and kinds["ratio2"] is ANY and kinds["share"] is ANY
    assert infer_arguments(Own, 1, {"ratio": KERNEL})[0].kind is KERNEL and RowForm().orders == ()

    class Fraction(torch.nn.Module):
        def __init__(self, channels, ratio=0.25):
            super().__init__()

    assert infer_arguments(Fraction, 1, {})[0].kind is ANY  # a share, no whole number


# ---- what is printed ----


def test_one_line_per_attention_row_at_build(caplog):
    content = block_yaml("CBAM", [64, 64])
    with caplog.at_level(logging.INFO):
        Model(content)
    assert [line for line in caplog.messages if line.startswith("layer ")] == ["layer 4 CBAM: ratio 16, kernel_size 7"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Model(block_yaml("CBAM", [{"ratio": 64}]))
    assert [line for line in caplog.messages if line.startswith("layer ")] == ["layer 4 CBAM: ratio 64, kernel_size 7"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "layer 4 (backbone row 5) CBAM: ratio 64 is no plausible reduction" in warning


def test_show_and_check_print_it(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    text = find_yaml("yolov5n_C3CBAM.yaml").read_text().replace("[128, CBAM]", "[128, CBAM, {ratio: 40}]")
    path.write_text(text)
    assert commands.main(["show", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "layer 2 C3Attention CBAM: ratio 40, kernel_size 7" in shown
    assert "layer 8 C3Attention CBAM: ratio 16, kernel_size 7" in shown
    assert commands.main(["check", str(path)]) == 1
    assert "layer 2 (backbone row 3) C3Attention: ratio 40 is no plausible reduction" in capsys.readouterr().out


def test_insert_prints_what_the_numbers_became(tmp_path, capsys):
    output = str(tmp_path / "mine.yaml")
    command = ["insert", "CBAM", "--at", "before-sppf", "--into", "yolov5n.yaml", "--output", output]
    assert commands.main([*command, "--args", "[{kernel_size: 3}]"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "layer 9 CBAM: ratio 16, kernel_size 3"
    assert commands.main([*command, "--args", "[1024, 7]"]) == 2
    assert "not written" in (error := capsys.readouterr().err) and "write [{kernel_size: 7}]" in error


def test_widths_of_a_row_are_printed_too():
    assert find_description(block_yaml("DoubleAttentionLayer", [WIDTH, 3])) == (
        "layer 4 DoubleAttentionLayer: c_m 64, c_n 3, reconstruct False"
    )
    assert find_description(block_yaml("ESE", [WIDTH])) == "layer 4 ESE: no arguments"


# ---- rows that were there before ----


@pytest.mark.parametrize(
    "path", sorted([*MODELS.glob("yolov5l*.yaml"), *MODELS.glob("hub/*5*.yaml")]), ids=lambda path: path.name
)
def test_rows_of_shipped_yamls_are_read_as_the_wiring_alone_reads_them(path):
    spec = load_spec(path)
    layers = infer_shapes(spec, CACHE)
    for layer in layers:
        given = (input_channels(layer.row, spec, layers), layer.repeats, spec.scale, layer.row.args)
        assert layer.entry.plan(*given) == layer.entry.wiring(*given)


def test_a_checkpoint_does_not_repeat_what_its_training_said(caplog, tmp_path):
    model = Model(str(ROOT / "models" / "yolov5n_CBAM.yaml"), nc=2)
    file = write_checkpoint(checkpoint_of(model, names=["a", "b"]), tmp_path / "cbam.pt")
    with caplog.at_level(logging.INFO):
        load_models([file], torch.device("cpu"))
    assert not [line for line in caplog.messages if line.startswith("layer ")]
