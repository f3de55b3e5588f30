"""The replicas' scatter and gather, and what a replicated module may take and give."""

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_app.strategies import DataParallelStrategy
from lightning_app.strategies.batch.rows import Rows
from lightning_app.strategies.dp.replicas import _in_modes_of_this_thread, replica_rank
from lightning_app.strategies.dp.scatter_gather import Gather, NotJoined, NotSplit, scatter

CPU = torch.device("cpu")


class Pair(NamedTuple):
    """Two outputs."""

    first: Tensor
    second: Any


def followed(batch: Any, size: int) -> Rows:
    rows = Rows()
    rows.note_batch(batch, size, stacked=True)
    return rows


@given(st.integers(1, 50), st.integers(1, 9))
def test_scatter_and_gather_are_inverse(length: int, num_devices: int) -> None:
    x, twice = torch.arange(2 * length).reshape(length, 2), torch.ones(length, 1)
    rows = followed((x, twice), length)
    kwargs = {"scale": -3, "whole": torch.ones(length + 1 if length > 1 else 0)}
    shards = scatter((x, {"twice": twice}), kwargs, rows, [CPU] * num_devices, lambda _: False)
    chunks = x.chunk(num_devices)
    assert [size for size, _, _ in shards] == [len(chunk) for chunk in chunks]
    for (size, args, own), chunk in zip(shards, chunks, strict=True):
        assert args[0].equal(chunk)
        assert args[1]["twice"].equal(torch.ones(size, 1))
        assert own["scale"] == -3
        assert own["whole"] is kwargs["whole"]
    sizes = [size for size, _, _ in shards]
    (x_again, more), constants = Gather(sizes, CPU)([(args, {"n": 1}) for _, args, _ in shards])
    assert x_again.equal(x)
    assert more["twice"].equal(twice)
    assert constants == {"n": 1}


def test_scalars_are_averaged_by_samples() -> None:
    outputs = [Pair(torch.ones(3), torch.tensor(1.0)), Pair(torch.zeros(1), torch.tensor(5.0))]
    joined = Gather([3, 1], CPU)(outputs)
    assert joined.first.tolist() == [1, 1, 1, 0]
    assert joined.second == 2


def test_what_cannot_be_joined_or_split_is_refused() -> None:
    with pytest.raises(NotJoined, match="its replicas return objects that cannot be joined"):
        Gather([1, 1], CPU)([object(), object()])
    with pytest.raises(NotSplit):
        scatter((torch.tensor(1.0),), {"n": 3}, followed((), 2), [CPU, CPU], lambda _: False)


class Spy(nn.Module):
    """Notes the rank and size of each call, and whether a loss module was split."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.calls: list[tuple[int | None, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Predict."""
        self.calls.append((replica_rank.get(), len(x)))
        y: Tensor = self.linear(x)
        return y


@pytest.fixture
def strategy() -> Iterator[DataParallelStrategy]:
    strategy = DataParallelStrategy()
    strategy.parallel_devices = [CPU] * 3
    strategy._calls.follow()
    yield strategy
    strategy._calls.stop()


def test_a_call_in_a_step_is_split_and_one_outside_is_not(strategy: DataParallelStrategy) -> None:
    module = Spy()
    x = torch.randn(10, 3)
    outside = module(x)
    assert module.calls == [(None, 10)]
    with strategy._splits(x):
        inside = module(x)
    assert module.calls[1:] == [(0, 4), (1, 4), (2, 2)]
    torch.testing.assert_close(inside, outside)
    assert replica_rank.get() is None


def test_gradients_reach_the_one_set_of_parameters(strategy: DataParallelStrategy) -> None:
    module, reference = Spy(), Spy()
    reference.load_state_dict(module.state_dict())
    x = torch.randn(10, 3)
    with strategy._splits(x):
        module(x).pow(2).mean().backward()
    reference(x).pow(2).mean().backward()
    torch.testing.assert_close(module.linear.weight.grad, reference.linear.weight.grad)


def in_replicas_thread(function: Callable[[], Any]) -> Any:
    """What a function gives in a thread that has what this one has."""
    seen = []
    see = _in_modes_of_this_thread("cpu", lambda: seen.append(function()))

    def run() -> None:
        torch.set_grad_enabled(False)  # as `parallel_apply` does in an evaluation
        see()

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return seen[0]


def test_a_replicas_thread_has_the_autocast_of_the_step() -> None:
    with torch.autocast("cpu", dtype=torch.float16):
        dtype = in_replicas_thread(lambda: torch.get_autocast_dtype("cpu"))
    assert dtype == torch.float16  # and not torch's default, bfloat16


def test_a_replicas_thread_has_the_inference_mode_of_the_step() -> None:
    with torch.inference_mode():
        numbers = torch.ones(2)
        assert in_replicas_thread(lambda: numbers.add_(1).tolist()) == [2, 2]
    assert in_replicas_thread(torch.is_grad_enabled) is False
