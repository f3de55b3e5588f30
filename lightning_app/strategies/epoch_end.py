"""What hooks at an epoch's end log, each rank of what it has kept itself."""

import math
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

from lightning_app import inside
from lightning_app.strategies.telling import TellOnce


def epoch_end_values(trainer: Trainer) -> dict[str, float]:
    """The means that such hooks of the running loop have logged, not to be averaged, by name."""
    return {
        metric.meta.name: float(metric.value / metric.cumulated_batch_size)
        for metric in (inside.results(trainer) or {}).values()
        if metric.is_tensor
        and metric.meta.fx.endswith("_epoch_end")
        and metric.meta.is_mean_reduction
        and not (metric.has_reset or metric.meta.sync.should)
        and not metric.meta.sync.rank_zero_only
    }


def tell_if_ranks_differ(own: dict[str, float], tell: TellOnce) -> None:
    """Tell of values that are another on each rank; all ranks have to call this."""
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, own)
    for name, first in ranks[0].items():
        others = [values[name] for values in ranks[1:] if name in values]
        known = [value for value in others if value == value and first == first]  # no NaN
        if any(not math.isclose(first, value, rel_tol=1e-6) for value in known):
            tell(
                f"{name}, logged at an epoch's end, differs between ranks, and rank 0's is "
                "kept: compute it over all samples (a torchmetrics object, or `self.all_gather`"
                "), or log in the step, which gives the mean over all samples"
            )
