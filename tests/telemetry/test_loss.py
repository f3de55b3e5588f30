"""`train/loss` is logged once, by the model where it does, and by the project where it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app.checkpoint.best import BestCheckpoint
from lightning_app.speed.executions import StepsPerExecution
from tests.ranks import run_ranks
from tests.runs import Run, assert_same, fit
from tests.user_modules import Samples, Shuffled, Stream, Submodule


class LogsItself(Submodule):
    """Logs a `train/loss` of its own."""

    def __init__(self, on_step: bool, on_epoch: bool) -> None:
        super().__init__()
        self.when = {"on_step": on_step, "on_epoch": on_epoch}

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = mse_loss(self.body(batch[0]), batch[1])
        self.log(
            "train/loss", loss * 0 + 7, on_step=self.when["on_step"], on_epoch=self.when["on_epoch"]
        )
        return loss


@pytest.mark.parametrize(("on_step", "on_epoch"), [(True, False), (False, True), (True, True)])
def test_a_model_that_logs_it_is_left_to_it(on_step: bool, on_epoch: bool) -> None:
    model = LogsItself(on_step, on_epoch)
    curves = fit("single_device", 1, model, Shuffled(), max_epochs=2, log_every_n_steps=2).curves
    steps, epochs = [1, 3, 5, 7, 9, 11], [5, 11]
    if on_step and on_epoch:  # then Lightning calls them by other names
        assert list(curves["train/loss_step"]) == steps
        assert 7 not in curves["train/loss"].values()
    else:
        assert curves["train/loss"] == dict.fromkeys(steps if on_step else epochs, 7)


class LogsMean(Submodule):
    """Logs the mean over an epoch as one does it with Lightning."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = mse_loss(self.body(batch[0]), batch[1])
        self.log("mean", loss, on_step=False, on_epoch=True)
        return loss


def train_all(strategy: str, devices: int) -> list[Run]:
    runs = []
    for flags in ({}, {"accumulate_grad_batches": 3}, {"callbacks": [StepsPerExecution(4)]}):
        more: dict[str, Any] = {"max_epochs": 2, "log_every_n_steps": 3} | flags
        runs.append(fit(strategy, devices, LogsMean(), Shuffled(), **more))
    return runs


def check_means(runs: list[Run]) -> None:
    for run in runs:
        if run.curves:  # rank 0 logs
            assert list(run.curves["train/loss"]) in ([5, 11], [1, 3])  # steps; of 6 or 2 an epoch
            assert run.curves["train/loss"] == pytest.approx(run.curves["mean"], rel=1e-12)
            assert 0 in run.curves["train/loss_step"]
        assert run.metrics["train/loss"] == pytest.approx(run.metrics["mean"], rel=1e-12)


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    check_means(train_all("single_device", 1))
    check_means(train_all("dp", 3))


class Whole(Shuffled):
    """Batches that are ready-made, of unequal sizes."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        batches = list(DataLoader(Samples(9), 4))
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [Stream(), Whole()])
def test_batches_that_nobody_asked_for_count_by_their_samples(data: LightningDataModule) -> None:
    run = fit("single_device", 1, LogsMean(), data, max_epochs=1)
    assert run.metrics["train/loss"] == pytest.approx(run.metrics["mean"], rel=1e-12)


class StepsByHand(Submodule):
    """Steps an optimizer of which Lightning counts no steps, as SAM's recipes do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        loss = mse_loss(self.body(batch[0]), batch[1])
        self.manual_backward(loss)
        optimizer.step()
        self.log("own", loss, on_step=True, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", mse_loss(self.body(batch[0]), batch[1]))


def test_steps_are_those_that_lightning_tells_loggers(tmp_path: Path) -> None:
    best = BestCheckpoint()
    flags: dict[str, Any] = {"default_root_dir": tmp_path, "callbacks": [best]}
    flags["enable_checkpointing"] = True
    run = fit("single_device", 1, StepsByHand(), Shuffled(), max_epochs=3, **flags)
    assert list(run.curves["train/loss"]) == list(run.curves["own_epoch"]) == [5, 11, 17]
    assert run.curves["train/loss"] == pytest.approx(run.curves["own_epoch"], rel=1e-6)
    own = list(run.curves["own_step"])
    assert list(run.curves["train/loss_step"]) == [0, *own]  # which shows where it began
    assert best.best_model_score == min(run.curves["val/loss"].values())
    assert tmp_path in Path(best.best_model_path).parents
    assert Path(best.best_model_path).exists()


class StepsApart(Submodule):
    """An optimizer of its own steps on the first process alone, as by a loss of its part."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = mse_loss(self.body(batch[0]), batch[1])
        self.manual_backward(loss)
        if self.trainer.is_global_zero or batch_idx % 3:
            optimizer.step()
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)  # or the weights would part


def train_apart(strategy: str, devices: int) -> Run:
    torch.manual_seed(0)
    return fit(strategy, devices, StepsApart(), Shuffled(), max_epochs=2, log_every_n_steps=3)


def train_both(strategy: str, devices: int) -> tuple[list[Run], Run]:
    return train_all(strategy, devices), train_apart(strategy, devices)


def test_so_it_is_over_the_samples_of_all_processes() -> None:
    expected = train_apart("single_device", 1)
    assert list(expected.curves["train/loss_step"]) == [0, 2, 5, 8, 11]
    for runs, apart in run_ranks(train_both, 2, "ddp", 2):
        check_means(runs)
        assert_same(apart, expected)
