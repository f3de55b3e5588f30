"""Of a step with weight zero nothing stays."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric

from lightning_app.strategies.ddp.spare_step import is_spare, nothing_stays


class Keeps(nn.Module):
    """Has everything that a step may leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.mean, self.values = MeanMetric(), CatMetric()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, and count."""
        self.mean(x.mean())
        self.values.update(x[0])
        y: Tensor = self.norm(x)
        return y


def state(module: Keeps) -> list[Tensor]:
    return [b.clone() for b in module.buffers()] + [module.mean.compute(), module.values.compute()]


def counts(module: Keeps) -> list[object]:
    values: Any = module.values.value  # a list, that grows in place
    return [module.mean._update_count, module.mean._forward_cache, len(values)]


def test_nothing_stays_of_a_spare_step() -> None:
    module = Keeps()
    module(torch.randn(4, 3))
    before, counted = state(module), counts(module)
    buffers = list(module.buffers())
    with nothing_stays(module):
        assert is_spare.get()
        module(torch.randn(4, 3) + 5).sum().backward()
        assert not any(a.equal(b) for a, b in zip(before, state(module), strict=True))
    assert not is_spare.get()
    for a, b in zip(before, state(module), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert counts(module) == counted
    assert all(a is b for a, b in zip(buffers, module.buffers(), strict=True))
    assert module.norm.weight.grad is not None  # which has to reach the other ranks


def test_nothing_stays_of_a_step_that_fails() -> None:
    module = Keeps()
    module(torch.randn(4, 3))
    before = state(module)
    with pytest.raises(ValueError, match="more than 1 value"), nothing_stays(module):
        module(torch.randn(1, 3))
    assert all(a.equal(b) for a, b in zip(before, state(module), strict=True))
    assert not is_spare.get()
