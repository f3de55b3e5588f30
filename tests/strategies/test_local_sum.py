"""Gradients of processes on one machine are summed over sockets, the large ones by gloo."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from lightning_app.strategies.local_sum import MAX_BYTES, LocalSum
from tests.ranks import run_ranks
from tests.runs import make_trainer
from tests.user_modules import Shuffled, Submodule


def sums() -> list[Tensor]:
    dist.init_process_group("gloo")
    local, rank = LocalSum(), dist.get_rank()
    double = local.sum(torch.arange(3, dtype=torch.float64) + rank)
    half = local.sum(torch.full((5,), 1.5**rank, dtype=torch.bfloat16))
    local.close()
    return [double, half]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_gets_the_sum(world_size: int) -> None:
    for double, half in run_ranks(sums, world_size):
        extra = sum(range(world_size))
        assert double.tolist() == [extra, world_size + extra, 2 * world_size + extra]
        assert half.tolist() == [sum(1.5**rank for rank in range(world_size))] * 5


class Pair(nn.Module):
    """A large parameter, whose gradient comes first, and a small one: two buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Parameter(torch.ones(MAX_BYTES)), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the sums of both."""
        return x * (self.small.sum() + self.large.sum())


class CountedSum(LocalSum):
    """Notes the lengths of what it sums."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    @override
    def sum(self, tensor: Tensor) -> Tensor:
        self.lengths.append(len(tensor))
        return super().sum(tensor)


def gradients() -> tuple[list[float], list[int]]:
    dist.init_process_group("gloo")
    local, pair = CountedSum(), Pair()
    model = DistributedDataParallel(pair, bucket_cap_mb=1)
    model.register_comm_hook(dist.group.WORLD, local.hook)
    for _ in range(3):  # DDP makes its buckets after the first step
        model.zero_grad()
        model(torch.tensor(1.0 + dist.get_rank())).backward()
    local.close()
    assert pair.large.grad is not None
    assert pair.small.grad is not None
    return [*pair.large.grad[:2].tolist(), *pair.small.grad.tolist()], local.lengths


def test_large_buckets_are_left_to_gloo() -> None:
    for gradient, lengths in run_ranks(gradients, 2):
        assert gradient == [1.5] * 4
        assert lengths == [2, 2]


def end_of_a_rank() -> str:
    dist.init_process_group("gloo")
    local = LocalSum()
    if dist.get_rank() == 0:
        with pytest.raises(ConnectionError) as caught:
            local.sum(torch.zeros(2))
        return str(caught.value)
    local.close()
    return ""


def test_a_rank_that_is_gone_is_noticed() -> None:
    assert run_ranks(end_of_a_rank, 2)[0].startswith("another rank has ended")


def count_sums() -> int:
    calls = []
    plain = LocalSum.sum

    def counted(self: LocalSum, tensor: Tensor) -> Tensor:
        calls.append(tensor)
        return plain(self, tensor)

    LocalSum.sum = counted  # type: ignore[method-assign]
    trainer = make_trainer("ddp", 2, max_epochs=1)
    trainer.fit(Submodule(), Shuffled())
    return len(calls)


def test_a_step_on_one_machine_uses_it() -> None:
    assert run_ranks(count_sums, 2) == [6, 6]
