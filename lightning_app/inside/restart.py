"""How the loops go on from a checkpoint."""

from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch import Trainer

from lightning_app.inside.loaders import sharding_of
from lightning_app.inside.logged import after_epoch_hooks, leave_epochs
from lightning_app.inside.loops import follow, give_back


def metrics_to_save(trainer: Trainer) -> dict[str, Any]:
    """What `callback_metrics` has; of an evaluation, nothing that is to be computed.

    That would ask all ranks. Nor is anything of an epoch's end that failed: it may be just that.
    """
    connector: Any = trainer._logger_connector
    is_in_epoch = connector._first_loop_iter is not None  # where values of steps are known
    if trainer.training and (is_in_epoch or not trainer.interrupted):
        return dict(trainer.callback_metrics)
    return dict(connector._callback_metrics)


def put_metrics(trainer: Trainer, metrics: dict[str, Any]) -> None:
    """Add to what `callback_metrics` has."""
    trainer._logger_connector._callback_metrics |= metrics


def load_positions(trainer: Trainer) -> None:
    """Give the loaders the positions that were saved, where Lightning has not.

    It does only within an epoch. Of a loader with a position of its own that is right, as its
    position is then at the end; but that of our views tells a sampler's state, too, which goes on
    from one epoch to the next. Nor does it if the loaders were made before the positions were
    read, as `estimated_stepping_batches` has them made.
    """
    loop = trainer.fit_loop
    states, loop._combined_loader_states_to_load = loop._combined_loader_states_to_load, []
    combined: Any = loop._combined_loader
    if not states or combined is None or _has_new_loaders(trainer):
        return
    stateful = [loader for loader in combined.flattened if isinstance(loader, _Stateful)]
    pairs = zip(stateful, states, strict=False)
    if loop.restarting or len(states) != len(stateful):  # of other loaders, which it refuses
        combined._load_state_dicts(states)
    elif views := [(view, state) for view, state in pairs if sharding_of(view) is not None]:
        for view, state in views:
            view.load_state_dict(state)
    else:
        return
    iter(loop._data_fetcher)  # type: ignore[arg-type]


def _has_new_loaders(trainer: Trainer) -> bool:
    """Whether the epoch begins with loaders of its own, by `reload_dataloaders_every_n_epochs`."""
    every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    is_new_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0
    return bool(every) and is_new_epoch and trainer.current_epoch % every == 0


def validation_steps(trainer: Trainer) -> dict[int, int]:
    """How many batches of each loader training has validated: the steps of values per step."""
    return dict(trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader)


def put_validation_steps(trainer: Trainer, steps: dict[int, int]) -> None:
    """Have these go on from there, once validation has its loaders; of new ones they begin anew."""
    if not trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader.update(steps)


def begin_with_new_epoch(trainer: Trainer) -> None:
    """Have the loops begin an epoch, as after a checkpoint that was saved between two."""
    trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = False


def begin_with_next_step(trainer: Trainer, ends_step: bool) -> None:
    """Have the loops begin with a step, as after a checkpoint at which nothing was pending.

    Then no validation is to be skipped, and no scheduler to be stepped again.

    Args:
        trainer: Of the run that goes on.
        ends_step: Do before what follows the last hook of the step before: it may be a validation.
    """
    loop = trainer.fit_loop.epoch_loop
    stepped = loop._batches_that_stepped

    def begin() -> None:
        give_back(loop, "reset")
        loop.restarting = False
        loop._batches_that_stepped = stepped  # it may have been counted a second time
        if ends_step:
            loop.on_advance_end(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]

    follow(loop, "reset", begin)


def end_epoch_as_usual(trainer: Trainer) -> None:
    """Have the epoch that is continued end as any other, with a step of plateau schedulers.

    Until then `trainer.fit_loop.restarting` is as Lightning has it, for those who ask.
    """

    def end() -> None:
        if trainer.training:  # and not a validation within the epoch
            trainer.fit_loop._restarting = False

    after_epoch_hooks(trainer, end)


def step_plateaus_of_epoch(trainer: Trainer) -> None:
    """Step the plateau schedulers that go by the epoch before, as Lightning does at its end."""
    progress = trainer.fit_loop.epoch_progress.current
    progress.completed -= 1  # which is the epoch, for a scheduler of every other one
    trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    progress.completed += 1


def keep_reload_epochs(trainer: Trainer) -> None:
    """Have loaders made anew in the epochs in which the run that is continued would have had it."""
    if every := trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        loop, epoch = trainer.fit_loop, trainer.current_epoch
        loop._last_train_dl_reload_epoch = epoch - epoch % every
        loop.epoch_loop.val_loop._last_val_dl_reload_epoch = epoch - epoch % every


def before_first_step(trainer: Trainer, act: Callable[[], None]) -> None:
    """Have something called once, after the hooks as the epoch starts."""
    loop = trainer.fit_loop.epoch_loop

    def once() -> None:
        give_back(loop, "on_run_start")
        act()

    follow(loop, "on_run_start", once)


def forget_restart(trainer: Trainer) -> None:
    """Undo `begin_with_next_step` and the like, if it has not come to it, `end_epoch_as_usual`."""
    give_back(trainer.fit_loop.epoch_loop, "reset", "on_run_start")
    leave_epochs(trainer)


def has_all_batches(trainer: Trainer) -> bool:
    """Whether the epoch has run as many batches as it has."""
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())
