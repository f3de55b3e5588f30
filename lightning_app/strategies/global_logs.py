"""Makes what a step logs with `self.log` the value of the global batch, without asking the model.

Lightning logs rank 0's value unless the model passes `sync_dist=True`, and then averages the
ranks as if their shards were of one size. Here:

- values per epoch are sums over all ranks' samples, put together once, at the epoch's end;
- values per step are put together only at steps that are logged, so that the other steps need no
  collective; in between, the progress bar shows the rank's own.

torchmetrics objects synchronise themselves and are left alone. This reads Lightning's collection
of logged values, which is not public; tests notice if it changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer

from lightning_app.strategies.sharding import Shard


class GlobalLogs:
    """Follows what the steps of one run log."""

    def __init__(self) -> None:
        self._asked: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # `sync_dist` as passed

    @contextmanager
    def of_step(self, trainer: Trainer, hook: str, shard: Shard) -> Iterator[None]:
        """Runs one step.

        Args:
            trainer: The Trainer that runs the step.
            hook: The step's name, as in `training_step`.
            shard: This rank's part of the batch. What a step logs of an empty part (the mean of
                nothing is NaN) is forgotten.
        """
        logged = self._logged(trainer, hook)
        for metric in logged:
            # Lightning compares these at each `self.log` with what the model passes.
            metric.meta.sync.should = self._asked[metric]
            metric.meta.sync.op = metric.meta.reduce_fx.__name__
        before = {} if shard.size else {metric: metric.value for metric in logged}
        yield
        for metric in self._logged(trainer, hook):
            self._asked.setdefault(metric, metric.meta.sync.should)
            if not shard.size:
                metric.value = before.get(metric, metric._defaults["value"])
            if metric.meta.on_step and hook == "training_step" and not self._asked[metric]:
                self._share_step_value(trainer, metric)
            if metric.meta.on_epoch:
                metric.meta.sync.should = True
                if metric.meta.is_mean_reduction:  # of the sum over samples, and of their number
                    metric.meta.sync.op = "sum"

    def _logged(self, trainer: Trainer, hook: str) -> list[Any]:
        results: dict[str, Any] = trainer._results or {}
        return [m for key, m in results.items() if m.is_tensor and key.startswith(hook + ".")]

    def _share_step_value(self, trainer: Trainer, metric: Any) -> None:
        if trainer._logger_connector.should_update_logs or trainer.fast_dev_run:  # type: ignore[attr-defined]
            metric._forward_cache = trainer.strategy.reduce(
                metric._forward_cache, reduce_op=metric.meta.reduce_fx.__name__
            )
            if not metric.meta.on_epoch:
                metric.value = metric._forward_cache
