"""Checkpoint files that a kill cannot break: where they are, how written, which is the newest."""

import glob
import os
import zipfile
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from fsspec.core import url_to_fs
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from lightning_app import inside
from lightning_app.masking import masked

FOLDER = "checkpoints"
LAST = "last.ckpt"
_HPARAMS = (
    LightningModule.CHECKPOINT_HYPER_PARAMS_KEY,
    LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY,
)
_OF_SEARCHES = (".lr_find_", ".scale_batch_size_")  # for a learning rate, for a batch size
_SHARDED = ("meta.pt", ".metadata", "latest")  # one of them is written last into a folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a local checkpoint beside its place and moves it there when it is whole.

    Args:
        trusted: Whether files may run code when they are loaded: the user's own word.
    """

    def __init__(self, trusted: bool = False) -> None:
        super().__init__()
        self._trusted = trusted

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        checkpoint = checkpoint | {
            key: masked(checkpoint[key]) for key in _HPARAMS if key in checkpoint
        }
        if not inside.is_local_file(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        save_whole(checkpoint, path)

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> Any:
        """Lightning forgets what the user said (`None`) where a strategy loads after its setup."""
        only = not self._trusted if weights_only is None else weights_only
        return load(path, only, map_location)


def save_whole(value: Any, path: str | Path) -> None:
    """Save a value, by `torch.save`, such that the file has it all or is as it was before."""
    if not inside.is_local_file(path):
        files = get_filesystem(path)
        files.makedirs(os.path.dirname(path), exist_ok=True)
        with files.open(str(path), "wb") as file:
            torch.save(value, file)
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)  # what a kill has left, or a link to another file
    try:
        with unfinished.open("xb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # of which torch tells only that it came
            raise error.__context__ from None
        raise
    finally:
        unfinished.unlink(missing_ok=True)  # there only if it could not be finished


def load(
    path: str | Path, weights_only: bool, map_location: Any = "cpu", in_place: bool = False
) -> Any:
    """What `torch.save` wrote: the one place where checkpoints are loaded.

    Args:
        path: A path, or a URL of a file system that fsspec knows.
        weights_only: Load tensors, numbers, and collections of these; nothing that can run code.
        map_location: As `torch.load` takes it.
        in_place: Read of a local archive's tensors only those that are used.
    """
    files, place = url_to_fs(str(path))
    if in_place and is_local(path) and zipfile.is_zipfile(place):
        return torch.load(place, map_location, weights_only=weights_only, mmap=True)
    with files.open(place, "rb") as file:
        return torch.load(file, map_location, weights_only=weights_only)


def is_local(path: str | Path) -> bool:
    """Whether a path or URL is of this machine's file system."""
    return inside.is_local_file(path)


def run_folder(trainer: Trainer) -> str:
    """The folder of a run, which it shares with no other: all ranks have to ask for it.

    It is where `ModelCheckpoint` makes `checkpoints`. (`Trainer.log_dir` may be the folder of many
    runs, or none, with a logger that has no `log_dir` of its own.)
    """
    folder = trainer.default_root_dir
    if trainer.loggers:
        logger = trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = os.path.join(logger.save_dir or folder, str(logger.name), version)
    result: str = trainer.strategy.broadcast(os.path.expanduser(folder))
    return result


def continued_from(trainer: Trainer) -> str | None:
    """The checkpoint that a run goes on from; not one that a search makes for itself."""
    path = str(trainer.ckpt_path or "")
    is_searchs = os.path.basename(path).startswith(_OF_SEARCHES)
    return None if is_searchs else path or None


def last_path(trainer: Trainer) -> str:
    """Where a run that begins keeps its last checkpoint: all ranks have to ask for it.

    A folder that is given by name may hold another run's: that one is left as it is, unless it is
    continued.
    """
    folder = os.path.join(run_folder(trainer), FOLDER)
    names = (LAST if number == 0 else f"last-v{number}.ckpt" for number in count())
    paths = (os.path.join(folder, name) for name in names)
    continued = os.path.realpath(continued_from(trainer) or "")
    is_taken = get_filesystem(folder).exists
    path = next(p for p in paths if os.path.realpath(p) == continued or not is_taken(p))
    result: str = trainer.strategy.broadcast(path)
    return result


def find_checkpoint(which: str, root: str, logger: Logger | None = None) -> str | None:
    """The newest whole checkpoint of a kind.

    Args:
        which: `last` or `best`.
        root: The Trainer's `default_root_dir`.
        logger: The first of the loggers, if it is not this project's own; its runs come first.

    Returns:
        Its path; `None` where there is none.
    """
    usual = glob.escape(runs_folder(root)) + "/*", glob.escape(root)  # that of `--logger false`
    own = glob.escape(runs_folder(root, logger)) + "/*"
    return (logger and _newest(which, own)) or _newest(which, *usual)


def runs_folder(root: str, logger: Logger | None = None) -> str:
    """The folder of the runs of a logger, or of this project's own."""
    if logger is not None:
        return os.path.join(logger.save_dir or root, str(logger.name))
    return os.path.join(root, "lightning_logs")


def _newest(which: str, *runs: str) -> str | None:
    """The newest of the checkpoints of runs, that are patterns of folders."""
    names = "best-epoch=*.ckpt" if which == "best" else f"{which}*.ckpt"
    found = [path for run in runs for path in _files(f"{run}/{FOLDER}/{names}")]
    newest_first = sorted(found, key=lambda p: get_filesystem(p).modified(p), reverse=True)
    return next((p for p in newest_first if is_whole(p) and _is_runs_own(which, p)), None)


def _is_runs_own(which: str, path: str) -> bool:
    """Whether a run kept a whole checkpoint as its best, and not a callback of the user's.

    Of files that are remote, are folders, or run code to be loaded, only the names are known.
    """
    if which != "best" or not is_local(path) or os.path.isdir(path):
        return True
    try:
        states = load(path, weights_only=True, in_place=True).get("callbacks", {})
    except UnpicklingError:
        return True
    kept: str = states.get("BestCheckpoint", {}).get("best_model_path", "")
    return os.path.basename(kept) == os.path.basename(path)


def _files(pattern: str) -> Iterable[str]:
    if inside.is_local_file(pattern):
        return map(os.path.normpath, glob.iglob(os.path.expanduser(pattern)))
    files = get_filesystem(pattern)
    return map(files.unstrip_protocol, files.glob(pattern))


def is_whole(path: str | Path) -> bool:
    """Whether a checkpoint is written to its end: an archive, every part of it readable.

    Of a folder, as strategies write that save shards, and of a remote file only the end is read.
    """
    try:
        files, path = get_filesystem(path), str(path)
        if files.isdir(path):
            return any(files.exists(f"{path}/{name}") for name in _SHARDED)
        with files.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if not is_local(path):
                return True
            is_sound = archive.testzip() is None
        # torch's reader goes by other bytes of the archive, too.
        return is_sound and load(path, weights_only=True, in_place=True) is not None
    except UnpicklingError:  # by what was saved: its bytes are sound
        return True
    except Exception:  # a broken archive may raise anything
        return False
