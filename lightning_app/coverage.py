"""Counts what each epoch really visited, over all ranks, and tells what was missed or repeated.

The indices are those handed to the data set for batches that were trained on, under any strategy:
with Lightning's own `DDPStrategy`, by class path, the samples that its sampler repeats to fill the
last batch are counted as what they are. What `drop_last` or `limit_train_batches` leave out is not
missing.

Costs a note per step, four bytes of memory per sample and rank, and at each epoch's end a sum of
these over all ranks (at each checkpoint, too) and the sampler's way through the epoch once more.

Not covered: streams, which have no indices, and several training loaders at once.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lightning_app import strategies
from lightning_app.strategies.loader import Indices, ShardedLoader
from lightning_app.strategies.sharding import Shard

MAX_NOTES = 64


class Coverage(Callback):
    """Logs `coverage/missing` and `coverage/repeated` at each epoch's end; both should be 0."""

    def __init__(self) -> None:
        self._notes: list[Indices] = []
        self._visits = torch.zeros(0, dtype=torch.int32)  # of each sample on this rank, this epoch
        self._loader: ShardedLoader | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not strategies.splits_batches(trainer.strategy):
            _observe_loaders(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch(trainer)
        self._visits.zero_()  # not at the end, which may be in mid-epoch: it is saved then

    def _watch(self, trainer: Trainer) -> None:
        """Listen to the training loader, of which an epoch may have a new one."""
        loader: Any = trainer.train_dataloader
        if loader is not self._loader and isinstance(loader, ShardedLoader):
            self._loader = loader
            loader.listeners.append(self._note)
            if len(self._visits) != len(loader.dataset) or not trainer.is_global_zero:
                self._visits = torch.zeros(len(loader.dataset), dtype=torch.int32)

    def _note(self, loader: ShardedLoader, shard: Shard) -> None:
        self._notes.append(shard.indices)
        if len(self._notes) >= MAX_NOTES:
            self._count()

    def _count(self) -> None:
        notes, self._notes = self._notes, []
        _add_visits(self._visits, notes)

    def _all_visits(self, trainer: Trainer) -> Tensor:
        """How often each sample was visited on all ranks; all of them have to call this."""
        self._count()
        device = trainer.strategy.root_device
        visits = self._visits.to(device, copy=True)
        return trainer.strategy.reduce(visits, reduce_op="sum").cpu()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loader is None:
            return
        visits = self._all_visits(trainer)
        if not trainer.is_global_zero:
            return
        planned = _planned_visits(self._loader, _num_planned_batches(trainer), visits)
        missing = int((planned - visits).clamp(min=0).sum())
        repeated = int((visits - planned).clamp(min=0).sum())
        metrics: dict[str, float] = {"coverage/missing": missing, "coverage/repeated": repeated}
        trainer.callback_metrics.update({tag: torch.tensor(n) for tag, n in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step - 1)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._loader is not None:
            checkpoint["coverage_visits"] = self._all_visits(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # One rank takes over what all of them had visited, whatever their number was.
        self._visits = checkpoint.get("coverage_visits", self._visits)


def _add_visits(visits: Tensor, batches: Iterable[Indices]) -> Tensor:
    tensors = [torch.as_tensor(indices, dtype=torch.int64) for indices in batches]
    if not tensors:
        return visits
    indices = torch.cat(tensors)
    return visits.index_add_(0, indices, torch.ones_like(indices, dtype=visits.dtype))


def _num_planned_batches(trainer: Trainer) -> int:
    if trainer.should_stop or trainer.global_step == trainer.max_steps:
        return trainer.fit_loop.batch_idx + 1  # the run ends in mid-epoch
    return int(trainer.num_training_batches)


def _planned_visits(loader: ShardedLoader, num_batches: int, visits: Tensor) -> Tensor:
    """How often an epoch of so many batches should visit each sample, given what it did."""
    own = loader.loader
    if not isinstance(own.sampler, DistributedSampler):
        return _add_visits(torch.zeros_like(visits), islice(loader.global_batches(), num_batches))
    # Lightning's: the ranks' plans are not known here, but a whole epoch is every sample once.
    whole = num_batches == len(own) and not own.drop_last
    return torch.ones_like(visits) if whole else visits.clamp(max=1)


def _observe_loaders(trainer: Trainer) -> None:
    """Under a strategy that is not ours, note what each rank's loader fetches."""
    strategy = trainer.strategy
    process = strategy.process_dataloader

    def observed(dataloader: object) -> object:
        loader = process(dataloader)
        if trainer.training and isinstance(loader, DataLoader):
            return ShardedLoader(loader, rank=0, world_size=1)
        return loader

    strategy.process_dataloader = observed  # type: ignore[method-assign]
