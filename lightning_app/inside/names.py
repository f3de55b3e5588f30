"""Whether Lightning still has the names that are used here, asked once as a run starts.

Without one of them a run would go on and do something else than it should, say keep a loader's
position nowhere. What only makes a step shorter is left out instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

# Where they are, from the Trainer on, and their names.
NEEDED: Mapping[str, Sequence[str]] = {
    "": (
        "_accelerator_connector",
        "_active_loop",
        "_logger_connector",
        "_results",
        "_signal_connector",
        "_val_check_time_interval",
    ),
    "fit_loop": (
        "_combined_loader",
        "_combined_loader_states_to_load",
        "_data_fetcher",
        "_load_combined_loader_states",
        "_restarting",
        "on_advance_end",
        "on_advance_start",
        "on_run_start",
    ),
    "fit_loop.epoch_loop": (
        "_batches_that_stepped",
        "_broadcast_sigterm_tensor",
        "_num_ready_batches_reached",
        "_restarting",
        "_results",
        "_should_accumulate",
        "on_advance_end",
        "reset",
    ),
    "fit_loop.epoch_loop.val_loop": ("_results", "run"),
    "predict_loop": ("_combined_loader",),
    "strategy": ("_checkpoint_io",),
    "_logger_connector": (
        "_callback_metrics",
        "_first_loop_iter",
        "epoch_end_reached",
        "on_epoch_end",
        "update_eval_epoch_metrics",
        "update_train_step_metrics",
    ),
    "_signal_connector": ("_sigterm_notifier_fn",),
}
FOR_SPEED: Mapping[str, Sequence[str]] = {
    "fit_loop.epoch_loop": ("_build_kwargs",),
    "fit_loop.epoch_loop.automatic_optimization": ("_skip_backward", "optim_progress", "run"),
}


def check_names(trainer: Trainer) -> None:
    """Refuse a Lightning that is another from within.

    Raises:
        MisconfigurationException: It lacks a name.
    """
    if missing := list(_missing(trainer, NEEDED)):
        raise MisconfigurationException(
            f"Lightning {lightning.__version__} has no {', '.join(missing)}, by which this project "
            "splits batches and keeps its place in them: install the version that "
            "constraints.txt names, or use Lightning's own Trainer"
        )


def missing_for_speed(trainer: Trainer) -> list[str]:
    """The names that a shorter step would need, and Lightning lacks."""
    return list(_missing(trainer, FOR_SPEED))


def _missing(trainer: Trainer, names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for path, own in names.items():
        try:
            owner = attrgetter(path)(trainer) if path else trainer
        except AttributeError:
            yield path
            continue
        yield from (f"{path}.{name}".lstrip(".") for name in own if not hasattr(owner, name))
