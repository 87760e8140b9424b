"""Which optimizer is in force, and the backbone's own learning rate: which parameters it concerns, and when."""

from types import SimpleNamespace

import pytest
import torch
from small_models import BASE, small

from models.graph.architecture import insert_block, replace_block
from utils.config import Hyperparameters, TrainConfig
from utils.engine.layer_choice import backbone_parameters
from utils.engine.optim import apply_step_settings
from utils.engine.optimizer_choice import optimizer_for, rates_from_weights, with_optimizer, within_batch
from utils.engine.resume import adopt_batch_size, load_optimizer
from utils.types import StepSettings, TrainState
from utils.world import World


@pytest.mark.parametrize(
    "flag, recipe, expected",
    [
        ("auto", "auto", "SGD"),
        ("auto", "musgd", "MuSGD"),
        ("auto", "AdamW", "AdamW"),
        ("SGD", "AdamW", "SGD"),
        ("Muon", "auto", "Muon"),
    ],
)
def test_the_flag_wins_over_the_recipe(flag, recipe, expected):
    config, hyp = TrainConfig(optimizer=flag), Hyperparameters(optimizer=recipe)
    assert with_optimizer(config, hyp).optimizer == expected
    assert type(optimizer_for(torch.nn.Conv2d(2, 2, 1), config, hyp)).__name__ == expected


@pytest.mark.parametrize(
    "flag, recipe, lr0, expected",
    [
        ("AdamW", "MuSGD", 0.02, "lr0 0.02 of --hyp is meant for MuSGD; AdamW usually has about 0.001"),
        ("Adam", "auto", 0.01, "lr0 0.01 of --hyp is meant for SGD; Adam usually has about 0.001"),
        ("SGD", "AdamW", 0.0014, "lr0 0.0014 of --hyp is meant for AdamW; SGD usually has about 0.01"),
        ("SGD", "MuSGD", 0.02, None),
        ("auto", "AdamW", 0.02, None),
        ("Adam", "AdamW", 0.02, None),
        ("AdamW", "auto", 0.001, None),
        ("SGD", "AdamW", 0.01, None),
    ],
)
def test_a_rate_for_another_kind_of_optimizer_is_warned_of(flag, recipe, lr0, expected, caplog):
    with_optimizer(TrainConfig(optimizer=flag), Hyperparameters(optimizer=recipe, lr0=lr0))
    assert bool(caplog.messages) == bool(expected)
    assert expected is None or expected in caplog.text


def test_the_weight_decay_is_that_of_nbs():
    optimizer = optimizer_for(torch.nn.Conv2d(2, 2, 1), TrainConfig(batch_size=16), Hyperparameters(nbs=40))
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0, 0.0005 * 32 / 40, 0])


def gated(**settings):
    """CBAM as layer 9 behind the backbone's layer 8, and inside its C3, each behind a gate."""
    architecture = insert_block(replace_block(BASE, "C3", [8], "C3Attention", [1024, "CBAM"]), "CBAM", [8])
    return small(architecture, **settings)


def names_of(model, parameters):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in parameters}


def test_the_backbone_is_its_layers_without_inserted_attention():
    model = gated()
    found = names_of(model, backbone_parameters(model))
    layers = {int(name.split(".")[1]) for name in found}
    assert layers == {*range(9), 10}, "9 is CBAM, 10 is SPPF"
    inside = {name for name, _ in model.model[8].named_parameters() if ".attention." in name}
    assert inside and not any(name.removeprefix("model.8.") in inside for name in found)
    assert found == {
        name for name, _ in model.named_parameters() if int(name.split(".")[1]) in layers and ".attention." not in name
    }


@pytest.mark.parametrize("name", ("SGD", "AdamW", "MuSGD"))
def test_the_backbone_learns_at_its_multiple_and_the_rest_as_before(name, caplog):
    caplog.set_level("INFO", "yolo")
    model = gated(attention_start="identity")
    config = TrainConfig(weights="some.pt", optimizer=name, batch_size=64)
    whole = optimizer_for(model, config, Hyperparameters())
    optimizer = optimizer_for(model, config, Hyperparameters(lr_backbone=0.1))
    slow = names_of(model, backbone_parameters(model))
    groups = optimizer.param_groups
    assert len(whole.param_groups) == 4 and len(groups) == 7
    assert [names_of(model, group["params"]) for group in whole.param_groups[:3]] == [
        names_of(model, groups[index]["params"] + groups[index + 4]["params"]) for index in range(3)
    ]
    assert set.union(*(names_of(model, group["params"]) for group in groups[4:])) == slow
    assert groups[3]["params"] == whole.param_groups[3]["params"], "gates are new"
    apply_step_settings(optimizer, StepSettings((0.1, 0.2, 0.3), 0.5, 1))
    gate = 0.1 if name == "AdamW" else 3.0
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.2, 0.3, gate, 0.01, 0.02, 0.03])
    assert [group["weight_decay"] for group in groups] == pytest.approx([0, 5e-4, 0, 0, 0, 5e-4, 0])
    assert f"lr_backbone: {len(slow)} of these parameters are the backbone's (lr x 0.1)" in caplog.text


def test_a_backbone_of_rate_0_stays_and_the_head_moves():
    torch.manual_seed(0)
    model = gated()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config = TrainConfig(weights="some.pt", optimizer="MuSGD", batch_size=64)
    optimizer = optimizer_for(model, config, Hyperparameters(lr_backbone=0))
    for _ in range(2):
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        apply_step_settings(optimizer, StepSettings((0.1, 0.1, 0.1), 0.9, 1))
        optimizer.step()
    still = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert still == names_of(model, backbone_parameters(model))


def test_from_scratch_and_at_1_there_are_no_groups_of_the_backbone(caplog):
    caplog.set_level("INFO", "yolo")
    model = gated()
    for config, hyp in (
        (TrainConfig(weights=""), Hyperparameters(lr_backbone=0.1)),
        (TrainConfig(weights="some.pt"), Hyperparameters()),
    ):
        assert len(optimizer_for(model, config, hyp).param_groups) == 3
    assert [line for line in caplog.messages if "lr_backbone" in line] == [
        "lr_backbone 0.1: without --weights the backbone is new, so it is not used"
    ]


def test_a_frozen_backbone_has_no_groups():
    model = gated()
    for weight in backbone_parameters(model):
        weight.requires_grad_(False)
    optimizer = optimizer_for(model, TrainConfig(weights="some.pt"), Hyperparameters(lr_backbone=0.1))
    assert len(optimizer.param_groups) == 3


def test_a_training_of_other_groups_is_refused():
    model = gated()
    config = TrainConfig(weights="some.pt")
    plain, slow = (optimizer_for(model, config, Hyperparameters(lr_backbone=rate)) for rate in (1, 0.1))
    with pytest.raises(ValueError, match="its optimizer has parameters in groups of"):
        load_optimizer(plain, slow.state_dict())
    load_optimizer(slow, slow.state_dict())
    assert [group.get("rate") for group in slow.param_groups] == [None, None, None, 0, 1, 2]


@pytest.mark.parametrize("nbs, factor", [(64, 1.0), (24, (2 * 16 / 24) / (3 * 8 / 24)), (8, 2.0)])
def test_another_batch_size_on_resuming_decays_as_nbs_says(nbs, factor):
    optimizer = optimizer_for(torch.nn.Conv2d(2, 2, 1), TrainConfig(batch_size=8), Hyperparameters(nbs=nbs))
    resumed = SimpleNamespace(
        source="last.pt", training={"config": {"batch_size": 8}, "hyp": Hyperparameters(nbs=nbs).as_dict()}
    )
    components = SimpleNamespace(optimizer=optimizer, loader=range(5))
    state = TrainState(epoch=3, step=33, batches_done=3)
    before = optimizer.param_groups[1]["weight_decay"]
    adopt_batch_size(resumed, components, state, 16)
    assert optimizer.param_groups[1]["weight_decay"] == pytest.approx(before * factor)
    fresh = optimizer_for(torch.nn.Conv2d(2, 2, 1), TrainConfig(batch_size=16), Hyperparameters(nbs=nbs))
    assert optimizer.param_groups[1]["weight_decay"] == pytest.approx(fresh.param_groups[1]["weight_decay"])
    assert (state.step, state.batches_done) == (15, 0)


@pytest.mark.parametrize(
    ("batch_size", "max_batch", "processes", "expected"),
    [(16, None, 1, 16), (16, 8, 1, 8), (4, 8, 1, 4), (16, 8, 3, 6), (16, 2, 4, 4), (16, 2.5, 1, 2)],
)
def test_a_recipe_limits_the_batch(batch_size, max_batch, processes, expected):
    config, hyp = TrainConfig(batch_size=batch_size), Hyperparameters(max_batch=max_batch)
    assert within_batch(config, hyp, World(0, processes)).batch_size == expected


def test_rates_are_smaller_from_weights():
    hyp = Hyperparameters(lr0=0.002, warmup_bias_lr=0.01, lr_transfer=0.5)
    from_weights = rates_from_weights(TrainConfig(weights="yolov5n.pt"), hyp)
    assert (from_weights.lr0, from_weights.warmup_bias_lr) == (0.001, 0.005)
    assert rates_from_weights(TrainConfig(weights=""), hyp) == hyp
    model = small(BASE)
    for weights, lr in (("yolov5n.pt", 0.001), ("", 0.002)):
        optimizer = optimizer_for(model, TrainConfig(weights=weights, optimizer="AdamW"), hyp)
        assert [group["lr"] for group in optimizer.param_groups] == [lr] * 3
