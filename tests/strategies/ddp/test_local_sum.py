"""Gradients of processes on one machine are summed over sockets, the large ones by gloo."""

import os
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app.strategies.ddp import local_sum
from lightning_app.strategies.ddp.local_sum import MAX_BYTES, LocalSum
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
    assert run_ranks(end_of_a_rank, 2)[0] == "rank 1 has ended; what it printed tells why"


def wait_for_a_rank(absent: int) -> tuple[str, list[str]]:
    dist.init_process_group("gloo")
    said: list[str] = []
    local_sum.SAYS_SO_S, vars(local_sum)["say"] = 0.1, said.append
    local, others = LocalSum(timedelta(seconds=0.3)), 1 - absent
    message = ""
    if dist.get_rank() == others:
        with pytest.raises(TimeoutError) as caught:
            local.sum(torch.zeros(2))
        message = str(caught.value)
    dist.barrier()
    local.close()
    return message, said


@pytest.mark.parametrize(("waiting", "absent"), [(0, 1), (1, 0)])
def test_no_wait_is_without_an_end(waiting: int, absent: int) -> None:
    message, said = run_ranks(wait_for_a_rank, 2, absent)[waiting]
    assert message == (
        f"rank {waiting} waited 0:00:00.300000 for the gradients of rank {absent}, which did not "
        "come to this step's backward pass"
    )
    assert said == [
        f"rank {waiting} waits for the gradients of rank {absent}, for at most 0 s more"
    ]


def sum_where(problem: str, folder: str) -> tuple[bool, list[float]]:
    dist.init_process_group("gloo")
    if problem == "a deep folder":
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = None
    if problem == "no local names":  # as on macOS and Windows
        vars(local_sum)["sys"] = SimpleNamespace(platform="other")
    if problem == "no sockets at all":

        def refuse(num_others: int) -> Any:
            raise PermissionError

        local_sum._listen = refuse
    if problem == "one rank is apart" and dist.get_rank() == 1:

        def fail(self: LocalSum) -> None:
            dist.broadcast_object_list([None, None])
            raise ConnectionRefusedError

        LocalSum._connect_other = fail  # type: ignore[method-assign]
    local_sum.CONNECT_S = 1.0
    local, pair = LocalSum(), Pair()
    model = DistributedDataParallel(pair)
    model.register_comm_hook(dist.group.WORLD, local.hook)
    model(torch.tensor(1.0 + dist.get_rank())).backward()
    local.close()
    assert pair.small.grad is not None
    return local.is_connected, pair.small.grad.tolist()


@pytest.mark.parametrize(
    ("problem", "is_connected"),
    [
        ("a deep folder", True),
        ("no local names", True),
        ("no sockets at all", False),
        ("one rank is apart", False),
    ],
)
def test_there_is_a_way_round(problem: str, is_connected: bool, tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    for result in run_ranks(sum_where, 2, problem, str(deep)):
        assert result == (is_connected, [1.5, 1.5])


class Sparse(LightningModule):
    """Words, of which each batch has a few."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 2, sparse=True)
        self.line = nn.Linear(2, 1)

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.line(self.words(batch)).square().mean()
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def train_sparse(strategy: str, devices: int) -> list[float]:
    torch.manual_seed(1)
    trainer, model = make_trainer(strategy, devices, max_epochs=3), Sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer.fit(model, DataLoader(torch.arange(20) % 10, 3))  # type: ignore[arg-type]
    values: list[float] = model.words.weight.flatten().tolist()
    return values


def test_sparse_gradients_are_those_of_one_device() -> None:
    alone = train_sparse("single_device", 1)
    for values in run_ranks(train_sparse, 2, "ddp", 2):
        assert values == pytest.approx(alone, rel=1e-12)


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
    # Of the gradients of 6 steps; of what each of them logs; and again once the names are known.
    assert run_ranks(count_sums, 2) == [6 + 6 + 1] * 2
