"""Logs the training loss: `train/loss_step` at log steps, and `train/loss`, the epoch's mean."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.finite import Choice, FiniteLoss
from lightning_app.modules import plain
from lightning_app.own_part import own_part
from lightning_app.processes.collectives import all_objects
from lightning_app.telemetry.metrics import log

TAG = "train/loss"
TAG_OF_STEP = "train/loss_step"
MAX_NOTES = 1000  # of a GPU each takes 512 bytes


class EpochMean:
    """This rank's part of the mean loss over an epoch's samples."""

    def __init__(self, total: float = 0.0, weight: float = 0.0) -> None:
        self._total, self._weight = total, weight
        self._notes: list[tuple[Tensor, float]] = []  # read later, many at once

    def add(self, loss: Tensor, weight: float) -> None:
        """Add a step's mean loss, and what it counts among those of all steps and ranks."""
        if weight:  # a mean over nothing is NaN
            self._notes.append((loss, weight))
            if len(self._notes) >= MAX_NOTES:
                self.sums()

    def sums(self) -> tuple[float, float]:
        """The weighted sum of the losses, and the sum of the weights."""
        if self._notes:
            losses, weights = zip(*self._notes, strict=True)
            self._notes = []
            values = torch.stack([plain(loss.detach()).reshape(()) for loss in losses])
            # One by one: a run that is continued then has the same sum to the last bit.
            for loss, weight in zip(values.tolist(), weights, strict=True):
                self._total += loss * weight
                self._weight += weight
        return self._total, self._weight


class LossLogger(Callback):
    """Logs what `training_step` returns as its loss, so that a model need not log it itself.

    A `self.log` in every step costs more than a small model's step. This asks for the loss of the
    other ranks, and waits for the device, only when it is logged. A model that logs a `train/loss`
    of its own is left to it.

    Args:
        on_nonfinite: What to do with a loss that is NaN or infinite.
    """

    def __init__(self, on_nonfinite: Choice = "stop") -> None:
        self._last: Tensor | None = None  # this rank's loss of a step that was not looked at
        self._mean = EpochMean()
        self._strategy: Any = None
        self._finite = FiniteLoss(on_nonfinite)
        self._saved_in: int | None = None  # the epoch of the checkpoint that is continued

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strategy = trainer.strategy
        saved_in, self._saved_in = self._saved_in, None
        if saved_in not in (None, trainer.current_epoch):
            self._mean = EpochMean()  # its epoch had come to its end, but for the hooks

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mean = EpochMean()

    def on_step_end(self, trainer: Trainer, outputs: Any) -> None:
        """Called between the steps of one execution, with what the step has returned."""
        self._last = _loss_in(outputs)
        if self._last is not None:
            self._mean.add(self._last, getattr(self._strategy, "step_weight", 1.0))
            self._finite.note(trainer, trainer.global_step, self._last)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_step_end(trainer, outputs)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        number = inside.step_number(trainer)
        is_log_step = every and (number == 1 or number % every == 0)  # 1 shows where it began
        if is_log_step and inside.optimizer_steps(trainer):
            self._log_step(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look(trainer)
        own_part(checkpoint)["epoch_loss"] = torch.tensor(self._sums(), dtype=torch.float64)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit":
            return  # for its weights
        # That of all ranks, whatever their number was, is one rank's.
        sums = own_part(checkpoint).get("epoch_loss") if trainer.is_global_zero else None
        self._mean = EpochMean() if sums is None else EpochMean(*sums.tolist())
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        # Where `max_steps` came before the epoch's end, Lightning has counted it already.
        self._saved_in = min(checkpoint["epoch"], progress["processed"])

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        total, weight = self._sums()  # kept: `max_steps` may have ended it within an epoch
        meta = _logged_as(trainer, TAG)
        if not weight or (meta is not None and not meta.forked):
            return
        value = _whole(total / weight, trainer)
        if meta is None:
            trainer.callback_metrics[TAG] = torch.tensor(value, dtype=torch.float64)
        log(trainer, {TAG: value}, inside.last_step(trainer))

    def _look(self, trainer: Trainer) -> Tensor | None:
        """The last step's loss over all ranks, which has to be finite; all have to call this."""
        loss, self._last = self._last, None
        mean: Tensor | None = None
        if loss is not None:
            global_mean = getattr(trainer.strategy, "mean_over_batch", trainer.strategy.reduce)
            mean = global_mean(plain(loss.detach()).reshape(()).clone())
        self._finite.check(trainer, mean)
        return mean

    def _sums(self) -> tuple[float, float]:
        """Over all ranks; all have to call this."""
        totals, weights = zip(*all_objects(self._mean.sums()), strict=True)
        return sum(totals), sum(weights)

    def _log_step(self, trainer: Trainer) -> None:
        loss = self._look(trainer)  # on all ranks, whatever they have stepped
        is_own = any(_logged_as(trainer, tag) for tag in (TAG, TAG_OF_STEP))
        if loss is None or is_own:
            return
        value = _whole(float(loss), trainer)
        # For the progress display and for checkpoints: as what is logged per step and per epoch.
        known = torch.tensor(value, dtype=torch.float64)
        trainer.callback_metrics.update({TAG: known, TAG_OF_STEP: known})
        log(trainer, {TAG_OF_STEP: value}, inside.step_number(trainer) - 1)


def _whole(loss: float, trainer: Trainer) -> float:
    """A loss as the model returned it: Lightning divides it by the batches accumulated."""
    return loss * trainer.accumulate_grad_batches


def _loss_in(outputs: Any) -> Tensor | None:
    """The loss in what a step has returned."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _logged_as(trainer: Trainer, tag: str) -> Any:
    """How the model logs a value of this name; `None` if it does not."""
    metas = (metric.meta for metric in (inside.results(trainer) or {}).values())
    return next((meta for meta in metas if meta.name == tag and meta.logger), None)
