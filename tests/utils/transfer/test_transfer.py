"""Transfer of weights across inserted layers: alignment, copying, freezing by the base model's indices."""

import copy
import csv
import dataclasses
import functools

import pytest
import torch
from small_models import BASE, content, small

from models.graph.architecture import insert_block, read_yaml, replace_block
from models.yolo import Model
from models.zoo import table as zoo
from utils.checkpoint import Checkpoint, checkpoint_of, read_checkpoint
from utils.config import TrainConfig
from utils.config.flags import from_options
from utils.engine.layer_choice import freeze_layers
from utils.errors import CheckpointError, ConfigError
from utils.transfer.__main__ import main
from utils.transfer.alignment import LayerSignature, align_layers, base_indices, layer_signatures, pairing_score
from utils.transfer.pretrained import plan_transfer, transfer_weights

VARIANTS = zoo.load_variants()
SCALES = ("n", *(pytest.param(scale, marks=pytest.mark.slow) for scale in "smlx"))


@functools.cache
def described(name):
    """The content and the shapes of a yaml in models/, built without weights if these are many."""
    with torch.device("cpu" if name.startswith("yolov5n") else "meta"):
        model = Model(name)
    return model.yaml, {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def taken(model, source="base.pt"):
    return dataclasses.replace(checkpoint_of(model), source=source)


def outputs(model):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.eval()(image.to(next(model.parameters())))[0]


# ---- every variant ----


def inserts_only(variant):
    return "insert" in variant.edits and "replace" not in variant.edits and "base" not in variant.edits


INSERTED = sorted(name for name, variant in VARIANTS.items() if inserts_only(variant))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", INSERTED)
def test_every_tensor_of_the_base_is_transferred(name, scale):
    base, variant = described(f"yolov5{scale}.yaml"), described(f"yolov5{scale}_{name}.yaml")
    report = plan_transfer(*variant, *base)
    assert report.transferred == len(base[1]) and report.used_share == 1.0
    assert not [row for row in report.rows if row.status == "dropped"]
    back = plan_transfer(*base, *variant)
    assert back.transferred == back.total == len(base[1])
    for row in report.rows:  # nothing but attention is new
        if row.status == "new":
            assert "no counterpart" in row.reason or ".attention." in row.target


@pytest.fixture(scope="module")
def official(real):
    """The official yolov5n: its checkpoint and its outputs."""
    checkpoint = read_checkpoint(real("weights/yolov5n.pt"))
    base = Model(checkpoint.yaml)
    base.load_state_dict(checkpoint.state)
    return checkpoint, outputs(base)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_with_its_attention_bypassed_a_variant_is_yolov5n(name, official):
    """Identity start: the same decoded outputs as yolov5n's, bit for bit, wherever the base's layers are all there."""
    if not keeps_the_base(name):
        pytest.skip("the variant changes the width or replaces layers of the base")
    checkpoint, expected = official
    variant = Model(f"yolov5n_{name}.yaml", attention_start="identity")
    report = transfer_weights(variant, checkpoint)
    assert report.used_share == 1.0 and report.transferred == len(checkpoint.state)
    # a closed gate adds zero, which rounds nothing, and the base's layers run the same kernels on the same numbers
    assert torch.equal(outputs(variant), expected)


def started(name, seed=3):
    torch.manual_seed(seed)
    return Model(f"yolov5n{name}.yaml")


@pytest.fixture(scope="module")
def base_starts():
    """yolov5n from the seed of `started`, as a state dict, and from another."""
    return started("").state_dict(), started("", seed=4)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_with_one_seed_the_base_layers_start_alike_whatever_was_inserted(name, base_starts):
    """Or variants would differ by their heads' chance starts too, seed by seed."""
    if not keeps_the_base(name):
        pytest.skip("the variant changes the width or replaces layers of the base")
    expected, other = base_starts
    base = copy.deepcopy(other)
    report = transfer_weights(base, taken(started(f"_{name}")))
    assert not report.new_tensors
    found = base.state_dict()
    assert [key for key, tensor in expected.items() if not torch.equal(found[key], tensor)] == []


@functools.cache
def keeps_the_base(name):
    """Whether a variant is its base with same-width attention put in between or inside C3s."""
    architecture = read_yaml(f"yolov5n_{name}.yaml")
    rows, indices = architecture.rows, base_indices(content(architecture))
    kept = [row.block for row, index in zip(rows, indices, strict=True) if index is not None]
    keeps_width = not any(row.block == "DoubleAttentionLayer" for row in rows)
    return keeps_width and [{"C3Attention": "C3"}.get(block, block) for block in kept] == [
        row.block for row in BASE.rows
    ]


# ---- alignment ----


@pytest.mark.parametrize("after", [[0], [9], [2, 4, 6], [8, 9, 17], [17, 20, 23][:2]])
def test_insertions_anywhere_shift_indices_and_lose_nothing(after):
    base, variant = small(BASE, seed=1), small(insert_block(BASE, "SEAttention", after))
    report = transfer_weights(variant, taken(base))
    assert report.used_share == 1.0 and report.transferred == len(base.state_dict())
    moved_to = [index for index, base in enumerate(base_indices(variant.yaml)) if base is not None]
    for key, tensor in base.state_dict().items():
        _, index, rest = key.split(".", 2)
        assert torch.equal(variant.state_dict()[f"model.{moved_to[int(index)]}.{rest}"], tensor), key
    again = small(BASE, seed=2)
    assert transfer_weights(again, taken(variant)).transferred == len(again.state_dict())
    assert torch.equal(outputs(again), outputs(base))


def test_weights_go_into_the_bottlenecks_of_a_c3_with_attention_and_back():
    base = small(BASE, seed=1)
    inside = small(replace_block(BASE, "C3", [2, 4, 6, 8], "C3Attention", [[c, "CBAM"] for c in (128, 256, 512, 1024)]))
    report = transfer_weights(inside, taken(base))
    assert report.used_share == 1.0
    assert all(".attention." in name for name in report.new_tensors)
    back = small(BASE, seed=3)
    transfer_weights(back, taken(inside))
    assert torch.equal(outputs(back), outputs(base))


def test_the_key_alone_would_have_lost_most():
    base, variant = small(BASE, seed=1), small(insert_block(BASE, "CBAM", [2]))
    by_key = transfer_weights(variant, taken(base), mode="keys")
    assert by_key.used_share < 0.2 < transfer_weights(variant, taken(base)).used_share


def test_another_number_of_classes_leaves_the_head_as_it_was(caplog):
    base, other = small(BASE), small(insert_block(BASE, "CBAM", [8]), nc=7)
    report = transfer_weights(other, taken(base))
    head = {f"model.25.m.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")}
    assert {name for name in report.new_tensors if ".25." in name} == head
    row = next(row for row in report.rows if row.target == "model.25.m.0.weight")
    assert row.status == "new" and "shape differs from the checkpoint's 27x" in row.reason
    dropped = [row for row in report.rows if row.status == "dropped"]
    assert len(dropped) == 6 and all("another number of classes" in row.reason for row in dropped)


def test_five_strides_become_six():
    base, six = described("yolov5n.yaml"), described("yolov5n6.yaml")
    report = plan_transfer(*six, *base)
    assert 0.7 < report.used_share < 1
    pairs = align_layers(layer_signatures(*base), layer_signatures(*six))
    blocks = [layer.block for layer in layer_signatures(*six)]
    assert all(blocks[target] == layer_signatures(*base)[source].block for target, source in pairs.items())
    assert [pairs[index] for index in range(7)] == list(range(7))  # the backbone up to P4 is the same


def test_a_checkpoint_of_another_width_is_not_scattered_over_chance_shapes(caplog):
    report = plan_transfer(*described("yolov5s.yaml"), *described("yolov5n.yaml"))
    assert report.used_share < 0.01


def test_fused_weights_fill_an_unfused_variant():
    base = small(BASE, seed=1)
    expected = outputs(base.double())
    base.fuse()
    variant = small(insert_block(BASE, "CBAM", [8]), attention_start="identity").double()
    report = transfer_weights(variant, taken(base))
    assert report.used_share == 1.0
    assert {row.reason for row in report.rows if row.target.endswith("0.bn.weight")} >= {
        "batch norm that the checkpoint has folded into its convolution"
    }
    torch.testing.assert_close(outputs(variant), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("first", ["plain", "identity"])
def test_plain_and_identity_variants_exchange_weights(first, caplog):
    second = {"plain": "identity", "identity": "plain"}[first]
    architecture = insert_block(replace_block(BASE, "C3", [8], "C3Attention", [1024, "CBAM"]), "CBAM", [9])
    source, target = (
        small(architecture, attention_start=first, seed=1),
        small(architecture, attention_start=second, seed=2),
    )
    report = transfer_weights(target, taken(source))
    gates = {"model.10.gate", "model.8.m.0.attention.gate"}
    assert set(report.new_tensors) == (gates if second == "identity" else set())
    assert {row.source for row in report.rows if row.status == "dropped"} == (gates if first == "identity" else set())
    ours, theirs = target.state_dict(), source.state_dict()
    keys = ["model.10.block.spatial_attention.conv.weight", "model.8.m.0.attention.block.spatial_attention.conv.weight"]
    for key in keys:
        plain = key.replace("block.", "", 1)
        assert torch.equal(ours[key if second == "identity" else plain], theirs[key if first == "identity" else plain])
    if second == "identity":
        assert {row.reason for row in report.rows if row.status == "new"} == {"gate that starts at zero"}
    # a trained gate left away, or a zero one put before trained attention, makes another network: that is a warning
    assert f"--attention-start {first} would" in caplog.text and "does not start as the checkpoint's" in caplog.text


@pytest.mark.parametrize("start", ["plain", "identity"])
def test_no_warning_about_gates_if_the_network_starts_as_the_checkpoint(start, caplog):
    architecture = insert_block(replace_block(BASE, "C3", [8], "C3Attention", [1024, "CBAM"]), "CBAM", [9])
    target = small(architecture, attention_start=start)
    for source in (small(architecture, attention_start=start, seed=1), small(BASE, seed=1)):
        transfer_weights(target, taken(source))
    transfer_weights(small(BASE), taken(target))
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize(
    "name", ["foo", "model", "model.3", "model.x.weight", "model.-1.weight", "model.01.weight", "model.99.weight"]
)
def test_a_tensor_of_no_layer_is_refused_by_its_name(name):
    base = small(BASE)
    checkpoint = taken(base)
    with pytest.raises(CheckpointError, match=f"{name} belongs to no layer"):
        transfer_weights(base, dataclasses.replace(checkpoint, state={**checkpoint.state, name: torch.zeros(2)}))


def brute_force(source, target, score):
    """The score of the best order-preserving pairing, by trying them all."""
    if not source or not target:
        return 0.0
    skip = max(brute_force(source[1:], target, score), brute_force(source, target[1:], score))
    value = score(source[0], target[0])
    return max(skip, value + brute_force(source[1:], target[1:], score)) if value else skip


@pytest.mark.parametrize("seed", range(12))
def test_the_alignment_is_the_best_of_all(seed):
    draw = torch.Generator().manual_seed(seed)
    numbers = iter(torch.randint(0, 3, (200,), generator=draw).tolist())

    def layer(index):
        block = ("Conv", "C3", "SPPF")[next(numbers)]
        return LayerSignature(
            index, block, "backbone", 1, float(next(numbers) // 2), False, {"weight": (4 + next(numbers), 2)}
        )

    source, target = [layer(index) for index in range(6)], [layer(index) for index in range(6)]
    same = source[0].shapes == target[0].shapes
    pairs = align_layers(source, target)
    total = sum(pairing_score(source[left], target[right], same) for right, left in pairs.items())
    assert total == brute_force(source, target, lambda left, right: pairing_score(left, right, same))
    assert sorted(pairs.values()) == list(pairs.values()) and len(set(pairs.values())) == len(pairs)


# ---- the report and the log ----


def test_the_report_and_the_summary(tmp_path, caplog):
    caplog.set_level("INFO", "yolo")
    base, variant = small(BASE), small(insert_block(BASE, "CBAM", [8]))
    report = transfer_weights(variant, taken(base))
    assert (
        f"Transferred {len(base.state_dict())}/{len(variant.state_dict())} items from base.pt: 100.0% of its parameters"
        in caplog.text
    )
    with report.write_csv(tmp_path / "transfer.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["status", "from", "to", "shape", "parameters", "reason"]
    by_target = {row["to"]: row for row in rows}
    moved = by_target["model.10.cv1.conv.weight"]
    assert (moved["status"], moved["from"]) == ("remapped", "model.9.cv1.conv.weight")
    assert moved["reason"] == "layer 9 (SPPF) of the checkpoint is layer 10 (SPPF) here"
    assert by_target["model.0.conv.weight"]["status"] == "transferred"
    new = by_target["model.9.spatial_attention.conv.weight"]
    assert (new["status"], new["from"], new["reason"]) == (
        "new",
        "",
        "layer 9 (CBAM) has no counterpart in the checkpoint",
    )
    assert sum(int(row["parameters"]) for row in rows if row["from"]) == sum(each.numel() for each in base.parameters())


def test_little_used_is_a_warning_and_too_little_an_error(caplog):
    caplog.set_level("INFO", "yolo")
    base, other = taken(small(BASE)), small(replace_block(BASE, "C3", [4, 6, 8], "CBAM"))
    report = transfer_weights(other, base)
    assert 0.3 < report.used_share < 0.8
    with pytest.raises(
        CheckpointError,
        match=r"--require-transfer asks for 90%; mostly because layer 8 \(C3\) of the checkpoint has no",
    ):
        transfer_weights(other, base, require=0.9)
    narrow = Model({**content(BASE), "nc": 4, "depth_multiple": 0.33, "width_multiple": 0.25})
    caplog.clear()
    transfer_weights(narrow, base)
    assert "WARNING" in caplog.text and "another shape" in caplog.text
    assert transfer_weights(small(BASE), base, require=1.0).used_share == 1.0


def test_a_checkpoint_without_fitting_weights_is_a_warning(caplog):
    base = small(BASE)
    transfer_weights(base, Checkpoint(base.yaml, ["a"] * 4, {}, (8.0,), source="empty.pt"))
    assert "nothing in empty.pt fits" in caplog.text


def test_anchors_stay_where_they_were_chosen():
    base, other = small(BASE), small(BASE)
    other.head.anchors.mul_(2)
    kept = other.head.anchors.clone()
    report = transfer_weights(other, taken(base), keep_anchors=True)
    assert torch.equal(other.head.anchors, kept) and report.new_tensors == ("model.24.anchors",)
    assert report.used_share == 1.0  # anchors are no parameters


# ---- freezing ----


def frozen(model):
    return {
        index
        for index, layer in enumerate(model.model)
        if any(True for _ in layer.parameters()) and not any(each.requires_grad for each in layer.parameters())
    }


@pytest.mark.parametrize(
    ("freeze", "layers"),
    [
        ((0,), set()),
        ((3,), {0, 1, 2}),
        ((10,), {0, 1, 2, 4, 5, 6, 7, 8, 9, 11}),
        ((2, 9), {2, 11}),
        (("backbone",), {0, 1, 2, 4, 5, 6, 7, 8, 9, 11}),
    ],
)
def test_freezing_counts_the_base_models_layers(freeze, layers):
    """CBAM stands as layers 3 and 10 behind layers 2 and 8 of the base, whose SPPF, 9, is layer 11."""
    model = small(insert_block(BASE, "CBAM", [2, 8]))
    freeze_layers(model, freeze)
    assert frozen(model) == layers


def test_attention_inside_a_frozen_c3_goes_on_learning():
    model = small(replace_block(BASE, "C3", [8], "C3Attention", [1024, "CBAM"]))
    freeze_layers(model, ("backbone",))
    learning = {name for name, each in model.model[8].named_parameters() if each.requires_grad}
    assert learning and all(".attention." in name for name in learning)


def test_blocks_in_the_place_of_stages_count():
    assert base_indices(content(read_yaml("yolov5n_CBAM-C3.yaml"))) == list(range(25))
    assert base_indices(content(read_yaml("yolov5n_CBAM.yaml"))) == [*range(9), None, *range(9, 25)]


def test_freeze_flags():
    assert from_options(TrainConfig, freeze="backbone").freeze == ("backbone",)
    with pytest.raises(
        ConfigError, match="--freeze: expected a whole number or backbone, got 'bakbone'.*did you mean backbone"
    ):
        from_options(TrainConfig, freeze="bakbone")
    with pytest.raises(ConfigError, match="backbone is given alone"):
        from_options(TrainConfig, freeze=("backbone", 3))
    with pytest.raises(ConfigError, match="needs --weights"):
        from_options(TrainConfig, require_transfer=0.5)


# ---- the command ----


def test_a_variant_is_made_of_a_checkpoint_without_training(real, tmp_path, capsys):
    weights, output = str(real("weights/yolov5n.pt")), tmp_path / "ema.pt"
    words = [
        "--cfg",
        "models/yolov5n_EMA.yaml",
        "--weights",
        weights,
        "--output",
        str(output),
        "--attention-start",
        "identity",
    ]
    assert main(words) == 0
    made, source = read_checkpoint(output), read_checkpoint(weights)
    assert made.names == source.names and output.with_suffix(".csv").is_file()
    base = Model(source.yaml)
    base.load_state_dict(source.state)
    variant = Model(made.yaml)
    variant.load_state_dict(made.state)
    assert torch.equal(outputs(variant), outputs(base))
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words[:5], str(tmp_path / "x.pth")]) == 2


@pytest.mark.parametrize("share", ["90", "-0.1", "nan"])
def test_the_command_takes_a_share_from_0_to_1(share, tmp_path, capsys):
    words = [
        "--cfg",
        "models/yolov5n.yaml",
        "--weights",
        "yolov5n.pt",
        "--output",
        str(tmp_path / "x.pt"),
        "--require-transfer",
        share,
    ]
    assert main(words) == 2
    assert f"--require-transfer {share}: expected a share, 0 to 1" in capsys.readouterr().err
