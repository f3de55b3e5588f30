"""What is logged is what a plain Trainer logs, and is not looked through each time."""

import inspect
from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core import module as core
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor
from torchmetrics import MaxMetric, MeanMetric
from typing_extensions import override

from lightning_app.inside.quick_logs import log_quickly, look_up_each_time, look_up_once


class Logs(BoringModel):
    """Logs a number, tensors of two kinds and a metric object, in training and validation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.step(batch)
        self.mean(loss.detach())
        self.log("number", batch_idx, on_step=True, on_epoch=True)
        self.log("double", loss.double(), on_epoch=True, reduce_fx="max")
        self.log("mean", self.mean)
        self.log("clamped", loss.clamp(max=1 + 10 * (batch_idx % 2)), batch_size=batch_idx + 1)
        self.log("summed", loss, reduce_fx="sum", on_step=False, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.log("val", batch.mean(), batch_size=batch_idx + 1)


class Largest(BoringModel):
    """Logs an object that counts in the precision of the run."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = MaxMetric()

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.largest(self.step(batch))
        self.log("largest", self.largest)


class Iterated(BoringModel):
    @override
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        return None


class Quickly(Callback):
    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        log_quickly(trainer)


class Metas(Callback):
    """Keeps how each step's values are noted to be logged."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        results: Any = trainer.fit_loop.epoch_loop._results
        self.seen.append([result.meta for result in results.values()])


def fit(
    tmp_path: Any, *callbacks: Callback, model: LightningModule | None = None, **flags: Any
) -> dict[str, Tensor]:
    torch.manual_seed(1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=2,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **flags,
    )
    trainer.fit(model or Logs())
    return dict(trainer.callback_metrics)


@pytest.mark.filterwarnings("default")
def test_objects_count_in_the_precision_that_a_plain_trainer_gives_them(tmp_path: Any) -> None:
    model, flags = Largest(), {"precision": "64-true"}
    plain = fit(tmp_path, model=deepcopy(model), **flags)["largest"]
    quick = fit(tmp_path, Quickly(), model=model, **flags)["largest"]
    assert plain.dtype == quick.dtype == torch.float64
    assert plain == quick


@pytest.mark.filterwarnings("default")
def test_values_are_those_of_a_plain_trainer(tmp_path: Any) -> None:
    plain, quick = fit(tmp_path), fit(tmp_path, Quickly())
    assert {"number_step", "number_epoch", "double", "mean", "val"} < set(plain)
    assert plain.keys() == quick.keys()
    for name, value in plain.items():
        assert quick[name].dtype == value.dtype
        assert torch.equal(quick[name], value), name


class Twice(Logs):
    """Logs one name in two ways."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("clamped", loss, prog_bar=batch_idx == 2)
        return loss


@pytest.mark.filterwarnings("default")
def test_a_name_that_is_logged_in_two_ways_is_refused_as_by_a_plain_trainer(tmp_path: Any) -> None:
    for callbacks in ((), (Quickly(),)):
        with pytest.raises(MisconfigurationException, match="twice in `training_step`"):
            fit(tmp_path, *callbacks, model=Twice())


def test_a_step_is_inspected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And after training, each time."""
    asked: list[Any] = []
    usual = inspect.getfullargspec

    def look(function: Any) -> Any:
        asked.append(function)
        return usual(function)

    monkeypatch.setattr(inspect, "getfullargspec", look)
    look_up_once()
    try:
        for _ in range(3):
            assert not core.is_param_in_hook_signature(
                Logs().training_step, "dataloader_iter", True
            )
            assert core.is_param_in_hook_signature(
                Iterated().training_step, "dataloader_iter", True
            )
    finally:
        look_up_each_time()
    assert len(asked) == 2
    assert core.is_param_in_hook_signature(Logs().training_step, "batch_idx", True)
    assert len(asked) == 3


@pytest.mark.filterwarnings("default")
def test_a_value_that_stays_where_it_is_is_not_copied(tmp_path: Any) -> None:
    metas = Metas()
    fit(tmp_path, Quickly(), metas)
    second, third = metas.seen[1:3]  # the first step registers them, an epoch's end moves them
    assert all(a is b for a, b in zip(second, third, strict=True))
