"""What a run keeps: `last.ckpt`, from which it can be continued at any step, and the best.

Lightning's loops can restart from almost any step they are saved at. Where they would skip a
validation that had not ended, or count a step twice, the saved progress is put right here.
"""

import signal
import threading
import time
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from typing_extensions import override

from lightning_app.checkpoint_io import last_path
from lightning_app.dashboard.logger import RunLogger
from lightning_app.heartbeat import Heartbeat


class Stopped(Exception):
    """A run was told to stop, has saved its state, and ends.

    Attributes:
        signum: The signal that told it.
    """

    def __init__(self, signum: int, path: str | None) -> None:
        saved = f"saved {path}; continue with --ckpt_path last" if path else "nothing to save"
        super().__init__(f"stopped by {signal.Signals(signum).name}: {saved}")
        self.signum = signum


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest `val/loss`, for models that log one."""

    def __init__(self) -> None:
        super().__init__(filename="best-{epoch}", monitor="val/loss", save_on_train_epoch_end=True)

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        """Within an epoch there is nothing to compare."""

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` at each epoch's end, on a clock, and when the run is told to stop.

    SIGTERM or Ctrl-C on any rank ends the run on all of them, with the state saved. A second
    signal ends it at once.

    Args:
        every_s: Seconds after which to save within an epoch, too; never if not given.
    """

    def __init__(self, every_s: float | None = None) -> None:
        self.every_s = every_s
        self._signum = 0
        self._pending = [0, 0]  # agreed by all ranks: the signal to stop by, whether to save
        self._path = ""  # of the run's last checkpoint
        self._saved_s = time.monotonic()
        self._in_training: Heartbeat | None = None
        self._in_validation: Heartbeat | None = None
        self._event_files: dict[str, int] | None = None  # of the run that is continued

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)
        self._path = last_path(trainer)  # before another callback makes a `last.ckpt` there
        logger = trainer.logger
        if isinstance(logger, RunLogger) and trainer.is_global_zero and self._event_files:
            logger.rewind(self._event_files)  # not before: the run may still be refused
        self._saved_s = time.monotonic()
        self._in_training = Heartbeat(trainer.strategy.root_device)
        loop = trainer.fit_loop
        if loop.restarting and loop.epoch_loop.batch_progress.current.ready == 0:
            # Saved between two epochs. With `max_steps`, Lightning takes it for one in mid-epoch.
            loop._restarting = loop.epoch_loop.restarting = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._in_training is not None
        if any(self._agree(self._in_training)):
            loop = trainer.fit_loop.epoch_loop
            # An epoch's end or a validation that comes next belongs to this step, and to what is
            # saved of it. Gradients that are still accumulated would be lost.
            more_to_come = loop._is_training_done or loop._should_check_val_fx(
                trainer.fit_loop._data_fetcher  # type: ignore[arg-type]
            )
            if not more_to_come and not loop._should_accumulate():
                self._act(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._in_training is not None:  # its steps take another time
            self._in_validation = Heartbeat(trainer.strategy.root_device)

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        if self._in_validation is not None and self._agree(self._in_validation)[0]:
            self._act(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._act(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_listening(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop_listening(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if isinstance(trainer.logger, RunLogger) and trainer.is_global_zero:
            checkpoint["event_files"] = trainer.logger.position()
        _put_right(trainer, checkpoint["loops"]["fit_loop"])

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._event_files = checkpoint.get("event_files")

    def _listen(self, trainer: Trainer) -> None:
        """Take over from Lightning, which sends what it heard to all ranks in every step."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self._on_signal)

    def _stop_listening(self, trainer: Trainer) -> None:
        """Lightning puts the signals' handlers back; they were its own for the run."""
        vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)
        self._in_training = self._in_validation = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum:
            raise KeyboardInterrupt
        self._signum = signum

    def _agree(self, heartbeat: Heartbeat) -> list[int]:
        """What all ranks have agreed to do as soon as the state can be saved."""
        overdue = self.every_s is not None and time.monotonic() - self._saved_s >= self.every_s
        agreed = heartbeat.beat(self._signum, int(overdue))
        self._pending = [max(flags) for flags in zip(self._pending, agreed, strict=True)]
        return self._pending

    def _act(self, trainer: Trainer) -> None:
        stop, self._pending = self._pending[0], [0, 0]
        path = None
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = self._path
            trainer.save_checkpoint(path, weights_only=False)
        self._saved_s = time.monotonic()
        if stop:
            raise Stopped(stop, path)


def _put_right(trainer: Trainer, progress: dict[str, Any]) -> None:
    """Make saved loop progress such that Lightning restarts exactly there."""
    epoch, batch = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
    validation = progress["epoch_loop.val_loop.batch_progress"]
    if validation["current"]["processed"] != validation["current"]["completed"]:
        # In mid-validation. Its metrics are not saved: all of it is run again.
        for counts in (validation["total"], validation["current"]):
            counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    elif epoch["current"]["processed"] == epoch["current"]["completed"] + 1:
        if batch["is_last_batch"] or trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            _end_epoch(progress)
        else:  # `max_steps`, say, came before the epoch's end
            epoch["total"]["processed"] -= 1
            epoch["current"]["processed"] -= 1


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
