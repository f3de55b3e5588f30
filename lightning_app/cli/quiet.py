"""No advertisements on the console, and no advice that does not hold here."""

import logging
import warnings

from lightning.pytorch import LightningModule

from lightning_app.strategies import splits_batches

_LOGGERS = (
    "pytorch.utilities.rank_zero",
    "fabric.utilities.seed",
    "fabric.utilities.distributed",
    "pytorch.accelerators.cuda",  # which devices there are: our own line tells those of the run
)
_WARNINGS = (
    ".*does not have many workers.*",
    ".*LeafSpec.*deprecated.*",
    ".*args parameter is intended.*",
    ".*looks like a TorchScript archive.*",  # it is refused
    ".*configure_optimizers` will be overridden.*",  # as asked for by --optimizer
    ".*GPU available but not used.*",  # `--accelerator cpu` is a choice
    ".*AccumulateGrad node's stream.*",  # Lightning makes DDP on a stream of its own
    ".*Unable to serialize instance.*",  # it is left out of the config: config_text.py
    ".*The dirpath has changed.*",  # a checkpoint of another run
    ".*`srun` command is available.*",  # a launcher is a choice: placement.py
    ".*Checkpoint directory .* exists and is not empty.*",  # a continued run's
)


def quieten() -> None:
    """Leave out, in this process, what Lightning and torch tell that says nothing here."""
    for name in _LOGGERS:
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    # Which rank is ended after another has failed tells nothing.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)


def quieten_for(strategy: object, model: LightningModule) -> None:
    """Leave out advice that holds with another strategy, or another model."""
    if splits_batches(strategy):  # a line tells which values differ between ranks
        warnings.filterwarnings("ignore", ".*on epoch level in distributed setting.*")
    if model.automatic_optimization:  # else no loss is logged as the epoch ends
        warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")
