"""What is logged is what a plain Trainer logs, and is not looked through each time."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_app.inside.quick_logs import log_quickly


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
        return loss

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.log("val", batch.mean(), batch_size=batch_idx + 1)


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


def fit(tmp_path: Any, *callbacks: Callback) -> dict[str, Tensor]:
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
    )
    trainer.fit(Logs())
    return dict(trainer.callback_metrics)


@pytest.mark.filterwarnings("default")
def test_values_are_those_of_a_plain_trainer(tmp_path: Any) -> None:
    plain, quick = fit(tmp_path), fit(tmp_path, Quickly())
    assert {"number_step", "number_epoch", "double", "mean", "val"} < set(plain)
    assert plain.keys() == quick.keys()
    for name, value in plain.items():
        assert quick[name].dtype == value.dtype
        assert torch.equal(quick[name], value), name


@pytest.mark.filterwarnings("default")
def test_a_value_that_stays_where_it_is_is_not_copied(tmp_path: Any) -> None:
    metas = Metas()
    fit(tmp_path, Quickly(), metas)
    second, third = metas.seen[1:3]  # the first step registers them, an epoch's end moves them
    assert all(a is b for a, b in zip(second, third, strict=True))
