"""What this project has to know of Lightning from within: names that are not its public API.

Tests compare runs with those of a plain `Trainer`; they fail if one of these names changes.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)
from torch import Tensor

from lightning_app.loops import follow, give_back


def training_iterators(trainer: Trainer) -> list[Any]:
    """The iterators that the training loop takes its batches from, one for each loader."""
    return _iterators(trainer.fit_loop)


def running_iterators(trainer: Trainer) -> list[Any]:
    """Those of the loop that runs now: training, validation, test or prediction."""
    return _iterators(trainer._active_loop)


def _iterators(loop: Any) -> list[Any]:
    try:
        iterators: list[Any] = loop._data_fetcher._combined_loader._iterator.iterators
    except AttributeError:  # there is no loop, or it has not begun
        return []
    return iterators


def takes_loaders_in_turn(trainer: Trainer) -> bool:
    """Whether the running evaluation goes through its loaders one after the other."""
    # Lightning knows no loop, and raises, where an evaluation is set up without being run.
    loop = trainer._active_loop if trainer.state.fn is not None else None
    combined = getattr(loop, "_combined_loader", None)
    return combined is None or combined._mode == "sequential"


def limit_of(trainer: Trainer, shards: object) -> int | None:
    """How many batches the running loop takes of the loader with these shards; `None`: all."""
    combined = getattr(trainer._active_loop, "_combined_loader", None)
    for loader, limit in zip(
        getattr(combined, "flattened", ()), getattr(combined, "limits", None) or (), strict=False
    ):
        if vars(loader).get("sharding") is shards and limit != float("inf"):
            return int(limit)
    return None


def num_prefetched(trainer: Trainer) -> int:
    """Batches that training has fetched ahead, to know which one is the last."""
    return len(getattr(trainer.fit_loop._data_fetcher, "batches", ()))


def results(trainer: Trainer) -> Any:
    """What has been logged in the running loop by `self.log`, by key; `None` outside of one."""
    return trainer._results


def is_first_batch(trainer: Trainer) -> bool:
    """Whether the running loop is at its first batch, where what was logged before is dropped."""
    return bool(trainer._logger_connector._first_loop_iter)


def is_log_step(trainer: Trainer) -> bool:
    """Whether what this training step logs goes to the loggers, the same on all ranks.

    Lightning's own answer goes by `trainer.should_stop`, too, which one rank may have set alone.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    step = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
    return bool(trainer.fast_dev_run or (every and step % every == 0))  # type: ignore[attr-defined]


def before_epoch_values(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called, on all ranks, before an epoch's logged values are computed.

    In training this is at each epoch's end, before the hooks; in evaluation at the end of each
    loader and at the end of them all.
    """
    follow(trainer._logger_connector, "epoch_end_reached", act)


def after_epoch_hooks(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called, on all ranks, after the hooks at the end of an epoch's batches."""
    follow(trainer._logger_connector, "on_epoch_end", act)


def leave_epochs(trainer: Trainer) -> None:
    """Undo `before_epoch_values` and `after_epoch_hooks`."""
    give_back(trainer._logger_connector, "epoch_end_reached", "on_epoch_end")


def notes_indices(batch_sampler: object) -> bool:
    """Whether this is Lightning's wrapper, which notes the indices of what is predicted."""
    return isinstance(batch_sampler, _IndexBatchSamplerWrapper)


def loaders_done(trainer: Trainer) -> int:
    """How many of its loaders the running evaluation has gone through, between two batches."""
    loop: Any = trainer._active_loop
    combined, fetcher = loop._combined_loader, loop._data_fetcher
    if combined._mode != "sequential":
        return 1
    has_next_batch = fetcher.fetched > loop.batch_progress.current.ready
    done: int = combined._iterator._iterator_idx if has_next_batch else len(combined.flattened)
    return done


def logged_as(metric: Any) -> tuple[Any, ...]:
    """How something was logged, in a form that can be sent to other ranks."""
    meta = metric.meta
    return (
        meta.fx,
        meta.name,
        meta.prog_bar,
        meta.logger,
        meta.on_step,
        meta.on_epoch,
        meta.reduce_fx.__name__,
        meta.enable_graph,
        meta.add_dataloader_idx,
        meta.dataloader_idx,
        meta.metric_attribute,
    )


def add_result(trainer: Trainer, key: str, how: tuple[Any, ...], is_tensor: bool) -> Any:
    """An entry for something that other ranks have logged, and this one has not."""
    meta = _Metadata(*how)
    meta.sync = _Sync(_should=False, fn=trainer.strategy.reduce)
    collection: Any = results(trainer)
    collection[key] = metric = _ResultMetric(meta, is_tensor).to(trainer.strategy.root_device)
    return metric


def put_values_of(trainer: Trainer, dataloader_idx: int) -> None:
    """Make a loader's values the Trainer's metrics, on a rank that had nothing of the loader."""
    collection: Any = results(trainer)
    present, collection.dataloader_idx = collection.dataloader_idx, dataloader_idx
    trainer._logger_connector.update_eval_epoch_metrics()
    collection.dataloader_idx = present


def has_usual_checkpoint_io(trainer: Trainer) -> bool:
    """Whether checkpoints are written as Lightning does it where nobody chooses a way."""
    strategy = trainer.strategy
    return strategy._checkpoint_io is None and type(strategy.checkpoint_io) is TorchCheckpointIO


def plain(tensor: Tensor) -> Tensor:
    """As a tensor of torch's own class; one of a library's needs trust to be loaded."""
    with torch._C.DisableTorchFunctionSubclass():  # which would give it its class back
        return tensor.as_subclass(Tensor)
