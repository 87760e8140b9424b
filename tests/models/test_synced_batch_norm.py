"""Batch norm over several processes equals that of the whole batch in one: values, gradients, running statistics."""

import copy

import pytest
import torch
from several import run_several
from torch import nn

from models.norms import BatchNorm, SyncedBatchNorm, count_images, synchronize_batch_norm


def network(momentum: float | None) -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.SiLU(), nn.Conv2d(4, 2, 1))
    for norm in (model[1],):
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    return model.double()


def batch() -> torch.Tensor:
    # a mean far from 0: a variance as difference of squares would lose its digits
    return torch.randn(5, 3, 6, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 100


def figures(model: nn.Module, images: torch.Tensor, weight: float = 1.0) -> dict:
    images = images.clone().requires_grad_()
    output = model(images)
    (weight * output.square().sum()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"output": output.detach(), "images": images.grad, **gradients, **dict(model.named_buffers())}


def part(processes, momentum, stands_in):
    model, images = network(momentum), batch()
    assert synchronize_batch_norm(model) == 1
    own = images[list(processes.world.own(1 if stands_in else len(images)))]
    counts = bool(len(own))
    count_images(model, counts)
    result = figures(model, own if counts else images[:1], float(counts))
    for name, _ in model.named_parameters():
        result[name] = processes.sum(result[name])
    return result, counts


@pytest.mark.parametrize("momentum, stands_in", [(0.03, False), (None, False), (0.03, True)])
def test_two_processes_equal_one(momentum, stands_in):
    whole = figures(network(momentum), batch()[: 1 if stands_in else None])
    parts = run_several(2, part, momentum, stands_in)
    counting = [each for each, counts in parts if counts]
    assert len(counting) == (1 if stands_in else 2)
    for name, expected in whole.items():
        if name in ("output", "images"):
            torch.testing.assert_close(torch.cat([each[name] for each in counting]), expected, rtol=1e-9, atol=1e-9)
        else:
            for each, _ in parts:
                torch.testing.assert_close(each[name], expected, rtol=1e-9, atol=1e-9, msg=name)


def one_value(processes):
    norm = SyncedBatchNorm(2)
    norm.running_mean += 3
    norm.counts = processes.is_first
    x = torch.tensor([5.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
    output = norm(x)
    output.sum().backward()
    return output.detach().flatten().tolist(), x.grad.flatten().tolist(), norm.running_mean.tolist()


def test_a_single_value_is_normalized_by_the_running_statistics():
    output, gradient, mean = run_several(2, one_value)[0]
    scale = (1 + 1e-5) ** -0.5
    assert output == pytest.approx([2 * scale, -2 * scale]) and gradient == pytest.approx([scale, scale])
    assert mean == [3, 3]


def test_conversion_keeps_tensors_names_and_settings():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm(4, eps=1e-3, momentum=0.03)).eval()
    before, tensors = copy.deepcopy(model), [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]
    assert synchronize_batch_norm(model) == 1 and synchronize_batch_norm(model) == 0
    assert [id(tensor) for tensor in model.state_dict(keep_vars=True).values()] == tensors
    assert list(model.state_dict()) == list(before.state_dict())
    assert (model[1].eps, model[1].momentum, model[1].training) == (1e-3, 0.03, False)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(model(x), before(x))
    assert torch.equal(model.train()(x), before.train()(x))  # one process: batch norm as it was
