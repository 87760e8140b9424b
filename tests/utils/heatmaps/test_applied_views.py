"""What attention blocks applied, as arrays: each kind of record by hand, and every block of the catalogue."""

import numpy as np
import pytest
import torch
from blocks.instances import BLOCKS, CASES, randomised
from torch import nn

from models.attention.deformable import DAttentionBaseline
from models.attention.dlka import DeformConv
from models.recording import KINDS, AppliedAttention, recording
from utils.heatmaps.applied_views import MOST_OVERLAYS, cell_of, views_of

BLOCK = nn.Identity()


def record_of(kind, values, size, keys=None, grid=None):
    return AppliedAttention(BLOCK, kind, "by hand", torch.as_tensor(values, dtype=torch.double), size, keys, grid)


def forms(views):
    return [view.form for view in views]


def test_a_gate_per_channel_is_bars_by_rank():
    (bars,) = views_of(record_of("gate", torch.tensor([0.2, 0.9, 0.1, 0.5, 0.3, 0.4]).view(1, 6, 1, 1), (3, 4)))
    assert bars.form == "bars" and bars.labels == ("#1", "#3", "#5", "#4", "#0")
    np.testing.assert_allclose(bars.values, [0.9, 0.5, 0.4, 0.3, 0.2, 0.1], rtol=1e-6)


def test_a_gate_per_position_is_an_overlay_and_a_strip_covers_its_row():
    (overlay,) = views_of(record_of("gate", torch.arange(6.0).view(1, 1, 2, 3), (2, 3)))
    assert overlay.values.tolist() == [[0, 1, 2], [3, 4, 5]]
    overlay, bars = views_of(record_of("gate", torch.tensor([[1.0, 3], [2, 6]]).view(1, 2, 2, 1), (2, 3)))
    assert overlay.values.tolist() == [[1.5] * 3, [4.5] * 3]  # the mean of both channels, in each column of the row
    assert bars.values.tolist() == [4, 2] and bars.labels == ("#1", "#0")


def test_a_softmax_over_positions_has_no_rank_of_channels():
    softmax = torch.randn(1, 3, 6, dtype=torch.double).softmax(2).view(1, 3, 2, 3)
    assert forms(views_of(record_of("gate", softmax, (2, 3)))) == ["overlay"]
    softmax[0, 1] *= 2
    assert forms(views_of(record_of("gate", softmax, (2, 3)))) == ["overlay", "bars"]


def test_attention_is_shown_for_a_query_or_as_its_mean():
    weights = torch.rand(1, 2, 6, 6, dtype=torch.double).softmax(3)
    shown = record_of("attention", weights, (2, 3))
    mean, first, second = views_of(shown)
    np.testing.assert_allclose(first.values, weights[0, 0].mean(0).reshape(2, 3), rtol=1e-6)
    np.testing.assert_allclose(mean.values, (first.values + second.values) / 2, rtol=1e-6)
    mean, first, second = views_of(shown, query=(0.9, 0.1))  # the lower left position
    np.testing.assert_allclose(second.values, weights[0, 1, 3].reshape(2, 3), rtol=1e-6)
    assert mean.at_query and not views_of(shown)[0].at_query


def test_attention_to_listed_keys_is_put_where_the_keys_are():
    keys = torch.tensor([[0, 7, -1], [7, 7, 3]])  # two queries, a grid of 2 x 4
    weights = torch.tensor([[[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]]])
    shown = record_of("attention", weights, (1, 2), keys, (2, 4))
    (of_first,) = views_of(shown, query=(0.5, 0.2))
    assert of_first.values.tolist() == [[0.5, 0, 0, 0], [0, 0, 0, 0.25]]
    (of_second,) = views_of(shown, query=(0.5, 0.8))
    assert of_second.values.tolist() == [[0, 0, 0, 0.5], [0, 0, 0, 0.5]]
    (mean,) = views_of(shown)
    assert mean.values.tolist() == [[0.25, 0, 0, 0.25], [0, 0, 0, 0.375]]


def test_maps_are_their_mean_and_those_that_vary_most():
    values = torch.zeros(1, 12, 2, 2)
    values[0, 4:11, 0, 0] = torch.arange(1.0, 8)
    mean, *others = views_of(record_of("maps", values, (2, 2)))
    assert mean.values[0, 0] == pytest.approx(28 / 12)
    assert mean.title == "mean of 12 maps\nbeside it the 7 that vary most"
    assert [view.title for view in others] == [f"map {index}" for index in range(4, 11)]
    assert others[0].values.tolist() == [[1, 0], [0, 0]]


def test_channels_are_a_matrix_per_head():
    values = torch.arange(8.0).view(1, 2, 2, 2)
    mean, first, second = views_of(record_of("channels", values, (2, 2)))
    assert forms((mean, first, second)) == ["matrix"] * 3
    assert first.values.tolist() == [[0, 1], [2, 3]] and mean.values.tolist() == [[2, 3], [4, 5]]


def test_branches_are_shares_and_where_or_in_which_channels():
    bars, first, second = views_of(
        record_of("branches", torch.tensor([0.25, 0.5, 0.75, 0.5]).view(1, 2, 2, 1, 1), (3, 3))
    )
    assert bars.values.tolist() == [0.375, 0.625] and bars.labels == ("0", "1")
    assert first.values.tolist() == [0.5, 0.25] and second.labels == ("#0", "#1")
    _, first, second = views_of(record_of("branches", torch.arange(8.0).view(1, 2, 1, 2, 2), (2, 2)))
    assert second.form == "overlay" and second.values.tolist() == [[4, 5], [6, 7]]


def test_offsets_are_arrows_in_shares_of_the_input():
    values = torch.zeros(1, 2, 2, 2, 4)
    values[0, 0, 0], values[0, 1, 0], values[0, 1, 1] = 4, 8, -2  # (y, x) of both points: (4, 0) and (8, -2)
    shown = record_of("offsets", values, (2, 4))
    arrows, length = views_of(shown, input_size=(8, 16))
    assert arrows.form == "arrows" and len(arrows.values) == 8
    np.testing.assert_allclose(arrows.values[0], [0.25, 0.125, 6 / 8, -1 / 16])
    np.testing.assert_allclose(length.values, np.full((2, 4), (4 + 68**0.5) / 2), rtol=1e-6)
    arrows, _ = views_of(shown, query=(0.6, 0.99), input_size=(8, 16))
    np.testing.assert_allclose(arrows.values, [[0.75, 0.875, 0.5, 0], [0.75, 0.875, 1, -2 / 16]])


def test_offsets_start_at_their_own_places():
    values, places = torch.ones(1, 2, 2, 1, 2), torch.tensor([[-3.0, 0.0], [3.0, 4.0]])[:, :, None, None]
    shown = AppliedAttention(BLOCK, "offsets", "by hand", values, (1, 2), places=places)
    arrows, _ = views_of(shown, query=(0.5, 0.9), input_size=(8, 16))  # the center is y 0.5, x 0.75
    np.testing.assert_allclose(arrows.values, [[0.125, 0.75, 1 / 8, 1 / 16], [0.875, 1.0, 1 / 8, 1 / 16]])
    arrows, _ = views_of(shown, input_size=(8, 16))  # the mean of both places
    np.testing.assert_allclose(arrows.values, [[0.5, x + 2 / 16, 1 / 8, 1 / 16] for x in (0.25, 0.75)])


def test_an_arrow_of_a_deformable_convolution_ends_where_it_samples():
    block = DeformConv(1, 3, dilation=2).double()
    block.offset_net.get_parameter("bias").data[:] = torch.tensor([1.0, 2.0]).repeat(9)  # each tap 1 down, 2 right
    block.deform_conv.weight.data.zero_()
    block.deform_conv.weight.data[0, 0, 2, 0] = 1  # the lower left tap alone: 2 down and 2 left before its offset
    x = torch.arange(88.0, dtype=torch.double).view(1, 1, 8, 11)
    with torch.no_grad(), recording() as records:
        sampled = block(x)[0, 0, 3, 4]
    arrows, _ = views_of(records[0], query=(3.5 / 8, 4.5 / 11))
    y, x_at = (arrows.values[6, :2] + arrows.values[6, 2:]) * (8, 11) - 0.5  # pixels
    assert (y, x_at) == pytest.approx((6, 4), abs=1e-5) and sampled == x[0, 0, 6, 4]


@pytest.mark.parametrize("size", [(4, 6), (9, 5)])
def test_an_arrow_of_deformable_attention_ends_where_it_samples(size):
    block = randomised(DAttentionBaseline(32, n_heads=2, stride=2))
    plane = torch.stack(torch.meshgrid(*(torch.arange(side).double() for side in size), indexing="ij"))
    x = plane.repeat(16, 1, 1)[None]  # channels hold y and x: what is sampled inside is where
    locations = block._sampling_locations(block.proj_q(x))[:1]
    with torch.no_grad(), recording() as records:
        block(x)
    shown = next(each for each in records if each.kind == "offsets")
    expected = (locations[0] + 1) / 2 * (torch.tensor(size) - 1)  # as grid_sample reads them, corners aligned
    height, width = shown.size
    for row, column in ((0, 0), (height - 1, width - 1)):
        arrows, _ = views_of(shown, query=((row + 0.5) / height, (column + 0.5) / width), input_size=size)
        end = (arrows.values[0, :2] + arrows.values[0, 2:]) * size - 0.5
        np.testing.assert_allclose(end, expected[row, column].detach(), atol=1e-5)


def test_kernels_are_grids_of_the_query_or_the_mean():
    values = torch.zeros(1, 2, 9, 1, 2)
    values[0, 0, :, 0, 0], values[0, 0, :, 0, 1] = torch.arange(9.0), 8 - torch.arange(9.0)
    shown = record_of("kernels", values, (1, 2))
    mean, first, second, differs = views_of(shown, query=(0.5, 0.1))
    assert first.values.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and not second.values.any()
    np.testing.assert_allclose(mean.values, first.values / 2)
    assert views_of(shown)[1].values.tolist() == [[4] * 3] * 3
    np.testing.assert_allclose(differs.values, np.full((1, 2), 60**0.5 / 2), rtol=1e-6)


def test_a_point_lies_in_a_cell():
    assert cell_of((0.0, 0.999), (3, 5)) == (0, 4) and cell_of((0.34, 1.0), (3, 5)) == (1, 4)


@pytest.mark.parametrize("name", BLOCKS)
def test_everything_that_a_block_applies_can_be_drawn(name):
    word, oracle = next(iter(CASES[name].oracles.items()))
    block = randomised(oracle.build())
    x = torch.randn(1, oracle.channels, 6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    with torch.no_grad(), recording() as records:
        block(x)
    for shown in records:
        assert shown.kind in KINDS
        for query in (None, (0.4, 0.7)):
            views = views_of(shown, query, (6, 8))
            assert 1 <= len(views) <= MOST_OVERLAYS + 1
            assert all(np.isfinite(view.values).all() and view.values.size for view in views), (word, shown.label)
            assert all(view.values.ndim == (1 if view.form == "bars" else 2) for view in views)
