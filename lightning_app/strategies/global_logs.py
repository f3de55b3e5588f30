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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

from lightning_app.strategies.sharding import Shard


class GlobalLogs:
    """Follows what the steps of one run log."""

    def __init__(self) -> None:
        self._asked: dict[str, bool] = {}  # what the model passes as `sync_dist`, by what it logs

    @contextmanager
    def of_step(self, trainer: Trainer, hook: str, shard: Shard) -> Iterator[None]:
        """Runs one step.

        Args:
            trainer: The Trainer that runs the step.
            hook: The step's name, as in `training_step`.
            shard: This rank's part of the batch. What a step logs of an empty part (the mean of
                nothing is NaN) is forgotten.
        """
        logged = _logged(trainer, hook)
        for key, metric in logged.items():
            # Lightning compares these at each `self.log` with what the model passes.
            metric.meta.sync.should = self._asked[key]
            metric.meta.sync.op = metric.meta.reduce_fx.__name__
        before = {} if shard.size else {key: metric.value for key, metric in logged.items()}
        yield
        is_logged = trainer._logger_connector.should_update_logs or trainer.fast_dev_run  # type: ignore[attr-defined]
        for key, metric in _logged(trainer, hook).items():
            asked = self._asked.setdefault(key, metric.meta.sync.should)
            if not shard.size:
                metric.value = before.get(key, metric._defaults["value"])
            if hook == "training_step" and metric.meta.on_step and is_logged and not asked:
                _share_step_value(trainer, metric, shard)
            if metric.meta.on_epoch:
                metric.meta.sync.should = True
                if metric.meta.is_mean_reduction:  # of the sum over samples, and of their number
                    metric.meta.sync.op = "sum"


def _logged(trainer: Trainer, hook: str) -> dict[str, Any]:
    results: dict[str, Any] = trainer._results or {}
    return {k: m for k, m in results.items() if m.is_tensor and k.startswith(hook + ".")}


def _share_step_value(trainer: Trainer, metric: Any, shard: Shard) -> None:
    value = metric._forward_cache if shard.size else metric._defaults["value"]
    operation = metric.meta.reduce_fx.__name__
    metric._forward_cache = trainer.strategy.reduce(value.clone(), reduce_op=operation)
    if not metric.meta.on_epoch:
        metric.value = metric._forward_cache
