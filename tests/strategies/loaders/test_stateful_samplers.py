"""Samplers and generators with a state of their own go on as their passes do."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Sampler,
)

from lightning_app.strategies.loaders.loader import ShardedLoader
from tests.strategies.loaders.test_loader import LOADERS, numbers, read, view


class Counting(Sampler[int]):
    """Shuffles by a count of its passes, which it keeps."""

    def __init__(self) -> None:
        self.num_passes = 0

    def __len__(self) -> int:
        return 23

    def __iter__(self) -> Iterator[int]:
        self.num_passes += 1
        order = list(range(23))
        random.Random(self.num_passes).shuffle(order)
        return iter(order)


class InPlace(Counting):
    """Shuffles its own list, by the global generator."""

    order: tuple[int, ...] = tuple(range(23))

    def __iter__(self) -> Iterator[int]:
        self.order = tuple(self.order[i] for i in torch.randperm(23).tolist())
        return iter(self.order)


class Shrinking(Counting):
    """Has fewer samples in each pass, and in the third a batch less."""

    def __len__(self) -> int:
        return 23 - self.num_passes

    def __iter__(self) -> Iterator[int]:
        yield from list(super().__iter__())[: len(self)]


@pytest.mark.parametrize("sampler", [Counting, InPlace, Shrinking])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sampler_with_a_state_goes_on_pass_by_pass(sampler: Any, num_workers: int) -> None:
    def loader() -> DataLoader[int]:
        return DataLoader(numbers(23), 5, sampler=sampler(), num_workers=num_workers)

    def epochs(a_view: ShardedLoader, first: int, last: int) -> list[list[list[int]]]:
        read_epochs = []
        for epoch in range(first, last):
            a_view.sharding.epoch_alone = epoch
            read_epochs.append(read(a_view))
        return read_epochs

    whole = epochs(view(loader()), 0, 4)
    assert len({str(epoch) for epoch in whole}) == 4
    stopped = view(loader())
    assert epochs(stopped, 0, 2) == whole[:2]
    stopped.sharding.epoch_alone = 2
    batches = iter(stopped)
    seen = [list(map(int, next(batches))) for _ in range(2)]
    state = stopped.state_dict()
    goes_on = view(loader())
    goes_on.load_state_dict(state)
    rest = epochs(goes_on, 2, 4)
    assert [seen + rest[0], rest[1]] == whole[2:]
    # At the end of an epoch, too.
    ended = view(loader())
    epochs(ended, 0, 2)
    goes_on = view(loader())
    goes_on.load_state_dict(ended.state_dict())
    assert epochs(goes_on, 2, 4) == whole[2:]


class OfSize(BatchSampler):
    """Tells a batch size of its own."""

    def __init__(self, batch_size: Any) -> None:
        super().__init__(numbers(23), 5, drop_last=False)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3, 4]])

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(("told", "size"), [([2, 3], None), (np.int64(3), 3), ("3", None)])
def test_a_batch_size_of_any_type_leaves_a_position(told: Any, size: int | None) -> None:
    stopped = view(DataLoader(numbers(23), batch_sampler=OfSize(told)))
    next(iter(stopped))
    state = stopped.state_dict()
    assert (type(state["samples a batch"]), state["samples a batch"]) == (type(size), size)
    goes_on = view(DataLoader(numbers(23), batch_sampler=OfSize(told)))
    goes_on.load_state_dict(state)
    assert read(goes_on) == [[2, 3, 4]]


def test_an_own_generator_goes_on_as_under_torch() -> None:
    made = LOADERS["own generator"]()
    plain = [[list(map(int, batch)) for batch in made] for _ in range(3)]
    ours = view(LOADERS["own generator"]())
    assert [read(ours) for _ in range(3)] == plain
