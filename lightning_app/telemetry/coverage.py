"""Counts what each epoch really visited, over all ranks, and tells what was missed or repeated.

Both come from the very pass that is trained on: what the sampler gave for a batch should be visited
once, by one of the ranks. Ranks whose samplers disagree, a split that loses or doubles samples, and
a run that is continued at another place than it stopped, are seen by this. What `drop_last`,
`limit_train_batches` or the end of the run leave out is not missing: it was not asked for. With
Lightning's own `DDPStrategy`, by class path, the samples that its sampler repeats to fill the last
batch are counted as what they are.

Costs a note per step, and eight bytes of memory per sample on the first rank and four on each
other. At each epoch's end and each checkpoint the ranks add up how many visits there were, and
two sums of hashes of the samples: where these are those of the plan, nothing is missing. Only where
they are not, the counts of all samples are added up.

Not covered: streams and other loaders without indices, and several training loaders at once.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_app import strategies
from lightning_app.processes.collectives import gather_objects
from lightning_app.strategies.loader import ShardedLoader, shard_loader
from lightning_app.strategies.passes import Indices, Pass
from lightning_app.strategies.sharding import Shard
from lightning_app.telemetry.metrics import Smooths

_SALTS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
MAX_NOTES = 64
MAX_NUMBER = 2**24  # or a few times the data set's length


class Tally:
    """How often each index was named.

    Attributes:
        numbers: By the index, int32, of indices that are whole numbers from 0.
        others: Of what else there is: names.
        fingerprint: How many there are, and two sums of hashes `(3,)`, int64, that add up over
            tallies: those of equal tallies are equal.
    """

    def __init__(self, limit: int = MAX_NUMBER) -> None:
        self._limit = limit  # larger indices are names, which need no table up to the largest
        self.numbers = torch.zeros(0, dtype=torch.int32)
        self.others: Counter[Any] = Counter()
        self.fingerprint = torch.zeros(1 + len(_SALTS), dtype=torch.int64)

    def add(self, batches: Iterable[Indices]) -> None:
        """Count what is in some batches."""
        arrays: list[Any] = []
        for batch in map(_as_numbers, batches):
            if isinstance(batch, np.ndarray) and not (batch.size and batch.max() >= self._limit):
                arrays.append(batch)
            else:
                names = Counter(map(_as_saved, batch))
                self.others.update(names)
                self._note_names(names)
        numbers = torch.from_numpy(np.concatenate(arrays)) if arrays else torch.empty(0)
        if len(numbers):
            self._note(numbers.numpy())
            self.grow(int(numbers.max()) + 1)
            self.numbers.index_add_(0, numbers, torch.ones_like(numbers, dtype=torch.int32))

    def grow(self, length: int) -> None:
        """Make room for indices below a length."""
        if length > len(self.numbers):
            larger = torch.zeros(length, dtype=torch.int32)
            larger[: len(self.numbers)] = self.numbers
            self.numbers = larger

    def restore(self, numbers: torch.Tensor, others: Mapping[Any, int]) -> None:
        """Take up what was counted before."""
        self.numbers, self.others = numbers, Counter(others)
        indices = numbers.nonzero().flatten()
        self._note(np.repeat(indices.numpy(), numbers[indices].numpy()))
        self._note_names(self.others)

    def _note(self, indices: Any) -> None:
        for place, salt in enumerate(_SALTS, 1):
            self.fingerprint[place] += torch.from_numpy(_mixed(indices, salt)).sum()
        self.fingerprint[0] += len(indices)

    def _note_names(self, names: Counter[Any]) -> None:
        for name, count in names.items():
            digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
            halves = torch.tensor(np.frombuffer(digest, np.int64))
            self.fingerprint += torch.cat([torch.ones(1, dtype=torch.int64), halves]) * count

    def beyond(self, other: "Tally") -> int:
        """How often indices are named here more often than in another tally."""
        length = max(len(self.numbers), len(other.numbers))
        self.grow(length)
        other.grow(length)
        more = int((self.numbers - other.numbers).clamp(min=0).sum())
        return more + (self.others - other.others).total()


class Coverage(Callback):
    """Logs `coverage/missing` and `coverage/repeated` at each epoch's end; both should be 0."""

    def __init__(self) -> None:
        self._shards: list[Shard] = []  # noted, and not yet counted
        self._visits, self._plan = Tally(), Tally()  # on this rank, this epoch
        self._visited_before: Tally | None = None  # by the run that is continued
        self._pass: Pass | None = None
        self._loader: ShardedLoader | None = None
        self._is_first = True

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_first = trainer.is_global_zero
        if not strategies.splits_batches(trainer.strategy):
            _observe_loaders(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer)
        # Not at the epoch's end, which may be in mid-epoch: it is saved then.
        num_samples = sized_len(self._loader.dataset) if self._loader is not None else None
        self._limit = max(MAX_NUMBER, 4 * (num_samples or 0))
        self._visits, self._plan = Tally(self._limit), Tally(self._limit)
        self._visited_before = None
        self._pass = None

    def _watch(self, trainer: Trainer) -> None:
        """Listen to the training loader, of which an epoch may have a new one."""
        loader: Any = trainer.train_dataloader
        if loader is not self._loader and isinstance(loader, ShardedLoader):
            self._loader = loader
            loader.sharding.listeners.append(self._note)

    def _note(self, its_pass: Pass, shard: Shard) -> None:
        if its_pass is not self._pass:
            self._pass = its_pass
            if self._is_first:
                self._plan.add(its_pass.left_out)
            its_pass.left_out = ()
        self._shards.append(shard)
        if len(self._shards) >= MAX_NOTES:
            self._count()

    def _count(self) -> None:
        shards, self._shards = self._shards, []
        if not self._is_first:
            self._visits.add(shard.indices for shard in shards)
            return
        batches = [_as_numbers(shard.batch) for shard in shards]  # once for both
        self._plan.add(batches)
        parts = zip(batches, shards, strict=True)
        self._visits.add(batch[shard.start : shard.stop] for batch, shard in parts)

    def _is_all(self, trainer: Trainer) -> bool:
        """Whether all ranks together have visited what was planned; all of them have to call this.

        The sums of a few numbers tell it, whatever the number of samples.
        """
        self._count()
        balance = self._visits.fingerprint.clone()
        if self._is_first:
            balance -= self._plan.fingerprint
            if self._visited_before is not None:
                balance += self._visited_before.fingerprint
        strategy = trainer.strategy
        balance = strategy.reduce(balance.to(strategy.root_device), reduce_op="sum")
        return not bool(balance.any())

    def _all_visits(self, trainer: Trainer) -> Tally:
        """How often each sample was visited on all ranks; all of them have to call this."""
        self._count()
        strategy, total = trainer.strategy, Tally()
        length = torch.tensor(len(self._visits.numbers), device=strategy.root_device)
        self._visits.grow(int(strategy.reduce(length, reduce_op="max")))
        visits = self._visits.numbers.to(strategy.root_device, copy=True)
        total.numbers = strategy.reduce(visits, reduce_op="sum").cpu()
        total.others = sum(gather_objects(self._visits.others), Counter())
        if self._visited_before is not None:
            total.grow(len(self._visited_before.numbers))
            total.numbers[: len(self._visited_before.numbers)] += self._visited_before.numbers
            total.others += self._visited_before.others
        return total

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loader is None:
            return
        is_foreign = isinstance(self._loader.sampler, DistributedSampler)
        if not is_foreign and (self._pass is None or self._is_all(trainer)):
            self._log(trainer, 0, 0)
            return
        visits = self._all_visits(trainer)
        has_visits = self._pass is not None or self._visited_before is not None
        if not (trainer.is_global_zero and has_visits):  # else it stops before the first step
            return
        plan = _plan_of_foreign(self._loader, trainer, visits) or self._plan
        self._log(trainer, plan.beyond(visits), visits.beyond(plan))

    @staticmethod
    def _log(trainer: Trainer, missing: int, repeated: int) -> None:
        if not trainer.is_global_zero:
            return
        metrics: dict[str, float] = {"coverage/missing": missing, "coverage/repeated": repeated}
        trainer.callback_metrics.update({tag: torch.tensor(n) for tag, n in metrics.items()})
        for logger in trainer.loggers:
            if missing or repeated or not isinstance(logger, Smooths):  # a flat line tells nothing
                logger.log_metrics(metrics, step=trainer.global_step - 1)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._loader is not None:
            visits = self._plan if self._is_all(trainer) else self._all_visits(trainer)
            checkpoint["coverage_visits"] = visits.numbers
            checkpoint["coverage_names"] = dict(visits.others)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # What all ranks had visited, whatever their number was.
        if "coverage_visits" in checkpoint:
            self._visited_before = before = Tally()
            before.restore(checkpoint["coverage_visits"], checkpoint.get("coverage_names", {}))


def _as_numbers(batch: Any) -> Any:
    """A batch's indices as an array `(B,)`, int64; as they are if they are not small numbers."""
    try:
        array = np.asarray(batch)
    except (ValueError, TypeError):
        return batch
    is_numbers = array.ndim == 1 and (array.dtype.kind in "iu" or not array.size)
    if is_numbers and not (array.size and array.min() < 0):
        return array.astype(np.int64, copy=False)
    return batch


def _mixed(indices: Any, salt: int) -> Any:
    """A hash of each index, int64: splitmix64's last steps."""
    mixed = indices.astype(np.uint64) * np.uint64(salt) + np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))).view(np.int64)


def _as_saved(index: Any) -> Any:
    """An index as a checkpoint may hold it: numbers, text, and tuples of these."""
    if isinstance(index, tuple):
        return tuple(map(_as_saved, index))
    return index if isinstance(index, (int, float, str)) else repr(index)


def _plan_of_foreign(loader: ShardedLoader, trainer: Trainer, visits: Tally) -> Tally | None:
    """What an epoch should visit under Lightning's `DistributedSampler`, which has a plan a rank.

    A whole epoch is every sample once. `None` where the loader has another sampler.
    """
    if not isinstance(loader.sampler, DistributedSampler):
        return None
    plan = Tally()
    is_whole = trainer.fit_loop.batch_idx + 1 == len(loader) and not loader.drop_last
    if is_whole:
        plan.add([range(len(loader.dataset))])  # type: ignore[arg-type]
    else:
        plan.numbers = visits.numbers.clamp(max=1)
    return plan


def _observe_loaders(trainer: Trainer) -> None:
    """Under a strategy that is not ours, note what each rank's loader fetches."""
    strategy = trainer.strategy
    process = strategy.process_dataloader

    def observed(dataloader: object) -> object:
        loader = process(dataloader)
        if trainer.training and isinstance(loader, DataLoader):
            return shard_loader(loader, trainer=trainer)
        return loader

    strategy.process_dataloader = observed  # type: ignore[method-assign]
