"""Values that are logged per step: those of the global batch, put together in one exchange."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_app import inside
from lightning_app.processes.collectives import all_objects

# The step at which a rank logged a value, its samples, the weight that it gave the value, whether
# that is the same for every batch, the value.
COLUMNS = 5
Row = list[float]


class StepValues:
    """What the ranks log per step in training.

    They exchange it at log steps, at the first step, and at every step once some rank has logged
    something. A rank that has not logged a value takes it from those that have.

    Args:
        trainer: Whose steps.
        sum_over_ranks: Makes of a CPU tensor `(N,)`, float64, its sum over all ranks.
    """

    def __init__(self, trainer: Trainer, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        self._trainer, self._sum = trainer, sum_over_ranks
        self._names: list[str] = []  # the keys that all ranks know, in one order
        self._how: dict[str, Any] = {}
        self._notes: dict[str, tuple[Any, ...]] = {}  # since the last exchange
        self._weights: dict[str, tuple[float, bool]] = {}  # the first, and whether all are alike
        self._num_logged: Counter[str] = Counter()  # steps, by key
        self._step = self._num_own = 0  # steps, and those of which this rank had samples
        self._at_each_step = False

    def note(
        self,
        key: str,
        metric: Any,
        sizes: tuple[int, int],
        mean_over: float | None,
        weight: Any,
        full_size: int | None,
    ) -> None:
        """Take over what this rank has logged of its shard in this step.

        Args:
            key: Of what is logged.
            metric: Lightning's entry for it.
            sizes: Samples that the shard's batch was taken to have, and those of the shard.
            mean_over: What the model's means are over in it; `None`: its samples.
            weight: What was passed as `batch_size`; `None` if this is not known.
            full_size: Samples of a full global batch; `None` if this is not known.
        """
        if not metric.meta.sync.should:  # else the model has asked for the ranks' mean itself
            self._num_logged[key] += 1
            value = inside.value_of_step(metric)
            own = sizes, mean_over, weight, full_size
            self._notes[key] = (self._step + 1, metric, *own, value)

    def end_step(self, has_samples: bool) -> None:
        """Exchange the values, if it is time; all ranks have to call this in every step.

        Args:
            has_samples: Whether this rank had a part of the batch.
        """
        self._step += 1
        self._num_own += has_samples
        if self._at_each_step or self._step == 1 or inside.is_log_step(self._trainer):
            self._exchange()

    def _exchange(self) -> None:
        ranks = self._of_all_ranks()
        if any(are_unknown for are_unknown, *_ in ranks):  # some rank has logged something new
            self._learn_names()
            ranks = self._of_all_ranks()
        self._notes.clear()
        for number, key in enumerate(self._names):
            start = 1 + COLUMNS * number
            rows = [rank[start : start + COLUMNS] for rank in ranks]
            latest = max(step for step, *_ in rows)
            if latest > 0:
                self._set(key, [row for row in rows if row[0] == latest])

    def _of_all_ranks(self) -> list[Row]:
        """What every rank has noted, 1 + 5 N numbers each; the first tells of unknown names.

        Numbers and not tensors: there are so few that each operation would cost more than its sum.
        """
        own = [float(any(key not in self._how for key in self._notes))]
        for key in self._names:
            own += self._row(key) if key in self._notes else [0.0] * COLUMNS
        rank, world_size = dist.get_rank(), dist.get_world_size()
        others = [0.0] * len(own)
        rows = others * rank + own + others * (world_size - rank - 1)
        summed = self._sum(torch.tensor(rows, dtype=torch.float64)).tolist()
        return [summed[r * len(own) : (r + 1) * len(own)] for r in range(world_size)]

    def _row(self, key: str) -> Row:
        step, _, sizes, mean_over, given, full_size, value = self._notes[key]
        num_samples = sizes[0] if mean_over is None else mean_over
        is_own = given is not None and (mean_over is None or given not in sizes)
        weight = float(given if is_own else num_samples)
        first, are_alike = self._weights.get(key, (weight, True))
        self._weights[key] = first, are_alike and weight == first
        is_every_steps = self._num_logged[key] == self._num_own
        may_be_any_batchs = self._weights[key][1] and (weight == full_size or is_every_steps)
        return [step, float(num_samples), weight, float(may_be_any_batchs), float(value)]

    def _learn_names(self) -> None:
        own = {
            key: (inside.logged_as(metric), value.dtype)
            for key, (_, metric, *_, value) in self._notes.items()
        }
        ranks = all_objects(own)
        for names in ranks:
            self._how |= names
        self._names = sorted(self._how)
        self._at_each_step = True

    def _set(self, key: str, rows: list[Row]) -> None:
        _, num_samples, weights, is_constant, values = zip(*rows, strict=True)
        if all(is_constant) and min(weights) == max(weights):
            weights = num_samples  # a number that is that of any batch tells nothing of its parts
        how, dtype = self._how[key]
        metric = inside.results(self._trainer).get(key)
        if metric is None:
            metric = inside.add_result(self._trainer, key, how, is_tensor=True)
        parts = [(v, w) for v, w in zip(values, weights, strict=True) if w > 0]
        if not parts:  # a mean over nothing is NaN
            return
        if metric.meta.is_mean_reduction:
            number = sum(v * w for v, w in parts) / sum(w for _, w in parts)
        else:
            several = torch.tensor([v for v, _ in parts], dtype=torch.float64)
            number = float(getattr(torch, metric.meta.reduce_fx.__name__)(several))
        value = torch.tensor(number, dtype=dtype, device=metric.value.device)
        inside.set_value_of_step(metric, value)
        metric.has_reset = False
        if not metric.meta.on_epoch:
            metric.value = value
