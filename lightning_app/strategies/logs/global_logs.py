"""Makes what is logged with `self.log` the value of the global batch, without asking the model.

Lightning logs the first rank's value unless the model passes `sync_dist=True`, and then averages
the ranks as if their shards were of one size. Here ranks put their values together at fixed points,
which all of them reach whatever they have logged: values per epoch at the epoch's end, before
anyone reads them; values per step at log steps, and at every step once some rank has logged one. So
a condition around a `self.log`, or a name that only one rank knows, makes no rank wait for ever.

A mean counts each sample once. A sum, minimum or maximum is one over the ranks' values, as with
Lightning's `sync_dist=True`. torchmetrics objects synchronise themselves, at the epoch's end.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_app import inside
from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.logs.batch_means import BatchMeans
from lightning_app.strategies.logs.idle_metrics import align_states
from lightning_app.strategies.logs.metric_values import tell_of_values
from lightning_app.strategies.logs.own_values import (
    Gathered,
    epoch_end_values,
    hooks_values,
    tell_if_ranks_differ,
)
from lightning_app.strategies.logs.rank_means import RankMean, merge, outside_of_steps
from lightning_app.strategies.logs.step_values import StepValues

SECOND = 2  # step, in which what the hooks around the first have logged is known


class GlobalLogs:
    """Follows what the steps of one rank log.

    Args:
        trainer: Whose steps.
        sum_over_ranks: Makes of a CPU tensor `(N,)`, float64, its sum over all ranks.
    """

    def __init__(self, trainer: Trainer, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        self._trainer = trainer
        self._before: dict[str, tuple[Any, ...]] = {}  # a step's start: what was logged
        self._means: dict[str, RankMean] = {}
        self._num_steps = Counter[bool]()  # since values were put together; in training, or not
        self._steps = StepValues(trainer, sum_over_ranks)
        self._num_trained = 0  # steps, since the run began
        self._have_unequal_parts: set[bool] = set()  # training, and evaluation
        self._have_single_samples: set[bool] = set()  # on some rank; likewise
        self._num_shared = 0  # loaders of this evaluation, of which the values have been shared
        self._looked_at: set[str] = set()  # kinds of steps
        self._tell = TellOnce()
        self._world_size = dist.get_world_size()
        self._objects = BatchMeans(self._tell, self._world_size)
        self._gathered = Gathered()

    def before_step(self, hook: str) -> None:
        """Make ready for a step: `hook` is its name, as in `training_step`."""
        is_first = inside.is_first_batch(self._trainer)
        self._objects.before_step(self._trainer.lightning_module, is_first)
        self._before = {key: _state(metric) for key, metric in self._logged(hook)}

    def after_step(
        self,
        hook: str,
        shard: Shard,
        rows: int,
        full_size: int | None,
        mean_over: float | None,
        part: float,
    ) -> None:
        """Take over what a step logged of its shard; what it logged of none is forgotten.

        Args:
            hook: The step's name.
            shard: What it was given.
            rows: The samples that its batch was taken to have.
            full_size: Samples of a full global batch; `None` if this is not known.
            mean_over: What the model's means are over in this shard; `None`: its samples.
            part: What the mean of the shard counts in that of the batch, from 0 to 1.
        """
        self._objects.after_step(shard, part, full_size)
        if shard.global_size % self._world_size:
            self._have_unequal_parts.add(self._trainer.training)
        if shard.global_size < 2 * self._world_size:
            self._have_single_samples.add(self._trainer.training)
        before, is_first = self._before, inside.is_first_batch(self._trainer)
        self._num_steps[self._trainer.training] += bool(shard.size)
        for key, metric in list(self._logged(hook)):
            if not shard.size:
                self._forget(key, metric)
                continue
            given = None
            value, weight, cache, has_reset = before.get(key, (None, None, None, True))
            if metric.value is not value and metric.meta.on_epoch and metric.meta.is_mean_reduction:
                if has_reset or is_first:
                    self._means.pop(key, None)
                    value = weight = None
                mean = self._means.setdefault(key, RankMean(full_size))
                start = (0.0, 0.0) if value is None else (value, weight)
                end = (metric.value, metric.cumulated_batch_size)
                mean.add(start, end, shard, rows, mean_over)
                given = end[1] - start[1]
                if mean_over == 0:  # NaN, maybe, which no later value could be told from
                    metric.value = torch.full_like(end[0], float(start[0]))
            # Lightning forgets what was logged before when an epoch's first value comes.
            logged = inside.value_of_step(metric)
            if logged is not None and logged is not cache and hook == "training_step":
                sizes = rows, shard.size
                self._steps.note(key, metric, sizes, mean_over, given, full_size)
        if hook not in self._looked_at and shard.global_size >= self._world_size:
            self._looked_at.add(hook)
            self._look_at_values(hook, shard)  # before they are put together
        if hook == "training_step":
            self._steps.end_step(has_samples=bool(shard.size))
            self._num_trained += 1
            if self._num_trained == SECOND:
                tell_if_ranks_differ(hooks_values(self._trainer), self._tell)

    def _look_at_values(self, hook: str, shard: Shard) -> None:
        """Tell of what is logged in a first step, of which all ranks have samples, and no mean."""
        values = {}
        for _, metric in self._logged(hook):
            if metric.meta.is_mean_reduction and not metric.meta.sync.should:
                value = inside.value_of_step(metric)
                mean = metric.value / metric.cumulated_batch_size if value is None else value
                values[metric.meta.name] = float(mean)
        tell_of_values(self._trainer.lightning_module, values, shard.size, self._tell)

    def _logged(self, hook: str) -> Iterator[tuple[str, Any]]:
        """What a kind of step has logged as plain values on all ranks."""
        for key, metric in (inside.results(self._trainer) or {}).items():
            if key.startswith(hook + "."):
                self._tell_of_steps(hook, metric)
                if metric.is_tensor and not metric.meta.sync.rank_zero_only:
                    yield key, metric

    def _forget(self, key: str, metric: Any) -> None:
        if key not in self._before:
            del inside.results(self._trainer)[key]
            return
        metric.value, weight, cache, metric.has_reset = self._before[key]
        if not metric.meta.sync.should:  # else it is the ranks' mean, which this one took part in
            inside.set_value_of_step(metric, cache)
        if weight is not None:
            metric.cumulated_batch_size = weight

    def _tell_of_steps(self, hook: str, metric: Any) -> None:
        """Tell of values per step that are not put together."""
        if not metric.meta.on_step or metric.meta.sync.rank_zero_only:
            return
        if not metric.is_tensor:
            what = " of a torchmetrics object"
            remedy = "dist_sync_on_step=True, unless it gives the loss"
            is_global = getattr(metric.value, "dist_sync_on_step", False)
        else:
            what, remedy = f" in {hook}", "sync_dist=True"
            is_global = hook == "training_step" or metric.meta.sync.should
        if not is_global:
            self._tell(
                f"{metric.meta.name}: the value per step{what} is that of rank 0's shard alone; "
                f"the value per epoch is global. To have both global, give it {remedy}"
            )

    def start_evaluation(self) -> None:
        """Make ready for a validation or test."""
        self._num_shared = 0

    def share_epoch(self) -> None:
        """Put together what is logged per epoch; all ranks have to call this."""
        trainer = self._trainer
        are_uneven = self._are_uneven()
        if trainer.training:
            align_states(trainer.lightning_module, are_uneven, self._tell)
            self._share(None)
            return
        num_loaders = inside.loaders_done(trainer)
        collection: Any = inside.results(trainer)
        for index in range(self._num_shared, num_loaders):
            align_states(trainer.lightning_module, are_uneven, self._tell)
            self._share(index)
            if collection.dataloader_idx not in (None, index):
                inside.put_values_of(trainer, index)
        self._num_shared = max(self._num_shared, num_loaders)

    def check_epoch_end(self) -> None:
        """Tell of values that the hooks have logged or gathered, each rank its own."""
        tell_if_ranks_differ(epoch_end_values(self._trainer, self._are_uneven()), self._tell)
        self.tell_of_gathered()

    def tell_of_gathered(self) -> None:
        """Tell of what hooks have gathered since this was told last."""
        self._gathered.tell(self._tell)

    def note_gathered(self, ranks: Tensor) -> None:
        """Take over what a hook beside the steps has gathered, a row of each rank."""
        if self._are_uneven():
            hook = inside.running_hook(self._trainer.lightning_module)
            self._gathered.note(hook or "a hook", ranks)

    def _are_uneven(self) -> bool:
        """Whether some ranks have had more samples than others, in this kind of loop."""
        return self._trainer.training in self._have_unequal_parts

    def _share(self, dataloader_idx: int | None) -> None:
        self._objects.settle(self._trainer.lightning_module)
        own = {
            key: self._to_send(key, metric)
            for key, metric in (inside.results(self._trainer) or {}).items()
            if metric.meta.on_epoch
            and not metric.has_reset
            and not metric.meta.sync.rank_zero_only
            and dataloader_idx in (None, metric.meta.dataloader_idx or 0)
        }
        ranks = all_objects(own)
        keys = dict.fromkeys(key for values in ranks for key in values)  # in one order on all ranks
        for key in keys:
            parts = [values[key] for values in ranks if key in values]
            self._set(key, parts)
        self._num_steps[self._trainer.training] = 0

    def _to_send(self, key: str, metric: Any) -> tuple[Any, ...]:
        """How something is logged, this rank's part of it, and its dtype; `None` for an object."""
        how = inside.logged_as(metric)
        if not metric.is_tensor:
            return how, None, None
        dtype = metric.value.dtype
        if not metric.meta.is_mean_reduction:
            return how, float(metric.value), dtype
        if key in self._means:
            return how, self._means.pop(key).part(self._num_steps[self._trainer.training]), dtype
        # Logged in a hook around the steps.
        total, weight = float(metric.value), float(metric.cumulated_batch_size)
        return how, outside_of_steps(total, weight), dtype

    def _set(self, key: str, parts: list[tuple[Any, ...]]) -> None:
        how, first, dtype = parts[0]
        collection: Any = inside.results(self._trainer)
        metric = collection.get(key)
        if metric is None:
            metric = inside.add_result(self._trainer, key, how, is_tensor=first is not None)
            if first is None:
                metric.value = self._object(how)
        metric.has_reset = False
        if first is not None:
            if metric.meta.is_mean_reduction:
                total, weight = merge([part for _, part, _ in parts])
                metric.cumulated_batch_size = torch.as_tensor(weight, device=metric.value.device)
            else:
                operation = getattr(torch, metric.meta.reduce_fx.__name__)
                values = torch.tensor([value for _, value, _ in parts], dtype=torch.float64)
                total = float(operation(values))
            metric.value = torch.full_like(metric.value, total, dtype=dtype)
        inside.renew(metric)
        asked, metric.meta.sync.should = metric.meta.sync.should, False
        value = metric.compute()  # kept: what reads it later, on any rank, waits for nobody
        metric.meta.sync.should = asked
        may_lack_samples = self._trainer.training in self._have_single_samples
        if may_lack_samples and first is None and isinstance(value, Tensor) and value.isnan().any():
            self._tell(
                f"{how['name']} is NaN, as a {type(metric.value).__name__} may be of processes "
                "with one sample each: use a larger batch size"
            )

    def _object(self, how: dict[str, Any]) -> Any:
        """A torchmetrics object that only other ranks have logged, to take part in its sum."""
        if how["metric_attribute"] is None:
            raise MisconfigurationException(
                f"{how['name']}: a torchmetrics object was logged on some ranks only, and is not "
                "an attribute of the model, so the others cannot take part in its sum"
            )
        return attrgetter(how["metric_attribute"])(self._trainer.lightning_module)


def _state(metric: Any) -> tuple[Any, ...]:
    weight = metric.cumulated_batch_size if metric.meta.is_mean_reduction else None
    return metric.value, weight, inside.value_of_step(metric), metric.has_reset
