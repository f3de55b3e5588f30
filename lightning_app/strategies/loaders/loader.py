"""One rank's view of a DataLoader: its shard of every batch, in an order that is always the same.

The user's loader stays as it is, and so does its sampler, but for being asked for indices. The
view has every attribute of the loader, is of its class, and fetches only the samples that are this
rank's.

Not covered: randomness inside a data set's `__getitem__`.
"""

import functools
from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset, default_collate
from typing_extensions import override

from lightning_app import inside
from lightning_app.hooks import has_hook
from lightning_app.limits import max_processes
from lightning_app.strategies.loaders.fetching import fetcher
from lightning_app.strategies.loaders.passes import Batches
from lightning_app.strategies.loaders.randomness import SeededSampler
from lightning_app.strategies.loaders.shards import Shards
from lightning_app.strategies.loaders.workers import as_workers_start, deaf_to_signals


class ShardedLoader(DataLoader[Any]):
    """The shard of one rank of every batch that a DataLoader gives; made by `shard_loader`.

    Attributes:
        sharding: What this project has to know of it. All else is the user's loader's.
    """

    sharding: Shards

    @property
    def _index_sampler(self) -> Any:
        return self.sharding

    @override
    def __iter__(self) -> Any:
        batches = Batches(self.sharding.new_pass(self._fetched))
        # The epoch of a run that is continued is known when a batch is asked for, not before.
        return batches if self.sharding.is_to_continue else batches.begin()

    @property
    def _have_drawn(self) -> bool:
        """Whether workers that stay for all passes have drawn their seed, in the first of them."""
        is_first = self._iterator is None and not self.sharding.is_continued
        return self.persistent_workers and not is_first

    def _fetched(self, again: bool) -> Iterable[Any]:
        """Batches of what the newest pass asks for, as the user's loader would make them."""
        own, generator, dataset = vars(self), self.generator, self.dataset
        own["dataset"] = self.sharding.dataset
        if again:
            own["_iterator"] = None  # workers that stay would draw on as before
        seed = None
        if again or self._have_drawn:
            seed = self.sharding.seed
        elif self.sharding.world_size > 1:
            seed = _draw_base_seed(generator)
        if (of_all := self.sharding.seed_of_whole) is not None:
            seed = of_all
        elif seed is not None:  # workers of different ranks draw different numbers
            seed += self.sharding.rank
        if seed is not None:
            own["generator"] = torch.Generator().manual_seed(seed)
        try:
            if self.num_workers:
                return self._workers_batches()
            fetched: Iterable[Any]
            if self.pin_memory:
                fetched = self._workers_batches()
            else:
                _draw_base_seed(self.generator)
                # The same calls without a DataLoader's iterator, which takes longer than to fetch
                # a small batch.
                fetched = map(fetcher(self), iter(self._index_sampler))
            return fetched if of_all is None else SeededSampler(fetched, of_all)
        finally:
            own |= {"generator": generator, "dataset": dataset}

    def _workers_batches(self) -> Iterable[Any]:
        """As torch's; the workers leave alone the signals that the process heeds, to save."""
        own, init = vars(self), self.worker_init_fn
        own["worker_init_fn"] = deaf_to_signals(init) if self.num_workers else init
        try:
            with as_workers_start():
                return super().__iter__()
        finally:
            own["worker_init_fn"] = init

    @override
    def __eq__(self, other: object) -> bool:
        return self is other or other is self.sharding.loader

    @override
    def __hash__(self) -> int:
        return hash(self.sharding.loader)

    def state_dict(self) -> dict[str, Any]:
        """The position of the training loop's pass, for Lightning to save."""
        return self.sharding.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position: the next pass begins there."""
        self.sharding.load(state)

    @override
    def __reduce__(self) -> Any:
        return _new_view, (type(self.sharding.loader),), vars(self)


def _draw_base_seed(generator: torch.Generator | None) -> int:
    """What a DataLoader's iterator draws as it is made, so that others draw what they would."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _new_view(users: type[DataLoader[Any]]) -> ShardedLoader:
    return object.__new__(_view_class(users))  # type: ignore[arg-type]


@functools.cache
def _view_class(users: Any) -> type[ShardedLoader]:
    """The class of a view of such a loader: it is that of the loader, too, and has its name."""
    return type(users.__name__, (ShardedLoader, users), {"__module__": users.__module__})


def view_of(shards: Shards) -> ShardedLoader:
    """The view of a loader that gives what a sampler asks for."""
    loader: Any = shards.loader
    view = _new_view(type(loader))
    # Not by its attributes: DataLoader forbids to assign some of them.
    vars(view).update(vars(loader), sharding=shards, in_order=True, _iterator=None)
    if shards.world_size > 1 and inside.notes_indices(loader.batch_sampler):
        # It tells the indices of what is predicted: of this rank's shards.
        vars(view)["batch_sampler"] = shards.noting = type(loader.batch_sampler)(shards)
    return view


def shard_loader(
    loader: object,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    trainer: Trainer | None = None,
    skips_idle: bool = False,
) -> object:
    """What a strategy makes of a loader: `rank`'s shards of it.

    With one rank nothing needs to be split, so what cannot be (a stream, a loader that goes its
    own way, any other iterable) is given back as it is; it cannot be resumed in mid-epoch.

    Args:
        loader: The user's. It is not changed.
        rank: The rank whose shards these are, from 0.
        world_size: Number of ranks that share each batch.
        seed: Seeds the shuffling of samplers that draw from the global generators.
        trainer: Tells the epoch, and which passes are its own.
        skips_idle: Leave out the batches of which this rank has no part.

    Raises:
        MisconfigurationException: Several ranks share `loader` and it cannot be split by index.
    """
    if isinstance(loader, ShardedLoader):
        loader = loader.sharding.loader
    if why_not := why_not_split(loader):
        if world_size > 1 and sized_len(loader) != 0:  # of an empty list nothing is to be split
            raise MisconfigurationException(
                f"{why_not}, so it cannot be split over {world_size} processes: use `--strategy "
                "dp`, which splits each batch as it comes, or one device, or a plain DataLoader of "
                "a map-style data set"
            )
        return loader
    assert isinstance(loader, DataLoader)
    return view_of(Shards(loader, rank, world_size, seed, trainer, skips_idle))


def check_not_split(loader: object) -> None:
    """Refuse a loader that gives only a part of its samples to each rank, or floods the machine.

    Raises:
        MisconfigurationException: It has been split already, or has too many workers.
    """
    if getattr(loader, "num_workers", 0) > max_processes():
        raise MisconfigurationException(
            f"num_workers is {loader.num_workers}: at most {max_processes()} processes can share "  # type: ignore[attr-defined]
            "the CPUs of this machine"
        )
    if not isinstance(loader, DataLoader):
        return
    batches: Any = loader.batch_sampler
    for sampler in (loader.sampler, batches, getattr(batches, "sampler", None)):
        num_replicas = getattr(sampler, "num_replicas", 1)  # of torch's, and of those like it
        if isinstance(num_replicas, int) and num_replicas > 1:
            raise MisconfigurationException(
                f"the loader has a {type(sampler).__name__} for {num_replicas} ranks, and would "
                "be split twice, or in part: leave it out, the strategy splits every batch"
            )


def why_not_split(loader: object) -> str | None:
    """Why a loader gives no batches of indices to split, in words; `None` if it does."""
    name = type(loader).__name__
    if not isinstance(loader, DataLoader):
        return f"{name} is not a DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        data_set = type(loader.dataset).__name__
        return f"the data set {data_set} is an IterableDataset, which has no indices"
    cls: Any = type(loader)
    for method in ("__iter__", "_get_iterator", "_index_sampler"):
        if getattr(cls, method) is not getattr(DataLoader, method):
            return f"{name} makes its batches its own way (it has a `{method}` of its own)"
    if hasattr(loader, "load_state_dict"):
        return f"{name} keeps a state of its own (it has a `load_state_dict`)"
    sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if type(sampler) is BatchSampler:  # torch's own, which is as long as the user's makes it
        sampler = sampler.sampler
    if sized_len(sampler) is None:
        return f"{type(sampler).__name__} has no length (`__len__`)"
    return None


def may_pad(loader: object) -> TypeGuard[ShardedLoader]:
    """Whether a loader is split, and has code of the user's that sees several samples at once."""
    if not isinstance(loader, ShardedLoader):
        return False
    dataset = loader.dataset
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    sees_several = loader.batch_sampler is None or hasattr(dataset, "__getitems__")
    return sees_several or loader.collate_fn is not default_collate


def step_over_iterator(trainer: Trainer) -> str | None:
    """The name of a step of the model that takes `dataloader_iter` in place of a batch."""
    module = trainer.lightning_module
    for name in (f"{stage}_step" for stage in ("training", "validation", "test", "predict")):
        if not has_hook(module, name):  # a model may set it to `None`, to have none
            continue
        if is_param_in_hook_signature(getattr(module, name), "dataloader_iter", explicit=True):
            return f"{type(module).__name__}.{name}"
    return None
