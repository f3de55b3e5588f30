"""The state of one rank's view of a loader: whose turn it is, and where a run is continued.

The order of a loader's samples is a function of (seed, epoch, position). Where a sampler keeps a
state of its own, the order is that of its passes, one after the other; a run that is continued
draws the earlier ones again. The position is saved in checkpoints.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from types import NoneType
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_app import inside
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.loaders.passes import Batches, Indices, Pass, needs_replay, replay
from lightning_app.strategies.loaders.whole import WholeBatches

Listener = Callable[[Pass, Shard], None]
_STATE: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "round": int,
    "position": int,
    "seed": int,
    "passes": list,
    "is_in_last_pass": bool,
    "generators": list,
    "generators_at_start": list,
    "batches": (int, NoneType),
    "samples": (int, NoneType),
    "samples a batch": (int, NoneType),
}


class Shards:
    """The sampler of a view: gives the indices of one rank's shards.

    Args:
        loader: A map-style loader. It is not changed.
        rank: The rank whose shards these are, from 0.
        world_size: Number of ranks that share each batch.
        seed: Seeds the shuffling of samplers that draw from the global generators.
        trainer: Tells the epoch, and which passes are its own.
        skips_idle: Leave out the batches of which this rank has no part. Otherwise it gets such a
            batch whole.

    Attributes:
        waited_s: Seconds spent, since this was made, waiting for the next batch.
        listeners: Called with the pass and each shard, just before the Trainer gets its batch.
        fetch: Gives the batch of some indices, in place of the data set; not set at first.
        group_size: Tells how many batches to hand out next to the Trainer, in a list; one at a
            time if not set.
        whole: Tells whether each rank has to fetch whole batches; never, if not set.
        is_padded: Whether the run has had to, on this layout or another.
        noting: Lightning's wrapper, which tells the indices of what is predicted; else not set.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        trainer: Trainer | None = None,
        skips_idle: bool = False,
    ) -> None:
        self.loader = loader
        self.is_collated = loader.batch_sampler is not None
        self.sampler: Any = loader.batch_sampler if self.is_collated else loader.sampler
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.skips_idle = skips_idle
        self.waited_s = 0.0
        self.listeners: list[Listener] = []
        self.fetch: Callable[[Indices], Any] | None = None
        self.group_size: Callable[[], int] | None = None
        self.whole: WholeBatches | None = None
        self.is_padded = False
        self.noting: Any = None
        self.begun: Pass | None = None  # the newest pass, whose indices are asked for next
        self.newest: Pass | None = None  # of the Trainer's own passes, also when it has ended
        self.is_continued = False  # from a position in a later epoch than its first
        self.epoch_alone = 0  # where no Trainer tells the epoch
        self._trainer = trainer
        self._rounds = (0, 0)  # an epoch, and how often its batches have all been handed out
        self._notes: list[Sequence[int]] = []  # of passes, where they have to be drawn again
        self._saved: dict[str, Any] | None = None  # the position that the next pass begins at

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def dataset(self) -> Any:
        """What samples are asked of."""
        return self.loader.dataset

    def new_pass(self, fetch: Callable[[bool], Iterable[Any]]) -> Pass:
        """A way through the loader; `fetch` makes batches of what this sampler gives."""
        return Pass(self, fetch)

    def __iter__(self) -> Iterator[Any]:
        assert self.begun is not None
        return self.begun.indices

    @property
    def batch_size(self) -> int | None:
        """Samples of a full global batch; `None` where the user's sampler does not tell."""
        size, length = self.full_size, sized_len(self.loader.dataset)
        return size if size is None or length is None else min(size, length)

    @property
    def full_size(self) -> int | None:
        """The batch size that the user has chosen; `None` where the sampler does not tell."""
        size = self.loader.batch_size or getattr(self.sampler, "batch_size", None)
        return int(size) if isinstance(size, Integral) else None

    @property
    def place(self) -> int:
        """The number in its epoch of the global batch that the running loop has got last."""
        newest = self.newest
        return 0 if newest is None or newest.shard is None else newest.shard.number

    def _num_not_trained(self, current: Pass) -> int:
        """How many of the batches that have been handed out are still to be trained on."""
        if self._trainer is None:
            return 0
        to_come = current.num_to_come(inside.is_in_step(self._trainer))
        return to_come + inside.num_prefetched(self._trainer)

    def is_in_turn(self) -> bool:
        """Whether the running loop goes through its loaders one after the other."""
        return self._trainer is None or inside.takes_loaders_in_turn(self._trainer)

    def limit(self) -> int | None:
        """How many global batches the running evaluation takes of this loader, if limited."""
        return None if self._trainer is None else inside.limit_of(self._trainer, self)

    def epoch(self) -> int:
        """The epoch that the run is in."""
        return self.epoch_alone if self._trainer is None else self._trainer.current_epoch

    def round_of(self, epoch: int) -> int:
        """How often the epoch's batches have all been handed out: a short loader goes round."""
        return self._rounds[1] if self._rounds[0] == epoch else 0

    def round_ended(self, ended: Pass) -> None:
        """Note that a pass has handed out all of its batches."""
        self._rounds = (ended.epoch, self.round_of(ended.epoch) + 1)

    def seed_of(self, epoch: int, round_: int) -> int:
        """The seed of a pass's random streams; of several loaders each has its own."""
        number = 0 if self._trainer is None else inside.number_of(self._trainer, self)
        return self.seed * 1_000_003 + epoch + round_ * 7_368_787 + number * 15_485_863

    @property
    def seed_of_whole(self) -> int | None:
        """What all ranks draw by as they fetch the same whole batches; `None` where they do not."""
        begun = self.begun
        return None if begun is None or not begun.is_whole else begun.seed

    def loaders_so_far(self) -> list["Shards"]:
        """Those of the running loop, up to this one."""
        if self._trainer is None:
            return [self]
        loaders = inside.running_loaders(self._trainer)[: inside.number_of(self._trainer, self) + 1]
        return [shards for loader in loaders if (shards := inside.sharding_of(loader))]

    def is_trainers(self, a_pass: Pass) -> bool:
        """Whether a pass is the Trainer's own, and not that of a hook."""
        trainer = self._trainer
        return trainer is None or any(
            isinstance(batches, Batches) and batches.its_pass is a_pass
            for batches in inside.running_iterators(trainer)
        )

    def note_pass(self, drawn: Pass) -> bool:
        """Note that a pass draws its first batch."""
        if needs_replay(self.sampler):
            self._notes.append(drawn.note)
        return True

    def state(self) -> dict[str, Any]:
        """The position in global batches, the same on every rank and under every layout."""
        if self._saved is not None:
            return self._saved
        current = self.current() or self.newest or Pass(self, lambda again: ())
        return {
            "epoch": current.epoch,
            "round": current.note[1],
            "position": current.position - self._num_not_trained(current),
            "seed": self.seed,
            "passes": [list(note) for note in self._notes],
            "is_in_last_pass": any(note is current.note for note in self._notes),
            "generators": [generator.get_state() for generator in self.generators],
            "generators_at_start": current.generators,
            "is_padded": self.is_padded,
        } | self._sizes()

    def current(self) -> Pass | None:
        """The pass that the training loop takes its batches from."""
        if self._trainer is None:
            return self.begun
        own = (i for i in inside.training_iterators(self._trainer) if isinstance(i, Batches))
        return next((i.its_pass for i in own if i.its_pass.shards is self), None)

    def _sizes(self) -> dict[str, int | None]:
        """Without which a position does not tell which samples are left."""
        samples = sized_len(self.loader.dataset)
        return {"batches": sized_len(self), "samples": samples, "samples a batch": self.batch_size}

    def load(self, state: dict[str, Any]) -> None:
        """Have the next pass begin at a saved position, if it is of the same epoch.

        Raises:
            MisconfigurationException: The position is in mid-epoch, and the epoch was begun with
                other sizes; or it is none.
        """
        for name, kind in _STATE.items():
            if name not in state or not isinstance(state[name], kind):
                raise MisconfigurationException(
                    f"the checkpoint has no position in the data: its {name!r} is "
                    f"{state.get(name)!r:.40}; to use only its weights: --weights_from"
                )
        sizes = self._sizes()
        if needs_replay(self.sampler):  # it may have as many as its passes before have left it
            del sizes["batches"]
        for name, size in sizes.items():
            if state[name] != size and 0 < state["position"] < (state["batches"] or 0):
                raise MisconfigurationException(
                    f"the checkpoint is {state['position']} batches into an epoch of "
                    f"{state[name]} {name}, and now there are {size}: continue with the data "
                    "and the batch size it was begun with"
                )
        self._saved = state
        self.is_padded = bool(state.get("is_padded"))  # not in those of earlier versions

    @property
    def is_to_continue(self) -> bool:
        """Whether the next pass begins at a saved position, which may not have been loaded yet."""
        trainer = self._trainer
        may_come = (
            trainer is not None
            and trainer.ckpt_path is not None
            and self.newest is None
            and not inside.has_training_loaders(trainer)
        )
        return self._saved is not None or may_come

    def start(self, begun: Pass) -> int:
        """The position at which a pass begins; what it draws from is put in its saved state."""
        if self._saved is None or not self.is_trainers(begun):  # a hook only looks at a batch
            return 0
        state, self._saved = self._saved, None
        self.is_continued = begun.epoch > 0
        is_same_epoch = state["epoch"] == begun.epoch
        self.seed = state["seed"]
        self._rounds = (state["epoch"], state["round"])
        self._notes = state["passes"]
        if is_same_epoch and state["is_in_last_pass"]:
            self._notes = self._notes[:-1]  # it goes on
        for note in self._notes:
            replay(self, note)
        states = state["generators_at_start" if is_same_epoch else "generators"]
        for generator, saved in zip(self.generators, states, strict=False):
            generator.set_state(saved)
        return int(state["position"]) if is_same_epoch else 0

    @property
    def generators(self) -> list[torch.Generator]:
        """Those that the user gave to the loader and to its samplers."""
        parts = (self.loader, self.sampler, getattr(self.sampler, "sampler", None))
        found = (getattr(part, "generator", None) for part in parts)
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
