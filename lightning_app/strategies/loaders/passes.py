"""One way through a loader: which samples come, and which of them are this rank's.

A pass asks the user's sampler for each global batch once, as it is needed, and notes what it gave:
what is trained on, counted and saved goes by these notes. Several passes of one loader may be under
way at once, say that of the training loop and that of a hook.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from typing_extensions import Self, override

from lightning_app import inside
from lightning_app.strategies.batch.sharding import Shard, shard_bounds
from lightning_app.strategies.loaders.randomness import SeededSampler, is_known
from lightning_app.strategies.loaders.shuffled import in_seeded_order, is_shuffled

if TYPE_CHECKING:
    from lightning_app.strategies.loaders.shards import Shards

Indices = Sequence[Any] | Tensor
_END = object()


class Batches(Iterator[Any]):
    """The batches of a pass, held by whoever goes through them alone: workers end with that."""

    def __init__(self, its_pass: "Pass") -> None:
        self.its_pass = its_pass
        self._batches: Iterator[Any] | None = None

    def begin(self) -> Self:
        """Ask the sampler for its iterator, and workers for their first batches."""
        self._batches = self.its_pass.begin()
        return self

    @override
    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = self.its_pass.begin()
        return next(self._batches)


class Pass:
    """Gives one rank's shard of every global batch of one epoch, from a position on.

    Args:
        shards: Whose pass it is.
        fetch: Makes batches of what the sampler of the pass's loader gives; again, if it is told
            so, without another number being drawn.

    Attributes:
        epoch: Whose order the batches come in.
        start: The position at which it began.
        begins_idle: Some ranks have no part of the first batch.
        is_whole: Whether each rank fetches whole batches, and keeps its part.
        position: Global batches of the epoch that have been handed out, or left out.
        shard: The part of a global batch that was handed out last.
        left_out: The global batches before the position at which the pass began, in their order.
        note: What is kept of the pass for a sampler with a state of its own: epoch, round, how
            many batches it gave, and 1 if it gave them all.
        generators: The states of the loader's own generators as the pass began.
    """

    def __init__(self, shards: "Shards", fetch: Callable[[bool], Iterable[Any]]) -> None:
        self.shards = shards
        self.epoch = self.position = self.start = 0
        self.shard: Shard | None = None
        self.left_out: Iterable[Indices] = ()
        self.note = [0, 0, 0, 0]
        self.generators: list[Tensor] = []
        self.skips_idle = self.is_whole = self.begins_idle = False
        self._fetch = fetch
        self._pending: deque[Shard] = deque()  # asked of the workers
        self._group: deque[Shard] = deque()  # handed out together, of which some are to come

    def begin(self) -> Iterator[Any]:
        """Ask the sampler for its iterator; gives the batches."""
        shards = self.shards
        self.epoch = shards.epoch()
        self.position = self.start = shards.start(self)
        self.is_whole = shards.whole is not None and shards.whole.is_on
        if self.epoch and shards.begun is None and shards.loader.num_workers:
            # Of a run that is continued: workers draw before Lightning tells the epoch.
            inside.tell_epoch(shards.loader, self.epoch)
        self.skips_idle = shards.skips_idle and shards.is_in_turn()
        if shards.noting is not None:
            inside.note_indices(shards.noting, is_new=True)
        self.note = [self.epoch, shards.round_of(self.epoch), 0, 0]
        self.generators = [generator.get_state() for generator in shards.generators]
        batches = self._global_batches()
        if self.skips_idle and (limit := shards.limit()) is not None:
            batches = islice(batches, limit)  # of global batches, of which this rank skips some
        self.indices = self._stream = self._own_indices(batches)
        shards.begun = self
        return self._hand_out(self._timed(self._fetch(False)))

    def ask_again(self, is_whole: bool, is_new: bool = True) -> Iterator[Any]:
        """Ask anew for what has been asked for.

        Args:
            is_whole: For whole batches, or else for this rank's parts.
            is_new: Also for the batch that has been fetched, and not been handed out.
        """
        self.is_whole = is_whole
        asked = [self._asked(s) for s in self._pending if s.size or not self.skips_idle]
        self.indices = chain(asked if is_new else asked[1:], self._stream)
        self.shards.begun = self
        return self._timed(self._fetch(True))

    @property
    def seed(self) -> int:
        """Of its random streams, the same on every rank."""
        return self.shards.seed_of(self.epoch, self.note[1])

    @property
    def coming(self) -> Shard:
        """The part of the batch that has been fetched, and not been handed out."""
        return next(s for s in self._pending if s.size or not self.skips_idle)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy of a Trainer has of it: how far it has come, not what is to come."""
        return vars(self) | {"left_out": (), "indices": iter(()), "_stream": iter(())}

    def announce(self) -> None:
        """Go on to the next batch of a group; who takes batches in groups calls it between them."""
        self._tell(self._group.popleft())

    def num_to_come(self, is_in_step: bool) -> int:
        """Of the batches that have been handed out, those that no step has ended with."""
        return len(self._group) + (is_in_step and self.shard is not None)

    def _tell(self, shard: Shard) -> None:
        self.shard = shard
        for listener in self.shards.listeners:
            listener(self, shard)

    def _global_batches(self) -> Iterator[Indices]:
        """The batches of indices that the sampler gives, over all ranks."""
        sampler, start, seed = self.shards.sampler, self.position, self.seed
        left_out: Iterator[Any]
        batches: Iterator[Any]
        if isinstance(sampler, Sequence):  # any position at once
            left_out = (sampler[i] for i in range(start))
            batches = (sampler[i] for i in range(start, len(sampler)))
        elif is_shuffled(sampler):
            left_out = islice(in_seeded_order(sampler, seed), start)
            batches = in_seeded_order(sampler, seed, start)
        else:
            return self._after_start(SeededSampler(sampler, seed))
        self.note[2] = start
        self.left_out = map(self._as_list, left_out)
        return batches

    def _after_start(self, stream: Iterable[Indices]) -> Iterator[Indices]:
        iterator = iter(stream)
        left_out = list(islice(iterator, self.position))
        self.note[2] = len(left_out)
        self.left_out = map(self._as_list, left_out)
        yield from iterator

    def _as_list(self, batch: Any) -> Any:
        return batch if self.shards.is_collated or _is_list(batch) else (batch,)

    def _own_indices(self, batches: Iterator[Indices]) -> Iterator[Any]:
        """What is asked of the data set, batch by batch; which shard it is, is noted."""
        shards, is_noted = self.shards, False
        may_be_refilled = needs_replay(shards.sampler)
        for batch in batches:
            if not is_noted:
                is_noted = shards.note_pass(self)
            number = self.note[2]
            self.note[2] += 1
            if not shards.is_collated and not _is_list(batch):
                self._check_ready_made(batch)
                self._pending.append(Shard((batch,), 0, 1, is_ready_made=True))
                yield batch
                continue
            if not hasattr(batch, "__getitem__") or (may_be_refilled and type(batch) is list):
                batch = list(batch)  # a set, say, or a list that a sampler of the user's fills anew
            shard = Shard(batch, *self._bounds(len(batch)), number=number)
            if number == self.start:
                self.begins_idle = shard.global_size < shards.world_size
            self._pending.append(shard)
            yield from self._asked_for(shard)
        self.note[3] = 1

    def _bounds(self, size: int) -> tuple[int, int]:
        """Where this rank's part of a batch starts and stops."""
        return shard_bounds(size, self.shards.rank, self.shards.world_size)

    def _asked_for(self, shard: Shard) -> Iterator[Any]:
        """What is asked of the data set for a shard."""
        if shard.size or not self.skips_idle:
            yield self._asked(shard)

    def _asked(self, shard: Shard) -> Any:
        # Without samples of its own a rank can train on what one device can; it weighs nothing.
        return shard.indices if shard.size and not self.is_whole else shard.batch

    def _check_ready_made(self, index: object) -> None:
        if self.shards.world_size > 1:
            raise MisconfigurationException(
                f"the loader has batch_size=None, and {index!r} asks for one whole batch, which "
                f"cannot be split over {self.shards.world_size} processes: use `--strategy dp`, or "
                "one device, or give the loader a batch_size or a sampler of lists of indices"
            )

    def _hand_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        shards = self.shards
        is_trainers = shards.is_trainers(self)
        if is_trainers:
            shards.newest = self
        if shards.whole is not None and shards.fetch is None:
            batches = shards.whole.parts(self, batches, is_trainers)
        if not is_trainers:  # a hook's own pass
            for batch in batches:
                self.shard = self._take()
                yield batch
        elif shards.group_size is None:
            for batch in batches:
                self._tell(self._take())
                yield batch
        else:
            while group := list(self._grouped(batches)):
                self.announce()
                yield group
        self.shard = None
        if not self.skips_idle:  # an evaluation's end is asked for by some ranks alone
            shards.round_ended(self)

    def _grouped(self, batches: Iterator[Any]) -> Iterator[Any]:
        assert self.shards.group_size is not None
        for batch in islice(batches, self.shards.group_size()):
            self._group.append(self._take())
            yield batch

    def _take(self) -> Shard:
        """The shard that has been fetched; those before it that are empty are passed by."""
        while True:
            shard = self._pending.popleft()
            self.position += 1
            if shard.size or not self.skips_idle:
                if self.shards.noting is not None:
                    inside.note_indices(self.shards.noting, shard.indices)
                return shard

    def _timed(self, fetched: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time that they were waited for added up."""
        shards = self.shards
        if shards.fetch is not None:  # in place of the data set and its workers
            asked = [self._asked(shard) for shard in self._pending]
            fetched = map(shards.fetch, chain(asked, self.indices))
        iterator = iter(fetched)
        while True:
            asked_s = time.perf_counter()
            batch = next(iterator, _END)
            shards.waited_s += time.perf_counter() - asked_s
            if batch is _END:
                return
            if batch is None and shards.world_size > 1:
                raise MisconfigurationException(
                    f"rank {shards.rank}: the loader gave None for a shard of a batch, and one of "
                    f"{shards.world_size} processes cannot skip a step: leave bad samples out of "
                    "the data set, not in collate_fn, or use one device"
                )
            yield batch


def replay(shards: "Shards", note: Sequence[int]) -> None:
    """Draw again what an earlier pass drew, for a sampler that keeps a state of its own."""
    epoch, round_, num_drawn, has_ended = note
    stream = iter(SeededSampler(shards.sampler, shards.seed_of(epoch, round_)))
    deque(islice(stream, num_drawn), maxlen=0)
    if has_ended:
        next(stream, None)


def needs_replay(sampler: object) -> bool:
    """Whether a sampler may keep a state of its own from one pass to the next."""
    return not (isinstance(sampler, Sequence) or is_known(sampler))


def _is_list(batch: object) -> bool:
    """Whether a loader without automatic collation asks for several samples by this."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return bool(batch.ndim)
    return isinstance(batch, (list, range))
