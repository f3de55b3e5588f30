"""Where `self.log` keeps its values, without what costs most of its time.

Each `self.log` has Lightning move the kept value to the device of the new one, and for that looks
through all its attributes, and copies what it finds; on a CPU that is three quarters of the call.
Here nothing is done where the value is on that device already.

It takes the place of a class of Lightning's that is not public; tests notice if that changes.
"""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _ResultCollection,
    _ResultMetric,
)
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override


class _Result(_ResultMetric):
    @override
    def to(self, *args: Any, **kwargs: Any) -> _ResultMetric:  # type: ignore[override]
        value, device = getattr(self, "value", None), args[0] if len(args) == 1 else None
        if (
            isinstance(value, (Tensor, Metric))
            and isinstance(device, torch.device)
            and value.device == device
            and not kwargs
        ):
            return self
        return super().to(*args, **kwargs)


class _Results(_ResultCollection):
    @override
    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        if type(metric) is _ResultMetric:
            metric.__class__ = _Result
        super().__setitem__(key, metric)


def log_quickly(trainer: Trainer) -> None:
    """Have the Trainer's loops keep what is logged in this way, before anything is logged."""
    training = trainer.fit_loop.epoch_loop
    for loop in (training, training.val_loop, trainer.validate_loop, trainer.test_loop):
        if type(loop._results) is _ResultCollection and not loop._results:
            loop._results = _Results(training=loop._results.training)
