"""Samplers and generators with a state of their own go on as their passes do."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Sampler,
)

from lightning_app.strategies.loader import ShardedLoader
from tests.strategies.test_loader import LOADERS, numbers, read, view


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


@pytest.mark.parametrize("sampler", [Counting, InPlace])
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


def test_an_own_generator_goes_on_as_under_torch() -> None:
    made = LOADERS["own generator"]()
    plain = [[list(map(int, batch)) for batch in made] for _ in range(3)]
    ours = view(LOADERS["own generator"]())
    assert [read(ours) for _ in range(3)] == plain
