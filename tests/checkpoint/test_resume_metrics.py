"""What a checkpoint has of the metrics that a run goes by."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torchmetrics import SumMetric
from typing_extensions import override

from lightning_app.callbacks import callbacks
from lightning_app.data import RandomDataModule
from lightning_app.own_part import KEY
from tests.checkpoint.saving import SaveAlways, Scheduled, Watched
from tests.runs import Run, assert_same_weights, fit


def train(model: Scheduled, path: Path | None, *users: Callback, **more: Any) -> Run:
    data = RandomDataModule(length=50, batch_size=7, val_length=30)  # 8 batches
    # In the order of `train.py`: some of this project's have Lightning put metrics together.
    more["callbacks"] = [*users, *callbacks(checkpoints=False)]
    ckpt_path = str(path) if path else None
    return fit("single_device", 1, model, data, ckpt_path, max_epochs=3, **more)


def test_a_plateau_scheduler_goes_by_the_step_that_was_saved(tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path)
    whole = train(Watched("by its step"), None, saver)
    for name in [name for name in saver.logged if "-step-" in name][:9:4]:
        run = train(Watched("by its step"), tmp_path / name)
        assert_same_weights(run, whole, tolerance=0)


def test_a_plateau_scheduler_goes_by_what_was_logged_before_a_save(tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path)  # its hook comes before the model's, which logs
    train(Watched("by its epoch"), None, saver)
    paths = [tmp_path / name for name in saver.logged if "-epoch-" in name]
    dues = [torch.load(path)[KEY]["plateaus_due"] for path in paths]
    assert dues == [False, True, True]
    assert train(Watched("by its epoch"), paths[0]).metrics["watched"] == 3


class NeverComputes(SumMetric):
    """Fails at an epoch's end."""

    @override
    def compute(self) -> Any:
        raise RuntimeError("out of memory, say")


class LogsIt(Scheduled):
    """Logs such a metric."""

    def __init__(self) -> None:
        super().__init__("step")
        self.seen = NeverComputes()

    @override
    def training_step(self, batch: Any) -> Any:
        self.seen.update(len(batch[0]))
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        return super().training_step(batch)


def test_a_fault_of_a_metric_at_an_epochs_end_is_saved(tmp_path: Path) -> None:
    saves = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(LogsIt(), None, saves, enable_checkpointing=True, default_root_dir=tmp_path)
    assert torch.load(tmp_path / "on_exception.ckpt")["global_step"] == 8
