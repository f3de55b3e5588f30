"""`trainer.should_stop`, set on some ranks alone, ends the run on all of them, at the same step.

Lightning's loops read it on each rank, so a rank that set it alone would leave, and the others wait
for it. Asking each other in every step would cost a collective in every step. Here:

- before an epoch, after a validation and after an epoch all ranks ask each other;
- within an epoch, what all ranks set at the same step counts at that step. They see it on a board
  in shared memory, where each notes a number after each step. Who has set it waits there until the
  others have come as far, which takes no longer than their step;
- what some set alone counts from the next heartbeat on, within about a second.

Ranks on several machines have no board, nor those on Windows, where a file that is mapped cannot be
deleted: what they set within an epoch waits for the heartbeat.
"""

import mmap
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.heartbeat import Heartbeat, largest

LIMIT_S = 1800.0  # as long as a process group waits, by default
WORD_BYTES = 8


class AgreedStop(Callback):
    """Has ranks that are processes stop together."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._heartbeat: Heartbeat | None = None
        self._wish = 0  # of this rank, not heard by the others yet
        self._has_validated = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        self._wish = 0
        inside.around_epochs(trainer, lambda: self._ask(trainer))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        limit = getattr(trainer.strategy, "step_timeout", None)
        limit_s = LIMIT_S if limit is None else limit.total_seconds()
        self._heartbeat = Heartbeat(trainer.strategy.root_device)
        has_board = trainer.num_nodes == 1 and sys.platform != "win32"
        self._board = Board(limit_s) if has_board else None
        inside.after_validation(trainer, self._note_validation)
        inside.after_step(trainer, lambda: self._after_step(trainer))
        # The first to read `should_stop` after the step's hooks.
        inside.before_step_values(trainer, lambda: self._settle(trainer))

    def _note_validation(self) -> None:
        self._has_validated = True

    def _after_step(self, trainer: Trainer) -> None:
        if self._has_validated:
            self._has_validated = False
            self._ask(trainer)

    def _ask(self, trainer: Trainer) -> None:
        """Where all ranks come by anyway, and seldom: with a collective."""
        device = trainer.strategy.root_device
        trainer.should_stop = bool(largest([int(trainer.should_stop or self._wish)], device)[0])

    def _settle(self, trainer: Trainer) -> None:
        """After a step: make of what this rank has set what all ranks know."""
        batch = inside.num_batches_done(trainer)
        wish = trainer.should_stop
        if self._board is not None:
            self._board.note(batch, wish)
        if wish and (self._board is None or not self._board.is_unanimous(batch)):
            self._wish, trainer.should_stop = 1, False
        assert self._heartbeat is not None
        if self._heartbeat.beat(self._wish)[0]:
            trainer.should_stop = True

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._leave(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        inside.leave_moments(trainer)
        inside.leave_step_values(trainer)
        self._board = self._heartbeat = None


class Board:
    """How far each rank of one machine has come, for the others to look at without waiting for it.

    All ranks have to make one at the same time.

    Args:
        limit_s: Seconds after which a rank that is waited for is given up.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._since = 0  # the batch since which this rank has wished it without a break
        self._rank, world_size = dist.get_rank(), dist.get_world_size()
        path: list[Any] = [None]
        if self._rank == 0:
            with tempfile.NamedTemporaryFile(prefix="ranks-", delete=False) as file:
                file.write(bytes(world_size * WORD_BYTES))
            path = [file.name]
        dist.broadcast_object_list(path)
        with Path(path[0]).open("r+b") as shared:
            self._words = memoryview(mmap.mmap(shared.fileno(), 0)).cast("Q")
        dist.barrier()
        if self._rank == 0:
            Path(path[0]).unlink()  # the memory stays, for those who have it

    def note(self, batch: int, wish: bool) -> None:
        """Tell that this rank is done with a batch, and whether it wishes to stop there."""
        self._since = (self._since or batch) if wish else 0
        # One word, as it is written at once: what is read belongs together.
        self._words[self._rank] = batch << 32 | self._since

    def is_unanimous(self, batch: int) -> bool:
        """Whether all ranks wished it there; waits until they have come to it.

        Raises:
            TimeoutError: A rank did not come to it.
        """
        deadline = time.monotonic() + self._limit_s
        for rank in range(len(self._words)):
            while (word := self._words[rank]) >> 32 < batch:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"rank {self._rank} set trainer.should_stop after batch {batch}, and "
                        f"waited {self._limit_s:g} s for rank {rank}, which is at batch "
                        f"{word >> 32}"
                    )
                time.sleep(0.0002)
            if not 0 < word & 0xFFFFFFFF <= batch:
                return False
        return True
