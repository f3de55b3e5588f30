"""Checkpoints that a kill cannot break: how they are written, which ones a run keeps, the newest.

A run keeps two in its `checkpoints` folder: `last.ckpt`, and the best by `val/loss`.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

FOLDER = "checkpoints"
LAST = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a local checkpoint beside its place and moves it there when it is whole."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        with unfinished.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest `val/loss`, for models that log one."""

    def __init__(self) -> None:
        super().__init__(
            filename="best-{epoch}",
            monitor="val/loss",
            save_on_train_epoch_end=True,
        )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, the end of the last epoch."""

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; every process has to call this.

        Args:
            trainer: Its state is what is saved. Without a folder for its logs, nothing is.
        """
        folder = trainer.log_dir  # the same on every rank
        if folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(folder, FOLDER, LAST), weights_only=False)


def find_checkpoint(root: Path, which: str) -> Path | None:
    """The newest whole checkpoint of the runs below a folder.

    Args:
        root: Holds `lightning_logs`.
        which: `last` or `best`.

    Returns:
        Its path; `None` where there is none.
    """
    pattern = "*.ckpt" if which == "last" else "best*.ckpt"
    found = root.glob(f"lightning_logs/*/{FOLDER}/{pattern}")
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in newest_first if is_whole(path)), None)


def is_whole(path: Path) -> bool:
    """Whether a file is a checkpoint written to its end: an archive, every part of it readable."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
