"""A run that goes on beside callbacks that search, prune it, or stop it at once."""

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
)
from torch.nn.utils import prune
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from lightning_app.model import LinearModule
from tests.runs import Run, SaveAt, fit


class KeepsMasks(LinearModule):
    """Is pruned as it is made, so that masks in a checkpoint are loaded."""

    @override
    def configure_model(self) -> None:
        if not prune.is_pruned(self):
            prune.identity(self.net.fc, "weight")  # type: ignore[no-untyped-call]


def test_a_search_is_refused_and_lost_masks_are_told_without_a_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(model: LightningModule, path: Path | None, *callbacks: Callback) -> None:
        fit(
            "single_device",
            1,
            model,
            ckpt_path=str(path) if path else None,
            max_epochs=2,
            precision="32-true",  # in which torch prunes
            callbacks=[*callbacks, Resume()],
        )

    first, kept = tmp_path / "first.ckpt", tmp_path / "kept.ckpt"
    train(LinearModule(log_shapes="off"), None, SaveAt(6, first))
    for finder in (LearningRateFinder, BatchSizeFinder):
        with pytest.raises(MisconfigurationException, match=f"{finder.__name__} would search"):
            train(LinearModule(log_shapes="off"), first, finder())
    keeps: dict[str, Any] = {
        "make_pruning_permanent": False,
        "use_lottery_ticket_hypothesis": False,
    }
    pruning = ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.3, **keeps)
    train(KeepsMasks(log_shapes="off"), None, SaveAt(6, kept), pruning)
    train(KeepsMasks(log_shapes="off"), kept, pruning)
    assert "does not put back" not in capsys.readouterr().err
    train(LinearModule(log_shapes="off"), first, pruning)
    assert "ModelPruning does not put back its masks" in capsys.readouterr().err


class StopsAtOnce(Callback):
    """Has a run end before its first step."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True
        self.loop = trainer.fit_loop.epoch_loop


def test_a_run_that_stops_at_once_leaves_the_loops_as_they_were(tmp_path: Path) -> None:
    path, stops = tmp_path / "kept.ckpt", StopsAtOnce()
    fit("single_device", 1, max_epochs=1, callbacks=[SaveAt(2, path), Resume()])
    fit("single_device", 1, None, None, str(path), max_epochs=1, callbacks=[Resume(), stops])
    assert stops.loop.trainer.global_step == 2
    assert "reset" not in vars(stops.loop)


class FindsAtEpochs(LearningRateFinder):
    """Searches as epochs start, as in Lightning's documentation."""

    @override
    def on_fit_start(self, *args: Any) -> None: ...

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.lr_find(trainer, pl_module)


def test_what_a_search_puts_back_is_not_the_run_that_goes_on(tmp_path: Path) -> None:
    def train(*callbacks: Callback) -> Run:
        finder = FindsAtEpochs(num_training_steps=5, update_attr=False)
        more: dict[str, Any] = {"default_root_dir": tmp_path, "max_epochs": 3}
        return fit("single_device", 1, callbacks=[finder, *callbacks], **more)

    assert train(Resume()).metrics == train().metrics
