"""Checkpoint files that a kill cannot break: how one is written, and which is the newest whole."""

import os
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import torch
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


def find_checkpoint(root: Path, which: str) -> Path | None:
    """The newest whole checkpoint of a kind in the runs below a folder.

    Args:
        root: Holds `lightning_logs`.
        which: `last` or `best`.

    Returns:
        Its path; `None` where there is none.
    """
    folders = f"lightning_logs/*/{FOLDER}", FOLDER  # the other is that of `--logger false`
    found = chain.from_iterable(root.glob(f"{folder}/{which}*.ckpt") for folder in folders)
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in newest_first if is_whole(path)), None)


def is_whole(path: Path) -> bool:
    """Whether a file is a checkpoint written to its end: an archive, every part of it readable."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
