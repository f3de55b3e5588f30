"""torchmetrics objects on a rank that had no sample to measure: given the shapes of the others'.

A state may begin as a number and become a vector with the first batch. torchmetrics gathers the
two in different ways, so ranks of which only some have measured would wait for each other.
"""

from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection


def align_shapes(model: nn.Module) -> None:
    """Give states that are as they began other ranks' shapes; all ranks have to call this."""
    for part in model.modules():
        if isinstance(part, MetricCollection):
            part.items()  # the members of a group get the states that one of them holds
    metrics = {name: m for name, m in model.named_modules() if isinstance(m, Metric)}
    if not metrics:
        return
    own = {name: _shapes(metric) for name, metric in metrics.items() if metric.update_called}
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, own)
    for name, metric in metrics.items():
        others: dict[str, Any] = next((shapes[name] for shapes in ranks if name in shapes), {})
        for state, shape in others.items() if not metric.update_called else ():
            value = getattr(metric, state)
            with suppress(RuntimeError):  # of a shape that does not come of the first one
                setattr(metric, state, value.expand(shape).clone())


def _shapes(metric: Metric) -> dict[str, tuple[int, ...]]:
    states = metric.metric_state
    return {name: tuple(s.shape) for name, s in states.items() if isinstance(s, Tensor)}
