"""torchmetrics objects on a rank that had less to measure: given states of the others' form.

A state may begin as a number and become a vector with the first batch, or be a list with an entry
for each batch. torchmetrics gathers a number and a vector in different ways, and a list entry by
entry, so ranks of which some had fewer batches, or none, would wait for each other or be aborted.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection


class _Form(NamedTuple):
    """A state's shape and dtype; of a list those of its first entry, and how many it has."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_entries: int = 0


def align_states(model: nn.Module) -> None:
    """Give states that are as they began, or short, other ranks' form; all ranks call this."""
    for part in model.modules():
        if isinstance(part, MetricCollection):
            part.items()  # the members of a group get the states that one of them holds
    metrics = {name: m for name, m in model.named_modules() if isinstance(m, Metric)}
    if not metrics:
        return
    own = {name: _forms(metric) for name, metric in metrics.items()}
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, own)
    for name, metric in metrics.items():
        for state, value in metric.metric_state.items():
            forms = [form for rank in ranks if (form := rank.get(name, {}).get(state))]
            if isinstance(value, list):
                _fill(value, metric, forms)
            elif forms and not metric.update_called:
                with suppress(RuntimeError):  # of a shape that does not come of the first one
                    aligned = value.expand(forms[0].shape).to(forms[0].dtype, copy=True)
                    setattr(metric, state, aligned)


def _fill(entries: list[Any], metric: Metric, forms: list[_Form]) -> None:
    """Add entries without samples, up to the most that a rank has."""
    if type(metric)._sync_dist is not Metric._sync_dist:  # it gathers in a way of its own
        return
    for form in forms:
        if form.shape and len(entries) < form.num_entries:
            empty = torch.empty(0, *form.shape[1:], dtype=form.dtype, device=metric.device)
            entries += [empty] * (form.num_entries - len(entries))


def _forms(metric: Metric) -> dict[str, _Form]:
    forms = {}
    for name, state in metric.metric_state.items():
        if isinstance(state, list):
            if state and isinstance(state[0], Tensor):
                forms[name] = _Form(tuple(state[0].shape), state[0].dtype, len(state))
        elif metric.update_called:
            forms[name] = _Form(tuple(state.shape), state.dtype)
    return forms
