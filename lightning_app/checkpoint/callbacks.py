"""What a run keeps: `last.ckpt`, from which it can be continued at any step.

`last.ckpt` is made where nothing is pending. Lightning calls callbacks before the model, and has
some things to do after both, so no hook is such a place: an average that the model keeps in its own
hook would miss a step, a plateau scheduler an epoch, and in a validation a callback may have put
other weights in the place of the run's. What follows the last of it, at the end of a step and of an
epoch, is added to Lightning's loops for the time of a run.
"""

import os
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.best import BestCheckpoint
from lightning_app.checkpoint.by_hand import num_accumulated
from lightning_app.checkpoint.finite import (
    HOW_TO_GO_ON,
    Choice,
    NonFiniteLoss,
    last_good,
    non_finite,
)
from lightning_app.checkpoint.heartbeat import Heartbeat, largest_of_all
from lightning_app.checkpoint.io import continued_from, last_path
from lightning_app.checkpoint.loadable import what_is_refused
from lightning_app.processes import ranks
from lightning_app.processes.signals import (
    SIGNALS,
    Stopped,
    is_left_alone,
    leave_to_this_end,
    may_wait,
    same_s,
    second_signal_ends,
    stop_at_once,
)


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` after each epoch, on a clock, and when the run is told to stop.

    SIGTERM, Ctrl-C or SIGHUP on any rank ends the run on all of them, with the state saved.

    Args:
        every_s: Seconds after which to save within an epoch, too; never if not given.
        on_nonfinite: What to do where weights are NaN or infinite; they are never saved.
        requeue: Have Slurm queue the job again after a signal that tells that time is nearly up.
    """

    def __init__(
        self,
        every_s: float | None = None,
        on_nonfinite: Choice = "stop",
        requeue: bool = False,
    ) -> None:
        self.requeue = requeue
        self.every_s = every_s
        self.on_nonfinite = on_nonfinite
        self._signum, self._heard_s = 0, 0.0
        self._earlier: dict[int, Any] = {}  # the handlers of the program itself
        self._pending = [0, 0]  # agreed by all ranks: the signal to stop by, whether to save
        self._path = ""  # of the run's last checkpoint
        self._spoilt: set[str] = set()  # parameters that are not finite, by the user's choice
        self.last_good: str | None = None  # the newest checkpoint to go on from
        self._saved_s = time.monotonic()
        self._heartbeat: Heartbeat | None = None
        self._checked = False
        self._is_at_end = False  # it has saved the run's end

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signum = 0  # of an earlier run

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)
        self._path = last_path(trainer)  # before another callback makes a `last.ckpt` there
        ranks.keep(self._path)
        _check_others(trainer, self._path)
        self._spoilt, self._is_at_end = non_finite(pl_module), False
        self._pending = [0, 0]
        self.last_good = continued_from(trainer)
        self._saved_s = time.monotonic()
        self._heartbeat = Heartbeat(trainer.strategy.root_device)
        inside.after_step(trainer, lambda: self._after_step(trainer))
        inside.after_epoch(trainer, lambda: self._after_epoch(trainer))

    def _after_step(self, trainer: Trainer) -> None:
        is_due, ends_epoch = any(self._agree()), inside.ends_epoch(trainer)
        # What ends an epoch belongs to it. Where `max_steps`, say, ends the run within one, the
        # hooks of its end come now and again when it goes on: they are not to be in the checkpoint.
        is_cut = ends_epoch and not inside.has_all_batches(trainer)
        # Gradients that are accumulated would be lost.
        if (is_cut or (is_due and not ends_epoch)) and not _accumulates(trainer):
            self._act(trainer)
            self._is_at_end = is_cut

    def _after_epoch(self, trainer: Trainer) -> None:
        self._agree()
        if not self._is_at_end:
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
        inside.broadcast_no_signal(trainer)
        if threading.current_thread() is threading.main_thread():
            may_wait(True)
            for signum in SIGNALS:
                handler = signal.getsignal(signum)
                if handler != self._on_signal and not is_left_alone(signum):
                    self._earlier[signum] = _not_lightnings(handler, trainer)
                    signal.signal(signum, self._on_signal)

    def _stop_listening(self, trainer: Trainer) -> None:
        """Lightning puts the signals' handlers back; they were its own for the run."""
        may_wait(False)
        inside.broadcast_signals_again(trainer)
        inside.leave_moments(trainer)
        self._heartbeat = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if not self._signum:
            self._signum, self._heard_s = signum, now_s
        elif now_s - self._heard_s > same_s(signum) and not second_signal_ends():
            raise KeyboardInterrupt
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
        if not trainer.fast_dev_run and self._may_save(trainer):  # type: ignore[attr-defined]
            path = self._path
            trainer.save_checkpoint(path, weights_only=False)
            self.last_good = path
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, BestCheckpoint):
                    callback.stand_in(path)
            self._check_once(trainer, path)
        self._saved_s = time.monotonic()
        if stop:
            leave_to_this_end()
            raise Stopped(stop, path, agreed=True, requeue=self.requeue and path is not None)

    def _may_save(self, trainer: Trainer) -> bool:
        """Keep weights that nothing can be learnt from out of the place of others.

        Raises:
            NonFiniteLoss: There are such, and training shall stop then.
        """
        names = non_finite(trainer.lightning_module) - self._spoilt
        if not largest_of_all([len(names)], trainer.strategy.root_device)[0]:
            return True
        which = f" ({min(names)})" if names else ""
        line = f"after step {trainer.global_step} weights are NaN or infinite{which}: not saved"
        if self.on_nonfinite == "stop":
            raise NonFiniteLoss(f"{line}; {last_good(trainer)}; {HOW_TO_GO_ON}")
        if trainer.is_global_zero:
            print(f"{line}; {last_good(trainer)}", file=sys.stderr)
        return False

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


def _check_others(trainer: Trainer, path: str) -> None:
    """Refuse another `last.ckpt` in the place of the run's, from which it could not be continued.

    Raises:
        MisconfigurationException: A callback is to write one.
    """
    folder = os.path.dirname(os.path.realpath(path))
    for callback in trainer.checkpoint_callbacks:
        save_last = getattr(callback, "save_last", None)
        if not isinstance(callback, ModelCheckpoint) or not save_last:
            continue
        is_link = save_last == "link"
        dirpath = callback.dirpath
        is_there = isinstance(dirpath, str) and os.path.realpath(dirpath) == folder
        is_called_so = callback.CHECKPOINT_NAME_LAST.startswith("last")
        if is_there and is_called_so and (is_link or callback.save_weights_only):
            how = "save_last='link'" if is_link else "save_last=True, save_weights_only=True"
            raise MisconfigurationException(
                f"{type(callback).__name__}({how}) would write in the place of the run's own "
                f"{os.path.basename(path)}: give it a dirpath"
            )


def _accumulates(trainer: Trainer) -> bool:
    """Whether any rank waits for an optimizer step: by hand, it may step by a loss of its own."""
    return bool(largest_of_all([num_accumulated(trainer)], trainer.strategy.root_device)[0])


def _not_lightnings(handler: Any, trainer: Trainer) -> list[Any]:
    """What of a signal's handler was there before the run's own, which ours stands in for."""
    handlers = [h for h in getattr(handler, "signal_handlers", [handler]) if callable(h)]
    usual = (signal.default_int_handler, stop_at_once)
    return [h for h in handlers if h not in usual and not inside.is_lightnings_handler(h, trainer)]
