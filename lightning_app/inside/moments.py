"""Moments of a training that no hook of Lightning's reaches, for the time of a run."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from lightning_app.inside.loops import follow, give_back, put

StepRunner = Callable[..., dict[str, Any]]


def after_step(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called after the last of a training step, where nothing is pending.

    A validation that is due at the step belongs to it.
    """
    follow(trainer.fit_loop.epoch_loop, "on_advance_end", act)


def after_step_by_hand(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called after each training step of manual optimization, before its hooks."""
    follow(trainer.fit_loop.epoch_loop.manual_optimization, "run", act)


def after_epoch(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called after the last of a training epoch, its schedulers and all."""
    follow(trainer.fit_loop, "on_advance_end", act)


def around_epochs(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called before training, and before and after each of its epochs."""
    for method in ("on_run_start", "on_advance_start", "on_advance_end"):
        follow(trainer.fit_loop, method, act)


def after_validation(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called after each validation of a training."""
    follow(trainer.fit_loop.epoch_loop.val_loop, "run", act)


def leave_moments(trainer: Trainer) -> None:
    """Undo `after_step` and the like, `after_epoch`, `around_epochs` and `after_validation`."""
    loop = trainer.fit_loop
    give_back(loop, "on_run_start", "on_advance_start", "on_advance_end")
    give_back(loop.epoch_loop, "on_advance_end")
    give_back(loop.epoch_loop.manual_optimization, "run")
    give_back(loop.epoch_loop.val_loop, "run")


def step_runner(trainer: Trainer) -> StepRunner:
    """What runs a step of automatic optimization: it gets optimizer, number and arguments."""
    return trainer.fit_loop.epoch_loop.automatic_optimization.run


def put_step_runner(trainer: Trainer, run: StepRunner) -> None:
    """Have steps of automatic optimization run by something else."""
    put(trainer.fit_loop.epoch_loop.automatic_optimization, "run", run)


def give_step_runner_back(trainer: Trainer) -> None:
    """Undo `put_step_runner`."""
    give_back(trainer.fit_loop.epoch_loop.automatic_optimization, "run")
