"""The average of the weights: equal to its formula tensor by tensor, resumable, and cheap."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.engine.model_ema import TAU, ModelEMA, horizon


def small_model(blocks=2):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.PReLU())


def drift(model, seed):
    """Change the weights, and the running statistics by a forward pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    model(torch.randn(2, 3, 5, 5, generator=generator))


def test_average_equals_its_formula_tensor_by_tensor():
    model = small_model()
    ema = ModelEMA(model, decay=0.99, tau=5)
    expected = {key: value.clone().double() for key, value in model.state_dict().items()}
    for update in range(1, 6):
        drift(model, update)
        ema.update(model)
        keep = 0.99 * (1 - math.exp(-update / 5))
        for key, value in model.state_dict().items():
            is_counter = key.endswith("num_batches_tracked")
            expected[key] = value.clone() if is_counter else keep * expected[key] + (1 - keep) * value.double()
    assert ema.updates == 5
    for key, value in ema.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key].double(), rtol=1e-5, atol=1e-6)
    assert ema.module[0][1].num_batches_tracked == 5


def test_average_is_a_frozen_copy_in_evaluation_mode():
    model = small_model().train()
    ema = ModelEMA(model)
    assert model.training and not ema.module.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    drift(model, 0)
    assert not torch.equal(model[0][0].weight, ema.module[0][0].weight)


def test_decay_ramps_up_as_v61_says():
    ema = ModelEMA(small_model())
    assert ema.decay(1) == pytest.approx(0.9999 * (1 - math.exp(-1 / 2000)))
    assert ema.decay(2000) == pytest.approx(0.9999 * (1 - 1 / math.e))
    assert ema.decay(10**6) == pytest.approx(0.9999)


def test_resumed_average_goes_on_bit_for_bit():
    model = small_model()
    straight = ModelEMA(model)
    for seed in range(3):
        drift(model, seed)
        straight.update(model)
    resumed = ModelEMA(small_model(), updates=straight.updates)
    resumed.module.load_state_dict(copy.deepcopy(straight.module.state_dict()))
    drift(model, 9)
    straight.update(model)
    resumed.update(model)
    assert resumed.updates == 4
    for ours, theirs in zip(straight.module.state_dict().values(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)  # the same element-wise steps on the same numbers


def test_average_looks_through_data_parallel_wrappers():
    model = small_model()
    ema = ModelEMA(nn.DataParallel(model))
    drift(model, 1)
    ema.update(nn.DataParallel(model))
    assert list(ema.module.state_dict()) == list(model.state_dict())


def test_buffers_outside_the_state_dict_may_differ():
    model = small_model()
    model.register_buffer("grid", torch.zeros(2), persistent=False)
    ema = ModelEMA(model)
    model.grid = torch.ones(7)
    ema.update(model)
    assert ema.module.grid.shape == (2,)


class CountedOperations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


def test_an_update_takes_as_many_operations_for_a_deep_model_as_for_a_small_one():
    counts = []
    for blocks in (1, 40):
        model = small_model(blocks)
        ema = ModelEMA(model)
        with CountedOperations() as operations:
            ema.update(model)
        counts.append(operations.count)
    assert counts[0] == counts[1] <= 4


@pytest.mark.parametrize(
    "share, steps, tau", [(None, 50, 2000), (0.2, 500, 100), (0.2, 10**6, 2000), (0, 500, 1), (0.001, 20, 1), (1, 7, 7)]
)
def test_the_horizon_is_a_share_of_the_training_within_v61s(share, steps, tau):
    assert horizon(share, steps) == pytest.approx(tau) and TAU == 2000


def test_an_average_with_a_short_horizon_holds_more_of_the_training():
    """After 50 updates v6.1's average is still the weights of a few steps ago; a fifth of the run averages."""
    ema = ModelEMA(small_model(), tau=horizon(0.2, 50))
    assert ema.tau == 10 and ema.decay(50) == pytest.approx(0.9999 * (1 - math.exp(-5)))
    assert ModelEMA(small_model(), tau=horizon(None, 50)).decay(50) == pytest.approx(0.0247, abs=1e-4)
