"""What a page shows costs a model nothing: no call, no mode, no hook that stays."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_app.telemetry.dashboard import Dashboard, RunLogger, Throughput
from lightning_app.telemetry.dashboard.entries import MAX_OPEN, graph_event
from lightning_app.telemetry.dashboard.graph import INPUT, Node
from lightning_app.telemetry.loss import LossLogger
from lightning_app.telemetry.shapes import ShapeLogger
from tests.events import scalars

pytestmark = pytest.mark.filterwarnings("default")


class Net(nn.Module):
    """A branch, a functional operation, a part that is frozen, and a count of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)
        self.frozen = nn.BatchNorm1d(4).requires_grad_(False).eval()
        self.act = nn.ReLU(inplace=True)
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            constant = self.frozen(x)
        made: Tensor = self.last(self.act(torch.tanh(self.first(x)) + constant))
        return made


class Model(LightningModule):
    """Its loss has the shape (1,)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.modes: list[bool] = []

    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.modes.append(self.net.frozen.training)
        return nn.functional.mse_loss(self.net(batch[0]), batch[1]).reshape(1)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, capsys: Any = None) -> tuple[Trainer, Model, RunLogger]:
    model, shapes = Model(), ShapeLogger()
    logger = RunLogger(str(folder))
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[shapes, LossLogger(), Throughput(shapes), Dashboard(shapes)],
        max_epochs=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(torch.randn(12, 4), torch.randn(12, 1)), 4))
    return trainer, model, logger


def test_the_graph_is_of_the_calls_that_are_made_anyway(tmp_path: Path) -> None:
    _, model, logger = fit(tmp_path)
    assert model.net.calls == 6
    assert model.modes == [False] * 6
    assert not any(module._forward_hooks for module in model.modules())
    nodes = {n.name: n for n in EventAccumulator(logger.log_dir).Reload().Graph().node}
    assert {name: list(node.input) for name, node in nodes.items()} == {
        "input": [],
        "net.first": ["input"],
        "net.frozen": ["input"],
        "net.act": ["net.first"],
        "net.last": ["net.act"],
    }
    assert nodes["net.last"].op == "Linear"


def test_a_large_net_is_folded_into_boxes() -> None:
    def names(number: int) -> set[str]:
        nodes = {f"net.{n}": Node("Linear", [INPUT], [1]) for n in range(number)}
        return {node.name for node in GraphDef.FromString(graph_event(nodes).graph_def).node}

    assert names(MAX_OPEN) == {"input", *(f"net.{n}" for n in range(MAX_OPEN))}
    assert names(MAX_OPEN + 1) == {"input", *(f"net/{n}" for n in range(MAX_OPEN + 1))}


def test_a_loss_of_one_number_is_logged(tmp_path: Path) -> None:
    _, _, logger = fit(tmp_path)
    assert list(scalars(Path(logger.log_dir))["train/loss"]) == [2, 5]


def test_a_trainer_can_be_pickled_afterwards(tmp_path: Path) -> None:
    trainer, _, _ = fit(tmp_path)
    again = pickle.loads(pickle.dumps(trainer))
    assert again.global_step == 6


@pytest.mark.parametrize("make", [TensorBoardLogger, RunLogger])
def test_what_tensorboard_takes_is_taken(make: Any, tmp_path: Path) -> None:
    logger = make(str(tmp_path))
    logger.log_metrics({"pair": {"a": 1.0, "b": 2.0}, "n": 3, "t": torch.tensor([4.0])}, 5)
    with pytest.raises(ValueError, match="you tried to log nothing which is currently not"):
        logger.log_metrics({"text": "nothing"}, 6)
    logger.finalize("success")
    assert scalars(Path(logger.log_dir)) == {"n": {5: 3.0}, "t": {5: 4.0}}
    assert scalars(Path(logger.log_dir, "pair_a")) == {"pair": {5: 1.0}}
