"""Any map-style loader is split, in an order that depends on (seed, epoch, position) alone."""

import copy
import itertools
import pickle
import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_app.strategies import SingleDeviceStrategy
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.loaders.loader import ShardedLoader, shard_loader
from lightning_app.strategies.loaders.passes import Pass
from lightning_app.strategies.loaders.randomness import SeededSampler
from tests.runs import make_trainer
from tests.user_modules import NumberStream


class Restless(Sampler[int]):
    """Draws from the global generators at every single index."""

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        for _ in range(20):
            yield (random.randrange(7) + np.random.randint(7) + int(torch.randint(7, ()))) % 20


class Pairs(Sampler[list[int]]):
    """A batch sampler of the user's own, with batches of different sizes."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([4, 1, 9], [2], [7, 0, 3, 5])


def numbers(length: int) -> Any:
    return list(range(length))


def negative(samples: list[int]) -> torch.Tensor:
    return -torch.tensor(samples)


LOADERS: dict[str, Any] = {
    "sequential": lambda: DataLoader(numbers(23), batch_size=5),
    "shuffled": lambda: DataLoader(numbers(23), batch_size=5, shuffle=True),
    "own generator": lambda: DataLoader(
        numbers(23), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(8)
    ),
    "drop_last": lambda: DataLoader(numbers(23), batch_size=5, shuffle=True, drop_last=True),
    "replacement": lambda: DataLoader(
        numbers(23), batch_size=5, sampler=RandomSampler(range(23), replacement=True)
    ),
    "subset": lambda: DataLoader(
        numbers(23), batch_size=4, sampler=SubsetRandomSampler(range(3, 20))
    ),
    "weighted": lambda: DataLoader(
        numbers(23), batch_size=4, sampler=WeightedRandomSampler([1.0] * 23, 17)
    ),
    "restless": lambda: DataLoader(numbers(20), batch_size=6, sampler=Restless()),
    "batch sampler": lambda: DataLoader(numbers(10), batch_sampler=Pairs()),
    "collate": lambda: DataLoader(numbers(10), batch_size=4, collate_fn=negative),
    "workers": lambda: DataLoader(numbers(23), batch_size=5, shuffle=True, num_workers=2),
}


def view(loader: object, rank: int = 0, world_size: int = 1, **options: Any) -> ShardedLoader:
    """A loader's view, which no Trainer uses."""
    made = shard_loader(loader, rank, world_size, **options)
    assert isinstance(made, ShardedLoader)
    return made


def read(loader: ShardedLoader) -> list[list[int]]:
    """Each batch's part of this rank; empty where the rank has none."""
    batches = iter(loader)
    return [list(map(int, b)) if batches.its_pass.shard.size else [] for b in batches]


def shards(name: str, world_size: int, epoch: int = 0, position: int = 0) -> list[list[list[int]]]:
    """Each rank's batches, with the ranks' global generators in different states."""
    ranks = []
    for rank in range(world_size):
        torch.manual_seed(100 + rank)
        random.seed(rank)
        np.random.seed(rank)
        loader = view(LOADERS[name](), rank, world_size, seed=5)
        for earlier in range(epoch if name == "own generator" else 0):
            loader.sharding.epoch_alone = earlier
            read(loader)
        loader.sharding.epoch_alone = epoch
        if position:
            batches = iter(loader)
            for _ in range(position):
                next(batches)
            state = loader.state_dict()
            loader = view(LOADERS[name](), rank, world_size, seed=99)
            loader.sharding.epoch_alone = epoch
            loader.load_state_dict(state)
        ranks.append(read(loader))
    return ranks


@pytest.mark.parametrize("name", LOADERS)
def test_ranks_share_each_batch_of_one_rank(name: str) -> None:
    (whole,) = shards(name, 1)
    for world_size in (2, 3):
        ranks = shards(name, world_size)
        joined = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
        assert joined == whole
        sizes = [[len(part) for part in parts] for parts in zip(*ranks, strict=True)]
        assert all(max(size) - min(size) <= 1 for size in sizes)


@pytest.mark.parametrize("name", LOADERS)
def test_any_position_continues_the_epoch(name: str) -> None:
    (whole,) = shards(name, 1, epoch=2)
    for position in range(len(whole)):
        assert shards(name, 1, epoch=2, position=position) == [whole[position:]]


@pytest.mark.parametrize("name", ["shuffled", "own generator", "subset", "weighted", "restless"])
def test_epochs_differ(name: str) -> None:
    assert shards(name, 1, epoch=0) != shards(name, 1, epoch=1)


def test_the_runs_generators_are_left_alone() -> None:
    batches = iter(SeededSampler(LOADERS["restless"]().batch_sampler, 3))
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    expected = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    next(batches)
    first = torch.rand(())
    next(batches)
    assert (first, random.random(), np.random.rand()) == expected


def test_a_rank_without_samples_trains_on_the_whole_batch_and_counts_none() -> None:
    arrived: list[tuple[Pass, Shard]] = []
    samples: Any = [torch.ones(4)] * 7
    loader = view(DataLoader(samples, batch_size=6), 2, 3)
    loader.sharding.listeners.append(lambda *args: arrived.append(args))
    assert [tuple(batch.shape) for batch in loader] == [(2, 4), (1, 4)]
    assert [(shard.size, shard.global_size) for _, shard in arrived] == [(2, 6), (0, 1)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_rank_without_samples_takes_no_part_in_an_evaluation(num_workers: int) -> None:
    loader = DataLoader(numbers(10), batch_sampler=Pairs(), num_workers=num_workers)
    for rank, expected in enumerate([[[4], [2], [7, 0]], [[1], [3]], [[9], [5]]]):
        loader_of_rank = view(loader, rank, 3, skips_idle=True)
        assert (len(loader_of_rank), read(loader_of_rank)) == (3, expected)
        assert loader_of_rank.sharding.round_of(0) == 0  # ranks that skip none don't ask for an end


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 7), st.integers(0, 3))
def test_every_sample_is_visited_once(
    length: int, batch_size: int, world_size: int, epoch: int
) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        loader = view(
            DataLoader(numbers(length), batch_size, shuffle=True), rank, world_size, skips_idle=True
        )
        loader.sharding.epoch_alone = epoch
        seen += chain(*read(loader))
    assert sorted(seen) == numbers(length)


def test_position_is_saved_in_global_batches() -> None:
    (whole,) = shards("shuffled", 1, epoch=1)
    loader = view(LOADERS["shuffled"](), 1, 2, seed=5)
    loader.sharding.epoch_alone = 1
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    sizes = {"batches": 5, "samples": 23, "samples a batch": 5}
    assert state.items() >= ({"epoch": 1, "position": 2, "seed": 5} | sizes).items()
    other = view(LOADERS["shuffled"]())
    other.sharding.epoch_alone = 1
    other.load_state_dict(state)
    assert read(other) == whole[2:]


def test_an_abandoned_iteration_is_not_continued() -> None:
    loader = view(LOADERS["shuffled"]())
    next(iter(loader))
    assert read(loader) == read(view(LOADERS["shuffled"]()))


@pytest.mark.parametrize("name", ["batches", "samples", "samples a batch"])
def test_other_sizes_cannot_continue_an_epoch(name: str) -> None:
    loader = view(LOADERS["shuffled"]())
    state = loader.state_dict() | {"position": 2, name: 90}
    with pytest.raises(MisconfigurationException, match=f"2 batches into an epoch of 90 {name}, "):
        loader.load_state_dict(state)
    loader.load_state_dict(state | {"position": 0})


class Keeps(DataLoader[Any]):
    """Has something to save, which Lightning asks it for."""

    def state_dict(self) -> dict[str, Any]:
        return {"stage": 3}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_what_cannot_be_split_is_refused_or_left_to_one_rank() -> None:
    stream = DataLoader(NumberStream(), 2)
    assert shard_loader(stream, 0, 1) is stream
    assert shard_loader([1, 2], 0, 1) == [1, 2]
    with pytest.raises(MisconfigurationException, match="set NumberStream is an IterableDataset"):
        shard_loader(stream, 0, 2)
    with pytest.raises(MisconfigurationException, match="list is not a DataLoader"):
        shard_loader([1, 2], 0, 2)
    sampler: Any = DistributedSampler(numbers(9), num_replicas=2, rank=0)
    foreign: Any = SequentialSampler(numbers(9))
    foreign.num_replicas = 2  # as libraries' own have it
    batches: Any = BatchSampler(sampler, 2, drop_last=False)
    for chooses in (
        {"sampler": sampler},
        {"batch_sampler": batches},
        {"batch_sampler": sampler},
        {"sampler": foreign},
    ):
        split = DataLoader(numbers(9), **chooses)
        with pytest.raises(MisconfigurationException, match="split twice"):
            make_trainer(SingleDeviceStrategy("cpu"), 1).strategy.process_dataloader(split)
    keeps = Keeps(numbers(9), 2)
    assert shard_loader(keeps, 0, 1) is keeps
    with pytest.raises(MisconfigurationException, match=r"Keeps keeps a state of its own \(it has"):
        shard_loader(keeps, 0, 2)
    endless: Any = itertools.count()
    for name, loader in {
        "list_iterator": DataLoader(numbers(9), batch_sampler=iter([[0]])),
        "count": DataLoader(numbers(9), 2, sampler=endless),
    }.items():
        with pytest.raises(MisconfigurationException, match=f"{name} has no length"):
            shard_loader(loader, 0, 2)
    assert shard_loader([], 0, 2) == []


def test_a_batch_sampler_of_torch_is_as_good_as_a_batch_size() -> None:
    loader = DataLoader(numbers(9), batch_sampler=BatchSampler(range(9), 4, drop_last=False))
    assert read(view(loader, 0, 2)) == [[0, 1], [4, 5], [8]]
    assert view(loader, 0, 2).sharding.batch_size == 4


def test_a_view_is_what_the_loader_is() -> None:
    class Own(DataLoader[Any]):
        tag = "mine"

    sampler = RandomSampler(range(9))
    loader: Any = Own(numbers(9), 2, sampler=sampler, num_workers=1, collate_fn=negative)
    loader.note = []
    ours: Any = view(loader, 0, 2)
    assert isinstance(ours, Own)
    assert ours == loader
    for name in ("dataset", "sampler", "batch_sampler", "collate_fn", "note", "tag", "generator"):
        assert getattr(ours, name) is getattr(loader, name), name
    for name in ("num_workers", "drop_last", "pin_memory", "batch_size", "persistent_workers"):
        assert getattr(ours, name) == getattr(loader, name), name
    assert vars(loader).keys() & {"sharding"} == set()
    assert [type(view(made)).__name__ for made in (loader, LOADERS["subset"]())] == [
        "Own",
        "DataLoader",
    ]


@pytest.mark.parametrize("name", ["sequential", "shuffled", "drop_last"])
def test_a_copy_of_a_view_has_its_place_and_no_batches(name: str) -> None:
    original = view(LOADERS[name](), 0, 2)
    begun = iter(original)
    next(begun)
    for copied in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
        assert type(copied) is type(original)
        assert copied.state_dict()["position"] == original.state_dict()["position"] == 1
    assert len(list(begun)) == len(original) - 1
