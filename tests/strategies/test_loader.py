"""Any map-style loader is split, in an order that depends on (seed, epoch, position) alone."""

import copy
import multiprocessing
import pickle
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_app.strategies import SingleDeviceStrategy
from lightning_app.strategies.loader import ShardedLoader, shard_loader
from lightning_app.strategies.passes import Pass
from lightning_app.strategies.randomness import OwnRandomness
from lightning_app.strategies.sharding import Shard
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
    batches = iter(OwnRandomness(LOADERS["restless"]().batch_sampler, 3))
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
        assert len(loader_of_rank) == 3
        assert read(loader_of_rank) == expected


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


def test_what_cannot_be_split_is_refused_or_left_to_one_rank() -> None:
    stream = DataLoader(NumberStream(), 2)
    assert shard_loader(stream, 0, 1) is stream
    assert shard_loader([1, 2], 0, 1) == [1, 2]
    with pytest.raises(MisconfigurationException, match="NumberStream is an IterableDataset"):
        shard_loader(stream, 0, 2)
    with pytest.raises(MisconfigurationException, match="list is not a DataLoader"):
        shard_loader([1, 2], 0, 2)
    split = DataLoader(numbers(9), sampler=DistributedSampler(numbers(9), num_replicas=2, rank=0))
    with pytest.raises(MisconfigurationException, match="split twice"):
        make_trainer(SingleDeviceStrategy("cpu"), 1).strategy.process_dataloader(split)
    unsized: Any = DataLoader(numbers(9), batch_sampler=iter([[0]]))
    with pytest.raises(MisconfigurationException, match="has no length"):
        shard_loader(unsized, 0, 2)


def test_a_batch_sampler_of_torch_is_as_good_as_a_batch_size() -> None:
    loader = DataLoader(numbers(9), batch_sampler=BatchSampler(range(9), 4, drop_last=False))
    assert read(view(loader, 0, 2)) == [[0, 1], [4, 5], [8]]
    assert view(loader, 0, 2).sharding.batch_size == 4


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


@pytest.mark.filterwarnings("default")  # Lightning's advice
def test_no_worker_outlives_a_run() -> None:
    flags = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 2}
    trainer = make_trainer(SingleDeviceStrategy("cpu"), 1, fast_dev_run=False, **flags)
    loader = DataLoader(RandomDataset(32, 64), 2, num_workers=1)
    before = multiprocessing.active_children()
    trainer.fit(BoringModel(), loader, loader)
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.filterwarnings("default")
def test_the_position_is_known_after_a_run(tmp_path: Path) -> None:
    trainer = make_trainer(SingleDeviceStrategy("cpu"), 1, max_steps=11, fast_dev_run=False)
    trainer.fit(BoringModel(), DataLoader(RandomDataset(32, 64), 8))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    progress = torch.load(tmp_path / "end.ckpt", weights_only=True)["loops"]["fit_loop"]
    (state,) = progress["state_dict"]["combined_loader"]
    assert (state["epoch"], state["position"]) == (1, 3)
    assert progress["epoch_loop.batch_progress"]["current"]["completed"] == 3


@pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
def test_an_evaluation_may_be_set_up_without_being_run() -> None:
    trainer = make_trainer(SingleDeviceStrategy("cpu"), 1)
    model = BoringModel()
    trainer.strategy.connect(model)
    trainer._data_connector.attach_data(model)
    trainer.state.stage = RunningStage.VALIDATING
    trainer.validate_loop.setup_data()
    assert isinstance(trainer.val_dataloaders, ShardedLoader)


def test_two_passes_at_once_are_two() -> None:
    loader = view(LOADERS["sequential"](), 0, 2)
    first = iter(loader)
    next(first)
    assert read(loader) == [[0, 1, 2], [5, 6, 7], [10, 11, 12], [15, 16, 17], [20, 21]]
    assert [list(map(int, batch)) for batch in first] == [
        [5, 6, 7],
        [10, 11, 12],
        [15, 16, 17],
        [20, 21],
    ]


def test_a_second_round_in_an_epoch_has_another_order() -> None:
    loader = view(LOADERS["shuffled"]())
    first, second = read(loader), read(loader)
    assert first != second
    assert sorted(chain(*second)) == numbers(23)
    loader.sharding.epoch_alone = 1
    assert read(loader) not in (first, second)


def test_workers_of_ranks_draw_different_numbers() -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(4)
        drawn += [
            float(x)
            for batch in view(DataLoader(Noise(), 2, num_workers=2), rank, 2)
            for x in batch
        ]
        after = torch.rand(())
        torch.manual_seed(4)
        iter(DataLoader(numbers(2)))
        assert after == torch.rand(())  # the run's own stream is where torch would have it
    assert len(set(drawn)) == 8


class Noise(Dataset[torch.Tensor]):
    """An augmentation: noise drawn where the sample is made."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(())


class OwnWay(DataLoader[Any]):
    """Goes through its batches its own way."""

    def __iter__(self) -> Any:
        return super().__iter__()


def test_ready_made_batches_and_loaders_of_their_own_way_are_left_to_one_rank() -> None:
    own = OwnWay(numbers(4), 2)
    assert shard_loader(own) is own
    with pytest.raises(MisconfigurationException, match=r"OwnWay .* a `__iter__` of its own"):
        shard_loader(own, 0, 2)
    ready = DataLoader(numbers(4), batch_size=None)
    assert list(view(ready)) == [0, 1, 2, 3]
    with pytest.raises(MisconfigurationException, match="0 asks for one whole batch"):
        next(iter(view(ready, 0, 2)))
