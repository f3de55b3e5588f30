"""What a run tells on the console besides the transcript: its layout, its progress, its end."""

import os

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.io import run_folder
from lightning_app.modules import say
from lightning_app.telemetry.describe import describe_layout
from lightning_app.telemetry.metrics import EpochValues, is_of_coverage
from lightning_app.telemetry.progress import epoch_of


class Console(Callback):
    """Prints a line at the start, one per epoch, one at the end.

    An evaluation's values are in a table of Lightning's.
    """

    def __init__(self) -> None:
        self._trained = False
        self._values = EpochValues()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        say(pl_module, describe_layout(trainer))
        inside.after_epoch_hooks(trainer, lambda: self._end_epoch(trainer))

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            say(pl_module, describe_layout(trainer))

    on_test_start = on_predict_start = on_validation_start

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._values.validated(trainer)

    def _end_epoch(self, trainer: Trainer) -> None:
        """Once the model has logged the last of an epoch."""
        if not trainer.training:
            return
        found = self._values.at_end(trainer).items()
        # A coverage of 0 is as it should be.
        shown = ((name, value) for name, value in found if value or not is_of_coverage(name))
        values = "".join(f"  {name} {value:.4g}" for name, value in shown)
        step = (
            inside.last_step(trainer) + 1
        )  # from 1, one for several optimizers: as curves have it
        say(trainer.lightning_module, f"{epoch_of(trainer)}  step {step}{values}")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        inside.leave_epoch_hooks(trainer)
        is_evaluation = trainer.state.fn in (TrainerFn.VALIDATING, TrainerFn.TESTING)
        if (
            is_evaluation
            and isinstance(trainer.logger, TensorBoardLogger)
            and trainer.logged_metrics
        ):
            _say_at_end(pl_module, f"Logged in {trainer.logger.log_dir}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)  # on all ranks: they agree on it
        if isinstance(trainer.logger, TensorBoardLogger):
            runs = os.path.dirname(folder).removeprefix("./")
            _say_at_end(pl_module, f"Saved in {folder}. See: tensorboard --logdir {runs}")
        elif path := last_saved(trainer):
            _say_at_end(pl_module, f"Saved {path}")

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._trained and trainer.is_global_zero:
            limits = f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}"
            print(f"Nothing to train: the run is at its end, or has no batches ({limits})")


def _say_at_end(module: LightningModule, line: str) -> None:
    if isinstance(module.trainer.progress_bar_callback, TQDMProgressBar):
        rank_zero_only(print)(line)  # that bar is closed by now, and would leave it out
    else:
        say(module, line)


def last_saved(trainer: Trainer) -> str | None:
    """The run's last checkpoint; `None` if it keeps none."""
    kept = (c.last_good for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint))
    return next(kept, None)
