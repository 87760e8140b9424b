"""Identity start: the zero-initialized gate, blocks with their own, learning rates of gates, forked generators."""

import pytest
import torch
from small_models import BASE, content, small
from torch import nn

from models import registry
from models.common import SHSA, C3Attention, SEAttention
from models.graph.architecture import insert_block, replace_block
from models.identity_start import IdentityStart, ZeroInitResidual, apply_identity_start, fork_rng, gate_strengths
from models.layers import C3
from models.registry import WiringPlan, registered
from models.yolo import Model
from utils.checkpoint import checkpoint_of
from utils.config import Hyperparameters
from utils.engine.optim import apply_step_settings, build_optimizer, parameter_groups
from utils.errors import ConfigError, ModelError
from utils.transfer.pretrained import transfer_weights
from utils.types import StepSettings


def test_a_zero_gate_is_the_identity_and_its_gradient_comes_first():
    torch.manual_seed(0)
    block = IdentityStart(torch.nn.Conv2d(6, 6, 3, padding=1), 6)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(block(x), x)  # x and zero times what is finite: no rounding
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        (block(x) * torch.randn_like(x)).sum().backward()
        assert block.gate.grad.abs().sum() > 0
        assert bool(block.block.weight.grad.abs().sum() > 0) == (step == 1)
        optimizer.step()


def test_the_gate_mixes_channel_by_channel():
    block = IdentityStart(torch.nn.Conv2d(3, 3, 1), 3)
    x = torch.randn(1, 3, 2, 2)
    with torch.no_grad():
        block.gate.copy_(torch.tensor([0.0, 1.0, 0.25]))
        out, full = block(x), block.block(x)
    torch.testing.assert_close(out[:, 0], x[:, 0])
    torch.testing.assert_close(out[:, 1], full[:, 1])
    torch.testing.assert_close(out[:, 2], 0.75 * x[:, 2] + 0.25 * full[:, 2])
    assert block.strength() == pytest.approx(1.25 / 3)


@pytest.mark.parametrize(("value", "left"), [(0.0, torch.nn.Identity), (1.0, torch.nn.Conv2d), (0.5, torch.nn.Conv2d)])
def test_fuse_leaves_out_what_a_gate_makes_superfluous(value, left):
    block = IdentityStart(torch.nn.Conv2d(3, 3, 1), 3).requires_grad_(False)
    block.gate.fill_(value)
    x = torch.randn(1, 3, 4, 4)
    before = block(x)
    block.fuse()
    torch.testing.assert_close(block(x), before)
    assert block.strength() == value
    assert type(block.block) is left and (block.gate is None) == (value in (0.0, 1.0))


def test_the_yaml_the_registry_and_the_argument_decide_how_attention_starts():
    architecture = insert_block(replace_block(BASE, "C3", [8], "C3Attention", [1024, "CBAM"]), "CBAM", [9])
    assert gate_strengths(small(architecture)) == {}
    gated = small(architecture, attention_start="identity")
    assert gate_strengths(gated) == {"8.m.0.CBAM": 0.0, "10.CBAM": 0.0}
    assert gated.yaml["attention_start"] == "identity"
    assert gate_strengths(Model(gated.yaml)) == gate_strengths(gated)  # as a checkpoint is built
    settings = {**content(architecture), "attention_start": "identity"}
    assert len(gate_strengths(Model(settings))) == 2
    assert gate_strengths(Model(settings, attention_start="plain")) == {}
    with pytest.raises(ModelError, match="attention_start must be plain or identity, got 'zero'"):
        Model({**settings, "attention_start": "zero"})
    assert type(Model({**content(BASE), "attention_start": "identity"}).model[8]) is C3


def by_hand(channels, repeats, scale, args):
    return WiringPlan(tuple(channels), channels[0])


@pytest.mark.parametrize("wiring", ["same_width", by_hand])
def test_a_block_registered_to_start_as_the_identity_does_so_alone_and_in_a_c3(wiring, monkeypatch):
    monkeypatch.setattr(registry, "_entries", registered())
    mine = registry.register(wiring, name="Mine", start="identity")(
        type("Mine", (SEAttention,), {"__module__": "a.plugin"})
    )
    architecture = insert_block(replace_block(BASE, "C3", [8], "C3Attention", [1024, "Mine"]), "Mine", [9])
    model = small(insert_block(architecture, "CBAM", [14]))
    assert gate_strengths(model) == {"8.m.0.Mine": 0.0, "10.Mine": 0.0} and type(model.model[10].block) is mine
    assert gate_strengths(small(architecture, attention_start="plain")) == {}
    report = transfer_weights(model, checkpoint_of(small(architecture, attention_start="plain")))
    assert report.used_share == 1 and {row.reason for row in report.rows if row.target.endswith("gate")} == {
        "gate that starts at zero"
    }


def test_what_changes_the_width_stays_plain():
    model = small(insert_block(BASE, "DoubleAttentionLayer", [2], [64, 3]), attention_start="identity")
    assert gate_strengths(model) == {} or all("Double" not in name for name in gate_strengths(model))


def test_gates_are_a_group_of_their_own_and_everything_else_of_the_block_is_as_before():
    model = small(insert_block(BASE, "CBAM", [9]), attention_start="identity")
    groups = parameter_groups(model)
    assert [id(each) for each in groups.gate] == [id(model.model[10].gate)]
    assert any(each is model.model[10].block.channel_attention.fc1.weight for each in groups.decay)


@pytest.mark.parametrize(
    ("optimizer", "gate_lr", "factor"), [("SGD", None, 30), ("SGD", 2.5, 2.5), ("Adam", None, 1), ("AdamW", 7, 7)]
)
def test_gates_learn_at_a_multiple_of_the_weights_rate_without_decay(optimizer, gate_lr, factor, caplog):
    caplog.set_level("INFO", "yolo")
    model = small(insert_block(BASE, "CBAM", [9]), attention_start="identity")
    built = build_optimizer(model, optimizer, 0.01, 0.9, 5e-4, gate_lr=gate_lr)
    apply_step_settings(built, StepSettings((0.1, 0.2, 0.3), 0.5, 1))
    assert [group["lr"] for group in built.param_groups] == pytest.approx([0.1, 0.2, 0.3, 0.1 * factor])
    assert [group["weight_decay"] for group in built.param_groups] == [0, 5e-4, 0, 0]
    assert f"1 gate (lr x {factor})" in caplog.text
    again = build_optimizer(model, optimizer, 0.01, 0.9, 5e-4, gate_lr=3 * factor)
    again.load_state_dict(built.state_dict())  # a resumed training goes on as it was
    assert again.param_groups[3]["lr_scale"] == factor


def test_the_hyperparameter_of_the_gates_is_listed_only_if_it_differs():
    assert Hyperparameters().gate_lr is None and "gate_lr" not in Hyperparameters().as_dict()
    assert Hyperparameters(gate_lr="1e1").as_dict()["gate_lr"] == 10
    with pytest.raises(ConfigError, match="gate_lr -1: expected 0 to 1000"):
        Hyperparameters(gate_lr=-1)


# ---- blocks with a zero-initialized residual of their own ----


def moved(block, x, steps):
    """Return the names of the parameters that some steps have changed."""
    optimizer = torch.optim.SGD(block.train().parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in block.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        (block(x) * x.flip(0)).sum().backward()
        optimizer.step()
    return {name for name, value in block.named_parameters() if not torch.equal(value, before[name])}


def test_starts_as_the_identity_and_learns_from_the_second_step():
    torch.manual_seed(0)
    block, x = SHSA(32), torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    block.start_as_identity()
    assert torch.equal(block.eval()(x), x)  # x and zero times what is finite: no rounding
    assert moved(block, x, 2) == {name for name, _ in block.named_parameters()}


def test_is_not_put_behind_a_second_gate_alone_or_in_a_c3():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    alone = SHSA(32)
    assert apply_identity_start(alone, 32, 32) is alone
    inside = C3Attention(32, 32, 1, True, "SHSA")
    assert apply_identity_start(inside, 32, 32) is inside and isinstance(inside.m[0].attention, SHSA)
    assert moved(inside, x, 3) == {name for name, _ in inside.named_parameters()}


def test_a_second_gate_would_never_open():
    """Why: the inner gate hides the block from the outer one, and the outer one from the inner."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    doubled: nn.Module = IdentityStart(SHSA(32), 32)
    assert moved(doubled, x, 5) == set()


ZERO_INIT = sorted(name for name, entry in registered().items() if issubclass(entry.cls, ZeroInitResidual))


def test_the_blocks_with_a_zero_initialized_residual_are_known():
    assert ZERO_INIT == ["A2", "BoT", "CrissCross", "GlobalContext", "NonLocal", "SHSA"]


@pytest.mark.parametrize("name", ZERO_INIT)
def test_what_opens_such_a_block_is_reported_among_the_gates(name):
    plain = small(insert_block(BASE, name, [9]))
    assert gate_strengths(plain) == {}
    model = small(insert_block(BASE, name, [9]), attention_start="identity")
    assert gate_strengths(model) == {f"10.{name}": 0.0} and gate_strengths(Model(model.yaml)) == gate_strengths(model)
    with torch.no_grad():
        model.model[10].get_parameter(model.model[10].gate_parameter).fill_(-0.25)
    assert gate_strengths(model) == {f"10.{name}": 0.25}


def test_a_global_context_that_multiplies_is_opened_by_its_opening():
    model = small(
        insert_block(BASE, "GlobalContext", [9], [1 / 16, "att", ["channel_mul", "channel_add"]]),
        attention_start="identity",
    )
    with torch.no_grad():
        model.model[10].opening.fill_(0.5)
    assert gate_strengths(model) == {"10.GlobalContext": 0.5}


# ---- one seed, one start ----


def test_a_forked_generator_leaves_the_outer_one_where_it_was():
    torch.manual_seed(4)
    plain = torch.rand(3)
    torch.manual_seed(4)
    inside = []
    for offset in (0, 1, 1):
        with fork_rng(offset):
            inside.append(torch.rand(3))
    # one generator, one state: the same numbers
    assert torch.equal(torch.rand(3), plain)
    assert not torch.equal(inside[0], inside[1]) and torch.equal(inside[1], inside[2])
    assert not torch.equal(inside[0], plain)
    torch.manual_seed(5)
    with fork_rng(1):
        assert not torch.equal(torch.rand(3), inside[1])
    with pytest.raises(KeyError), fork_rng():
        raise KeyError
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), after)


def test_neighboring_and_repeated_blocks_start_differently():
    model = small(insert_block(insert_block(BASE, "SEAttention", [9]), "SEAttention", [9]))
    first, second = model.model[10], model.model[11]
    assert type(first) is type(second) and not torch.equal(next(first.parameters()), next(second.parameters()))
