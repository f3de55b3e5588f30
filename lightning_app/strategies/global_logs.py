"""Makes what a step logs with `self.log` the value of the global batch, without asking the model.

Lightning logs rank 0's value unless the model passes `sync_dist=True`, and then averages the
ranks as if their shards were of one size. Here:

- values per epoch are sums over all ranks' samples, put together once, at the epoch's end;
- values per step are put together only at steps that are logged, so that the other steps need no
  collective; in between, the progress bar shows the rank's own.

A sum, minimum or maximum is one over the ranks' values, as with Lightning's `sync_dist=True`;
torchmetrics objects synchronise themselves and are left alone. This reads Lightning's collection
of logged values, which is not public; tests notice if it changes.
"""

from typing import Any

from lightning.pytorch import Trainer

from lightning_app.strategies.sharding import Shard


class GlobalLogs:
    """Follows what the steps of one run log."""

    def __init__(self) -> None:
        self._asked: dict[str, bool] = {}  # what the model passes as `sync_dist`, by what it logs
        self._before: dict[str, Any] = {}  # the values before the step

    def before_step(self, trainer: Trainer, hook: str, shard: Shard) -> None:
        """Make ready for a step: `hook` is its name, as in `training_step`."""
        self._before = {}
        for key, metric in _logged(trainer, hook):
            # Lightning compares these at each `self.log` with what the model passes.
            metric.meta.sync.should = self._asked[key]
            metric.meta.sync.op = metric.meta.reduce_fx.__name__
            self._before[key] = metric.value

    def after_step(self, trainer: Trainer, hook: str, shard: Shard) -> None:
        """Take over what a step logged of its shard.

        What it logged of an empty one (the mean of nothing is NaN) is forgotten.
        """
        for key, metric in _logged(trainer, hook):
            asked = self._asked.setdefault(key, metric.meta.sync.should)
            if not shard.size:
                metric.value = self._before.get(key, metric._defaults["value"])
            if hook == "training_step" and metric.meta.on_step and not asked:
                _share_step_value(trainer, metric, shard)
            if metric.meta.on_epoch:
                metric.meta.sync.should = True
                if metric.meta.is_mean_reduction:  # of the sum over samples, and of their number
                    metric.meta.sync.op = "sum"


def _logged(trainer: Trainer, hook: str) -> list[tuple[str, Any]]:
    results: dict[str, Any] | None = trainer._results
    if not results:
        return []
    return [
        (key, metric)
        for key, metric in results.items()
        if metric.is_tensor
        and key.startswith(hook + ".")
        and not metric.meta.sync.rank_zero_only  # the other ranks do not have it
    ]


def _share_step_value(trainer: Trainer, metric: Any, shard: Shard) -> None:
    """Put together a step's value, if this step is one that is logged."""
    if trainer._logger_connector.should_update_logs or trainer.fast_dev_run:  # type: ignore[attr-defined]
        value = metric._forward_cache if shard.size else metric._defaults["value"]
        operation = metric.meta.reduce_fx.__name__
        metric._forward_cache = trainer.strategy.reduce(value.clone(), reduce_op=operation)
        if not metric.meta.on_epoch:
            metric.value = metric._forward_cache
