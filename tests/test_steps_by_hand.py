"""Optimizers that the model steps by hand, which `trainer.global_step` may count twice or not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import StepLR
from typing_extensions import override

from tests.events import scalars
from tests.in_process import InProcess
from tests.runs import fit
from tests.user_modules import Shuffled, Submodule

pytestmark = pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated
FLAGS = ("--data.length", "150", "--data.val_length", "10", "--log_every_n_steps", "2")  # 5 batches


class Bare(Submodule):
    """Steps what is not wrapped, as SAM by hand does, with a scheduler that Lightning has not.

    Args:
        breaks_at: The step before which the optimizer's state is spoilt.
    """

    def __init__(self, breaks_at: int = -1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.breaks_at = breaks_at

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.current_epoch * 5 + batch_idx == self.breaks_at:
            (optimizer,) = self.trainer.optimizers
            for state in optimizer.state.values():
                state["momentum_buffer"] = torch.ones(9)
        loss = mse_loss(self.body(batch[0]), batch[1])
        self.log("own", loss, on_step=True, on_epoch=True)
        self.step(loss)
        self.schedule.step()
        return loss

    def step(self, loss: Tensor) -> None:
        """Learn."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    @override
    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.body.parameters(), lr=0.02, momentum=0.5)
        self.schedule = StepLR(optimizer, 2)
        return optimizer


class Two(Bare):
    """Steps two optimizers in each batch, as a GAN does; saves the scheduler itself."""

    @override
    def step(self, loss: Tensor) -> None:
        self.manual_backward(loss)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()

    @override
    def configure_optimizers(self) -> Any:
        given: list[Optimizer] = [SGD(self.body[i].parameters(), lr=0.02) for i in (0, 2)]
        self.schedule = StepLR(given[0], 2)
        return given

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["schedule"] = self.schedule.state_dict()


@pytest.mark.parametrize("model", [Bare, Two])
def test_what_is_counted_is_of_the_models_own_steps(model: type[Bare]) -> None:
    curves = fit("single_device", 1, model(), Shuffled(), max_epochs=2).curves
    assert list(curves["coverage/missing"]) == list(curves["own_epoch"]) == [5, 11]


@pytest.mark.parametrize("model", [Bare, Two])
def test_a_run_is_logged_saved_and_continued(
    model: type[Bare], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = InProcess(tmp_path, monkeypatch, capsys)
    flags = (*FLAGS, "--model", f"{__name__}.{model.__name__}")
    assert run(*flags, "--max_epochs", "2").status == 0
    kept = {path.name for path in tmp_path.rglob("*.ckpt")}
    assert kept == {"last.ckpt", "best-epoch=1.ckpt"}
    continued = run(*flags, "--max_epochs", "3", "--ckpt_path", "last")
    assert ("continued: schedule of Bare: conf" in continued.stderr) == (model is Bare), (
        continued.stderr
    )
    written = scalars(tmp_path / "lightning_logs" / "version_0")
    curves = {tag: list(curve) for tag, curve in written.items()}
    assert curves["own_epoch"] == curves["val_loss"] == [4, 9, 14]
    assert curves["train/loss"] == curves["at_epoch_end/train/loss"] == [4, 9, 14]
    assert curves["own_step"] == [1, 3, 5, 7, 9, 11, 13]
    assert curves["train/loss_step"] == [0, *curves["own_step"]]
    assert run("validate", *flags, "--ckpt_path", "best").status == 0
    if model is Bare:  # its error is no fault of the checkpoint that was gone on from
        with pytest.raises(RuntimeError, match="must match"):
            run(*flags, "--max_epochs", "4", "--ckpt_path", "last", "--model.breaks_at", "17")
