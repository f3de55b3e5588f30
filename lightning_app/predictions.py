"""`train.py predict` keeps what the model predicted, in the data set's order, on any layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from typing_extensions import override

from lightning_app import strategies
from lightning_app.collectives import gather_objects


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.pt`, one tensor `(N, …)`, for models that predict tensors `(B, …)`."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    @override
    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        folder = trainer.log_dir  # the same on every rank
        joinable = all(isinstance(p, Tensor) and p.ndim for p in predictions)
        if folder is None or not joinable or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.world_size > 1 and not strategies.splits_batches(trainer.strategy):
            pl_module.print("Predictions not saved: this strategy's order of samples is not known")
            return
        ranks = gather_objects([prediction.cpu() for prediction in predictions])
        if trainer.is_global_zero:
            batches = (torch.cat(shards) for shards in zip(*ranks, strict=True))
            path = Path(folder, "predictions.pt")
            torch.save(torch.cat(list(batches)), path)
            print(f"Saved in {path}")
