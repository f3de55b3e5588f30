"""What a run tells on the console besides the transcript: its layout, its progress, its end."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_app.strategies.dp import DataParallelStrategy
from lightning_app.strategies.loader import ShardedLoader
from lightning_app.strategies.sharding import chunk_sizes, shard_sizes


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


def describe_layout(trainer: Trainer) -> str:
    """One line with the layout and the split, like `2 CPU processes, ddp, global batch 30 = …`."""
    strategy = trainer.strategy
    device = strategy.root_device.type.upper().replace("CUDA", "GPU")
    loader: Any = trainer.train_dataloader
    batch = loader.batch_size if isinstance(loader, ShardedLoader) else None
    num_ranks, kind = trainer.world_size, "process"
    if isinstance(strategy, DataParallelStrategy):
        num_ranks, kind = len(strategy.parallel_devices), "replica"
    plural = "" if num_ranks == 1 else "es" if kind == "process" else "s"
    name = getattr(strategy, "strategy_name", type(strategy).__name__)
    line = f"{num_ranks} {device} {kind}{plural}, {name}"
    if batch is None:
        return line
    split = chunk_sizes if kind == "replica" else shard_sizes
    parts = " + ".join(map(str, split(batch, num_ranks)))
    return f"{line}, global batch {batch}" + (f" = {parts}" if num_ranks > 1 else "")
