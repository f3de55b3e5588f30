"""How the loops go on from a checkpoint."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_app.inside.loops import follow, give_back


def metrics_to_save(trainer: Trainer) -> dict[str, Any]:
    """What `callback_metrics` has, without computing anything anew, which would ask all ranks."""
    return dict(trainer._logger_connector._callback_metrics)


def put_metrics(trainer: Trainer, metrics: dict[str, Any]) -> None:
    """Add to what `callback_metrics` has."""
    trainer._logger_connector._callback_metrics |= metrics


def load_positions(trainer: Trainer) -> None:
    """Give the loaders the positions that were saved, where Lightning has not.

    It does only within an epoch, but a sampler's state, say, goes on from one epoch to the next;
    and not if the loaders were made before the positions were read, as `estimated_stepping_batches`
    has them made.
    """
    loop = trainer.fit_loop
    states, loop._combined_loader_states_to_load = loop._combined_loader_states_to_load, []
    if states and loop._combined_loader is not None and not _has_new_loaders(trainer):
        loop._combined_loader._load_state_dicts(states)
        iter(loop._data_fetcher)  # type: ignore[arg-type]


def _has_new_loaders(trainer: Trainer) -> bool:
    """Whether the epoch begins with loaders of its own, by `reload_dataloaders_every_n_epochs`."""
    every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    is_new_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0
    return bool(every) and is_new_epoch and trainer.current_epoch % every == 0


def begin_with_new_epoch(trainer: Trainer) -> None:
    """Have the loops begin an epoch, as after a checkpoint that was saved between two."""
    trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = False


def begin_with_next_step(trainer: Trainer) -> None:
    """Have the loops begin with a step, as after a checkpoint at which nothing was pending.

    Then no validation is to be skipped, and no scheduler to be stepped again.
    """
    loop = trainer.fit_loop.epoch_loop
    stepped = loop._batches_that_stepped

    def begin() -> None:
        give_back(loop, "reset")
        # Of the outer loop, too, which would leave out the plateau schedulers at the epoch's end.
        trainer.fit_loop._restarting = loop._restarting = False
        loop._batches_that_stepped = stepped  # it may have been counted a second time

    follow(loop, "reset", begin)


def forget_restart(trainer: Trainer) -> None:
    """Undo `begin_with_next_step`, if it has not come to it."""
    give_back(trainer.fit_loop.epoch_loop, "reset")


def has_all_batches(trainer: Trainer) -> bool:
    """Whether the epoch has run as many batches as it has."""
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())
