"""Tells of what each rank logs or gathers of its own, as if it were that of all samples."""

import math
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_app import inside
from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.checks.telling import TellOnce

OVER_ALL = (
    "compute it over all samples (a torchmetrics object, or `self.all_gather`), or log in the "
    "step, which gives the mean over all samples"
)
AT_EPOCHS_END = f"logged at an epoch's end, differs between ranks, and rank 0's is kept: {OVER_ALL}"
AVERAGED = (
    "logged at an epoch's end with sync_dist=True, is a mean over ranks, some of which have more "
    f"samples: {OVER_ALL}"
)
IN_HOOKS = (
    "logged per step in a hook beside the step, differs between ranks, and rank 0's is kept: log "
    "it in the step, or with sync_dist=True"
)
GATHERED = (
    "all_gather gives one value of each process, and these have unequal parts of the data: sums "
    "are right, but means are to be weighed by the numbers of samples, or they depend on the "
    "number of devices"
)

Values = dict[str, tuple[float, str]]  # by name, with what to tell if ranks differ, if anything


def epoch_end_values(trainer: Trainer, has_unequal_parts: bool = False) -> Values:
    """The means that the hooks at an epoch's end have logged.

    Args:
        trainer: Whose running loop.
        has_unequal_parts: Whether some ranks have had more samples than others.
    """
    own = {}
    for metric in _plain_values(trainer):
        if metric.meta.fx.endswith("_epoch_end") and metric.meta.is_mean_reduction:
            value = float(metric.value / metric.cumulated_batch_size)
            averaged = AVERAGED if has_unequal_parts else ""
            line = averaged if metric.meta.sync.should else AT_EPOCHS_END
            own[metric.meta.name] = value, line
    return own


def hooks_values(trainer: Trainer) -> Values:
    """The values per step that the hooks around a training step have logged."""
    return {
        metric.meta.name: (float(value), IN_HOOKS)
        for metric in _plain_values(trainer)
        if metric.meta.fx != "training_step"
        and not metric.meta.sync.should
        and (value := inside.value_of_step(metric)) is not None
    }


def _plain_values(trainer: Trainer) -> Iterator[Any]:
    for metric in (inside.results(trainer) or {}).values():
        is_own = metric.is_tensor and not metric.meta.sync.rank_zero_only
        if is_own and not metric.has_reset:
            yield metric


def tell_if_ranks_differ(own: Values, tell: TellOnce) -> None:
    """Tell of values that are another on each rank; all ranks have to call this."""
    ranks = all_objects(own)
    for name, (first, line) in ranks[0].items():
        others = [values[name][0] for values in ranks[1:] if name in values]
        known = [value for value in others if value == value and first == first]  # no NaN
        if line and any(not math.isclose(first, value, rel_tol=1e-6) for value in known):
            tell(f"{name}, {line}")


class Gathered:
    """What the hooks beside the steps gather of unequal parts; told after them, if at all."""

    def __init__(self) -> None:
        self._has_counts: dict[str, bool] = {}  # by hook

    def note(self, hook: str, ranks: Tensor) -> None:
        """Take over what a hook has gathered.

        Args:
            hook: Its name.
            ranks: A row of each rank.
        """
        if not ranks.is_floating_point() and not (ranks > 1).any():
            return  # flags
        values = ranks.detach().double()
        if (values != values[0]).any():
            # With whole numbers, which count samples, a hook has what means are weighed by.
            counts = (values == values.round()) & (values > 1)
            self._has_counts[hook] = self._has_counts.get(hook, False) or bool(counts.any())

    def tell(self, tell: TellOnce) -> None:
        """Tell of the hooks that have gathered no counts, and begin anew."""
        for hook, has_counts in self._has_counts.items():
            if not has_counts:
                tell(f"{hook}: {GATHERED}")
        self._has_counts.clear()
