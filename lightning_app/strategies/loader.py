"""One rank's view of a DataLoader: its shard of every batch, in an order that is always the same.

The user's loader stays as it is. A copy of it fetches, for each batch of indices that the user's
own sampler gives, only those that are this rank's. The order is a function of (seed, epoch,
position) alone, and the position is saved in checkpoints, so a run continues where it stopped.

Not covered: randomness inside a data set's `__getitem__`.
"""

import copy
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from lightning_app.strategies.randomness import OwnRandomness
from lightning_app.strategies.sharding import Shard, shard_bounds
from lightning_app.strategies.workers import as_workers_start, deaf_to_signals

Indices = Sequence[int] | Tensor


class ShardedLoader:
    """The shard of one rank of every batch that a DataLoader gives.

    Each rank goes through the same batches of indices and fetches its own part of each. A rank
    whose part is empty gets a batch with no samples: every tensor `(0, …)`.

    Args:
        loader: A map-style loader with a length. It is not changed.
        rank: The rank whose shards these are, from 0.
        world_size: Number of ranks that share each batch.
        seed: Seeds the shuffling of samplers that draw from the global generators.
        on_shard: The first of `listeners`.

    Attributes:
        epoch: Whose order the batches come in.
        position: Global batches of the epoch that have been handed out.
        waited_s: Seconds spent, since this loader was made, waiting for the next batch.
        listeners: Called with this loader and each shard, just before its batch is handed out.
        fetch: Gives the batch of some indices, in place of the data set; not set at first.
        group_size: Tells how many batches to hand out next, in a list; one at a time if not set.

    Raises:
        MisconfigurationException: The loader cannot be split by index.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        rank: int,
        world_size: int,
        seed: int = 0,
        on_shard: "Listener | None" = None,
    ) -> None:
        _check_splittable(loader, world_size)
        self.loader = loader
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self.waited_s = 0.0
        self._start = 0  # of the next iteration
        self.listeners = [] if on_shard is None else [on_shard]
        self.fetch: Callable[[Indices], Any] | None = None
        self.group_size: Callable[[], int] | None = None
        self._rank, self._world_size = rank, world_size
        self._pending: deque[Shard] = deque()  # asked of the workers
        self._fetched: deque[Shard] = deque()  # not announced
        self._generators = _generators(loader)
        self._own = copy.copy(loader)
        # DataLoader forbids to assign its sampler; its workers and `collate_fn` are kept this way.
        own = vars(self._own)
        own["sampler" if loader.batch_sampler is None else "batch_sampler"] = self._Shards(self)
        own["in_order"] = True
        own["_iterator"] = None
        own["worker_init_fn"] = deaf_to_signals(loader.worker_init_fn)

    class _Shards:
        """The sampler of the copied loader."""

        def __init__(self, owner: "ShardedLoader") -> None:
            self.owner = owner

        def __iter__(self) -> Iterator[Indices]:
            return self.owner._shard_indices()

        def __len__(self) -> int:
            return len(self.owner)

    @property
    def dataset(self) -> Any:
        """The user's data set."""
        return self.loader.dataset

    @property
    def batch_size(self) -> int | None:
        """Samples of a full global batch; `None` where the user's sampler does not tell."""
        size = self.loader.batch_size or getattr(_index_sampler(self.loader), "batch_size", None)
        return None if size is None else min(size, len(self.dataset))

    @property
    def sampler(self) -> "ShardedLoader":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; another epoch than a loaded one starts at its beginning."""
        if epoch != self.epoch:
            self.epoch, self._start = epoch, 0

    def state_dict(self) -> dict[str, int | None]:
        """The position in global batches, the same on every rank and under every layout."""
        own = {"epoch": self.epoch, "position": self.position, "seed": self.seed}
        return own | self._sizes()

    def _sizes(self) -> dict[str, int | None]:
        """Without which a position does not tell which samples are left."""
        samples, size = len(self.dataset), self.batch_size
        return {"batches": len(self), "samples": samples, "samples a batch": size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; the next iteration starts there.

        Raises:
            MisconfigurationException: The position is in mid-epoch, and the epoch was begun with
                other sizes.
        """
        for name, size in self._sizes().items():
            if state[name] != size and 0 < state["position"] < state["batches"]:
                raise MisconfigurationException(
                    f"the checkpoint is {state['position']} batches into an epoch of "
                    f"{state[name]} {name}, and now there are {size}: continue with the data "
                    "and the batch size it was begun with"
                )
        self.epoch, self._start, self.seed = state["epoch"], state["position"], state["seed"]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing is fetched, and no epoch's order fixed, before the first batch is
        # asked for. Lightning calls `iter` before it tells the epoch.
        self.position, self._start = self._start, 0
        self._pending.clear()
        self._fetched.clear()
        batches = self._batches()
        if self.group_size is None:
            for batch in batches:
                self.announce()
                yield batch
        else:
            while group := list(islice(batches, self.group_size())):
                yield group

    def _batches(self) -> Iterator[Any]:
        own = self._own
        batches: Iterable[Any] = own
        if self.fetch is not None:
            batches = map(self.fetch, self._shard_indices())
        elif own.batch_sampler is None and own.num_workers == 0 and not own.pin_memory:
            # Whole batches from this process: the same calls, without a DataLoader's iterator,
            # which takes longer than to fetch a small batch.
            collate, dataset = own.collate_fn, own.dataset
            batches = (collate(dataset[indices]) for indices in self._shard_indices())
        with as_workers_start():
            iterator, end = iter(batches), object()
        while True:
            asked_s = time.perf_counter()
            batch = next(iterator, end)
            self.waited_s += time.perf_counter() - asked_s
            if batch is end:
                return
            shard = self._pending.popleft()
            self._fetched.append(shard)
            self.position += 1
            yield batch if shard.size else _no_samples(batch)

    def announce(self) -> None:
        """Tell the listeners of the next batch's shard; who takes batches in groups calls it."""
        shard = self._fetched.popleft()
        for listener in self.listeners:
            listener(self, shard)

    def _shard_indices(self) -> Iterator[Indices]:
        for indices in self.global_batches(self.position):
            global_size = len(indices)
            start, stop = shard_bounds(global_size, self._rank, self._world_size)
            size = stop - start
            own = indices if size == global_size else indices[start:stop]
            self._pending.append(Shard(own, size, global_size))
            # No `collate_fn` takes an empty list: fetch one sample, to be cut off afterwards.
            yield own if size else indices[:1]

    def global_batches(self, start: int = 0) -> Iterator[Indices]:
        """The current epoch's batches of indices, over all ranks, from a position on."""
        sampler: Any = _index_sampler(self.loader)
        for part in (sampler, getattr(sampler, "sampler", None)):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(self.epoch)
        for generator, seed in self._generators:
            generator.manual_seed(seed + self.epoch)
        if hasattr(sampler, "__getitem__"):  # any position at once
            return (sampler[i] for i in range(start, len(self)))
        return islice(OwnRandomness(sampler, self.seed, self.epoch), start, None)


Listener = Callable[[ShardedLoader, Shard], None]


def shard_loader(
    loader: object,
    rank: int,
    world_size: int,
    on_shard: Listener | None = None,
) -> object:
    """What a strategy makes of a loader: `rank`'s shards of it, seeded by the run's seed.

    With one rank nothing needs to be split, so what has no indices (an `IterableDataset`, any
    other iterable) is passed through as it is; it cannot be resumed in mid-epoch.

    Raises:
        MisconfigurationException: Several ranks share `loader` and it cannot be split by index,
            or it has been split already.
    """
    if not isinstance(loader, DataLoader):
        if world_size > 1:
            raise MisconfigurationException(
                f"{type(loader).__name__} is no DataLoader, and what it gives cannot be split over "
                f"{world_size} processes: use `--strategy dp`, or one device, or a DataLoader"
            )
        return loader
    if world_size == 1 and isinstance(loader.dataset, IterableDataset):
        return loader
    sampler: Any = loader.sampler
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        raise MisconfigurationException(
            f"the loader has a DistributedSampler for {sampler.num_replicas} ranks, and would be "
            "split twice, or in part: leave it out, the strategy splits every batch"
        )
    seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # what `seed_everything` was called with
    return ShardedLoader(loader, rank, world_size, seed, on_shard)


def step_over_iterator(trainer: Trainer) -> str | None:
    """The name of a step of the model that takes `dataloader_iter` in place of a batch."""
    module = trainer.lightning_module
    names = (f"{stage}_step" for stage in ("training", "validation", "test", "predict"))
    for name in names:
        if is_param_in_hook_signature(getattr(module, name), "dataloader_iter", explicit=True):
            return f"{type(module).__name__}.{name}"
    return None


def _check_splittable(loader: DataLoader[Any], world_size: int) -> None:
    if isinstance(loader.dataset, IterableDataset):
        raise MisconfigurationException(
            f"{type(loader.dataset).__name__} is an IterableDataset, which has no indices to split "
            f"over {world_size} processes: use `--strategy dp`, which splits each batch as it "
            "comes, or one device, or a map-style data set"
        )
    try:
        len(loader)
    except TypeError:
        raise MisconfigurationException(
            f"{type(_index_sampler(loader)).__name__} has no length, so the ranks cannot agree on "
            "an epoch's end: give it a `__len__`"
        ) from None


def _index_sampler(loader: DataLoader[Any]) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _generators(loader: DataLoader[Any]) -> list[tuple[torch.Generator, int]]:
    """The generators that the user gave to the samplers, each with the seed it was given."""
    sampler = _index_sampler(loader)
    found = (getattr(part, "generator", None) for part in (sampler, getattr(sampler, "sampler", 0)))
    return [(g, g.initial_seed()) for g in found if isinstance(g, torch.Generator)]


def _no_samples(batch: Any) -> Any:
    """The same structure with no samples in it."""
    return apply_to_collection(batch, Tensor, lambda tensor: tensor[:0])
