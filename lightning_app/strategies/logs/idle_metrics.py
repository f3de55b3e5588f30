"""torchmetrics objects of ranks that had less to measure: given states of one form on all ranks.

A state may begin as a number and become a vector with the first batch, or be a list with an entry
for each batch. torchmetrics gathers a number and a vector in different ways, and a list entry by
entry, so ranks of which some had fewer batches, or none, would wait for each other or be aborted.
"""

from contextlib import suppress
from types import CodeType
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_mean

from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.checks.asking import is_installed, names_in
from lightning_app.strategies.checks.telling import TellOnce


class _Form(NamedTuple):
    """A state's shape and dtype; of a list those of its first entry, and how many it has."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_entries: int = 0


def align_states(model: nn.Module, are_uneven: bool, tell: TellOnce) -> None:
    """Give states that are as they began, or short, other ranks' form; all ranks call this.

    Args:
        model: Whose attributes the objects are.
        are_uneven: Whether the ranks had unequal parts of some batch.
        tell: Is given a line for what is put together in another way than by samples.
    """
    for part in model.modules():
        if isinstance(part, MetricCollection):
            part.items()  # the members of a group get the states that one of them holds
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, Metric)]
    for name, metric in found:
        if metric.update_called and not metric.sync_on_compute:
            tell(
                f"{name}: each process computes it from its own samples, and only rank 0's value "
                "is logged: remove sync_on_compute=False"
            )
    metrics = {name: metric for name, metric in found if metric.sync_on_compute}
    if not metrics:
        return
    for metric in metrics.values():
        _as_vectors(metric)
    own = {name: _forms(metric) for name, metric in metrics.items()}
    ranks = all_objects(own)
    for name, metric in metrics.items():
        for state, value in metric.metric_state.items():
            forms = [form for rank in ranks if (form := rank.get(name, {}).get(state))]
            if isinstance(value, list):
                _check_numbers(f"{name}.{state}", forms, len(ranks))
                if _counts_entries(metric, state, forms, len(ranks)):
                    tell(
                        f"{name}.{state}: processes have unequal numbers of entries, so some are "
                        f"given empty ones, and {type(metric).__name__}.compute goes by entries: "
                        "put them together there (`dim_zero_cat`)"
                    )
                _fill(value, metric, forms)
                continue
            if forms and isinstance(value, Tensor):
                is_mean_right = len(forms) == len(ranks) and not are_uneven
                _tell_of_reduction(name, metric, state, is_mean_right, tell)
            if forms and isinstance(value, Tensor) and not metric.update_called:
                with suppress(RuntimeError):  # of a shape that does not come of the first one
                    aligned = value.expand(forms[0].shape).to(forms[0].dtype, copy=True)
                    setattr(metric, state, aligned)


def _as_vectors(metric: Metric) -> None:
    """Make vectors of the numbers in lists that are put together as one vector."""
    for name, entries in metric.metric_state.items():
        if isinstance(entries, list) and metric._reductions[name] is dim_zero_cat:
            entries[:] = [e.reshape(-1) if _is_number(e) else e for e in entries]


def _is_number(entry: Any) -> bool:
    return isinstance(entry, Tensor) and not entry.ndim


def _check_numbers(state: str, forms: list[_Form], world_size: int) -> None:
    """Refuse numbers that are gathered one by one, and of which ranks have different amounts.

    Raises:
        MisconfigurationException: They have.
    """
    counts = {form.num_entries for form in forms} | ({0} if len(forms) < world_size else set())
    if len(counts) > 1 and any(not form.shape for form in forms):
        raise MisconfigurationException(
            f"{state}: the metric keeps a list of numbers, as one for each sample, and the "
            f"processes have {min(counts)} to {max(counts)} of them, which torchmetrics cannot "
            "gather: use `--strategy dp` or one device"
        )


def _counts_entries(metric: Metric, state: str, forms: list[_Form], world_size: int) -> bool:
    """Whether a list is to be filled, and what is computed of it does not put it together."""
    is_uneven = len({form.num_entries for form in forms}) > 1 or 0 < len(forms) < world_size
    compute = getattr(type(metric).compute, "__code__", None)
    if not is_uneven or metric._reductions[state] is not None or compute is None:
        return False
    return not (
        is_installed(compute)
        or any("cat" in name or name == "compute" for name in names_in(compute))
    )


def _tell_of_reduction(
    name: str, metric: Metric, state: str, is_mean_right: bool, tell: TellOnce
) -> None:
    """Tell of a tensor that processes put together by themselves, not by samples."""
    compute = getattr(type(metric).compute, "__code__", None)
    if compute is None or is_installed(compute):  # which reckons with it
        return
    remedy = 'keep a sum and a count, each with dist_reduce_fx="sum"'
    if metric._reductions[state] in (dim_zero_mean, torch.mean) and not is_mean_right:
        tell(f"{name}.{state}: a mean of processes, which have unequal parts of samples: {remedy}")
    elif metric._reductions[state] is None and not _merges(compute, metric.metric_state[state]):
        tell(
            f"{name}.{state}: with dist_reduce_fx=None, {type(metric).__name__}.compute gets a "
            f"value of each process, of its own samples: {remedy}, or put them together there"
        )


def _merges(compute: CodeType, state: Any) -> bool:
    """Whether what is computed of a state puts together what processes have of it."""
    names = set(names_in(compute))
    return bool(names & {"dim", "ndim"}) or ("sum" in names and not state.ndim)


def _fill(entries: list[Any], metric: Metric, forms: list[_Form]) -> None:
    """Add entries without samples, up to the most that a rank has."""
    gather = type(metric)._sync_dist
    if gather is not Metric._sync_dist and "_sync_dist" not in names_in(gather.__code__):
        return  # it gathers in a way of its own
    for form in forms:
        if form.shape and len(entries) < form.num_entries:
            device = "cpu" if metric.compute_on_cpu else metric.device
            empty = torch.empty(0, *form.shape[1:], dtype=form.dtype, device=device)
            entries += [empty] * (form.num_entries - len(entries))


def _forms(metric: Metric) -> dict[str, _Form]:
    forms = {}
    for name, state in metric.metric_state.items():
        if isinstance(state, list):
            if state and isinstance(state[0], Tensor):
                forms[name] = _Form(tuple(state[0].shape), state[0].dtype, len(state))
        elif metric.update_called and isinstance(state, Tensor):
            forms[name] = _Form(tuple(state.shape), state.dtype)
    return forms
