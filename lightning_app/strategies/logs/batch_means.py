"""torchmetrics' MeanMetric where a step gives it one number, as its loss: the mean of the batch.

Each rank, or virtual rank, gives it the mean of its own shard. Put together, these would all count
alike, whatever the shards' sizes, and a batch with fewer samples than ranks would count less. Here
a shard's mean counts as the shard does in its batch, so that all ranks together add what one device
adds. An object that gets a number for each sample, or sizes as weights, counts samples already, and
is left alone.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_app.processes.collectives import all_objects
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.telling import TellOnce

Sums = tuple[Tensor, Tensor]  # of the weighted values, and of the weights; scalars


@dataclass
class _Followed:
    """A metric of the model's, and what its steps have added.

    Attributes:
        is_by_batch: Whether each step adds one number for its batch; `None` if no step has told,
            as those with one sample do not.
        excess: What to take off, as a shard is only a part of its batch.
        parts: What its shards have been of their batches: of one size, if there is one.
        is_uneven: Whether some shard was not the same part of its batch as those of other ranks.
    """

    metric: MeanMetric
    num_updates: int
    sums: Sums
    is_by_batch: bool | None = None
    excess: Sums | None = None
    parts: set[float] = field(default_factory=set)
    is_uneven: bool = False


class BatchMeans:
    """Follows what the steps of one process add to the model's MeanMetrics.

    Args:
        tell: Prints a line for the user.
        num_parts: Into how many parts a batch is split.
    """

    def __init__(self, tell: TellOnce, num_parts: int) -> None:
        self._tell, self._num_parts = tell, num_parts
        self._followed: dict[str, _Followed] = {}

    def before_step(self, model: nn.Module, is_first: bool) -> None:
        """Make ready for a step, which may be an epoch's first."""
        if is_first:
            self._look(model)
        for name, followed in self._followed.items():
            metric = followed.metric
            is_reset = metric.update_count < followed.num_updates
            if is_reset or metric._computed is not None:
                self._tell_of_use(name, followed)
            if is_reset:
                followed.excess = None
            followed.num_updates, followed.sums = metric.update_count, _sums(metric)

    def after_step(self, shard: Shard, part: float, full_size: int | None) -> None:
        """Take over what a step has added.

        Args:
            shard: What it was given.
            part: What the mean of the shard counts in that of the batch, from 0 to 1.
            full_size: Samples of a full global batch; `None` if this is not known.
        """
        for name, followed in self._followed.items():
            metric, start = followed.metric, followed.sums
            num_added = metric.update_count - followed.num_updates
            followed.num_updates = metric.update_count
            if num_added < 0:
                self._tell_of_use(name, followed)
                followed.excess = None
            if num_added <= 0 or followed.is_by_batch is False:
                continue
            added = [now - before for now, before in zip(_sums(metric), start, strict=True)]
            if followed.is_by_batch is None and shard.size > 1 and added[1]:  # leaves NaN out
                is_one_number = num_added == 1 and float(added[1]) in (1, full_size)
                followed.is_by_batch = is_one_number
            followed.parts.add(shard.size / shard.global_size)
            followed.is_uneven |= shard.size * self._num_parts != shard.global_size
            excess = [(1 - part) * value for value in added]
            if followed.excess is not None:
                excess = [a + b for a, b in zip(excess, followed.excess, strict=True)]
            followed.excess = (excess[0], excess[1])
            if metric._computed is not None:
                self._tell_of_use(name, followed)

    def settle(self, model: nn.Module) -> None:
        """Take off what the ranks have added too much; all of them have to call this."""
        metrics = _mean_metrics(model)
        if not metrics:
            return
        own = {name: (f.is_by_batch, len(f.parts) > 1) for name, f in self._followed.items()}
        ranks = all_objects(own)
        for name, followed in self._followed.items():
            excess, followed.excess = followed.excess, None
            said = [known[name] for known in ranks if name in known]
            counts_samples = any(kind is False for kind, _ in said)
            if all(kind is None for kind, _ in said) and any(differ for _, differ in said):
                self._tell(
                    f"{name}: with one sample a process, nothing tells whether it is given means "
                    "of batches or values of samples, and batches differ in size: it is taken for "
                    "means of batches. With a larger batch size it can be seen"
                )
            if excess is not None and metrics.get(name) is followed.metric and not counts_samples:
                followed.metric.mean_value -= excess[0]
                followed.metric.weight -= excess[1]

    def _tell_of_use(self, name: str, followed: _Followed) -> None:
        """Tell of what is computed or reset in mid-epoch, from which the excess is not taken."""
        counts_alike = followed.excess is not None and followed.is_by_batch is not False
        if counts_alike and followed.is_uneven:
            self._tell(
                f"{name}: a MeanMetric that is computed within an epoch counts the means of all "
                "processes alike, and their parts of a batch are unequal: give it the number of "
                "samples, too (`update(loss, weight=len(x))`), or compute it at the epoch's end"
            )

    def _look(self, model: nn.Module) -> None:
        known = self._followed
        self._followed = {
            name: known[name]
            if name in known and known[name].metric is metric
            else _Followed(metric, metric.update_count, _sums(metric))
            for name, metric in _mean_metrics(model).items()
        }


def _mean_metrics(model: nn.Module) -> dict[str, MeanMetric]:
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, MeanMetric) and type(part).update is MeanMetric.update
    }


def _sums(metric: MeanMetric) -> Sums:
    return metric.mean_value.detach().clone(), metric.weight.detach().clone()
