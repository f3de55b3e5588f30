"""`train/loss` is logged once, by the model where it does, and by the project where it does not."""

import pytest
from torch import Tensor
from torch.nn.functional import mse_loss
from typing_extensions import override

from tests.runs import fit
from tests.user_modules import Shuffled, Submodule


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
