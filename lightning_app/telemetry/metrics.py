"""Values that are logged beside the model's, and what a run has logged, in the order it matters."""

import re
from collections.abc import Container, Iterable, Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger

from lightning_app import inside
from lightning_app.checkpoint.best import names_of_validation
from lightning_app.modules import tensors_of

_BY_STEP_AND_EPOCH = ("_step", "_epoch")  # Lightning's names for two values of one metric
LOSS = r".*([lL]oss|[cC]ross_?[eE]ntropy|nll|NLL|bce|BCE|(?<![a-zA-Z])(ce|CE)(?![a-zA-Z]))"
LR = "lr-"  # how the names of LearningRateMonitor begin


class Smooths:
    """A logger whose page smooths its curves, so that some are better not drawn."""


def log(
    trainer: Trainer,
    metrics: Mapping[str, float],
    step: int,
    loggers: Iterable[Logger] | None = None,
) -> None:
    """Log values as Lightning logs a model's: a logger is given the epoch with them, and by name.

    Args:
        trainer: Whose.
        metrics: The values, by their tags.
        step: That they are of.
        loggers: Which of the Trainer's; all, if not given.
    """
    for logger in trainer.loggers if loggers is None else loggers:
        logger.log_metrics(metrics={**metrics, "epoch": trainer.current_epoch}, step=step)


def latest(trainer: Trainer, *, without: Container[str] = ()) -> dict[str, float]:
    """The numbers that were logged last: losses first, and last what only proves a run."""
    known = tensors_of(trainer.callback_metrics)
    numbers = {k: float(v) for k, v in known.items() if v.numel() == 1 and k not in without}
    return {name: numbers[name] for name in in_order(numbers)}


class EpochValues:
    """What each epoch has brought, in the order it matters."""

    def __init__(self) -> None:
        self._has_validated = False

    def validated(self, trainer: Trainer) -> None:
        """Take note of a validation that has ended."""
        self._has_validated = not trainer.sanity_checking

    def at_end(self, trainer: Trainer) -> dict[str, float]:
        """The values of an epoch, at its end.

        What was logged per step alone is the last step's. What was not logged since the epoch
        before has ended, as of a validation that does not come with each, is not this one's.
        """
        metas = [entry.meta for entry in inside.logged_in_fit(trainer)]
        others = {m.name for m in metas} - {m.name for m in metas if m.on_epoch}
        results = inside.training_results(trainer).values()
        unused = [entry.meta.name for entry in results if entry.has_reset]
        others |= {name + end for name in unused for end in ("", *_BY_STEP_AND_EPOCH)}
        if not self._has_validated:
            others |= set(names_of_validation(trainer))
        self._has_validated = False
        return latest(trainer, without=others)


def is_of_coverage(name: str) -> bool:
    """Whether a value tells what an epoch has missed or repeated."""
    return name.startswith("coverage/")


def in_order(names: Iterable[str]) -> list[str]:
    """The names of values per epoch, those that matter most first."""
    names = list(names)
    doubles = {name + end for name in names for end in _BY_STEP_AND_EPOCH}
    if "train_loss" in names:  # what many models call their own
        doubles.add("train/loss")
    return sorted((name for name in names if name not in doubles), key=_rank)


def _rank(name: str) -> tuple[bool, bool, bool, bool]:
    is_last = is_of_coverage(name), name.startswith(LR)
    return *is_last, not re.match(LOSS, name), "train" not in name.lower()
