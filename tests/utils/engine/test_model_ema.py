"""The average of the weights: equal to its formula tensor by tensor, resumable, and cheap."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.engine.model_ema import TAU, ModelEMA, averaged_updates


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
    "share, steps, reach",
    [(None, 50, None), (0.2, 500, 100), (0.2, 10**6, 10**4), (0, 500, 1), (0.001, 20, 1), (1, 7, 7)],
)
def test_the_reach_is_a_share_of_the_training_within_v61s(share, steps, reach):
    assert averaged_updates(share, steps) == pytest.approx(reach) and TAU == 2000


def weights_of_updates(ema, steps):
    """The share in the average, after so many updates, of each update from the last back, and of the first weights."""
    shares, rest = [], 1.0
    for update in range(steps, 0, -1):
        shares.append(rest * (1 - ema.decay(update)))
        rest *= ema.decay(update)
    return shares, rest


@pytest.mark.parametrize("steps", [100, 555, 20_000])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
def test_an_average_reaches_over_its_share_of_the_run_and_follows_it_to_the_end(share, steps):
    """An average that keeps too much of itself is frozen before the training ends: its mean age tells."""
    reach = averaged_updates(share, steps)
    shares, rest = weights_of_updates(ModelEMA(small_model(), reach=reach), steps)
    assert sum(shares) + rest == pytest.approx(1) and rest < 1e-3
    mean_age = sum(age * weight for age, weight in enumerate(shares))
    assert mean_age == pytest.approx(reach - 1, rel=0.06)
    assert sum(shares[: round(3 * reach)]) > 0.92


def test_an_average_that_is_still_young_reaches_over_a_part_of_all_updates():
    shares, rest = weights_of_updates(ModelEMA(small_model(), reach=10_000), 600)
    mean_age = sum(age * weight for age, weight in enumerate(shares))
    assert rest == 0 and mean_age == pytest.approx(200, rel=0.01)
    ema = ModelEMA(small_model(), reach=10)
    assert [ema.decay(update) for update in (1, 2, 4, 20, 21, 9999)] == pytest.approx([0, 0, 0.5, 0.9, 0.9, 0.9])
    assert ModelEMA(small_model(), reach=1).decay(7) == 0


def test_v61s_average_of_a_short_training_is_its_last_update():
    assert ModelEMA(small_model()).decay(50) == pytest.approx(0.0247, abs=1e-4)
