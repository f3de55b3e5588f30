"""Logs `train/loss`: the mean loss of the global batch, at log steps and at each epoch's end."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_app import inside

TAG = "train/loss"


class LossLogger(Callback):
    """Logs what `training_step` returns as its loss, so that a model need not log it itself.

    A `self.log` in every step costs more than a small model's step. This asks for the loss of the
    other ranks, and waits for the device, only when it is logged. A model that logs a `train/loss`
    of its own is left to it.
    """

    def __init__(self) -> None:
        self._unlogged: Any = None  # the last step's outputs

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unlogged = outputs
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        steps = not trainer.fit_loop._should_accumulate()
        if every and steps and trainer.global_step % every == 0:
            self._log(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if (loss := self._global_loss(trainer)) is not None:
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
        outputs = self._unlogged
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return None
        global_mean = getattr(trainer.strategy, "mean_over_batch", trainer.strategy.reduce)
        mean: Tensor = global_mean(inside.plain(loss.detach()).reshape(()).clone())
        return mean

    def _log(self, trainer: Trainer) -> None:
        loss = self._global_loss(trainer)
        self._unlogged = None
        if loss is None or _logs_it(trainer):
            return
        # Lightning has divided the loss by the number of batches accumulated.
        value = loss * trainer.accumulate_grad_batches
        trainer.callback_metrics[TAG] = value  # for the progress display and for checkpoints
        for logger in trainer.loggers:
            logger.log_metrics({TAG: float(value)}, step=trainer.global_step - 1)


def _logs_it(trainer: Trainer) -> bool:
    """Whether the model logs a value of this name."""
    metas = [metric.meta for metric in (trainer._results or {}).values()]
    return any(meta.name == TAG and meta.logger and not meta.forked for meta in metas)
