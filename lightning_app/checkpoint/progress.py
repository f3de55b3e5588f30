"""How far the loops of a checkpoint have come, made such that Lightning restarts exactly there."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from lightning_app import inside


def put_right(trainer: Trainer, progress: dict[str, Any]) -> bool:
    """Make loop progress that is saved such that Lightning restarts exactly there.

    Returns:
        Whether training, or its end, is where it was saved, and not an evaluation.
    """
    epoch, validation = progress["epoch_progress"], progress["epoch_loop.val_loop.batch_progress"]
    batch = progress["epoch_loop.batch_progress"]
    if inside.is_in_step(trainer):  # it is done again
        batch["is_last_batch"] = False  # or the epoch would end without it
        batch["total"] |= dict.fromkeys(("ready", "started"), batch["total"]["processed"])
    elif batch["current"]["started"] > batch["current"]["processed"]:  # by hand: it is left at that
        for counts in (batch["total"], batch["current"]):
            counts["processed"] += 1
    is_validating = _is_validating(trainer, validation["current"])
    if is_validating:
        # Its metrics are not saved: all of it is run again.
        for counts in (validation["total"], validation["current"]):
            counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    elif 0 < epoch["current"]["started"] == epoch["current"]["processed"]:
        if inside.has_all_batches(trainer):
            _end_epoch(progress)
        else:  # `max_steps`, say, came before the epoch's end
            for counts in (epoch["total"], epoch["current"]):
                counts["processed"] -= 1
                counts["completed"] = counts["processed"]
    return not is_validating and trainer.state.stage in (None, "train")


def plateaus_are_due(
    trainer: Trainer, progress: dict[str, Any], metrics: Mapping[str, Any]
) -> bool:
    """Whether plateau schedulers are to be stepped, as after an epoch's last hooks, which run.

    Not if what they go by is logged in a hook that comes after the one that saves.
    """
    counts = progress["epoch_progress"]["current"]
    is_ending = counts["completed"] < counts["processed"] and inside.has_all_batches(trainer)
    monitors = [c.monitor for c in trainer.lr_scheduler_configs if c.reduce_on_plateau]
    return bool(is_ending and monitors) and all(monitor in metrics for monitor in monitors)


def end_step(progress: dict[str, Any]) -> bool:
    """Make of loaded progress in a step's last hooks that after them; gives whether it was such.

    Lightning takes no validation, no scheduler and no epoch's end that follows such a step up.
    """
    batch = progress["epoch_loop.batch_progress"]
    pending: int = batch["current"]["processed"] - batch["current"]["completed"]
    for counts in (batch["total"], batch["current"]):
        counts["completed"] += pending
    return bool(pending)


def num_learnt(progress: dict[str, Any]) -> int:
    """How many batches a run had learnt."""
    total = progress.get("epoch_loop.batch_progress", {}).get("total", {})  # another version's
    return int(total.get("processed", 0))


def _is_validating(trainer: Trainer, counts: dict[str, int]) -> bool:
    """Whether a validation of the training runs, and has not come to its end."""
    # Counts alone do not tell: after one of a stream that a step iterates they differ for good.
    if trainer.state.fn != "fit" or trainer.training or trainer.state.finished:
        return False
    begins = trainer.validating and not counts["ready"]
    return begins or counts["ready"] != counts["completed"]


def _end_epoch(progress: dict[str, Any]) -> None:
    """Make of the progress at an epoch's end that between two epochs."""
    for counts in progress["epoch_progress"].values():
        counts["completed"] = counts["processed"]
    progress["epoch_loop.batch_progress"]["is_last_batch"] = False
    optimizer = progress["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for part in (
        progress["epoch_loop.batch_progress"],
        progress["epoch_loop.scheduler_progress"],
        optimizer["step"],
        optimizer["zero_grad"],
    ):
        part["current"] = dict.fromkeys(part["current"], 0)
