"""models/attention/ops/neighbourhood.py against unfolded neighborhoods: results, gradients and memory."""

import pytest
import torch
from torch.nn import functional as F

from models.attention.ops.neighbourhood import neighbor_positions, neighborhood_attention, neighbors, weighted_sum
from utils.profile.memory import LiveBytes


def draw(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def unfolded(x, kernel, dilation):
    """(B, g, d, H, W) -> (B, g, d, taps, H, W)."""
    copies = F.unfold(x.flatten(1, 2), kernel, dilation, dilation * (kernel // 2))
    return copies.view(*x.shape[:3], kernel * kernel, *x.shape[3:])


def gradients(out, *tensors):
    return torch.autograd.grad((out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum(), tensors)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2)])
def test_weighted_sum_and_its_gradients(kernel, dilation):
    x, weights = draw(2, 3, 4, 5, 6, seed=1), draw(2, 3, kernel * kernel, 5, 6, seed=2)
    ours = weighted_sum(weights, neighbors(x, kernel, dilation))
    literal = (weights.unsqueeze(2) * unfolded(x, kernel, dilation)).sum(3)
    torch.testing.assert_close(ours, literal)
    torch.testing.assert_close(gradients(ours, x, weights), gradients(literal, x, weights))
    with torch.no_grad():
        torch.testing.assert_close(weighted_sum(weights, neighbors(x, kernel, dilation)), literal)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2)])
def test_attention_and_its_gradients(kernel, dilation):
    query, key, value = (draw(2, 3, 4, 5, 6, seed=seed) for seed in (1, 2, 3))
    near = [neighbors(each, kernel, dilation) for each in (key, value)]
    ours = neighborhood_attention(query, *near)
    logits = (query.unsqueeze(3) * unfolded(key, kernel, dilation)).sum(2, keepdim=True)
    literal = (torch.softmax(logits, 3) * unfolded(value, kernel, dilation)).sum(3)
    torch.testing.assert_close(ours, literal)
    torch.testing.assert_close(gradients(ours, query, key, value), gradients(literal, query, key, value))
    with torch.no_grad():
        torch.testing.assert_close(neighborhood_attention(query, *near), literal)


def test_peak_of_forward_and_backward_is_a_fraction_of_one_unfolded_map():
    """Autograd of sliced views would hold a padded gradient per neighbor; an unfold holds 49 copies."""
    query, key, value = (draw(1, 2, 32, 20, 20, seed=seed, dtype=torch.float32) for seed in (1, 2, 3))
    with LiveBytes() as live:
        out = neighborhood_attention(query, neighbors(key, 7), neighbors(value, 7))
        torch.autograd.grad(out.sum(), (query, key, value))
    assert live.peak < 49 * query.numel() * 4 / 3


def test_one_padded_gradient_is_allocated_for_all_neighbors():
    x, weights = draw(1, 2, 8, 10, 10, seed=1), draw(1, 2, 9, 10, 10, seed=2)
    with torch.profiler.profile() as profile:
        weighted_sum(weights, neighbors(x, 3)).sum().backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert "aten::slice_backward" not in calls and calls["aten::zeros_like"] == 1


def test_the_positions_of_neighbors_are_those_whose_values_are_taken():
    x = torch.arange(1.0, 13).view(1, 3, 4)
    at = neighbor_positions(x, 3, 2)
    assert at.shape == (12, 9)
    assert at[0].tolist() == [-1, -1, -1, -1, 0, 2, -1, 8, 10]
    values = torch.cat((x.flatten(), torch.zeros(1)))[at]  # -1 is the zero outside
    assert torch.equal(values, neighbors(x, 3, 2).gather()[0].flatten(1).t())
