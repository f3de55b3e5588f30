"""Logs `train/loss`: the mean loss of the global batch, at log steps and at each epoch's end."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.finite import Choice, FiniteLoss
from lightning_app.modules import plain

TAG = "train/loss"


class LossLogger(Callback):
    """Logs what `training_step` returns as its loss, so that a model need not log it itself.

    A `self.log` in every step costs more than a small model's step. This asks for the loss of the
    other ranks, and waits for the device, only when it is logged. A model that logs a `train/loss`
    of its own is left to it.

    Args:
        on_nonfinite: What to do with a loss that is NaN or infinite.
    """

    def __init__(self, on_nonfinite: Choice = "stop") -> None:
        self._unlogged: Any = None  # the last step's outputs
        self._finite = FiniteLoss(on_nonfinite)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unlogged = outputs
        step = trainer.global_step
        if (loss := _loss_in(outputs)) is not None:
            self._finite.note(trainer, step, loss)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and inside.optimizer_steps(trainer) and step % every == 0:
            self._log(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loss = self._global_loss(trainer)
        self._finite.check(trainer, loss)
        if loss is not None:
            checkpoint["unlogged_loss"] = loss

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if (loss := checkpoint.get("unlogged_loss")) is not None:
            self._unlogged = loss.to(trainer.strategy.root_device)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer)

    def _global_loss(self, trainer: Trainer) -> Tensor | None:
        """The unlogged loss, over all ranks; all of them have to call this."""
        loss = _loss_in(self._unlogged)
        if loss is None:
            return None
        global_mean = getattr(trainer.strategy, "mean_over_batch", trainer.strategy.reduce)
        mean: Tensor = global_mean(plain(loss.detach()).reshape(()).clone())
        return mean

    def _log(self, trainer: Trainer) -> None:
        loss = self._global_loss(trainer)
        self._unlogged = None
        self._finite.check(trainer, loss)
        if loss is None or _logs_it(trainer):
            return
        # Lightning has divided the loss by the number of batches accumulated.
        value = loss * trainer.accumulate_grad_batches
        trainer.callback_metrics[TAG] = value  # for the progress display and for checkpoints
        for logger in trainer.loggers:
            logger.log_metrics({TAG: float(value)}, step=trainer.global_step - 1)


def _loss_in(outputs: Any) -> Tensor | None:
    """The loss in what a step has returned."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _logs_it(trainer: Trainer) -> bool:
    """Whether the model logs a value of this name."""
    metas = [metric.meta for metric in (inside.results(trainer) or {}).values()]
    return any(meta.name == TAG and meta.logger and not meta.forked for meta in metas)
