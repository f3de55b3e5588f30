"""Batches in the parts of the virtual ranks: each is fetched, and collated, by itself."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app.strategies.batch.sharding import Shard, shard_bounds
from lightning_app.strategies.loaders.passes import Pass
from lightning_app.strategies.loaders.shards import Shards
from lightning_app.strategies.virtual.streams import given_back, seed_of, seed_streams


class Parts(list[Any]):
    """A process's parts of a global batch, each as the loader makes a batch."""


class Split(NamedTuple):
    """Who has which part of a batch.

    Attributes:
        size: Samples in the batch.
        num_parts: How many parts they were split into; parts behind the last sample are empty.
        ranges: Of each process, the virtual ranks that it runs.
        full_size: Samples of a full batch; `None` if this is not known.
    """

    size: int
    num_parts: int
    ranges: list[range]
    full_size: int | None = None

    @property
    def filled(self) -> range:
        """The virtual ranks that have samples."""
        return range(min(self.size, self.num_parts))

    def own(self, rank: int) -> range:
        """Those of a process."""
        ranks, stop = self.ranges[rank], self.filled.stop
        return range(min(ranks.start, stop), min(ranks.stop, stop))

    def bounds(self, part: int) -> tuple[int, int]:
        """Where a part of the batch starts and stops."""
        return shard_bounds(self.size, part, self.num_parts)

    def part_size(self, part: int) -> int:
        """The samples of a part."""
        start, stop = self.bounds(part)
        return stop - start


def ranges_of(num_parts: int, world_size: int) -> list[range]:
    """The virtual ranks that each process runs, in rank order."""
    return [range(*shard_bounds(num_parts, rank, world_size)) for rank in range(world_size)]


class VirtualShards(Shards):
    """The sampler of a view: gives the indices of a process's parts, one after the other.

    Args:
        loader: A map-style loader. It is not changed.
        rank: This process's.
        world_size: Number of processes.
        seed: Seeds the shuffling of samplers, and the streams of samples and steps.
        trainer: Tells the epoch, and which passes are its own.
        num_parts: How many virtual ranks there are.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        rank: int,
        world_size: int,
        seed: int,
        trainer: Trainer,
        num_parts: int,
    ) -> None:
        super().__init__(loader, rank, world_size, seed, trainer)
        self.num_parts = num_parts
        self._ranges = ranges_of(num_parts, world_size)

    @property
    @override
    def dataset(self) -> Any:
        return SeededSamples(self.loader.dataset)

    @override
    def new_pass(self, fetch: Callable[[bool], Iterable[Any]]) -> Pass:
        return VirtualPass(self, fetch)

    def split(self, size: int) -> Split:
        """How a batch of so many samples is split."""
        return Split(size, self.num_parts, self._ranges, self.full_size)


class VirtualPass(Pass):
    """Gives, for every global batch, the parts of this process's virtual ranks."""

    shards: VirtualShards

    @override
    def _bounds(self, size: int) -> tuple[int, int]:
        split = self.shards.split(size)
        own = split.own(self.shards.rank)
        if not own:
            return size, size
        return split.bounds(own.start)[0], split.bounds(own.stop - 1)[1]

    @override
    def _asked_for(self, shard: Shard) -> Iterator[Any]:
        place = self.shards.seed, "samples", self.epoch, self.note[1], shard.number
        seed = seed_of(*place)  # once a batch: it takes as long as to begin a stream
        # A process without a part asks for a sample, too: what it is, nobody looks at.
        for start, stop in self._own_bounds(shard) or [(0, 1)]:
            indices = shard.batch[start:stop]
            if self.shards.is_collated:
                yield [Drawn(index, (seed + i) % 2**64) for i, index in enumerate(indices, start)]
            else:
                yield Drawn(indices, (seed + start) % 2**64)

    def _own_bounds(self, shard: Shard) -> list[tuple[int, int]]:
        split = self.shards.split(shard.global_size)
        return [split.bounds(part) for part in split.own(self.shards.rank)]

    @override
    def _check_ready_made(self, index: object) -> None:
        raise MisconfigurationException(
            f"--virtual_ranks: the loader has batch_size=None, and {index!r} asks for one whole "
            "batch, which cannot be split: give the loader a batch_size or a sampler of lists of "
            "indices"
        )

    @override
    def _timed(self, fetched: Iterable[Any]) -> Iterator[Any]:
        batches = super()._timed(fetched)
        while True:
            with given_back():
                first = next(batches, self)
                if first is self:
                    return
                bounds = self._own_bounds(self._pending[0])
                parts = Parts([first, *islice(batches, max(len(bounds) - 1, 0))])
            yield parts if bounds else Parts()


class Drawn(NamedTuple):
    """What is asked of a data set, and the seed of the random streams that it is given."""

    index: Any
    seed: int


class SeededSamples:
    """A data set that is asked for a sample with a seed, and has all else of another.

    Args:
        dataset: The other, which is not changed.
    """

    def __init__(self, dataset: Any) -> None:
        object.__setattr__(self, "_dataset", dataset)

    def __getitem__(self, drawn: Drawn) -> Any:
        """A sample; the streams go on, for a `collate_fn` that draws, too."""
        seed_streams(drawn.seed)
        return self._dataset[drawn.index]

    @property
    def __getitems__(self) -> Callable[[list[Drawn]], Any]:
        """Several samples at once, if the data set has that."""
        get_items = self._dataset.__getitems__

        def get(drawn: list[Drawn]) -> Any:
            seed_streams(drawn[0].seed)
            return get_items([each.index for each in drawn])

        return get

    def __len__(self) -> int:
        return len(self._dataset)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance`, that of the data set."""
        return type(self._dataset)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_dataset"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __reduce__(self) -> Any:
        return SeededSamples, (self._dataset,)
