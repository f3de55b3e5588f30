"""A run whose step failed goes on from the checkpoint that was then saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.telemetry.coverage import Coverage
from tests.checkpoint.saving import ByHand, Scheduled
from tests.runs import Run, assert_same_weights, fit


class Fault:
    """One batch fails, once: counted over all runs, so not when it comes again."""

    num_batches = fails_at = 0

    @classmethod
    def count(cls) -> None:
        cls.num_batches += 1
        if cls.num_batches == cls.fails_at:
            raise RuntimeError("out of memory, say")


class FailsInStep(Scheduled):
    """Fails before anything is learnt."""

    @override
    def training_step(self, batch: Any) -> Any:
        Fault.count()
        return super().training_step(batch)


class FailsInTransfer(Scheduled):
    """Fails before the step begins."""

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.training:
            Fault.count()
        return batch


class FailsByHand(ByHand):
    """Fails when it has stepped: what is learnt is not to be learnt again."""

    @override
    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        Fault.count()
        return loss


@pytest.mark.parametrize(
    ("kind", "steps", "fails_at"),
    [
        *((FailsInStep, steps, fails_at) for steps in (1, 8) for fails_at in (4, 10)),
        *((FailsInTransfer, 1, 4), (FailsInTransfer, 1, 10), (FailsByHand, 1, 10)),
    ],
)
def test_a_step_that_failed_is_done_again(
    kind: type[Scheduled], steps: int, fails_at: int, tmp_path: Path
) -> None:
    def train(fails_at: int, path: str | None = None) -> Run:
        Fault.num_batches, Fault.fails_at = 0, fails_at
        callbacks = [Resume(), Coverage(), OnExceptionCheckpoint(tmp_path)]
        callbacks += [StepsPerExecution(steps)] if steps > 1 else []
        module = RandomDataModule(length=80, batch_size=8, val_length=10)
        flags: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}  # of 10 batches
        flags |= {"log_every_n_steps": 4, "default_root_dir": tmp_path}
        flags |= {"val_check_interval": 5, "check_val_every_n_epoch": None}
        torch.manual_seed(1)
        return fit("single_device", 1, kind("step"), module, path, callbacks=callbacks, **flags)

    whole = train(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(fails_at)
    continued = train(0, str(tmp_path / "on_exception.ckpt"))
    assert_same_weights(continued, whole, tolerance=0)
    assert continued.metrics["coverage/missing"] == continued.metrics["coverage/repeated"] == 0
    for tag in ("train/loss_step", "val/loss"):
        later = {s: value for s, value in whole.curves[tag].items() if s >= fails_at - 1}
        assert continued.curves[tag] == later, tag
