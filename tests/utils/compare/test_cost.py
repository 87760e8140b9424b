"""What variants cost: fair turns, ratios on a machine that slows down, and a reason for every missing figure."""

import sys

import numpy as np
import pytest
import torch
from small_models import SMALL, with_block
from torch import nn

from models.attention.cbam import CBAM
from models.graph.flops import flops, thop_gflops
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.compare import cost as cost_module
from utils.compare.cost import MIN_ROUNDS, measure_costs, run_interleaved, with_training_time
from utils.compare.results import Cost
from utils.profile.memory import inference_peak, training_peak

CPU = torch.device("cpu")
WIDE = SMALL | {"width_multiple": 4.0}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_each_round_gives_each_variant_one_turn_in_an_order_of_its_own():
    calls = []
    taken = run_interleaved({name: lambda name=name: calls.append(name) or [1.0] for name in "abcd"}, 30, 60, rng())
    rounds = ["".join(calls[start : start + 4]) for start in range(0, 120, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds) and len(set(rounds)) > 10
    firsts = [order[0] for order in rounds]
    assert all(firsts.count(name) >= 2 for name in "abcd")
    assert all(len(turns) == 30 for turns in taken.values())
    again = []
    run_interleaved({name: lambda name=name: again.append(name) or [1.0] for name in "abcd"}, 30, 60, rng())
    assert again == calls


def test_rounds_end_with_the_time_but_not_before_the_least():
    taken = run_interleaved({name: lambda: [1.0] for name in "ab"}, 30, 0.0, rng())
    assert {name: len(turns) for name, turns in taken.items()} == {"a": MIN_ROUNDS, "b": MIN_ROUNDS}
    assert run_interleaved({}, 30, 1.0, rng()) == {}


def test_a_machine_that_slows_down_favors_no_variant():
    """Passes take 1 and 1.25 units on a machine that gets three times as slow, with spikes of ten times."""
    clock, noise = [0], rng(1)

    def turn(units):
        clock[0] += 1
        return [units * (1 + clock[0] / 100) * (10 if noise.random() < 0.1 else 1) for _ in range(3)]

    taken = run_interleaved(
        {"base": lambda: turn(1.0), "more": lambda: turn(1.25), "same": lambda: turn(1.0)}, 66, 60, rng(2)
    )
    ratios = cost_module.paired_ratios(taken, "base")
    assert ratios == {"base": 1, "more": pytest.approx(1.25, abs=0.03), "same": pytest.approx(1, abs=0.03)}
    in_turn = {
        name: [turn(units) for _ in range(66)] for name, units in (("base", 1.0), ("more", 1.25))
    }  # one after the other
    assert cost_module.paired_ratios(in_turn, "base")["more"] > 1.4


def test_figures_and_ratios(tmp_path):
    torch.manual_seed(0)
    base = Model(SMALL)
    path = write_checkpoint(checkpoint_of(Model(WIDE)), tmp_path / "wide.pt")
    sources = {"base": base, "wide": path, "CBAM": lambda: Model(with_block(-1, 1, "CBAM", []))}
    costs = measure_costs(sources, 60, CPU, generator=rng(), rounds=4, batch=2, seconds=30)
    assert list(costs) == ["base", "wide", "CBAM"] and base.training
    for name, cost in costs.items():
        model = {"base": base, "wide": Model(WIDE), "CBAM": sources["CBAM"]()}[name]
        assert cost.notes == () and cost.imgsz == 64 and cost.device.startswith("cpu, ")
        assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert (cost.gflops, cost.gflops_thop) == (flops(model, 64) / 1e9, thop_gflops(model, 64))
        assert cost.training_mib == training_peak(model, 64, 2) / 2**20
        assert 0 < cost.latency_ms <= cost.latency_p95_ms and cost.throughput > 0
        assert set(cost.ratios) == set(cost.figures()) - {"training_seconds"}
        assert cost.ratios["parameters"] == cost.parameters / costs["base"].parameters
    assert costs["base"].inference_mib == inference_peak(Model(SMALL).eval().fuse(), 64) / 2**20
    assert set(costs["base"].ratios.values()) == {1.0}
    assert costs["wide"].ratios["latency_ms"] > 1 > costs["wide"].ratios["throughput"]


def test_yamls_are_measured_with_the_gates_that_training_opens(monkeypatch):
    seen = []
    monkeypatch.setattr(cost_module, "time_passes", lambda model, images, passes: seen.append(model) or [1.0] * passes)
    content = with_block(-1, 1, "CBAM", []) | {"attention_start": "identity"}
    costs = measure_costs({"fresh": lambda: Model(content), "trained": Model(content)}, 64, CPU, rounds=1, batch=2)
    has_block = [any(isinstance(module, CBAM) for module in model.modules()) for model in seen[:2]]
    assert has_block == [True, False]  # what is trained and still zero is left out, as detect.py leaves it out
    assert costs["fresh"].parameters == costs["trained"].parameters


class OneAtATime(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Model(SMALL)

    def forward(self, images):
        if len(images) > 1:
            raise RuntimeError("DefaultCPUAllocator:\n not enough memory")
        return self.inner(images)


def test_a_missing_figure_has_its_reason_and_the_others_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "thop", None)
    costs = measure_costs({"base": lambda: Model(SMALL), "single": OneAtATime}, 64, CPU, rounds=3, batch=2)
    base, single = costs["base"], costs["single"]
    assert base.gflops_thop is single.gflops_thop is None
    assert any("operations by thop: import of thop" in note for note in base.notes)
    assert single.throughput is single.training_mib is None and "throughput" not in single.ratios
    assert single.latency_ms > 0 and single.inference_mib > 0 and single.ratios["latency_ms"] > 0
    assert "time of a batch of 2: DefaultCPUAllocator: not enough memory" in single.notes
    assert "memory of training with a batch of 2: DefaultCPUAllocator: not enough memory" in single.notes
    assert base.throughput > 0 and base.training_mib > 0 and len(base.notes) == 1


def test_without_the_first_there_are_no_ratios_of_times():
    costs = measure_costs({"single": OneAtATime, "base": lambda: Model(SMALL)}, 64, CPU, rounds=3, batch=2)
    assert (
        "throughput" not in costs["base"].ratios
        and costs["base"].throughput > 0
        and costs["base"].ratios["latency_ms"] > 0
    )


def test_training_time_is_added_by_the_runs():
    cost = Cost(1, 1.0, 1.0, notes=("a",))
    assert with_training_time(cost, 60.0).training_seconds == 60 and with_training_time(cost, 60.0).notes == ("a",)
    assert with_training_time(cost, None).notes == ("a", "training time: nothing was trained")
