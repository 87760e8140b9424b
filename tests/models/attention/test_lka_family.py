"""How the large-kernel gates start, and ELA with a group of one value, beyond what test_attention.py checks."""

import pytest
import torch

from models.attention import DLKA, ELA, LKA, LSKA, LSKblock, Strip


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block_class", [LKA, LSKA, DLKA, LSKblock, Strip])
def test_an_unbounded_gate_starts_around_one(block_class):
    torch.manual_seed(0)
    block, x = block_class(64).eval(), image(2, 64, 20, 20)
    with torch.no_grad():
        change = (block(x) - x).std() / x.std()
    assert 0.001 < change < 0.3


def test_deformable_kernels_start_as_regular_ones():
    torch.manual_seed(0)
    deformable, regular, x = DLKA(16).double().eval(), LKA(16).double().eval(), image(2, 16, 9, 14).double()
    with torch.no_grad():
        for own, other in ((deformable.conv0, regular.conv0), (deformable.conv_spatial, regular.conv_spatial)):
            other.weight.copy_(own.deform_conv.weight)
            other.bias.zero_()
        regular.conv1.load_state_dict(deformable.conv1.state_dict())
        torch.testing.assert_close(deformable(x), regular(x), rtol=1e-9, atol=1e-9)


def test_a_deformed_kernel_samples_as_well_under_autocast():
    """Offsets that autocast makes bfloat16 are cast to the map's type."""
    torch.manual_seed(0)
    block, x = DLKA(16).eval(), image(1, 16, 9, 14)
    with torch.no_grad():
        for layer in (block.conv0, block.conv_spatial):
            torch.nn.init.constant_(layer.offset_net.bias, 0.375)  # exact in bfloat16
        expected = block(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = block(x)
    assert (mixed.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_group_of_one_value_opens_the_gate_by_the_norms_bias():
    """16 channels in 16 groups at 1 x 1, one image: torch's module refuses it, in evaluation too."""
    block, x = ELA(16), image(1, 16, 1, 1)
    with torch.no_grad():
        block.gn_h.bias.fill_(1.5)
        for training in (True, False):
            expected = x * torch.sigmoid(torch.tensor(1.5)) * 0.5
            torch.testing.assert_close(block.train(training)(x), expected, rtol=1e-5, atol=1e-5)
