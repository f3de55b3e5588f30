"""The best checkpoint goes by the metric that is asked for, or by a good guess."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor
from typing_extensions import override

from lightning_app.checkpoint.best import BestCheckpoint, better, guess
from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.io import find_checkpoint, load
from tests.runs import make_trainer

HIGHER = ["val_acc", "val/accuracy", "valid_f1", "val/AUROC", "val_r2", "mean_iou", "val/top5_acc"]
LOWER = ["val/loss", "val_loss", "loss", "val/mae", "val_mse_loss", "wer", "val/L1Loss", "val_err"]


def test_names_tell_which_is_better() -> None:
    assert {name: better(name) for name in HIGHER} == dict.fromkeys(HIGHER, "max")
    assert {name: better(name) for name in LOWER} == dict.fromkeys(LOWER, "min")
    assert better("val/temperature") is None
    with pytest.raises(ValueError, match="--monitor temperature: tell which is better by --mode"):
        BestCheckpoint("temperature")
    assert BestCheckpoint("temperature", "max").mode == "max"


def test_a_loss_is_a_better_guess_than_other_metrics() -> None:
    assert guess(["val_acc", "val_loss"]) == ("val_loss", "min")
    assert guess(["a_loss", "val/loss"]) == ("val/loss", "min")
    assert guess(["val_loss_12", "val_kl_loss", "val_loss"]) == ("val_loss", "min")
    assert guess(["temperature", "val_f1", "val_mae"]) == ("val_f1", "max")
    assert guess(["temperature"]) is None


class Logs(BoringModel):
    """Logs the given values, one an epoch."""

    def __init__(self, **values: list[float]) -> None:
        super().__init__()
        self.values = values

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
        for name, values in self.values.items():
            self.log(name, torch.tensor(values[self.current_epoch]))


def fit(
    folder: Path,
    model: Logs,
    best: BestCheckpoint,
    epochs: int = 2,
    ckpt_path: str | None = None,
    more: Sequence[Callback] = (),
    **flags: Any,
) -> list[str]:
    """Train and tell which checkpoints are there."""
    trainer = make_trainer(
        "single_device",
        1,
        callbacks=[best, *more],
        max_epochs=epochs,
        enable_checkpointing=True,
        default_root_dir=folder,
        limit_val_batches=1,
        logger=False,
        **({"limit_train_batches": 2} | flags),
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return sorted(path.stem for path in folder.rglob("best*.ckpt"))


@pytest.mark.filterwarnings("default")
def test_any_metric_is_gone_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acc = {"val_acc": [0.9, 0.5, 0.7], "train_like": [1.0, 2.0, 3.0]}
    assert fit(tmp_path / "acc", Logs(**acc), BestCheckpoint()) == ["best-epoch=0"]
    line = "Best checkpoint: that of the highest val_acc; --monitor NAME chooses another\n"
    assert capsys.readouterr().err.count(line) == 1
    both = acc | {"val_loss": [0.9, 0.5, 0.7]}
    assert fit(tmp_path / "loss", Logs(**both), BestCheckpoint()) == ["best-epoch=1"]
    assert fit(tmp_path / "own", Logs(**both), BestCheckpoint("val_acc")) == ["best-epoch=0"]
    lowest = BestCheckpoint("val_acc", "min")
    assert fit(tmp_path / "lowest", Logs(**both), lowest) == ["best-epoch=1"]
    capsys.readouterr()
    assert fit(tmp_path / "typo", Logs(**both), BestCheckpoint("val_los", "min")) == []
    error = capsys.readouterr().err
    assert error.count("--monitor val_los: no value of this name was logged yet") == 1
    assert "val_acc, " in error
    assert "coverage/" not in error
    foreign = Logs(temperature=[0.9, 0.5], Top1=[0.1, 0.2])
    assert fit(tmp_path / "foreign", foreign, BestCheckpoint()) == []
    line = (
        "No best checkpoint is kept, as no name tells what is better of temperature, Top1: choose"
    )
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.filterwarnings("default")
def test_a_continued_run_goes_by_what_it_went_by(tmp_path: Path) -> None:
    model = Logs(val_acc=[0.9, 0.5, 0.7])
    fit(tmp_path, model, BestCheckpoint())
    again = BestCheckpoint()
    path = str(next(tmp_path.rglob("best*.ckpt")))
    fit(tmp_path, model, again, 3, path)
    assert (again.monitor, again.mode) == ("val_acc", "max")
    assert float(again.best_model_score or 0) == pytest.approx(0.9)


class BreaksOff(Callback):
    """Ends the run after a step and the validation that follows it."""

    @override
    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("broken off")


@pytest.mark.filterwarnings("default")
def test_a_value_counts_once_also_in_a_run_that_goes_on(tmp_path: Path) -> None:
    model = Logs(val_loss=[0.9, 0.5, 0.7, 0.3, 0.6, 0.8])
    seldom: dict[str, Any] = {"check_val_every_n_epoch": 2}
    assert fit(tmp_path / "first", model, BestCheckpoint(), 4, **seldom) == ["best-epoch=3"]
    path = str(next(tmp_path.rglob("best*.ckpt")))
    assert fit(tmp_path / "none", model, BestCheckpoint(), 5, path, **seldom) == []
    assert fit(tmp_path / "new", model, BestCheckpoint(), 6, path, **seldom) == ["best-epoch=5"]
    other = BestCheckpoint("val_loss", "max")
    assert fit(tmp_path / "other", model, other, 5, path, **seldom) == []


@pytest.mark.filterwarnings("default")
def test_a_validation_before_the_stop_counts_at_the_epochs_end(tmp_path: Path) -> None:
    model = Logs(val_loss=[0.9])
    flags: dict[str, Any] = {"limit_train_batches": 3, "val_check_interval": 2}
    with pytest.raises(RuntimeError, match="broken off"):
        fit(tmp_path, model, BestCheckpoint(), 1, None, [LastCheckpoint(0.0), BreaksOff()], **flags)
    path = str(next(tmp_path.rglob("last.ckpt")))
    assert fit(tmp_path, model, BestCheckpoint(), 1, path, **flags) == ["best-epoch=0"]


class Asks(Logs):
    """Loads, as training ends, what is named as the best; may bring a checkpoint of its own."""

    def __init__(self, brings: list[Callback], **values: list[float]) -> None:
        super().__init__(**values)
        self.brings = brings
        self.steps = 0

    @override
    def configure_callbacks(self) -> list[Callback]:
        return self.brings

    @override
    def on_train_end(self) -> None:
        path = self.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        self.steps = load(path, weights_only=True)["global_step"]


@pytest.mark.filterwarnings("default")
def test_the_last_stands_in_for_the_best(tmp_path: Path) -> None:
    values: dict[str, list[float]]
    for name, values, steps in (("none", {}, 4), ("one", {"val_loss": [0.1, 0.9]}, 2)):
        model = Asks([], **values)
        folder, best = tmp_path / name, BestCheckpoint()
        fit(folder, model, best, more=[LastCheckpoint()])
        assert model.steps == steps
        last = load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        saved = last["callbacks"]["BestCheckpoint"]["best_model_path"]
        assert saved == (best.best_model_path if values else "")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["best-{epoch}", "best-{step}"])
def test_a_models_own_checkpoint_comes_first(name: str, tmp_path: Path) -> None:
    own = ModelCheckpoint(monitor="val_acc", mode="max", filename=name)
    values = {"val_acc": [0.5, 0.6, 0.9], "val_loss": [0.2, 0.1, 0.3]}
    model, best = Asks([own], **values), BestCheckpoint()
    fit(tmp_path, model, best, 3)
    assert model.steps == 6
    assert Path(own.best_model_path).is_file()
    assert Path(best.best_model_path).is_file()
    os.utime(own.best_model_path)
    found = find_checkpoint("best", str(tmp_path)) or ""
    assert load(found, weights_only=True)["global_step"] == 4
