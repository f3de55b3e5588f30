"""States that processes put together by themselves, not by samples, are told."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, PearsonCorrCoef
from torchmetrics.image import PeakSignalNoiseRatio
from typing_extensions import override

from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.logs.idle_metrics import align_states


class Last(Metric):
    """Keeps the last value that it is given."""

    value: Tensor

    def __init__(self, put_together_by: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_state("value", torch.tensor(0.0), dist_reduce_fx=put_together_by)

    @override
    def update(self, value: Tensor) -> None:
        self.value = value

    @override
    def compute(self) -> Tensor:
        return self.value


class Total(Last):
    """Adds up what processes have."""

    @override
    def update(self, value: Tensor) -> None:
        self.value = value.sum()

    @override
    def compute(self) -> Tensor:
        return self.value.sum()


class Stacked(Last):
    """Reckons with a value of each process."""

    @override
    def compute(self) -> Tensor:
        return self.value.amax(0) if self.value.ndim > 1 else self.value


MEAN, NONE = "metric.value: a mean of processes", "metric.value: with dist_reduce_fx=None, Last"
ALONE = "metric: each process computes it from its own samples, and only rank 0's value is logged"
CASES: list[tuple[Metric, bool, bool, str]] = [  # whether parts are uneven, and the other is idle
    (Last("mean"), False, False, ""),
    (Last("mean"), True, False, MEAN),
    (Last("mean"), False, True, MEAN),
    (Last(torch.mean), True, False, MEAN),
    (Last("max"), True, True, ""),
    (Last(None), False, False, NONE),
    (Total(None), False, False, ""),
    (Stacked(None), False, False, ""),
    (Last("sum", sync_on_compute=False), False, False, ALONE),
    (PeakSignalNoiseRatio(data_range=1.0), True, False, ""),  # whose range is a mean
    (PearsonCorrCoef(), True, True, ""),  # which puts values together in `compute`
]


@pytest.mark.parametrize(("metric", "are_uneven", "is_other_idle", "line"), CASES)
def test_what_is_not_put_together_by_samples_is_told(
    metric: Metric,
    are_uneven: bool,
    is_other_idle: bool,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def gather(ranks: list[Any], own: Any) -> None:
        ranks[:] = [own, {key: {} for key in own} if is_other_idle else own]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    model: Any = nn.Module()
    model.metric = metric
    align_states(model, are_uneven, TellOnce())
    assert capsys.readouterr().err == ""  # nothing has been measured
    value = torch.rand(4)
    metric.update(*([value] if isinstance(metric, Last) else [value, value]))
    align_states(model, are_uneven, TellOnce())
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert bool(told) == bool(line)
