"""What a run tells on the console besides the transcript: its layout, its progress, its end."""

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.describe import describe_layout


class Console(Callback):
    """Prints a line at the start, one per epoch if there is no progress bar, one at the end."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.print(describe_layout(trainer))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.progress_bar_callback is None:
            metrics = {k: v for k, v in trainer.callback_metrics.items() if v.numel() == 1}
            values = "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
            epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            step = f"step {trainer.global_step}"
            pl_module.print(f"epoch {trainer.current_epoch + 1}{epochs}  {step}  {values}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # on all ranks: they agree on it
        if folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            pl_module.print(f"Saved in {folder}. To see it: tensorboard --logdir lightning_logs")
