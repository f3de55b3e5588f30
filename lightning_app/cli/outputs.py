"""Where a run is going to write, tried before it begins."""

import os
import tempfile
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_app.errors import UsageError, what_it_says


def check_outputs(trainer: Trainer) -> None:
    """Refuse loggers and checkpoints that have nowhere to be written.

    Raises:
        UsageError: No folder can be made for one of them.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    writers: list[Any] = [*trainer.loggers, *(c for c in callbacks if isinstance(c, Checkpoint))]
    for writer in writers:
        for name in ("root_dir", "save_dir", "dirpath"):
            folder = getattr(writer, name, None)
            if isinstance(folder, (str, Path)):
                check_folder(f"{type(writer).__name__}: {folder}", str(folder))
                break
        file = getattr(writer, "filename", None)
        if isinstance(file, str):
            path = os.path.join(trainer.default_root_dir, file)
            check_folder(f"{type(writer).__name__}: filename={file}", path)


def check_folder(subject: str, folder: str) -> None:
    """Refuse a folder that cannot be made, or not be written to; of a remote one, its file system.

    The first rank tries: it is the one that writes.

    Args:
        subject: Whose folder it is, for the line that refuses it.
        folder: Its path.

    Raises:
        UsageError: It cannot be.
    """
    if folder.startswith(("http://", "https://")):
        raise UsageError(f"{subject}: nothing can be written to a web address")
    if "://" in folder:
        try:
            url_to_fs(folder)  # which may connect, or misses a package
        except Exception as error:
            raise UsageError(f"{subject}: {what_it_says(error)}") from None
    elif rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        try:
            _try_to_make(os.path.join(os.getcwd(), os.path.expanduser(folder)))
        except (OSError, ValueError) as error:  # a path may hold a null character
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"{subject}: no folder can be made there: {why}") from None


def _try_to_make(folder: str) -> None:
    """Make its missing part where it would be, under a name of its own, and remove that."""
    there = folder
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    missing = os.path.relpath(folder, there)
    with tempfile.TemporaryDirectory(prefix=".try-", dir=there) as trial:
        os.makedirs(os.path.join(trial, missing), exist_ok=True)
