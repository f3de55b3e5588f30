"""The run's event files: written without waiting, and cut back where a run is continued."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor
from typing_extensions import override

from lightning_app.checkpoint.resume import RewindsFiles
from lightning_app.errors import UsageError
from lightning_app.masking import masked
from lightning_app.telemetry.dashboard.folder_lock import FolderLock
from lightning_app.telemetry.metrics import Smooths

OF_A_RUN = (TensorBoardLogger.NAME_HPARAMS_FILE, "config.yaml")


class RunLogger(TensorBoardLogger, Smooths, RewindsFiles):
    """TensorBoardLogger that writes all scalars of a step as one event, and never waits for it.

    Lightning's `epoch`, a curve of steps that the page would smooth, is left out.

    Args:
        save_dir: Where `lightning_logs/version_N` is made.
        version: The run's number, or the name of its folder; the next free number if not given.
        continues: Whether the run in that folder goes on.
    """

    def __init__(
        self, save_dir: str, version: int | str | None = None, continues: bool = False
    ) -> None:
        super().__init__(
            save_dir,
            "lightning_logs",
            version,
            default_hp_metric=False,
            max_queue=100_000,
            flush_secs=10,  # a page that is open shows the run as it goes
        )
        self.tags: set[str] = set()  # of the scalars that this process has written
        self.continues = continues
        self._lock = FolderLock()
        self._has_folder = False  # for itself
        self._earlier = self._event_files() if self.continues else []

    @property
    @override
    def experiment(self) -> Any:
        """As TensorBoardLogger's. Lightning asks for it once all ranks have met."""
        self.lock()
        return super().experiment

    @rank_zero_only
    def lock(self) -> None:
        """Have the run's folder for this process: a named one may be another's already.

        Raises:
            UsageError: Another process writes into it.
        """
        if self._has_folder:
            return
        if isinstance(self.version, str) and "://" not in self.save_dir:
            os.makedirs(self.log_dir, exist_ok=True)
            if not self._lock.take(self.log_dir):
                raise UsageError(
                    f"the run in {self.log_dir.removeprefix('./')} is still going on in another "
                    "process, and both would write there: wait for its end, or leave out "
                    "--ckpt_path"
                )
        self._has_folder = True

    @override
    def _get_next_version(self) -> int:
        """The number of a new run, whose folder is made at once: no other run gets it."""
        number: int = super()._get_next_version()
        if getattr(rank_zero_only, "rank", 0) or "://" in self.save_dir:
            return number
        while True:
            folder = Path(os.path.expanduser(os.path.expandvars(self.root_dir)))
            own = folder / f"version_{number}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                own.mkdir()
            except FileExistsError:
                number += 1
            except FileNotFoundError:  # a run that was refused has removed the folder again
                continue
            else:
                self._lock.take(str(own))
                self._has_folder = True
                return number

    def _event_files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob("events.out.tfevents.*"))

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        super().log_hyperparams(masked(params), *args, **kwargs)

    def position(self) -> dict[str, int]:
        """Where the events written so far end: the size of each file, in bytes, by its name."""
        self.experiment.flush()
        return {path.name: path.stat().st_size for path in self._event_files()}

    def rewind(self, position: Mapping[str, int]) -> None:
        """Cut off what an interrupted run wrote after a position, as it will be written again.

        Args:
            position: As `position` told it when the checkpoint was made that is continued.
        """
        for path in self._earlier:
            if size := position.get(path.name):
                os.truncate(path, size)
            else:
                path.unlink()

    def discard(self) -> None:
        """Remove what this process wrote of a run that came to nothing; no file of the user's."""
        if not self._has_folder:
            return
        self.finalize("aborted")
        self._lock.release()
        self._remove(set(self._event_files()) - set(self._earlier), OF_A_RUN)

    def leave_no_empty_run(self) -> None:
        """Remove a file of events that has none, which the page would show as a run."""
        if self.tags or not (self._has_folder and os.path.isdir(self.log_dir)):
            return
        self.finalize("success")
        empty = list(filter(_has_no_events, set(self._event_files()) - set(self._earlier)))
        if empty:
            self._remove(empty, (self.NAME_HPARAMS_FILE,))

    def _remove(self, events: Iterable[Path], names: Iterable[str]) -> None:
        """Remove files of events, and of a new run these others, with all folders left empty."""
        for path in events:
            path.unlink(missing_ok=True)
        if self.continues:
            return
        for name in names:
            Path(self.log_dir, name).unlink(missing_ok=True)
        with suppress(OSError):  # there is something else in it: predictions, say
            Path(self.log_dir).rmdir()
            Path(self.root_dir).rmdir()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        self._lock.release()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        metrics = {tag: value for tag, value in metrics.items() if tag != "epoch"}
        numbers = {tag: value for tag, value in metrics.items() if _is_number(value)}
        self.tags.update(metrics)
        if numbers:
            # Here, as most ranks, and runs without a page, do without what it takes.
            from tensorboard.compat.proto.summary_pb2 import Summary

            values = [Summary.Value(tag=tag, simple_value=float(v)) for tag, v in numbers.items()]
            self.experiment._get_file_writer().add_summary(Summary(value=values), step or 0)
        if others := {tag: value for tag, value in metrics.items() if tag not in numbers}:
            super().log_metrics(others, step)  # which takes or refuses them

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_lock": FolderLock()}  # which is this process's


def discard_empty_run(trainer: Trainer) -> None:
    """Remove the folder of a run that ends before it has logged anything."""
    logger = trainer.logger
    if isinstance(logger, RunLogger) and not logger.tags:
        rank_zero_only(logger.discard)()


def leave_no_empty_run(trainer: Trainer) -> None:
    """At a run's end, keep what it has written, but no events of nothing."""
    logger = trainer.logger
    if isinstance(logger, RunLogger):
        rank_zero_only(logger.leave_no_empty_run)()


def _has_no_events(path: Path) -> bool:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return all(e.WhichOneof("what") == "file_version" for e in EventFileLoader(str(path)).Load())


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float))
