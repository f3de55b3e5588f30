"""Loggers of one's own, and metrics of one's own, get on with what is added to a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from lightning_app.model import LinearModule
from lightning_app.own_part import KEY
from lightning_app.telemetry.coverage import Coverage
from lightning_app.telemetry.metrics import latest
from tests.runs import make_trainer
from tests.user_modules import Shuffled

pytestmark = pytest.mark.filterwarnings("ignore")


class TakesTheEpochOut(Logger):
    """Sends each call to a server, with the epoch by itself."""

    name = "takes the epoch out"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[set[str], int, int]] = []

    @override
    def log_hyperparams(self, params: Any) -> None: ...

    @override
    def log_metrics(self, *, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        epoch = metrics.pop("epoch")
        self.requests.append((set(metrics), step, int(epoch)))


def test_a_logger_is_called_as_lightning_does_it_and_not_in_each_step() -> None:
    logger = TakesTheEpochOut()
    trainer = make_trainer("single_device", 1, max_epochs=2, log_every_n_steps=50, logger=logger)
    trainer.fit(LinearModule(log_shapes="off"), Shuffled())  # 41 samples in batches of 7
    sizes = [place for tags, *place in logger.requests if "batch_size/global" in tags]
    assert sizes == [[0, 0], [4, 0], [5, 0], [6, 1], [10, 1], [11, 1]]
    known = {tag for tags, *_ in logger.requests for tag in tags}
    assert {"train/loss", "train/loss_step", "coverage/missing", "workload/samples_per_s"} <= known


class PutsNumbers(LinearModule):
    """Puts into `callback_metrics` what is no tensor, and something that is no number."""

    @override
    def on_train_epoch_end(self) -> None:
        found: dict[str, Any] = self.trainer.callback_metrics
        found |= {"auc": 0.5, "hits": 3, "f1": np.float32(0.25), "best": "hits"}


def test_a_number_in_the_callback_metrics_is_a_value_like_others(tmp_path: Path) -> None:
    trainer = make_trainer("single_device", 1, max_epochs=2, callbacks=[Resume(), Coverage()])
    trainer.fit(PutsNumbers(log_shapes="off"), Shuffled())
    shown = latest(trainer)
    assert (shown["auc"], shown["hits"], shown["f1"]) == (0.5, 3, 0.25)
    assert "best" not in shown
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)[KEY]["callback_metrics"]
    assert {"auc", "hits", "f1", "train/loss"} <= saved.keys()
    assert {type(value) for value in saved.values()} == {torch.Tensor}
