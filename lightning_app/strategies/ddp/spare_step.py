"""The training step of a rank without samples in a batch: nothing of it stays.

It has to take part in what the ranks do together, so it runs the batch's samples, which other ranks
train on, with weight zero. What the step leaves behind is put back: buffers, and the states of
torchmetrics objects.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

is_spare: ContextVar[bool] = ContextVar("is_spare", default=False)


@contextmanager
def nothing_stays(model: nn.Module) -> Iterator[None]:
    """Put back what is done to a model's buffers and metrics in the meantime."""
    token = is_spare.set(True)
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in model.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    metrics = [(m, _copy_of_all(m)) for m in model.modules() if isinstance(m, Metric)]
    try:
        yield
    finally:
        is_spare.reset(token)
        with torch.no_grad():
            for part, name, buffer, value in buffers:
                part._buffers[name] = buffer  # the step may have assigned another
                # Unseen by autograd: the backward pass, of which nothing counts, is yet to come.
                buffer.data.copy_(value)
        for metric, state in metrics:
            vars(metric).update(state)


def _copy_of_all(metric: Metric) -> dict[str, Any]:
    """All that a metric has, of which its states may change in place."""
    return vars(metric) | {name: _copied(state) for name, state in metric.metric_state.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value
