"""--compile: names stay, what does not compile runs eagerly, sizes share a graph. Graphs are captured, not compiled."""

import copy
import logging

import pytest
import torch
from small_models import TINY
from torch import nn

from models.ensemble import Ensemble
from models.yolo import Model
from utils import compilation
from utils.compilation import (
    CompiledNetwork,
    CompiledPass,
    CompileOptions,
    compiled_network,
    compiled_pass,
    compiler_problem,
)
from utils.config import DetectConfig, TrainConfig, from_options
from utils.engine.build import training_pass
from utils.engine.model_ema import ModelEMA
from utils.errors import ConfigError
from utils.processes import ALONE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def captured(dynamic=None):
    return CompileOptions(dynamic, backend="aot_eager")


class Counting:
    """A backend that counts the graphs it is given, and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


class TwoBranches(nn.Module):
    """Its path depends on a value, which no single graph can hold."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.norm(x)
        return x + 1 if x.sum().item() > 0 else x - 1


def test_a_training_pass_leaves_the_network_as_it_is():
    torch.manual_seed(0)
    model = Model(TINY).train()
    alike, names, attributes = copy.deepcopy(model), list(model.state_dict()), set(vars(model))
    run, images = CompiledPass(model, captured(False)), torch.rand(2, 3, 32, 32)
    for network, call in ((model, run), (alike, alike)):
        sum(level.sum() for level in call(images)).backward()
        torch.optim.SGD(network.parameters(), 0.1).step()
    assert run.failure == "" and run.compiled is not None
    assert list(model.state_dict()) == names and set(vars(model)) == attributes
    assert list(ModelEMA(model).module.state_dict()) == names
    assert type(ModelEMA(model).module) is Model
    for (name, ours), theirs in zip(model.state_dict().items(), alike.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_a_network_for_inference_predicts_the_same_and_offers_what_a_predictor_reads():
    model = Model(TINY).eval()
    for network in (model, Ensemble([model, copy.deepcopy(model).eval()]).eval()):
        compiled, images = CompiledNetwork(network, captured()), torch.rand(1, 3, 32, 64)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images)[0], network(images)[0], rtol=1e-5, atol=1e-5)
        assert compiled.names == network.names and torch.equal(compiled.stride, network.stride)
        assert compiled.compiled_pass.failure == "" and not compiled.training


@pytest.mark.parametrize("dynamic, graphs", [(True, 1), (False, 4), (None, 2)])
def test_sizes_share_a_graph(dynamic, graphs):
    """One graph for all sizes also serves squares: height and width are two numbers even if they are equal."""
    backend = Counting()
    run = CompiledPass(nn.Conv2d(3, 4, 3, padding=1).eval(), CompileOptions(dynamic, backend=backend))
    for shape in ((64, 64), (96, 64), (96, 96), (128, 128)):
        # with None the second size makes height a variable, and the third width
        run(torch.rand(2, 3, *shape))
    assert backend.graphs == graphs + (dynamic is None)
    assert run.failure == ""


def test_what_does_not_compile_runs_eagerly_from_the_start_of_the_pass(caplog):
    network = TwoBranches().train()
    alike, images = copy.deepcopy(network), torch.rand(2, 3, 4, 4) + 1
    run = CompiledPass(network, captured())
    with caplog.at_level(logging.INFO, logger="yolo"):
        torch.testing.assert_close(run(images), alike(images))
        run(images)
    lines = [each.getMessage() for each in caplog.records if (each.name, each.levelname) == ("yolo", "WARNING")]
    assert len(lines) == 1 and lines[0].startswith(
        "WARNING: --compile: the network does not compile, so it runs eagerly"
    )
    assert "\n" not in lines[0] and run.compiled is None and run.failure
    assert int(network.norm.num_batches_tracked) == 2  # each batch once, the one that failed to compile too


def test_an_error_of_the_network_is_its_own():
    run = CompiledPass(nn.Conv2d(3, 4, 3), captured())
    with pytest.raises(RuntimeError, match="channels"):
        run(torch.rand(2, 5, 8, 8))


def test_without_a_compiler_one_line_and_the_network_itself(monkeypatch, caplog):
    model = Model(TINY).eval()
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "no-such-compiler" in compiler_problem(CPU)
    with caplog.at_level(logging.INFO, logger="yolo"):
        assert compiled_network(model, CompileOptions()) is model
        assert compiled_pass(model, CompileOptions()) is None
    problem = "no C++ compiler is found (no-such-compiler; CXX names another)"
    line = f"WARNING: --compile: {problem}, so the network runs eagerly"
    assert [record.getMessage() for record in caplog.records if record.name == "yolo"] == [line] * 2
    monkeypatch.setenv("CXX", "python")
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/bin/{name}")
    assert compiler_problem(CPU) == ""
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: None)
    assert compiler_problem(torch.device("cuda")) == "triton is not installed"


def test_training_takes_one_graph_per_size_unless_sizes_vary(monkeypatch):
    seen = []
    monkeypatch.setattr("utils.engine.build.compiled_pass", lambda model, options: seen.append(options.dynamic))
    for flags in ({}, {"multi_scale": True}, {"rect": True}):
        training_pass(Model(TINY), from_options(TrainConfig, compile=True, **flags), ALONE)
    assert seen == [False, True, True]


def test_feature_maps_need_the_layers():
    with pytest.raises(ConfigError, match="--visualize.*--compile"):
        from_options(DetectConfig, compile=True, visualize=True)
