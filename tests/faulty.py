"""Models in which things go wrong, and one that waits to be disturbed."""

import ctypes
import os
import resource
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from lightning_app.model import Batch, LinearModule
from lightning_app.processes.signals import HEED_S


def last_rank(trainer: Trainer) -> int:
    """Not asked for in a model, of which the run would tell."""
    return trainer.world_size - 1


class Nan(LinearModule):
    """Has a loss that is NaN on its last rank, from a step on."""

    def __init__(self, since: int = 40, **own: Any) -> None:
        super().__init__(**own)
        self.since = since

    @override
    def training_step(self, batch: Batch) -> Tensor:
        loss = super().training_step(batch)
        is_last = self.global_rank == last_rank(self.trainer)
        spoilt = is_last and self.global_step + 1 >= self.since
        return loss * float("nan") if spoilt else loss


class Misconfigured(LinearModule):
    """Uses Lightning's exception for an error of its own, in a step."""

    @override
    def training_step(self, batch: Batch) -> Tensor:
        if self.global_step == 40:
            raise MisconfigurationException("a bug")
        return super().training_step(batch)


class Forks(LinearModule):
    """Has processes of its own, of which it ends some, and a signal of its own."""

    @override
    def on_fit_start(self) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
        os.kill(os.getpid(), signal.SIGUSR1)
        child = get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(10)
        print("the child ended by", child.exitcode)
        time.sleep(HEED_S + 0.5)  # after which what the run does not heed would end it

    @override
    def on_train_end(self) -> None:
        get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()


class Waits(LinearModule):
    """Leaves a file and waits a while in each step, of which the first can be a long one."""

    def __init__(self, first_s: float = 0.0, **own: Any) -> None:
        super().__init__(**own)
        self.wait_s = first_s

    def _wait(self) -> None:
        Path(f"in_step_{self.global_rank}").touch()
        time.sleep(self.wait_s)
        self.wait_s = 0.02

    @override
    def training_step(self, batch: Batch) -> Tensor:
        self._wait()
        return super().training_step(batch)

    @override
    def validation_step(self, batch: Batch) -> None:
        if not self.trainer.training:
            self._wait()
        super().validation_step(batch)

    @override
    def test_step(self, batch: Batch) -> None:
        self._wait()
        super().test_step(batch)

    @override
    def predict_step(self, batch: Batch) -> Any:
        self._wait()
        return super().predict_step(batch)


class Refused(LinearModule):
    """Is refused on its last rank, while the first one waits: in Python, or in C and for good."""

    def __init__(self, waits_in: str = "Python", **own: Any) -> None:
        super().__init__(**own)
        self.waits_in = waits_in

    @override
    def on_fit_start(self) -> None:
        if self.global_rank == last_rank(self.trainer):
            raise MisconfigurationException("only here")
        Path("waits").touch()
        if self.waits_in == "Python":
            time.sleep(3600)
        lock, taken = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
        lock(taken), lock(taken)  # which no signal breaks off


class SavesAlone(LinearModule):
    """Has its first rank alone save a checkpoint."""

    @override
    def on_train_epoch_end(self) -> None:
        if self.global_rank == 0:
            self.trainer.save_checkpoint("own.ckpt")


class FailsFirst(LinearModule):
    """Fails in its first step, and may write beforehand what it has failed on."""

    def __init__(self, writes: bool = False, **own: Any) -> None:
        super().__init__(**own)
        self.writes = writes

    @override
    def training_step(self, batch: Batch) -> Tensor:
        if self.writes:
            Path(str(self.trainer.log_dir), "batch.txt").write_text(str(batch))
        raise ValueError("in the first step")


class Disturbed(LinearModule):
    """Is disturbed once, on one rank, unless it was before in this folder.

    Args:
        fault: `error`, `misconfiguration`, `nan`, `no room`, `hang`, or the names of the signals
            that its process gets, one after the other.
        at: The number of steps before; -1 to be disturbed while the run starts.
        own: The arguments of `LinearModule`.
    """

    def __init__(self, fault: str = "", at: int = 39, **own: Any) -> None:
        super().__init__(**own)
        self.fault, self.at = fault, at

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._disturb(-1)

    @override
    def training_step(self, batch: Batch) -> Tensor:
        loss = super().training_step(batch)
        is_disturbed = self._disturb(self.global_step)
        return loss * float("nan") if is_disturbed and self.fault == "nan" else loss

    def _disturb(self, step: int) -> bool:
        last = last_rank(self.trainer)
        is_mine = self.global_rank == (0 if self.fault == "no room" else last)  # that writes
        over = Path("disturbed")
        if not self.fault or not is_mine or step != self.at or over.exists():
            return False
        over.touch()
        if self.fault == "no room":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        elif self.fault == "error":
            raise ZeroDivisionError
        elif self.fault == "misconfiguration":
            raise MisconfigurationException("a bug")
        elif self.fault == "hang":
            time.sleep(3600)
        elif self.fault != "nan":
            for name in self.fault.split():
                os.kill(os.getpid(), signal.Signals[name])
                time.sleep(1.2)  # sooner, a second one would be taken for the same
        return True
