"""Hooks as an epoch starts, which Lightning does not call again where one is continued."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ProgressBar,
    StochasticWeightAveraging,
)

from lightning_app.hooks import has_hook


def prepares_epochs(trainer: Trainer) -> Iterator[Any]:
    """The model and the callbacks that do something as an epoch starts that its steps may need."""
    owners = (trainer.lightning_module, *trainer.callbacks)  # type: ignore[attr-defined]
    for owner in owners:
        is_ours = type(owner).__module__.startswith("lightning_app.")
        only_shows = isinstance(owner, (ProgressBar, LearningRateMonitor))
        needs_nothing = is_ours or only_shows or bears_repeating(owner, trainer)
        if has_hook(owner, "on_train_epoch_start") and not needs_nothing:
            yield owner


def bears_repeating(owner: Any, trainer: Trainer) -> bool:
    """Whether its hook as an epoch starts is one of Lightning's that may run again within it.

    SWA's may not in its epoch of batch statistics, within which `last.ckpt` is not saved.
    """
    hook = getattr(getattr(owner, "on_train_epoch_start", None), "__func__", None)
    is_swa = hook is StochasticWeightAveraging.on_train_epoch_start
    if is_swa and trainer.current_epoch > owner.swa_end:
        return False
    return is_swa or hook is GradientAccumulationScheduler.on_train_epoch_start
