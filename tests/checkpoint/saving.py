"""Models that are continued, and callbacks that save them wherever it may be."""

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.model import LinearModule
from tests.runs import MemoryLogger

Curves = dict[str, dict[int, float]]


class Scheduled(LinearModule):
    """The project's model with momentum and a learning rate that changes."""

    def __init__(self, interval: str) -> None:
        super().__init__(log_shapes="off")
        self.interval = interval

    @override
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        if self.interval == "one cycle":
            steps = int(self.trainer.estimated_stepping_batches)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]
        if self.interval.startswith("plateau"):
            kind = torch.optim.lr_scheduler.ReduceLROnPlateau
            plateau = kind(optimizer, patience=0, threshold=9.0)
            _, interval, *every = self.interval.split()
            config: dict[str, Any] = {"scheduler": plateau, "interval": interval}
            config["frequency"] = int(every[0]) if every else 1
            return [optimizer], [config | {"monitor": "val/loss", "strict": False}]
        if self.interval in ("averaging callback", *MODELS):
            return optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


class Averaged(Scheduled):
    """Averages its weights in a hook of its own, which comes after all callbacks'."""

    def __init__(self, interval: str) -> None:
        super().__init__(interval)
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        for average, weight in zip(self.average.parameters(), self.net.parameters(), strict=True):
            average.data.lerp_(weight.data, 0.1)


class Watched(Scheduled):
    """Has a plateau scheduler that goes by what it logs, in its steps or as the epoch ends."""

    @override
    def configure_optimizers(self) -> Any:
        self.interval = f"plateau {self.interval.split()[-1]}"
        (optimizer,), (config,) = super().configure_optimizers()
        return [optimizer], [config | {"monitor": "watched", "strict": True}]

    @override
    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        if self.interval == "plateau step":
            self.log("watched", loss, logger=False)
        return loss

    @override
    def on_train_epoch_end(self) -> None:
        if self.interval == "plateau epoch":
            self.log("watched", 1.0 + self.current_epoch)


class LogsBatches(Scheduled):
    """Logs each batch's loss in validation, whose steps Lightning counts apart."""

    @override
    def validation_step(self, batch: Any) -> None:
        super().validation_step(batch)
        self.log("batch", super().training_step(batch), on_step=True)


class ByHand(Scheduled):
    """Steps its optimizer itself."""

    def __init__(self, interval: str) -> None:
        super().__init__(interval)
        self.automatic_optimization = False

    @override
    def training_step(self, batch: Any) -> Any:
        loss, optimizer = super().training_step(batch), self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.manual_backward(loss)
        optimizer.step()  # type: ignore[union-attr]
        return loss


class AccumulatesByHand(ByHand):
    """Steps at every third batch, and at an epoch's last."""

    at_end = True

    @override
    def training_step(self, batch: Any) -> Any:
        loss, optimizer = Scheduled.training_step(self, batch), self.optimizers()
        self.manual_backward(loss / 3)
        is_end = self.at_end and self.trainer.is_last_batch
        if is_end or not (self.trainer.fit_loop.epoch_loop.batch_idx + 1) % 3:
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]
        return loss


class Freezes(Scheduled):
    """Has its bias rest from the second epoch on."""

    @override
    def on_train_epoch_start(self) -> None:
        self.net.fc.bias.requires_grad_(not self.current_epoch)


MODELS = {
    "average": Averaged,
    "freezing": Freezes,
    "by hand": ByHand,
    "accumulated by hand": AccumulatesByHand,
    "by its step": Watched,
    "by its epoch": Watched,
    "validation by batches": LogsBatches,
}


class SaveLast(LastCheckpoint):
    """Saves wherever `LastCheckpoint` may, each time another file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.logged: dict[str, Curves] = {}  # by checkpoint: what had been logged

    @override
    def _agree(self) -> list[int]:
        return [0, 1]

    @override
    def _act(self, trainer: Trainer) -> None:
        _save(trainer, self.folder, "last", self.logged)


def _save(trainer: Trainer, folder: Path, name: str, logged: dict[str, Curves]) -> None:
    name = f"{trainer.global_step:03}-{name}-{len(logged):03}.ckpt"
    trainer.save_checkpoint(folder / name)
    assert isinstance(trainer.logger, MemoryLogger)
    logged[name] = copy.deepcopy(trainer.logger.curves)


class SaveAlways(Callback):
    """Saves where a user's callback may: before and after steps, in validation, at epochs' ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logged: dict[str, Curves] = {}  # by checkpoint: what had been logged

    def _save(self, trainer: Trainer, name: str) -> None:
        _save(trainer, self.folder, name, self.logged)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        is_edge = batch_idx in (0, int(trainer.num_training_batches) - 1)
        if is_edge and not batch_idx % trainer.accumulate_grad_batches:
            self._save(trainer, "begun")

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        is_last = trainer.global_step == trainer.max_steps  # after which nothing goes on
        if not (is_last or trainer.fit_loop._should_accumulate()):
            self._save(trainer, "step")

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "validation")

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if batch_idx == 1:
            self._save(trainer, "validation")

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer, "validation")

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "epoch")
