"""Names from outside: each builds what ours builds, or is refused with ours and how it differs; hints name no other."""

import inspect
import logging
import re

import pytest
import torch
import yaml
from small_models import with_block
from torch import nn

import models.head  # noqa: F401  fills the registry
from models import aliases, registry
from models.aliases import ALIASES, Alias, canonical, lookup, suggest, tags
from models.common import ECAAttention
from models.graph.architecture import Row, read_yaml, replace_block
from models.graph.lint import lint_yaml
from models.registry import Scale, find, register, registered
from models.yolo import Model
from models.zoo import __main__ as commands
from models.zoo import table as zoo
from utils.errors import ModelError
from utils.transfer.alignment import layer_signatures

ATTENTION = {name for name, entry in registered().items() if entry.attention}
BUILT = {name: alias for name, alias in {**tags(), **ALIASES}.items() if alias.builds}
REFUSED = {name: alias for name, alias in ALIASES.items() if not alias.builds}
ASKED_FOR = [
    "SE",
    "SELayer",
    "SE_Block",
    "ECA",
    "eca_layer",
    "CA",
    "CoordAttention",
    "GAM_Attention",
    "GAMAttention",
    "CrissCrossAttention",
    "EffectiveSELayer",
    "EffectiveSEModule",
    "DoubleAttention",
    "GlobalContextBlock",
    "PSA_s",
    "PSA_p",
    "BiFormer",
    "BiLevelRoutingAttention",
    "SwinTransformer",
    "C3STR",
    "simam_module",
    "S2Attention",
    "C3SE",
    "C3ECA",
    "C3CA",
    "C3CBAM",
    "CBAMC3",
    "C3_CBAM",
    "CBAMBottleneck",
    "CoT3",
    "BoT3",
]
GIVEN = {"DoubleAttentionLayer": [64, 3], "MobileNetV3Block": [64, 64]}  # what these blocks cannot be built without
WIDTH = 256  # channels; the official sa_layer has 64 groups of two halves


def built(block, args):
    """The block of a row for WIDTH channels, from the same random numbers each time."""
    entry = find(block)
    plan = entry.plan([WIDTH], 1, Scale(), args)
    torch.manual_seed(0)
    return entry.cls(*plan.args, **plan.keywords).eval(), (entry.bind(plan), plan.channels_out, plan.copies)


@pytest.mark.parametrize("name", sorted(BUILT))
def test_an_alias_that_builds_equals_our_block(name):
    alias = BUILT[name]
    args = GIVEN.get(alias.block, [])
    theirs, plan = built(name, args)
    keywords = dict(zip((each.name for each in find(alias.block).arguments), alias.args, strict=False))
    ours, expected = built(alias.block, [WIDTH, keywords] if alias.args else args)
    assert type(theirs) is registered()[alias.block].cls and plan == expected
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (theirs, ours)]
    assert shapes[0] == shapes[1]
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, WIDTH, 6, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))
    assert alias.block in alias.note() and alias.reason in alias.note() and alias.note().isascii()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_alias_of_another_form_is_refused(name):
    alias = REFUSED[name]
    assert name not in registered() and alias.reason
    with pytest.raises(ModelError) as caught:
        find(name)
    message = str(caught.value)
    assert repr(name) in message and alias.reason in message and "\n" not in message and message.isascii()
    assert "did you mean" not in message
    assert f"ours is {alias.block}" in message if alias.block else "no block of this project is the same" in message
    assert alias.block == "" or alias.block in registered()


def test_the_table_knows_the_names_of_tutorials_and_forks():
    assert [name for name in ASKED_FOR if name not in ALIASES] == []
    assert not set(ALIASES) & set(registered()) and len(ALIASES) > 150


def test_every_tag_of_the_zoo_is_a_name():
    variants = zoo.load_variants()
    for tag, variant in variants.items():
        if tag in REFUSED:
            assert tag in ("DANet", "C3CBAM")  # names of other papers' or forks' classes too
        elif tag not in registered():
            assert find(tag).name == variant.block and lookup(tag).note()
    assert {tag for tag in variants if tag not in tags() and tag not in ALIASES} <= set(registered())


@pytest.mark.parametrize("block", sorted(ATTENTION))
@pytest.mark.parametrize("form", ["C3_{}", "C3{}", "C2f_{}", "{}C3", "C3k2-{}"])
def test_a_block_in_a_c3_by_any_fork_s_name_is_refused_with_ours(block, form):
    name = form.format(block)
    with pytest.raises(ModelError) as caught:
        find(name)
    assert "ours is C3Attention" in str(caught.value) and f"[channels, {block}]" in str(caught.value)


# ---- the arithmetic of the originals, from their definitions ----


def test_eca_layer_has_three_taps_whatever_the_width():
    block, _ = built("eca_layer", [])
    (weight,) = block.state_dict().values()
    assert weight.shape == (1, 1, 3) and built("ECAAttention", [])[0].state_dict().popitem()[1].shape == (1, 1, 5)
    assert built("eca_layer", [5])[0].state_dict().popitem()[1].shape == (1, 1, 5)
    x = torch.randn(1, WIDTH, 4, 3)
    means = nn.functional.pad(x.mean((2, 3))[0], (1, 1))
    gates = torch.stack([torch.sigmoid((weight.flatten() * means[c : c + 3]).sum()) for c in range(WIDTH)])
    torch.testing.assert_close(block(x)[0], x[0] * gates[:, None, None])


def test_criss_cross_attention_makes_one_round():
    block, _ = built("CrissCrossAttention", [])
    block.gamma.data.fill_(0.5)
    x = torch.randn(1, WIDTH, 3, 4)
    q, k, v = (conv(x)[0] for conv in (block.query_conv, block.key_conv, block.value_conv))
    expected = x[0].clone()
    for row in range(3):
        for column in range(4):
            seen = [(other, column) for other in range(3)] + [(row, other) for other in range(4) if other != column]
            logits = torch.stack([q[:, row, column] @ k[:, i, j] for i, j in seen])
            weights = logits.softmax(0)
            for weight, (i, j) in zip(weights, seen, strict=True):
                expected[:, row, column] += 0.5 * weight * v[:, i, j]
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_selayer_and_effective_se_are_the_papers_gates():
    x = torch.randn(1, WIDTH, 4, 3)
    block, _ = built("SELayer", [])
    first, second = block.state_dict().values()
    assert first.shape[:2] == (WIDTH // 16, WIDTH) and len(block.state_dict()) == 2
    gate = torch.sigmoid(second.flatten(1) @ torch.relu(first.flatten(1) @ x.mean((2, 3))[0]))
    torch.testing.assert_close(block(x)[0], x[0] * gate[:, None, None])
    block, _ = built("EffectiveSELayer", [])
    weight, bias = block.state_dict().values()
    gate = ((weight.flatten(1) @ x.mean((2, 3))[0] + bias + 3) / 6).clamp(0, 1)
    torch.testing.assert_close(block(x)[0], x[0] * gate[:, None, None])


def test_arguments_that_mean_something_else_are_refused():
    with pytest.raises(
        ValueError, match="as EffectiveSELayer it takes no arguments after the channels, got .'hardsigmoid'"
    ):
        built("EffectiveSELayer", [WIDTH, "hardsigmoid"])
    with pytest.raises(ValueError, match="as CrissCrossAttention it takes no arguments"):
        built("CrissCrossAttention", [2])


# ---- hints ----


@pytest.mark.parametrize("name", sorted({*ALIASES, *tags()}))
def test_no_message_names_another_papers_block(name):
    """Of the attention blocks, the message of a name and those of its misspellings name the one that is meant."""
    alias = ALIASES.get(name) or tags()[name]
    for written in (name.lower(), name.upper(), name.replace("_", "-"), f"{name}Module", f"{name}_Attention"):
        with_other_letters = suggest(written, ATTENTION)
        if written in registered() or lookup(written):
            continue
        papers = {find(block).module for block in with_other_letters if block in ATTENTION}
        own = {find(block).module for block in ALLOWED.get(alias.block, (alias.block,)) if block in registered()}
        assert papers <= own, (written, with_other_letters)


ALLOWED = {  # block: blocks of one mechanism, which a hint may name together
    "": (),
    "A2": ("A2", "DoubleAttentionLayer"),
    "CoT": ("CoT", "CoTAttention"),
    "C3Attention": ("C3Attention", "CBAM"),  # CBAM-C3 is a tag of ours
}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("se", ["SEAttention"]),
        ("coord_att", ["CoordAtt"]),
        ("CMBA", ["CBAM"]),
        ("CBAN", ["CBAM"]),
        ("Shufle_Attention", ["ShuffleAttention"]),
        ("EMAModule", ["EMA"]),
        ("ECAA", []),
        ("EPA", []),
        ("GAN", []),
        ("SSSA", []),
        ("MHCA", []),
        ("CrossAtention", []),
        ("emau", []),
    ],
)
def test_a_misspelling_gets_a_hint_and_another_acronym_none(name, hint):
    assert suggest(name, ATTENTION) == hint
    with pytest.raises(ModelError, match="unknown block") as caught:
        find(name)
    hinted = set(re.split(r"[^\w]+", str(caught.value).partition("did you mean")[2].partition("?")[0])) & ATTENTION
    assert hinted == set(hint)


# ---- where names are given ----


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    caplog.set_level(logging.INFO, "yolo")
    return caplog


def test_a_row_builds_and_one_line_says_so(messages):
    torch.manual_seed(0)
    theirs = Model(with_block(-1, 1, "SELayer", [64, 8]))
    torch.manual_seed(0)
    assert messages.text.count("SELayer is built as SEAttention: ") == 1
    assert "layer 4 (backbone row 5) SELayer: " in messages.text
    ours = Model(with_block(-1, 1, "SEAttention", [64, 8]))
    assert messages.text.count("is built as") == 1
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
    signatures = [
        layer_signatures(model.yaml, {name: tuple(value.shape) for name, value in model.state_dict().items()})
        for model in (theirs, ours)
    ]
    assert signatures[0] == signatures[1] and signatures[0][4].inserted


def test_a_block_in_a_c3attention_may_be_given_by_an_alias(messages):
    model = Model(with_block(-1, 1, "C3Attention", [64, "eca_layer"]))
    (inner,) = [module for module in model.modules() if isinstance(module, ECAAttention)]
    assert [value.shape for value in inner.state_dict().values()] == [(1, 1, 3)]
    assert messages.text.count("eca_layer is built as ECAAttention with 3") == 1


def test_a_refused_row_names_file_row_and_ours(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(with_block(-1, 1, "GAM_Attention", [64, 64])))
    for read in (Model, lint_yaml):
        with pytest.raises(ModelError, match=r"mine.yaml:\d+: layer 4 .*GAM_Attention.*ours is GAM, .*no sigmoid"):
            read(path)


def test_a_plugins_block_of_that_name_comes_first(monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    register(name="SELayer")(nn.Identity)
    assert find("SELayer").cls is nn.Identity
    assert list(aliases.notes("SELayer", [], registered())) == []


def test_insert_replace_show_and_check_take_the_names(tmp_path, capsys):
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    assert commands.main(["insert", "SE", "--at", "before-sppf", "--into", "yolov5n.yaml", "--output", str(mine)]) == 0
    assert capsys.readouterr().out.startswith("SE is built as SEAttention: ")
    assert read_yaml(mine).rows[9] == Row(-1, 1, "SEAttention", [], "backbone")
    call = ["replace", "SELayer", "--at", "9", "--with", "eca_layer", "--into", str(mine), "--output", str(other)]
    assert commands.main(call) == 0
    assert "eca_layer is built as ECAAttention with 3" in capsys.readouterr().out
    assert read_yaml(other).rows[9].block == "eca_layer"
    for command, last in (("show", "eca_layer is built as"), ("check", "1 yaml: no mistakes found")):
        assert commands.main([command, str(other)]) == 0
        output = capsys.readouterr().out
        assert output.count(f"{other}:") >= 1 and output.count("eca_layer is built as ECAAttention") == 1
        assert last in output.splitlines()[-1]


@pytest.mark.parametrize("name", ["C3CBAM", "DANet", "BiFormer", "S2Attention", "EPA"])
def test_insert_refuses_without_writing(tmp_path, capsys, name):
    out = tmp_path / "out.yaml"
    assert commands.main(["insert", name, "--at", "neck", "--into", "yolov5n.yaml", "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and repr(name) in error and not out.exists()


def test_rows_of_an_alias_are_replaced_by_either_name():
    base = replace_block(read_yaml("yolov5n.yaml"), "C3", [2], "SELayer")
    assert replace_block(base, "SEAttention", [2], "CBAM").rows[2].block == "CBAM"
    assert replace_block(base, "SE", [2], "CBAM").rows[2].block == "CBAM"
    with pytest.raises(ModelError, match="layer 2 is SELayer, not ECA"):
        replace_block(base, "ECA", [2], "CBAM")


def test_the_table_of_variants_may_use_the_names(tmp_path):
    table = tmp_path / "zoo.yaml"
    table.write_text("Mine: {insert: SELayer, at: before-sppf, paper: 'A paper, https://example.org'}\n")
    (variant,) = zoo.load_variants(table).values()
    assert variant.block == "SEAttention" and variant.architecture().rows[9].block == "SEAttention"


def test_the_module_needs_no_torch():
    assert not re.search(r"^\s*(import|from) torch", inspect.getsource(aliases), re.MULTILINE)
    assert canonical("SE") == "SEAttention" and canonical("DANet") == "DANet" and canonical("C3") == "C3"
    assert Alias("a", "B", "c", "d", True, (3,)).note() == "a is built as B with 3 for what the row leaves out: d [c]"
