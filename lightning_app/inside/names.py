"""Whether Lightning still has the names that are used here, asked once as a run starts.

Without one of them a run would go on and do the wrong thing, say not save a loader's position.
Names that only make a step shorter are done without. A class that is gone makes the import fail;
`lightning_app.cli` tells of that in one line as well.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import BatchSampler

from lightning_app.errors import lightning_lacks, missing_import

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
        "_last_train_dl_reload_epoch",
        "_restarting",
        "on_advance_end",
        "on_advance_start",
        "on_run_start",
    ),
    "fit_loop.epoch_loop": (
        "_batches_that_stepped",
        "_num_ready_batches_reached",
        "_restarting",
        "_results",
        "_should_accumulate",
        "batch_progress",
        "done",
        "on_advance_end",
        "on_run_start",
        "reset",
        "update_lr_schedulers",
    ),
    "fit_loop.epoch_loop.automatic_optimization": ("_skip_backward",),
    "fit_loop.epoch_loop.manual_optimization": ("run",),
    "fit_loop.epoch_loop.val_loop": (
        "_evaluation_step",
        "_last_val_dl_reload_epoch",
        "_results",
        "_seen_batches_per_dataloader",
        "run",
    ),
    "predict_loop": ("_combined_loader", "_predict_step"),
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
# Likewise, from those objects on that a Trainer has not made yet as a run starts.
NEEDED_LATER: Mapping[str, Sequence[str]] = {
    "combined_loader": ("_iterator", "_load_state_dicts", "_mode"),
    "combined_loader._iterator": ("_iterator_idx", "iterators"),
    "logged_value": (
        "_computed",
        "_forward_cache",
        "_update_count",
        "cumulated_batch_size",
        "has_reset",
        "is_tensor",
    ),
    "model_checkpoint": ("_every_n_train_steps", "_last_global_step_saved"),
    "module": ("_current_fx_name",),
    "single_device": ("_root_device",),
    "ddp": (
        "_ddp_comm_hook",
        "_ddp_kwargs",
        "_get_process_group_backend",
        "_launcher",
        "_layer_sync",
        "_model_averager",
        "_start_method",
        "_timeout",
    ),
    "launcher": ("_start_method", "_strategy"),
    "noting": ("seen_batch_indices",),
}
FOR_SPEED: Mapping[str, Sequence[str]] = {
    "fit_loop": ("_can_stop_early",),
    "fit_loop.epoch_loop": ("_broadcast_sigterm_tensor",),
    "fit_loop.epoch_loop._results": ("_extract_batch_size",),
    "fit_loop.epoch_loop.automatic_optimization": ("optim_progress", "run"),
}


def check_names(trainer: Trainer) -> None:
    """Refuse a Lightning that is another from within.

    Raises:
        MisconfigurationException: It lacks a name.
    """
    missing = [*_missing(trainer, NEEDED), *_missing(_made_later(), NEEDED_LATER)]
    if missing:
        raise MisconfigurationException(lightning_lacks(missing))


def missing_for_speed(trainer: Trainer) -> list[str]:
    """The names that a shorter step would need, and Lightning lacks."""
    missing = list(_missing(trainer, FOR_SPEED))
    try:
        import_module("lightning_app.inside.quick_logs")
    except ImportError as error:
        missing.append(missing_import(error))
    return missing


@cache
def _made_later() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning uses something old of PyTorch's
        combined_loader = CombinedLoader([[0]], "sequential")
        iter(combined_loader)
    ddp = DDPStrategy()
    return SimpleNamespace(
        combined_loader=combined_loader,
        logged_value=_ResultMetric(_Metadata("training_step", "loss"), is_tensor=True),
        model_checkpoint=ModelCheckpoint(),
        module=LightningModule(),
        ddp=ddp,
        single_device=SingleDeviceStrategy("cpu"),
        launcher=_MultiProcessingLauncher(ddp, "spawn"),
        noting=iter(_IndexBatchSamplerWrapper(BatchSampler((), 1, drop_last=False))),
    )


def _missing(root: Any, names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for path, own in names.items():
        try:
            owner = attrgetter(path)(root) if path else root
        except AttributeError:
            yield path
            continue
        yield from (f"{path}.{name}".lstrip(".") for name in own if not hasattr(owner, name))
