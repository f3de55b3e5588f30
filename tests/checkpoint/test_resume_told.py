"""What a run that goes on cannot take up is told, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Accuracy, MaxMetric, MeanMetric, MetricCollection, MinMaxMetric, SumMetric
from torchmetrics.wrappers import ClasswiseWrapper
from typing_extensions import override

from lightning_app.checkpoint.mid_epoch import gathered_so_far, what_is_lost
from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from tests.checkpoint.saving import SaveLast, Scheduled
from tests.runs import SaveAt, fit


class PreparesEpochs(Scheduled):
    """Sets something as an epoch starts, and logs per epoch."""

    @override
    def on_train_epoch_start(self) -> None: ...

    @override
    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        if not self.current_epoch:
            self.log("first", loss, on_epoch=True)
        self.log("mean", loss, on_epoch=True)
        return loss


def test_what_is_not_taken_up_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saver = SaveLast(tmp_path)
    names = {"003-last-002.ckpt": "first, mean", "011-last-010.ckpt": "mean"}
    for path in (None, *names, "008-last-007.ckpt"):
        fit(
            "single_device",
            1,
            PreparesEpochs("epoch"),
            RandomDataModule(length=50, batch_size=7, val_length=30),
            str(tmp_path / path) if path else None,
            max_epochs=2,
            enable_checkpointing=not path,
            callbacks=[Resume(), *([] if path else [saver])],
        )
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if line.startswith("continued within an epoch: ")]
        assert len(told) == (2 if path in names else 0)
        expected = (f"values of {names.get(str(path))} are", "of PreparesEpochs ran")
        for line, name in zip(told, expected, strict=False):
            assert name in line


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_checkpoint_of_a_plain_trainer_is_told_to_have_no_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.ckpt"
    flags: dict[str, Any] = {"max_epochs": 1, "logger": False, "precision": "64-true"}
    flags |= {"enable_checkpointing": False, "enable_progress_bar": False}
    plain = Trainer(accelerator="cpu", callbacks=[SaveAt(2, path)], devices=1, **flags)
    plain.fit(LinearModule(log_shapes="off"), RandomDataModule(length=100))
    fit("single_device", 1, ckpt_path=str(path), max_epochs=1, callbacks=[Resume()])
    line = "continued within an epoch: the checkpoint has no position in the data, as of"
    assert capsys.readouterr().err.count(line) == 1


class Counts(Scheduled):
    """Counts samples by hand in one object, and lets Lightning log another."""

    def __init__(self) -> None:
        super().__init__("epoch")
        self.seen, self.kept, self.logged = SumMetric(), SumMetric(), SumMetric()
        self.all = MetricCollection({"one": SumMetric()})
        self.best, self.logged_best = MaxMetric(), MaxMetric()
        self.kept.persistent(True)

    @override
    def on_train_batch_end(self, *args: Any) -> None: ...

    @override
    def training_step(self, batch: Any) -> Any:
        for metric in (self.seen, self.kept, self.logged, self.all, self.best, self.logged_best):
            metric.update(len(batch[0]))
        self.log("logged", self.logged, on_epoch=True)
        self.log("logged_best", self.logged_best, on_epoch=True)
        return super().training_step(batch)


class KeepsAside(Scheduled):
    """Changes in its steps what no checkpoint has, and saves some of it itself."""

    bank: Tensor

    def __init__(self) -> None:
        super().__init__("epoch")
        self.num_iter, self.saved, self.rate = 0, 0, 0.5
        self.register_buffer("bank", torch.zeros(3), persistent=False)
        self.register_buffer("mask", torch.ones(3), persistent=False)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["saved"] = self.saved

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = checkpoint["saved"]

    @override
    def training_step(self, batch: Any) -> Any:
        self.num_iter += 1
        self.saved += 1
        self.bank += 1
        self.last_size = len(batch[0])  # made in training, and made again
        return super().training_step(batch)


def test_what_a_step_keeps_aside_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saver = SaveLast(tmp_path)
    for path in (None, "003-last-002.ckpt", "008-last-007.ckpt"):
        fit(
            "single_device",
            1,
            KeepsAside(),
            RandomDataModule(length=50, batch_size=7),
            str(tmp_path / path) if path else None,
            max_epochs=2,
            enable_checkpointing=not path,
            callbacks=[Resume(), *([] if path else [saver])],
        )
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if "changed in training, and in no checkpoint" in line]
        assert len(told) == bool(path)
        assert all(line.startswith("continued: bank, num_iter: changed in") for line in told)


class SaveIn(Callback):
    """Saves as a batch ends."""

    def __init__(self, batch_idx: int, path: Path, epoch: int = 0) -> None:
        self.place, self.path = (epoch, batch_idx), path

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx) == self.place:
            trainer.save_checkpoint(self.path, weights_only=False)


@pytest.mark.parametrize(("batch_idx", "lost"), [(3, 0), (4, 1), (6, 3), (7, 0)])
def test_what_an_epoch_has_gathered_is_told(
    batch_idx: int, lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.ckpt"
    for ckpt_path, more in ((None, [SaveIn(batch_idx, path)]), (str(path), [])):
        fit(
            "single_device",
            1,
            Counts(),
            RandomDataModule(length=50, batch_size=7, val_length=30),  # 8 batches
            ckpt_path,
            max_epochs=1,
            accumulate_grad_batches=4,
            callbacks=[Resume(), *more],
        )
    told = "".join(line for line in capsys.readouterr().err.splitlines() if "continued" in line)
    assert "continued: best: it is not saved without `persistent(True)`" in told
    assert "seen, all: a torchmetrics object is not saved without" in told
    assert told.count("that of Counts, which comes after those of callbacks, does not run") == 1
    assert told.count("for that step; nor is what the step logged for itself written") == 1
    assert ("while gradients were accumulated" in told) == bool(lost)
    assert f"without those of {lost} batches" in told or not lost


class LogsAtTheEnd(LinearModule):
    """Logs an object as the epoch ends, and computes others in validation, by hand."""

    def __init__(self) -> None:
        super().__init__(log_shapes="off")
        self.seen, self.best = SumMetric(), MinMaxMetric(MeanMetric())
        self.of_each = ClasswiseWrapper(Accuracy("multiclass", num_classes=2, average=None))
        self.wrapped = ClasswiseWrapper(Accuracy("multiclass", num_classes=2, average=None))

    @override
    def training_step(self, batch: Any) -> Any:
        self.seen.update(len(batch[0]))
        labels = (batch[1][:, 0] > 0).long()
        self.wrapped.update(labels, labels)
        return super().training_step(batch)

    @override
    def on_train_epoch_end(self) -> None:
        self.log("seen", self.seen)
        self.wrapped.reset()

    @override
    def validation_step(self, batch: Any) -> None:
        labels = (batch[1][:, 0] > 0).long()
        self.best.update(batch[0].mean())
        self.of_each.update(labels, labels)

    @override
    def on_validation_epoch_end(self) -> None:
        for metric in (self.best, self.of_each):
            metric.compute()
            metric.reset()


@pytest.mark.parametrize("epoch", [0, 1])
def test_metrics_that_an_epochs_end_logs_or_begins_anew_are_told(
    epoch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = tmp_path / "kept.ckpt", RandomDataModule(length=50, batch_size=7, val_length=30)
    for ckpt_path, more in ((None, [SaveIn(3, path, epoch)]), (str(path), [])):
        callbacks = [Resume(), *more]
        fit("single_device", 1, LogsAtTheEnd(), data, ckpt_path, callbacks=callbacks, max_epochs=2)
    told = [line for line in capsys.readouterr().err.splitlines() if "continued" in line]
    history, lost = told
    assert history.startswith("continued: best: a MinMaxMetric saves nothing of its history")
    assert lost.startswith("continued within an epoch: seen, wrapped: a torchmetrics object is not")


class Accumulated(Callback):
    """Notes how many batches a checkpoint lacks that is saved as a validation ends."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @override
    def on_validation_end(self, trainer: Trainer, model: LightningModule) -> None:
        self.numbers.append(gathered_so_far(trainer, {})["num_accumulated"])


def test_gradients_are_accumulated_while_it_validates() -> None:
    flags: dict[str, Any] = {
        "accumulate_grad_batches": 4,
        "val_check_interval": 3,
        "num_sanity_val_steps": 1,
    }
    data, noted = RandomDataModule(length=50, batch_size=7, val_length=30), Accumulated()
    fit("single_device", 1, LinearModule(), data, max_epochs=1, callbacks=[noted], **flags)
    assert noted.numbers == [0, 3, 2]  # of 8 batches


def test_states_of_one_of_several_processes_are_told() -> None:
    metrics = {"kept": True, "seen": False}
    one, several = ({"metrics": metrics, "num_ranks": number} for number in (1, 2))
    (lost,) = what_is_lost(one)
    assert lost.startswith("seen: ")
    lost, kept = what_is_lost(several)
    assert lost.startswith("seen: ")
    assert kept.startswith("kept: a checkpoint has the first process's states")
