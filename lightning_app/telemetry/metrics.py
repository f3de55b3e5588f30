"""What a run has logged, by name: which values are an epoch's, and in which order they matter."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from lightning.pytorch import Trainer

from lightning_app import inside

_BY_STEP_AND_EPOCH = ("_step", "_epoch")  # Lightning's names for two values of one metric


class Smooths(ABC):
    """A logger whose page smooths its curves, so that some are better not drawn."""

    @abstractmethod
    def log_steps(self, metrics: Mapping[str, float], steps: Sequence[int]) -> None:
        """Log the same values at each of the steps."""


def latest(trainer: Trainer) -> dict[str, float]:
    """The numbers that were logged last: losses first, and last what only proves a run."""
    numbers = {k: float(v) for k, v in trainer.callback_metrics.items() if v.numel() == 1}
    return {name: numbers[name] for name in in_order(numbers)}


def of_epoch(trainer: Trainer) -> dict[str, float]:
    """Those of an epoch, at its end: what was logged per step alone is the last step's."""
    metas = [entry.meta for entry in inside.logged_in_fit(trainer)]
    of_last_step = {m.name for m in metas} - {m.name for m in metas if m.on_epoch}
    return {name: value for name, value in latest(trainer).items() if name not in of_last_step}


def in_order(names: Iterable[str]) -> list[str]:
    """The names of values per epoch, those that matter most first."""
    names = list(names)
    doubles = {name + end for name in names for end in _BY_STEP_AND_EPOCH}
    return sorted((name for name in names if name not in doubles), key=_rank)


def _rank(name: str) -> tuple[bool, bool, bool]:
    return name.startswith("coverage/"), "loss" not in name.lower(), "train" not in name.lower()
