"""Lightning's own callbacks over a stop, and beside `last.ckpt`."""

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn
from torch.optim import SGD, Optimizer
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from tests.checkpoint.saving import Scheduled
from tests.runs import Run, SaveAt, assert_same_weights, fit


class Normed(Scheduled):
    """Has statistics before its layer, which are trained later than it."""

    def __init__(self) -> None:
        super().__init__("epoch")
        self.backbone = nn.BatchNorm1d(5)

    @override
    def training_step(self, batch: Any) -> Any:
        return super().training_step((self.backbone(batch[0]), batch[1]))

    @override
    def configure_optimizers(self) -> Any:
        return SGD(self.net.parameters(), lr=0.02)


class Thaws(BaseFinetuning):
    """Has the statistics rest in the first epoch."""

    @override
    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    @override
    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


def train(model: LightningModule, ckpt_path: Path | None, *callbacks: Callback, **more: Any) -> Run:
    data = RandomDataModule(length=49, batch_size=7, val_length=30)  # 7 batches
    path = str(ckpt_path) if ckpt_path else None
    flags: dict[str, Any] = {"max_epochs": 4, "callbacks": [*callbacks, Resume()]}
    return fit("single_device", 1, model, data, path, **(flags | more))


def test_statistics_that_finetuning_thawed_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.ckpt"
    whole = train(Normed(), None, Thaws(), SaveAt(11, path), max_epochs=2)
    assert_same_weights(train(Normed(), path, Thaws(), max_epochs=2), whole, tolerance=0)
    told = "continued: with running statistics or none as it was saved: backbone\n"
    assert told in capsys.readouterr().err


def test_weights_are_averaged_over_two_stops_in_an_epoch(tmp_path: Path) -> None:
    paths = [None, tmp_path / "first.ckpt", tmp_path / "second.ckpt"]

    def averages() -> Callback:
        return StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=3)

    whole = train(Scheduled("epoch"), None, averages(), SaveAt(10, tmp_path / "first.ckpt"))
    for path, saves in zip(paths[1:], ([SaveAt(13, tmp_path / "second.ckpt")], []), strict=True):
        run = train(Scheduled("epoch"), path, averages(), *saves)
        assert_same_weights(run, whole, tolerance=0)


class FreezesAtStart(Scheduled):
    """Has its bias rest throughout."""

    batch_size = 7

    @override
    def on_fit_start(self) -> None:
        self.net.fc.bias.requires_grad_(False)


class Noted(Callback):
    """Notes what a NaN would be told to have left."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lasts = [c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
        self.last_good = [last.last_good for last in lasts]


@pytest.mark.parametrize(
    "search",
    [
        LearningRateFinder(num_training_steps=5, update_attr=False),
        BatchSizeFinder(max_trials=1, steps_per_trial=1),
    ],
)
def test_a_search_is_no_run_to_continue(
    search: Callback, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, noted = FreezesAtStart("epoch"), Noted()
    flags: dict[str, Any] = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    train(model, None, search, LastCheckpoint(), noted, max_epochs=1, **flags)
    assert "continued" not in capsys.readouterr().err
    assert not model.net.fc.bias.requires_grad
    assert noted.last_good == [None]


@pytest.mark.parametrize(
    ("more", "is_refused"),
    [
        ({"save_weights_only": True}, True),
        ({"save_last": "link"}, True),
        ({"save_weights_only": True, "save_last": None}, False),
        ({"save_weights_only": True, "dirpath": "mine"}, False),
        ({}, False),
    ],
)
def test_another_last_file_in_the_runs_folder_is_refused(
    more: dict[str, Any], is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saves = ModelCheckpoint(**({"save_last": True} | more))
    flags: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": True}
    flags["default_root_dir"] = tmp_path
    if not is_refused:
        train(Scheduled("epoch"), None, saves, LastCheckpoint(), **flags)
        return
    with pytest.raises(MisconfigurationException, match=r"own last\.ckpt: give it a dirpath"):
        train(Scheduled("epoch"), None, saves, LastCheckpoint(), **flags)
    assert not list(tmp_path.rglob("*.ckpt"))
