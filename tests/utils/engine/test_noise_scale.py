"""Accumulation by the gradient noise: unbiased estimates, the batches that follow, and a training that does so."""

import dataclasses

import pytest
import torch
from test_trainer import BATCH, make_components, same, snapshot

from utils.config import Hyperparameters, TrainConfig
from utils.engine.build import noise_scale
from utils.engine.noise_scale import FIRST, KEPT, PROBE, NoiseScale, batches_for, estimates
from utils.engine.trainer import Trainer
from utils.types import GradientNoise, StepSettings, TrainState


def test_estimates_invert_the_expected_norms():
    """Equation A.1: the squared norm of a mean over n gradients is |G|^2 + tr(S) / n in expectation."""
    signal, variance = 0.7, 12.0
    assert estimates(4, 32, signal + variance / 4, signal + variance / 32) == pytest.approx((signal, variance))


def test_estimates_of_drawn_gradients_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0.5, -0.2, 0.1])
    found = []
    for _ in range(4000):
        gradients = truth + 2 * torch.randn(8, 3, generator=generator)
        norms = (float(part.mean(0).square().sum()) for part in (gradients[:2], gradients))
        found.append(estimates(2, 8, *norms))
    signal, variance = torch.tensor(found).mean(0).tolist()
    assert variance == pytest.approx(12, rel=0.05) and signal == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize(
    "signal, variance, measured, unmeasured, batches",
    [
        (1.0, 40.0, FIRST, 0, 2),  # 40 images of 16
        (1.0, 41.0, FIRST, 0, 3),
        (1.0, 1e9, FIRST, 0, 4),  # nbs stays the limit
        (1.0, 8.0, FIRST, 0, 1),
        (1.0, 8.0, FIRST, PROBE - 2, 1),
        (1.0, 8.0, FIRST, PROBE - 1, 2),  # or nothing would ever be measured again
        (1.0, -5.0, FIRST, 0, 1),
        (-1.0, 8.0, FIRST, 0, 4),  # noise only
        (1.0, 8.0, FIRST - 1, 0, 4),  # too little is known
    ],
)
def test_batches_follow_the_noise_within_the_schedules(signal, variance, measured, unmeasured, batches):
    assert batches_for(GradientNoise(signal, variance, measured, unmeasured), batch_size=16, most=4) == batches


def by_noise(most=4, seed=0, batches=8):
    components = make_components(most, seed=seed)
    components.loader.batches = batches
    components.noise = NoiseScale(BATCH)
    return components


def literal_estimates(components, batches):
    """Of a step, from the gradient of each batch alone; the loss is summed over images."""
    weights = list(components.model.parameters())
    gradients = []
    for batch in batches:
        total, _ = components.loss(components.model(batch.images.float() / 255), batch.targets)
        gradients.append(torch.cat([each.flatten() for each in torch.autograd.grad(total, weights)]).double())
    mean = sum(gradients) / (BATCH * len(batches))
    return estimates(
        BATCH, BATCH * len(batches), *(float(each.square().sum()) for each in (gradients[0] / BATCH, mean))
    )


def test_a_step_is_measured_as_its_batches_alone_would_be():
    expected = literal_estimates(by_noise(), list(by_noise().loader.epoch(0))[:4])
    components, state = by_noise(batches=4), TrainState()
    Trainer(components, state, 1).train_epoch(0)
    assert state.noise.measured == 1 and state.noise.unmeasured == 0
    assert state.noise.signal == pytest.approx((1 - KEPT) * expected[0], rel=1e-3)
    assert state.noise.variance == pytest.approx((1 - KEPT) * expected[1], rel=1e-3)


def steps_of(trainer):
    """The numbers of batches of a trainer's steps, filled as it trains."""
    taken, inner = [], trainer.optimizer_step

    def step():
        taken.append(trainer.components.noise.batches)
        inner()

    trainer.optimizer_step = step
    return taken


def test_equal_batches_need_no_second_one_but_now_and_then():
    components = by_noise(batches=40)
    first = next(iter(components.loader.epoch(0)))
    components.loader.epoch = lambda epoch, batches=None: (first for _ in batches or range(40))
    components.model.eval()
    components.model.train = lambda: components.model  # batch norm would see other statistics
    trainer = Trainer(components, TrainState(), 3)
    taken = steps_of(trainer)
    trainer.fit()
    assert taken[:FIRST] == [4] * FIRST, "the schedule's, until something is known"
    assert taken[FIRST : FIRST + 6 * PROBE] == 6 * ([1] * (PROBE - 1) + [2])
    assert trainer.state.noise.variance == pytest.approx(0, abs=1e-4 * trainer.state.noise.signal)


def test_resumed_within_an_epoch_equals_uninterrupted_bit_for_bit():
    whole = by_noise()
    expected = Trainer(whole, TrainState(), 8).fit()
    first = by_noise()
    saved = dataclasses.asdict(Trainer(first, TrainState(), 5).fit())
    second = by_noise(seed=9)
    model, average, optimizer = snapshot(first)
    second.model.load_state_dict(model)
    second.ema.module.load_state_dict(average)
    second.ema.updates = first.ema.updates
    second.optimizer.load_state_dict(optimizer)
    state = Trainer(second, TrainState(**saved), 8).fit()
    assert state == expected and state.noise.measured > FIRST
    assert same(snapshot(second), snapshot(whole))


def test_a_step_decays_in_the_share_of_its_batches_and_leaves_the_group_alone():
    components = by_noise()
    noise, seen = components.noise, []
    noise.limited(StepSettings((0.1,) * 3, 0.9, 4), GradientNoise(1.0, 0.0, FIRST))
    noise.batches = 3
    with pytest.raises(KeyError), noise.decay_in_share(components.optimizer):
        seen += [group["weight_decay"] for group in components.optimizer.param_groups]
        raise KeyError
    assert seen == pytest.approx([0, 0.75 * 5e-4, 0])
    assert [group["weight_decay"] for group in components.optimizer.param_groups] == [0, 5e-4, 0]


def test_a_norm_that_is_not_finite_is_not_measured():
    """On a GPU the scaler leaves out such a step; the running means would never be finite again."""
    noise, known = NoiseScale(4), GradientNoise(1.0, 2.0, 5, 0)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    noise.see(_Four(), [weight], 1)
    noise.see(_Four(), [weight], 2)
    noise.measure(torch.tensor(float("inf")), 1.0, known)
    assert known == GradientNoise(1.0, 2.0, 5, 1)
    noise.measure(torch.tensor(4.0), 2.0, known)  # the scaler had doubled the first batch's
    few, many = (2**0.5 / 4 / 2) ** 2, (4.0 / 8) ** 2
    signal, variance = estimates(4, 8, few, many)
    assert known.signal == pytest.approx(KEPT * 1 + (1 - KEPT) * signal)
    assert known.variance == pytest.approx(KEPT * 2 + (1 - KEPT) * variance)


class _Four:
    counts = True

    def __len__(self):
        return 4


def test_it_is_off_by_default_and_without_effect_for_a_full_batch(caplog):
    caplog.set_level("INFO", "yolo")
    config = TrainConfig(batch_size=16)
    assert noise_scale(config, Hyperparameters(), 4) is None and not caplog.messages
    assert noise_scale(config, Hyperparameters(accumulate="noise"), 4).batch_size == 16
    assert noise_scale(TrainConfig(batch_size=64), Hyperparameters(accumulate="noise"), 1) is None
    assert caplog.messages == [
        "accumulate: noise: steps have 1 to 4 batches, as many as the gradient noise asks for",
        "accumulate: noise: with --batch-size 64 and nbs 64 each step has one batch",
    ]
