"""What an epoch has gathered so far that a checkpoint within it lacks, or has of one rank alone."""

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from torchmetrics import Metric, MetricCollection

from lightning_app import inside


def gathered_so_far(trainer: Trainer) -> dict[str, Any]:
    """What is to be told where a checkpoint of now is continued; it is saved with it."""
    metrics = {
        name: any(any(part._persistent.values()) for part in parts)
        for name, parts in _measuring(trainer)
    }
    return {
        "metrics": metrics,  # whether their states are saved, by their names
        "num_accumulated": inside.num_accumulated(trainer),
        "num_ranks": _num_ranks(),
    }


def what_is_lost(gathered: dict[str, Any]) -> Iterator[str]:
    """What a run that goes on there has not taken up, in words."""
    metrics = gathered.get("metrics", {})
    if names := [name for name, is_saved in metrics.items() if not is_saved]:
        yield (
            f"{', '.join(names)}: a torchmetrics object is not saved without `persistent(True)`, "
            "so what is computed of it in this epoch is of its remaining batches"
        )
    num_ranks = max(gathered.get("num_ranks", 1), _num_ranks())
    if num_ranks > 1 and (names := [name for name, is_saved in metrics.items() if is_saved]):
        yield (
            f"{', '.join(names)}: a checkpoint has the first process's states of a torchmetrics "
            "object, and each process loads them, so in this epoch they do not count each sample "
            "once"
        )
    if number := gathered.get("num_accumulated"):
        yield (
            "it was saved while gradients were accumulated, which a checkpoint does not hold: the "
            f"next step is without those of {number} batches"
        )


def _measuring(trainer: Trainer) -> Iterator[tuple[str, list[Metric]]]:
    """The model's metrics with a state, but those that Lightning logs, by their names."""
    results = (inside.training_results(trainer), inside.results(trainer) or {})
    logged = {id(one.value) for found in results for one in found.values() if not one.is_tensor}
    seen: set[int] = set()
    for name, module in trainer.lightning_module.named_modules():
        if id(module) in seen or not isinstance(module, (Metric, MetricCollection)):
            continue
        parts = [part for part in module.modules() if isinstance(part, Metric)]
        seen |= {id(part) for part in parts}
        if any(part.update_called and id(part) not in logged for part in parts):
            yield name, parts


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
