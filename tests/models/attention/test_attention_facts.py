"""Facts of single blocks that the equations alone do not show."""

import torch
from torch.nn import functional as F

from models.attention import CBAM, ACmix, DoubleAttentionLayer
from models.attention.acmix import reflect_pad
from models.attention.ops.positions import interpolate


def test_reflection_equals_torch_where_torch_can_and_bounces_where_it_cannot():
    maps = torch.arange(20.0).view(1, 1, 4, 5)
    # both move numbers and compute none
    assert torch.equal(reflect_pad(maps, 3), F.pad(maps, (3, 3, 3, 3), mode="reflect"))
    line = torch.tensor([[1.0, 2.0, 3.0]])  # one row: columns bounce to and fro, the row repeats
    assert reflect_pad(line, 4)[0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3]
    assert reflect_pad(line, 4).shape == (9, 11)


def test_interpolation_equals_torch_and_leaves_its_own_size_alone():
    table = torch.randn(2, 3, 14, generator=torch.Generator().manual_seed(0))
    assert interpolate(table, 14) is table
    for length in (1, 5, 13, 15, 40):
        torch.testing.assert_close(
            interpolate(table, length), F.interpolate(table, length, mode="linear", align_corners=False)
        )


def test_acmix_starts_as_its_paper_says():
    block = ACmix(16, 16)
    assert block.rate1.item() == block.rate2.item() == 0.5
    for kernel in block.dep_conv.weight:  # (9, 3, 3): input t reaches the output moved by shift t
        assert torch.equal(kernel.flatten(1), torch.eye(9))


def test_cbam_multiplies_once_per_stage():
    """A gate is below one and the product of the input with two gates is linear in size: doubling a constant
    gate's input doubles the output, which the tutorials' squares would not."""
    block = CBAM(16)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    x = torch.randn(1, 16, 5, 5)
    torch.testing.assert_close(block(x), x / 4)


def test_descriptors_bound_the_rank_of_double_attention():
    block, x = DoubleAttentionLayer(16, 16, 3).double(), torch.randn(1, 16, 9, 9, dtype=torch.float64)
    assert torch.linalg.matrix_rank(block(x).flatten(2)[0], atol=1e-9) <= 3
