"""Advice on the length of a training: who gets it, and that its remedies are enough."""

import re

import pytest

from utils.engine.epoch_advice import SCRATCH_STEPS, TRANSFER_STEPS, RunLength, epochs_advice


def test_the_line_names_steps_and_remedies():
    run = RunLength(images=205, batches=13, epochs=30, batch_size=16, accumulate=4)
    assert run.steps == 120
    assert epochs_advice(run, has_weights=False) == (
        "205 images, 30 epochs: 390 batches but only 120 optimizer steps, as 4 batches make one; from random weights "
        "some 500 are the least that is of use: --epochs 130, or nbs: 16 in --hyp (hyp.small.yaml) and --epochs 39"
    )
    assert epochs_advice(run, has_weights=True) == ""


def test_without_accumulation_more_epochs_are_the_only_remedy():
    line = epochs_advice(RunLength(100, batches=2, epochs=5, batch_size=64, accumulate=1), has_weights=True)
    assert line == (
        "100 images, 5 epochs: 10 optimizer steps; from pretrained weights some 100 are the least that is of use: "
        "--epochs 50"
    )


@pytest.mark.parametrize("has_weights", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3, 4])
@pytest.mark.parametrize("batches", [1, 7, 80, 700])
@pytest.mark.parametrize("epochs", [1, 12, 300])
def test_the_advice_is_enough_and_only_for_those_who_need_it(epochs, batches, accumulate, has_weights):
    least = TRANSFER_STEPS if has_weights else SCRATCH_STEPS
    run = RunLength(16 * batches, batches, epochs, 16, accumulate)
    line = epochs_advice(run, has_weights)
    assert bool(line) == (epochs * -(-batches // accumulate) < least) and "\n" not in line
    if not line:
        return
    longer = [int(number) for number in re.findall(r"--epochs (\d+)", line)]
    assert RunLength(run.images, batches, longer[0], 16, accumulate).steps >= least
    assert ("nbs: 16" in line) == (accumulate > 1)
    if accumulate > 1:  # with nbs of a batch every batch is a step
        assert batches * (longer[1] if len(longer) > 1 else epochs) >= least
