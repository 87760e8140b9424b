"""SHSA starts as the identity by itself, which a zero gate around it must not double."""

import torch
from torch import nn

from models.common import SHSA, C3Attention
from models.identity_start import IdentityStart, started_as_identity


def moved(block, x, steps):
    """Names of the parameters that have left their place after some steps."""
    optimizer = torch.optim.SGD(block.train().parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in block.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        (block(x) * x.flip(0)).sum().backward()
        optimizer.step()
    return {name for name, value in block.named_parameters() if not torch.equal(value, before[name])}


def test_starts_as_the_identity_and_wakes_on_the_second_step():
    torch.manual_seed(0)
    block, x = SHSA(32), torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    block.start_as_identity()
    assert torch.equal(block.eval()(x), x)
    assert moved(block, x, 2) == {name for name, _ in block.named_parameters()}


def test_is_not_put_behind_a_second_gate_alone_or_in_a_c3():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    alone = SHSA(32)
    assert started_as_identity(alone, 32, 32) is alone
    inside = C3Attention(32, 32, 1, True, "SHSA")
    assert started_as_identity(inside, 32, 32) is inside and isinstance(inside.m[0].attention, SHSA)
    assert moved(inside, x, 3) == {name for name, _ in inside.named_parameters()}


def test_a_second_gate_would_never_open():
    """Why: the inner gate hides the block from the outer one, the outer one hides it from the inner."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    doubled: nn.Module = IdentityStart(SHSA(32), 32)
    assert moved(doubled, x, 5) == set()
