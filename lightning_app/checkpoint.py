"""What a run keeps: `last.ckpt`, from which it can be continued at any step, and the best.

`last.ckpt` is made where nothing is pending. Lightning calls callbacks before the model, and has
some things to do after both, so no hook is such a place: an average that the model keeps in its own
hook would miss a step, a plateau scheduler an epoch, and in a validation a callback may have put
other weights in the place of the run's. What follows the last of it, at the end of a step and of an
epoch, is added to Lightning's loops for the time of a run.
"""

import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from typing_extensions import override

from lightning_app.checkpoint_io import last_path
from lightning_app.heartbeat import Heartbeat
from lightning_app.loadable import what_is_refused
from lightning_app.loops import follow, give_back


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
    """Saves `last.ckpt` after each epoch, on a clock, and when the run is told to stop.

    SIGTERM or Ctrl-C on any rank ends the run on all of them, with the state saved. A second
    signal ends it at once.

    Args:
        every_s: Seconds after which to save within an epoch, too; never if not given.
    """

    def __init__(self, every_s: float | None = None) -> None:
        self.every_s = every_s
        self._signum = 0
        self._earlier: dict[int, Any] = {}  # the handlers of the program itself
        self._pending = [0, 0]  # agreed by all ranks: the signal to stop by, whether to save
        self._path = ""  # of the run's last checkpoint
        self._saved_s = time.monotonic()
        self._heartbeat: Heartbeat | None = None
        self._checked = False

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)
        self._path = last_path(trainer)  # before another callback makes a `last.ckpt` there
        self._saved_s = time.monotonic()
        self._heartbeat = Heartbeat(trainer.strategy.root_device)
        follow(trainer.fit_loop.epoch_loop, "on_advance_end", lambda: self._after_step(trainer))
        follow(trainer.fit_loop, "on_advance_end", lambda: self._after_epoch(trainer))

    def _after_step(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop.epoch_loop
        # Gradients that are still accumulated would be lost; what ends an epoch belongs to it.
        if any(self._agree()) and not (loop._should_accumulate() or loop.done):
            self._act(trainer)

    def _after_epoch(self, trainer: Trainer) -> None:
        self._agree()
        self._act(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_listening(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop_listening(trainer)

    def _listen(self, trainer: Trainer) -> None:
        """Take over from Lightning, which sends what it heard to all ranks in every step."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(signum)
                if handler != self._on_signal:
                    self._earlier[signum] = _not_lightnings(handler, trainer)
                    signal.signal(signum, self._on_signal)

    def _stop_listening(self, trainer: Trainer) -> None:
        """Lightning puts the signals' handlers back; they were its own for the run."""
        give_back(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", "on_advance_end")
        give_back(trainer.fit_loop, "on_advance_end")
        self._heartbeat = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum:
            raise KeyboardInterrupt
        self._signum = signum
        for handler in self._earlier.get(signum, ()):
            handler(signum, frame)

    def _agree(self) -> list[int]:
        """What all ranks have agreed to do as soon as nothing is pending."""
        assert self._heartbeat is not None
        overdue = self.every_s is not None and time.monotonic() - self._saved_s >= self.every_s
        agreed = self._heartbeat.beat(self._signum, int(overdue))
        self._pending = [max(flags) for flags in zip(self._pending, agreed, strict=True)]
        return self._pending

    def _act(self, trainer: Trainer) -> None:
        stop, self._pending = self._pending[0], [0, 0]
        path = None
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = self._path
            trainer.save_checkpoint(path, weights_only=False)
            self._check_once(trainer, path)
        self._saved_s = time.monotonic()
        if stop:
            raise Stopped(stop, path)

    def _check_once(self, trainer: Trainer, path: str) -> None:
        """Tell of the first checkpoint if it will not be loaded, not when it is needed."""
        if not self._checked and trainer.is_global_zero and zipfile.is_zipfile(path):
            self._checked = True
            if refused := what_is_refused(Path(path)):
                print(
                    f"{path} cannot be loaded with weights_only=True because of "
                    f"{', '.join(refused)}: save tensors, numbers, strings, lists and dictionaries "
                    "of them (an array's `.tolist()`), or continue with --weights_only false, "
                    "which runs whatever code the file names",
                    file=sys.stderr,
                )


def _not_lightnings(handler: Any, trainer: Trainer) -> list[Any]:
    """What of a signal's handler was there before Lightning's own, which ours stands in for."""
    handlers = [h for h in getattr(handler, "signal_handlers", [handler]) if callable(h)]
    own = trainer._signal_connector
    usual = signal.default_int_handler
    return [h for h in handlers if h is not usual and getattr(h, "__self__", None) is not own]
