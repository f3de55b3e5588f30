"""What a model and its metrics have gathered that a checkpoint lacks, or has of one rank alone."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch.nn.parameter import is_lazy
from torchmetrics import (
    MaxMetric,
    Metric,
    MetricCollection,
    MetricTracker,
    MinMaxMetric,
    MinMetric,
)
from torchmetrics.wrappers import ClasswiseWrapper

from lightning_app import inside
from lightning_app.checkpoint.by_hand import num_accumulated
from lightning_app.strategies.checks.kept import Prints, differing, unsaved_by

SAVE_NOTHING = (MetricTracker, MinMaxMetric)  # of what they have had, epoch by epoch


def unsaved_now(model: LightningModule) -> Prints:
    """Sums of what no checkpoint has by itself; nothing where layers have yet to be made."""
    has_lazy = any(map(is_lazy, chain(model.parameters(), model.buffers())))
    return {} if has_lazy else unsaved_by(model)


def gathered_so_far(trainer: Trainer, begun: Prints) -> dict[str, Any]:
    """What is to be told where a checkpoint of now is continued; it is saved with it.

    Args:
        trainer: Of the run.
        begun: The sums as it began.
    """
    unsaved = unsaved_now(trainer.lightning_module)
    metrics = {
        name: any(any(part._persistent.values()) for part in parts)
        for name, parts in _measuring(trainer)
    }
    return {
        "metrics": metrics,  # whether their states are saved, by their names
        "over_epochs": list(_over_epochs(trainer)),
        "unsaved": {name: unsaved[name] for name in differing([begun, unsaved])},
        "num_accumulated": num_accumulated(trainer),
        "num_ranks": _num_ranks(),
    }


def what_is_lost(gathered: dict[str, Any]) -> Iterator[str]:
    """What a run that goes on there has not taken up, in words."""
    metrics = gathered.get("metrics", {})
    if names := [name for name, is_saved in metrics.items() if not is_saved]:
        yield (
            f"{', '.join(names)}: a torchmetrics object is not saved without `persistent(True)`, "
            "so in this epoch it counts the remaining batches alone"
        )
    num_ranks = max(gathered.get("num_ranks", 1), _num_ranks())
    if num_ranks > 1 and (names := [name for name, is_saved in metrics.items() if is_saved]):
        yield (
            f"{', '.join(names)}: a checkpoint has the first process's states of a torchmetrics "
            "object, and each process loads them, so in this epoch they do not count each sample "
            "once"
        )


def begins_anew(gathered: dict[str, Any]) -> Iterator[str]:
    """What goes over all epochs and is not in the checkpoint, in words."""
    if names := gathered.get("over_epochs"):
        yield f"{', '.join(names)}: it is not saved without `persistent(True)`, so it begins anew"


def changed_since(gathered: dict[str, Any], begun: Prints) -> Iterator[str]:
    """What training had changed of what no checkpoint has by itself, in words.

    Args:
        gathered: As the run was saved.
        begun: The sums as it goes on: a hook may have put back what they are of.
    """
    if changed := differing([gathered.get("unsaved", {}), begun]):
        yield (
            f"{', '.join(changed)}: changed in training, and in no checkpoint, so it begins anew: "
            "keep it in a buffer that is saved, or put it back in on_load_checkpoint"
        )


def gradients_lost(gathered: dict[str, Any]) -> Iterator[str]:
    """Of how many batches, in words; by hand they are also accumulated over an epoch's end."""
    if number := gathered.get("num_accumulated"):
        yield (
            "the checkpoint was saved while gradients were accumulated, which it does not hold: "
            f"the next step is without those of {number} batches"
        )


def _over_epochs(trainer: Trainer) -> Iterator[str]:
    """The model's highest and lowest values so far, which nothing begins anew, by their names."""
    logged = _logged(trainer)
    for name, part in trainer.lightning_module.named_modules():
        is_one = isinstance(part, (MaxMetric, MinMetric)) and id(part) not in logged
        if is_one and part.update_called and not any(part._persistent.values()):
            yield name


def _measuring(trainer: Trainer) -> Iterator[tuple[str, list[Metric]]]:
    """The model's metrics of an epoch that have a state, and that Lightning does not log."""
    logged, model = _logged(trainer), trainer.lightning_module
    over_epochs = (MaxMetric, MinMetric, *SAVE_NOTHING)
    seen = {id(m) for one in model.modules() if isinstance(one, over_epochs) for m in one.modules()}
    seen |= {id(m) for m in model.modules() if isinstance(m, ClasswiseWrapper)}  # always "updated"
    for name, module in model.named_modules():
        if not isinstance(module, (Metric, MetricCollection)):
            continue
        parts = [p for p in module.modules() if isinstance(p, Metric) and id(p) not in seen]
        seen |= {id(part) for part in parts}
        if any(part.update_called and id(part) not in logged for part in parts):
            yield name, parts


def _logged(trainer: Trainer) -> set[int]:
    """The metrics that Lightning logs in this epoch, and begins anew."""
    results = (inside.training_results(trainer), inside.results(trainer) or {})
    logged = (
        one.value
        for found in results
        for one in found.values()
        if not (one.is_tensor or one.has_reset)
    )
    return {id(part) for metric in logged for part in metric.modules()}


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
