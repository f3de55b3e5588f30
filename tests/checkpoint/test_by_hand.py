"""Gradients that a model accumulates by hand are counted, and told where they are lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import SGD
from torch.optim.optimizer import _global_optimizer_post_hooks
from typing_extensions import override

from lightning_app.checkpoint.by_hand import num_accumulated
from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from tests.checkpoint.saving import AccumulatesByHand, ByHand, Scheduled
from tests.runs import fit


class StepsPast(AccumulatesByHand):
    """Steps an optimizer that the Trainer does not count, and clears gradients before the next."""

    at_end = False

    @override
    def training_step(self, batch: Any) -> Any:
        loss, (optimizer,) = Scheduled.training_step(self, batch), self.trainer.optimizers
        if self.trainer.fit_loop.epoch_loop.batch_idx % 3 == 0:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.trainer.fit_loop.epoch_loop.batch_idx % 3 == 2:
            optimizer.step()
        return loss


class StepsPastFused(StepsPast):
    """A fused step leaves no version of the weights behind."""

    @override
    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.02, fused=True)


class Rarely(StepsPast):
    """Goes backward, and steps, with every fourth batch alone."""

    @override
    def training_step(self, batch: Any) -> Any:
        if self.trainer.fit_loop.epoch_loop.batch_idx % 4 == 0:
            ByHand.training_step(self, batch)


class LeavesTwo(AccumulatesByHand):
    """Takes the gradients of an epoch's last two batches over into the next."""

    at_end = False


class StepsInHook(AccumulatesByHand):
    """Steps after the step, in a hook."""

    @override
    def training_step(self, batch: Any) -> Any:
        self.manual_backward(loss := Scheduled.training_step(self, batch))
        return loss

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % 3 == 2:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


class BesideAnother(LeavesTwo):
    """Has another part that steps with each batch."""

    def __init__(self, interval: str) -> None:
        super().__init__(interval)
        self.other = nn.Linear(1, 1)

    @override
    def training_step(self, batch: Any) -> Any:
        with torch.no_grad():
            self.other.weight += 1.0
        return super().training_step(batch)

    @override
    def configure_optimizers(self) -> Any:
        return [SGD(self.net.parameters(), lr=0.02), SGD(self.other.parameters(), lr=0.1)]

    @override
    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        found: Any = super().optimizers(use_pl_optimizer)
        return found[0]


class Accumulated(Callback):
    """Notes how many batches a checkpoint would lack, as batches end."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.numbers.append(num_accumulated(trainer))


class EndsWith(Callback):
    """Saves at the first epoch's end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.current_epoch:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (AccumulatesByHand, [1, 2, 0, 1, 2, 0, 1, 0]),
        (LeavesTwo, [1, 2, 0, 1, 2, 0, 1, 2]),
        (StepsPast, [1, 2, 0, 1, 2, 0, 1, 2]),
        (StepsPastFused, [1, 2, 0, 1, 2, 0, 1, 2]),
        (StepsInHook, [1, 2, 3, 1, 2, 3, 1, 2]),
        (BesideAnother, [1, 2, 0, 1, 2, 0, 1, 2]),
        (Rarely, [0] * 8),
    ],
)
def test_gradients_are_accumulated_by_hand(
    kind: type[Scheduled], numbers: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.ckpt"

    def train(validations: int, ckpt_path: str | None, *more: Callback) -> None:
        data = RandomDataModule(length=50, batch_size=7, val_length=30)  # 8 batches
        model, callbacks = kind("by hand"), [Resume(), *more]
        flags: dict[str, Any] = {"max_epochs": 2, "logger": False, "callbacks": callbacks}
        flags["limit_val_batches"] = validations
        fit("single_device", 1, model, data, ckpt_path, **flags)

    for validations in (0, 1):
        noted = Accumulated()
        train(validations, None, noted, EndsWith(path))
        assert not _global_optimizer_post_hooks
        assert noted.numbers[:8] == numbers  # before the hooks of the model
        train(validations, str(path))
        # Before a validation Lightning clears the gradients of any run.
        is_lost = numbers[-1] and not validations
        lost = f"without those of {numbers[-1]} batches"
        assert (lost in capsys.readouterr().err) == bool(is_lost)
