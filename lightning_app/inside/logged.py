"""What `self.log` has kept, and when its means are computed."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)

from lightning_app.inside.loops import follow, give_back, precede

# What `self.log` is called with, and by which hook.
_HOW = [field.name for field in fields(_Metadata) if field.init and not field.name.startswith("_")]


def results(trainer: Trainer) -> Any:
    """What has been logged in the running loop by `self.log`, by key; `None` outside of one."""
    return trainer._results


def training_results(trainer: Trainer) -> Any:
    """What has been logged in the training loop by `self.log`, by key."""
    return trainer.fit_loop.epoch_loop._results


def logged_in_fit(trainer: Trainer) -> list[Any]:
    """What has been logged by `self.log` in training and in its validation."""
    loop = trainer.fit_loop.epoch_loop
    return [*loop._results.values(), *loop.val_loop._results.values()]


def logged_in_validation(trainer: Trainer) -> set[str]:
    """The names of what training's validations have logged, but for the ends they are given."""
    logged = trainer.fit_loop.epoch_loop.val_loop._results.values()
    return {re.sub("_(step|epoch)$", "", entry.meta.name) for entry in logged}


@contextmanager
def logging_apart(trainer: Trainer, batch_size: int) -> Iterator[Any]:
    """Have what is logged within kept in a collection of its own, which is given."""
    loop: Any = trainer._active_loop
    loop = trainer.fit_loop.epoch_loop if loop is trainer.fit_loop else loop
    usual = loop._results
    loop._results = apart = type(usual)(training=usual.training)
    apart.batch, apart.batch_size = usual.batch, batch_size
    apart.dataloader_idx = usual.dataloader_idx
    try:
        yield apart
    finally:
        loop._results = usual


def value_of_step(result: Any) -> Any:
    """What a step has logged last under a key; `None` if it is not kept per step."""
    return result._forward_cache


def set_value_of_step(result: Any, value: Any) -> None:
    """Make something what the last step has logged."""
    result._forward_cache = value


def renew(result: Any) -> None:
    """Have an entry's mean computed anew when it is asked for, as if it had been logged here."""
    result._computed = None
    result._update_count = max(result._update_count, 1)


def is_first_batch(trainer: Trainer) -> bool:
    """Whether the running loop is at its first batch, where what was logged before is dropped."""
    return bool(trainer._logger_connector._first_loop_iter)


def before_epoch_values(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called, on all ranks, before an epoch's logged values are computed.

    In training this is at each epoch's end, before the hooks; in evaluation at the end of each
    loader and at the end of them all.
    """
    follow(trainer._logger_connector, "epoch_end_reached", act)


def after_epoch_hooks(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called, on all ranks, after the hooks at the end of an epoch's batches."""
    follow(trainer._logger_connector, "on_epoch_end", act)


def before_step_values(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called after a training step's hooks, before its values are made known."""
    precede(trainer._logger_connector, "update_train_step_metrics", act)


def leave_step_values(trainer: Trainer) -> None:
    """Undo `before_step_values`."""
    give_back(trainer._logger_connector, "update_train_step_metrics")


def leave_epoch_hooks(trainer: Trainer) -> None:
    """Undo `after_epoch_hooks`."""
    give_back(trainer._logger_connector, "on_epoch_end")


def leave_epochs(trainer: Trainer) -> None:
    """Undo `before_epoch_values` and `after_epoch_hooks`."""
    give_back(trainer._logger_connector, "epoch_end_reached", "on_epoch_end")


def logged_as(metric: Any) -> dict[str, Any]:
    """How something was logged, in a form that can be sent to other ranks."""
    how = {name: getattr(metric.meta, name) for name in _HOW}
    return how | {"reduce_fx": metric.meta.reduce_fx.__name__}


def add_result(trainer: Trainer, key: str, how: dict[str, Any], is_tensor: bool) -> Any:
    """An entry for something that other ranks have logged, and this one has not."""
    meta = _Metadata(**how)
    meta.sync = _Sync(_should=False, fn=trainer.strategy.reduce)
    collection: Any = results(trainer)
    collection[key] = metric = _ResultMetric(meta, is_tensor).to(trainer.strategy.root_device)
    return metric


def take_for_global(result: Any) -> None:
    """Have Lightning know that an entry's value is that of all ranks already."""
    result.meta.sync = _Sync(_should=True)  # by nothing


def put_values_of(trainer: Trainer, dataloader_idx: int) -> None:
    """Make a loader's values the Trainer's metrics, on a rank that had nothing of the loader."""
    collection: Any = results(trainer)
    present, collection.dataloader_idx = collection.dataloader_idx, dataloader_idx
    trainer._logger_connector.update_eval_epoch_metrics()
    collection.dataloader_idx = present
