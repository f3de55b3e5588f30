"""Tells of values that torchmetrics objects return for a batch, and that are not means of samples.

`self.log("f1", self.f1(scores, y))` logs on each rank the F1 of its shard, and no mean of these is
that of the batch. After an object's first step, the ranks' objects together hold one whole batch:
it is put together in a copy, and the copy's value compared with the mean.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torchmetrics import Metric
from torchmetrics.aggregation import BaseAggregator

from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.checks.telling import TellOnce

TOLERANCE = 1e-5  # objects count in float32


def tell_of_values(
    model: nn.Module, logged: Mapping[str, float], num_samples: int, tell: TellOnce
) -> None:
    """Look at what a step has logged; all ranks have to call this, after the same step.

    Args:
        model: Whose attributes the objects are.
        logged: What this rank has logged as plain values, by name.
        num_samples: That this rank had.
        tell: Is given a line for each value that is not a mean.
    """
    objects = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, Metric) and not isinstance(part, BaseAggregator)
    }
    if not objects:
        return
    own = {
        (tag, name): (num_samples, value, _state(objects[name]))
        for tag, name, value in _returned(logged, objects)
    }
    ranks = all_objects(own)
    for tag, name in own if dist.get_rank() == 0 else ():  # which is the one that tells
        parts = [found[tag, name] for found in ranks if (tag, name) in found]
        # By nought or one on all ranks, something else may have been logged.
        is_returned = len(parts) == len(ranks) and any(v not in (0, 1) for _, v, _ in parts)
        if is_returned and not _is_mean(objects[name], parts):
            tell(
                f"{tag}: what a {type(objects[name]).__name__} returns for a batch is not a mean "
                "over samples, so its mean over processes and batches depends on the number of "
                f"devices: log the object, self.log({tag!r}, self.{name})",
                subject=f"what is returned, {tag}",  # objects of a collection may return the same
            )


def _returned(
    logged: Mapping[str, float], objects: Mapping[str, Metric]
) -> Iterator[tuple[str, str, float]]:
    """What was logged that an object has returned for its first batch."""
    for name, metric in objects.items():
        value = getattr(metric, "_forward_cache", None)
        if metric.update_count == 1 and isinstance(value, Tensor) and value.numel() == 1:
            given = float(value.detach())
            tags = (tag for tag, v in logged.items() if math.isclose(v, given, rel_tol=TOLERANCE))
            yield from ((tag, name, given) for tag in tags)


def _state(metric: Metric) -> dict[str, Any]:
    states = dict(metric.metric_state)  # lists may have anything in them
    found: dict[str, Any] = tree_map_only(Tensor, lambda state: state.detach().cpu(), states)
    return found


def _copy(metric: Metric) -> Metric:
    """A copy whose values have no part in a backward pass: torch copies none that have."""
    held = (leaf for part in metric.modules() for leaf in tree_leaves(vars(part)))
    computed = [leaf for leaf in held if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    return deepcopy(metric, {id(tensor): tensor.detach().clone() for tensor in computed})


def _is_mean(metric: Metric, parts: list[tuple[int, float, dict[str, Any]]]) -> bool:
    """Whether the value over all parts, of which its own is the first, is the mean of theirs."""
    mean = sum(size * value for size, value, _ in parts) / sum(size for size, _, _ in parts)
    with suppress(Exception):  # of objects that cannot be copied, or put together
        together = _copy(metric).cpu()
        together.distributed_available_fn = lambda: False
        for _, _, state in parts[1:]:
            together.merge_state(state)
        value = float(together.compute().detach())
        return math.isclose(value, mean, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return True
