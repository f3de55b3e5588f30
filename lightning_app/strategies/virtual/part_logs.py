"""What virtual ranks log with `self.log`: put together once a step, in the order of their numbers.

Each part of a step logs into a collection of its own. What comes of them is one value per name, as
if the step had logged it of the whole batch, on every process.
"""

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_app import inside
from lightning_app.strategies.checks.telling import TellOnce


class Logged(NamedTuple):
    """What a part has logged under a name.

    Attributes:
        how: As `inside.logged_as` tells it.
        value: A number; `None` for a torchmetrics object.
        weight: What was given as `batch_size`; `None` where this is not known.
        dtype: Of the value.
        is_first_ranks: Asked for as `rank_zero_only`.
    """

    how: dict[str, Any]
    value: float | None
    weight: float | None
    dtype: torch.dtype | None
    is_first_ranks: bool


def logged_in(results: Mapping[str, Any]) -> dict[str, Logged]:
    """What a part has logged in its collection, by key."""
    return {key: _logged(metric) for key, metric in results.items()}


def _logged(metric: Any) -> Logged:
    how, is_first_ranks = inside.logged_as(metric), metric.meta.sync.rank_zero_only
    if not metric.is_tensor:
        return Logged(how, None, None, None, is_first_ranks)
    value, weight = metric.value, None
    if metric.meta.is_mean_reduction and metric.meta.on_epoch:
        weight = float(metric.cumulated_batch_size)
        value = value.double() / weight if weight else value
    return Logged(how, float(value), weight, metric.value.dtype, is_first_ranks)


class PartLogs:
    """Makes of what the parts of each step have logged what the step has.

    Args:
        trainer: Whose steps.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._tell = TellOnce()

    def merge(
        self,
        parts: list[dict[str, Logged]],
        sizes: list[float],
        full_size: int | None,
        mean_over: list[float] | None,
        objects: dict[str, Any],
    ) -> None:
        """Take over what all parts of a step have logged.

        Args:
            parts: By the number of the part.
            sizes: Samples of each part.
            full_size: Samples of a full batch; `None` if this is not known.
            mean_over: What the model's means are over in each part; `None`: samples.
            objects: The values that torchmetrics objects had in this process's first part.
        """
        for key in dict.fromkeys(key for part in parts for key in part):
            own = [(part[key], i) for i, part in enumerate(parts) if key in part]
            if own[0][0].is_first_ranks:
                own = [(logged, i) for logged, i in own if i == 0]
            if not own:
                continue
            first = own[0][0]
            metric = inside.results(self._trainer).get(key)
            if metric is None:
                is_tensor = first.value is not None
                metric = inside.add_result(self._trainer, key, first.how, is_tensor)
                inside.take_for_global(metric)
            elif metric.is_tensor and inside.is_first_batch(self._trainer):
                metric.reset()  # as `self.log` does where an epoch begins
            if first.value is None:
                self._set_object(metric, objects.get(key))
            else:
                numbers = [i for _, i in own]
                over = mean_over if mean_over and any(mean_over) else sizes
                shares = [over[i] for i in numbers]
                of_parts = [sizes[i] for i in numbers], shares, full_size
                _add([logged for logged, _ in own], metric, *of_parts)
            inside.renew(metric)
            metric.has_reset = False

    def _set_object(self, metric: Any, value: Any) -> None:
        meta, model = metric.meta, self._trainer.lightning_module
        if meta.metric_attribute is None:
            raise MisconfigurationException(
                f"{meta.name}: a torchmetrics object that is not an attribute of the model cannot "
                "be logged with --virtual_ranks"
            )
        metric.value = attrgetter(meta.metric_attribute)(model)
        if meta.on_step:
            inside.set_value_of_step(metric, value)
            self._tell(
                f"{meta.name}: the value per step of a torchmetrics object is that of virtual rank "
                "0, of its samples; that per epoch is global"
            )


def _add(
    logged: list[Logged],
    metric: Any,
    sizes: list[float],
    shares: list[float],
    full_size: int | None,
) -> None:
    """Add a step's value to what the epoch has so far, as `self.log` does."""
    meta, dtype = metric.meta, logged[0].dtype
    values = [each.value for each in logged if each.value is not None]
    if meta.is_mean_reduction:
        mean, weight = _mean(logged, sizes, shares, full_size)
        if not weight:
            return  # a mean over nothing
        value = torch.tensor(mean, dtype=dtype, device=metric.value.device)
        if meta.on_epoch:
            metric.value = metric.value + value * weight
            metric.cumulated_batch_size = metric.cumulated_batch_size + weight
    else:
        summed = meta.reduce_fx(torch.tensor(values, dtype=torch.float64))
        value = summed.to(metric.value.device, dtype)
        if meta.on_epoch:
            total = torch.stack([metric.value.to(dtype), value])
            metric.value = meta.reduce_fx(total)
    if meta.on_step:
        inside.set_value_of_step(metric, value)
        if not meta.on_epoch:
            metric.value = value


def _mean(
    logged: list[Logged], sizes: list[float], shares: list[float], full_size: int | None
) -> tuple[float, float | int]:
    """A step's mean over its parts, and what it weighs among steps.

    A `batch_size` that was passed counts as it is, unless it is 1 or that of a full batch in all
    parts: then it tells nothing of them.
    """
    pairs_of = zip(logged, sizes, strict=True)
    given = [size if each.weight is None else each.weight for each, size in pairs_of]
    if given == sizes:
        weights, weight = shares, sum(sizes)
    elif len(set(given)) == 1 and given[0] in (1, full_size):
        weights, weight = shares, given[0]
    else:
        weights, weight = given, sum(given)
    pairs = [(each.value or 0.0, w) for each, w in zip(logged, weights, strict=True) if w]
    total = sum(w for _, w in pairs)
    if not total:
        return 0.0, 0
    mean = sum(value * w for value, w in pairs) / total
    return mean, int(weight) if weight == int(weight) else weight


def values_of_objects(results: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What torchmetrics objects gave in a part's step."""
    for key, metric in results.items():
        if not metric.is_tensor:
            yield key, inside.value_of_step(metric)
