"""Where `self.log` keeps its values, without what costs most of its time.

Each `self.log` has Lightning move the kept value to the device of the new one, and for that looks
through all its attributes, and copies what it finds; on a CPU that is three quarters of the call.
Here nothing is done where the value is on that device already. And how a value is logged is noted
and compared anew each time; here what the call before gave is compared alone. What `training_step`
takes is asked in each call, and before each step; while a run trains, it is looked up once.

It takes the place of a class of Lightning's that is not public; tests notice if that changes.
"""

from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core import module as lightning_module
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _ResultCollection,
    _ResultMetric,
)
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

_ASKING = (lightning_module, training_epoch_loop)


class _Result(_ResultMetric):
    @override
    def to(self, *args: Any, **kwargs: Any) -> _ResultMetric:  # type: ignore[override]
        value, device = getattr(self, "value", None), args[0] if len(args) == 1 else None
        if (
            isinstance(value, (Tensor, Metric))
            and isinstance(device, torch.device)
            and value.device == device
            and not kwargs
            # To move an object makes its dtype, in which it counts, the present default.
            and (isinstance(value, Tensor) or value.dtype == torch.get_default_dtype())
        ):
            return self
        return super().to(*args, **kwargs)


class _Results(_ResultCollection):
    def __init__(self, training: bool) -> None:
        super().__init__(training)
        self.last_calls: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}  # key, arguments

    @override
    def log(self, fx: str, name: str, value: Any, **how: Any) -> None:
        is_usual = type(value) is Tensor and self.dataloader_idx is None
        if not is_usual or torch.compiler.is_compiling():
            super().log(fx, name, value, **how)
            return
        batch_size = how.pop("batch_size", None)
        key, last = self.last_calls.get((fx, name), ("", None))
        metric = self.get(key)
        if metric is None or how != last or metric.value.device != value.device:
            super().log(fx, name, value, batch_size=batch_size, **how)
            self.note(fx, name, how)
            return
        kept = value if how["enable_graph"] else value.detach()
        metric.forward(kept, self._extract_batch_size(metric, batch_size, metric.meta))
        metric.has_reset = False

    def note(self, fx: str, name: str, how: dict[str, Any]) -> None:
        if "enable_graph" in how:
            self.last_calls[fx, name] = f"{fx}.{name}", how

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


@lru_cache(maxsize=16)
def _is_parameter(step: FunctionType, name: str, explicit: bool, min_args: int | None) -> bool:
    return is_param_in_hook_signature(step, name, explicit, min_args)


def _looked_up(step: Any, name: str, explicit: bool = False, min_args: int | None = None) -> bool:
    function = step.__func__ if isinstance(step, MethodType) else None
    if not isinstance(function, FunctionType):
        return is_param_in_hook_signature(step, name, explicit, min_args)
    return _is_parameter(function, name, explicit, min_args)


def look_up_once() -> None:
    """Look up once what each step takes; it is the same for all Trainers."""
    for asking in _ASKING:
        vars(asking)["is_param_in_hook_signature"] = _looked_up


def look_up_each_time() -> None:
    """Undo `look_up_once`."""
    for asking in _ASKING:
        vars(asking)["is_param_in_hook_signature"] = is_param_in_hook_signature
