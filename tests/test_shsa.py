"""SHSA starts as the identity by itself, which a zero gate around it must not double."""

import torch

from models.common import SHSA


def test_starts_as_the_identity_and_wakes_on_the_second_step():
    torch.manual_seed(0)
    block, x = SHSA(32), torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(1))
    block.start_as_identity()
    assert torch.equal(block.eval()(x), x)
    optimizer = torch.optim.SGD(block.train().parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in block.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * x.flip(0)).sum().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in block.named_parameters())
