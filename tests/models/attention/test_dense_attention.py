"""What the blocks of dense, crossed and channel attention promise beyond what every block must hold."""

import pytest
import torch

from models.attention.a2 import A2
from models.attention.area import AreaAttention
from models.attention.bot import BoT, relative_table
from models.attention.criss_cross import CrissCross
from models.attention.dual_attention import DualAttention
from models.attention.external import ExternalAttention
from models.attention.global_context import GlobalContext
from models.attention.non_local import NonLocal
from models.attention.ops.softmax_attention import attend
from models.identity_start import apply_identity_start
from models.registry import Scale, find


def image(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


STARTS = [
    NonLocal,
    CrissCross,
    A2,
    BoT,
    GlobalContext,
    lambda width: GlobalContext(width, 0.5, "att", "channel_mul"),
    lambda width: GlobalContext(width, 0.5, "att", ["channel_add", "channel_mul"]),
]


@pytest.mark.parametrize("build", STARTS, ids=lambda build: getattr(build, "__name__", ""))
def test_starts_as_the_identity_and_learns(build):
    """Behind a second zero gate a block that starts as the identity would never learn."""
    block, x = apply_identity_start(build(16), 16, 16), image(2, 16, 5, 6)
    assert torch.equal(block(x), x)  # x and nothing, or x times one: no rounding
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * image(2, 16, 5, 6, seed=2)).sum().backward()
        optimizer.step()
    assert not torch.allclose(block(x), x, atol=1e-4)


def test_two_rounds_of_crosses_see_the_whole_map_and_one_does_not():
    x = image(1, 16, 6, 7).requires_grad_()
    for rounds, seen in ((1, 6 + 7 - 1), (2, 6 * 7)):
        torch.manual_seed(0)
        block = CrissCross(16, rounds)
        torch.nn.init.ones_(block.gamma)
        (gradient,) = torch.autograd.grad(block(x)[..., 2, 3].sum(), x)
        assert int((gradient.abs().sum(1) > 1e-9).sum()) == seen


def test_each_round_weights_by_float32_products_in_half_precision():
    block = CrissCross(32).half().eval()
    torch.nn.init.ones_(block.gamma)
    assert block(500 * image(1, 32, 5, 6).half()).isfinite().all()


def test_channel_energies_of_large_maps_stay_finite_under_autocast():
    block = DualAttention(16).eval()
    torch.nn.init.ones_(block.channel[1].gamma)
    with torch.autocast("cpu", dtype=torch.float16):
        assert block(300 * image(1, 16, 64, 64)).isfinite().all()


def test_relative_positions_keep_their_meaning_whatever_the_map():
    table = torch.arange(7.0).unsqueeze(1)  # offsets -3 to 3
    assert relative_table(table, 3)[..., 0].tolist() == [[3, 4, 5], [2, 3, 4], [1, 2, 3]]
    assert relative_table(table, 6)[0, :, 0].tolist() == [3, 4, 5, 6, 6, 6]
    assert relative_table(table, 6)[5, :, 0].tolist() == [0, 0, 0, 1, 2, 3]


def test_areas_do_not_see_each_other_beyond_the_convolution():
    """Without the positional convolution an area's output depends on that area alone."""
    block = AreaAttention(8, area=4).eval()
    torch.nn.init.zeros_(block.position.bn.weight)
    x = image(1, 8, 8, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(block(x)[:, :, 2:4].sum(), x)
    seen = gradient.abs().sum((0, 1, 3)) > 0  # where nothing leads, a gradient is zero and not small
    assert seen.tolist() == [False, False, True, True, False, False, False, False]


def test_memory_weights_stay_finite_if_one_position_outweighs_all():
    """Dividing softmax over positions by its sum over rows would be 0 / 0 here."""
    x = torch.zeros(1, 8, 40, 40)
    x[..., 0, 0] = 1e4
    block = ExternalAttention(8)
    torch.nn.init.ones_(block.mk.weight)
    assert block(x).isfinite().all()
    expected = block.mv.weight[:, :, 0, 0].mean(1)  # all rows are alike: each position takes their mean
    torch.testing.assert_close((block(x) - x)[0, :, 5, 5], expected, rtol=1e-4, atol=1e-5)


def test_repeats_of_a_row_are_blocks_inside_c2psa():
    plan = find("C2PSA").wiring([256], 2, Scale(width=0.25), [1024])
    assert (plan.args, plan.channels_out, plan.copies) == ((256, 2), 256, 1)
    block = find("C2PSA").cls(*plan.args)
    assert len(block.blocks) == 2 and block.heads == 2 * 2
    assert find("C2PSA").wiring([256], 1, Scale(width=0.25), [1024, 0.25]).args == (256, 1, 0.25)


@pytest.mark.parametrize(("width", "value_width"), [(3, 8), (8, 3), (4, 4)])
def test_attention_of_any_widths(width, value_width):
    shapes = (2, 3, 5, width), (2, 3, 7, width), (2, 3, 7, value_width)
    query, key, value = (image(*shape, seed=seed).double() for seed, shape in enumerate(shapes, 1))
    expected = torch.softmax(0.7 * query @ key.transpose(2, 3), 3) @ value
    torch.testing.assert_close(attend(query, key, value, scale=0.7), expected)
