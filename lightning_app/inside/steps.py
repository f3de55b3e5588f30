"""How the training loop counts, and how the loops call a step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_app.inside.loaders import num_prefetched
from lightning_app.inside.loops import give_back, surround


def is_log_step(trainer: Trainer) -> bool:
    """Whether what this training step logs goes to the loggers, the same on all ranks.

    Lightning's own answer goes by `trainer.should_stop`, too, which one rank may have set alone.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    step = step_number(trainer)
    return bool(trainer.fast_dev_run or (every and step % every == 0))  # type: ignore[attr-defined]


def step_number(trainer: Trainer) -> int:
    """Batches with an optimizer step, the running one counted, which `optimizer_steps` tells.

    The same on all ranks, as `trainer.global_step` is not where some step by a loss of their own.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped + 1


def last_step(trainer: Trainer) -> int:
    """The step, from 0, that loggers are given with what is logged as an epoch ends."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped - 1


def optimizer_steps(trainer: Trainer) -> bool:
    """Whether the optimizer steps after the running batch; else its gradients are accumulated."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def num_accumulated(trainer: Trainer) -> int:
    """How many batches automatic optimization has not stepped for, after one or in validation."""
    if trainer.state.fn != "fit" or optimizer_steps(trainer):
        return 0
    every = trainer.accumulate_grad_batches
    return (trainer.fit_loop.epoch_loop.batch_idx + 1) % every


def begin_next_step(trainer: Trainer) -> None:
    """What the training loop does between two steps, as far as steps depend on it."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    progress = loop.batch_progress
    progress.increment_processed()
    progress.increment_completed()
    if trainer.lr_scheduler_configs:
        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
        loop.update_lr_schedulers("step", update_plateau_schedulers=True)
    if optimizer_steps(trainer):
        loop._batches_that_stepped += 1
    fetcher.fetched += 1
    trainer._logger_connector._first_loop_iter = False  # else what is logged begins anew
    progress.increment_ready()
    progress.increment_started()
    progress.is_last_batch = progress.current.ready == trainer.num_training_batches


def num_batches_done(trainer: Trainer) -> int:
    """How many batches training has done in all, by their last hooks."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed


def num_batches_learnt(trainer: Trainer) -> int:
    """How many batches training has learnt in all, with those before a checkpoint."""
    counts: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    learnt: int = counts.processed
    return learnt


def ends_epoch(trainer: Trainer) -> bool:
    """Whether the epoch ends with the batch that is done."""
    return trainer.fit_loop.epoch_loop.done


def is_between_epochs(trainer: Trainer) -> bool:
    """Whether no batch of the epoch has begun."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0


def has_validated_in_epoch(trainer: Trainer) -> bool:
    """Whether the epoch has begun, and a validation with it or before it."""
    loop = trainer.fit_loop.epoch_loop
    return not is_between_epochs(trainer) and loop.val_loop.batch_progress.total.ready > 0


def optimizer_progress(trainer: Trainer) -> Any:
    """The counts of steps and of `zero_grad`, in automatic optimization."""
    return trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer


def is_told_to_stop(trainer: Trainer) -> bool:
    """Whether the run is to end after the running batch, and has run as long as it has to."""
    return bool(trainer.should_stop and trainer.fit_loop._can_stop_early)


def is_in_step(trainer: Trainer) -> bool:
    """Whether a batch that was fetched is still to be learnt, as its step runs or has failed.

    One with manual optimization may have learnt it already, once the hooks before it are over.
    """
    counts: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    fetched = getattr(trainer.fit_loop._data_fetcher, "fetched", 0) - num_prefetched(trainer)
    is_begun: bool = max(counts.ready, fetched) > counts.processed
    has_learnt = not trainer.lightning_module.automatic_optimization
    return is_begun and not (has_learnt and counts.started > counts.processed)


def skips_backward(trainer: Trainer) -> bool:
    """Whether something has asked for steps without a backward pass, as SWA does."""
    return bool(trainer.fit_loop.epoch_loop.automatic_optimization._skip_backward)


def around_evaluated_batches(
    trainer: Trainer, context: Callable[[], AbstractContextManager[None]]
) -> None:
    """Have each batch that is evaluated or predicted, its hooks and all, run within a context."""
    for loop, method in _evaluating(trainer):
        surround(loop, method, context)


def leave_evaluated_batches(trainer: Trainer) -> None:
    """Undo `around_evaluated_batches`."""
    for loop, method in _evaluating(trainer):
        give_back(loop, method)


def _evaluating(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        yield loop, "_evaluation_step"
    yield trainer.predict_loop, "_predict_step"


def set_hook(module: LightningModule, name: str | None) -> None:
    """Note which hook of the model runs, for its `self.log`."""
    vars(module)["_current_fx_name"] = name  # not by `nn.Module`, which looks at much else


def running_hook(module: LightningModule) -> str | None:
    """Which hook of the model runs."""
    return module._current_fx_name


def saved_every(callback: ModelCheckpoint) -> int:
    """After how many steps a callback saves; 0 if it goes by something else."""
    return callback._every_n_train_steps


def validates_by_time(trainer: Trainer) -> bool:
    """Whether `val_check_interval` is a time."""
    return trainer._val_check_time_interval is not None  # type: ignore[attr-defined]
