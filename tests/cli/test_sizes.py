"""The model's sizes are those of the random data, and of no other."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn, ones, optim
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from tests.in_process import InProcess

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice
MODEL, DATA = ("--model", f"{__name__}.Sized"), ("--data", f"{__name__}.Images")


class Images(LightningDataModule):
    """Has an `input_size` that is the side of an image."""

    def __init__(self, input_size: int = 28) -> None:
        super().__init__()

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(ones(20, 28, 28), ones(20, 2)), 10)


class Sized(LightningModule):
    """Has an `input_size` that is its own."""

    def __init__(self, input_size: int = 8) -> None:
        super().__init__()
        self.net = nn.Linear(1, 2)
        print("input_size", input_size)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0].flatten(1).mean(1, keepdim=True)), batch[1])

    @override
    def configure_optimizers(self) -> optim.Optimizer:
        return optim.SGD(self.parameters(), 0.01)


def test_the_models_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, monkeypatch, capsys)
    flags = ("--max_epochs", "1", *MODEL)
    for number, (more, size) in enumerate(
        [
            (DATA, 8),
            ((*DATA, "--model.input_size", "9"), 9),
            ((), 5),
            (("--data.input_size", "6"), 6),
            (("--data.input_size", "6", "--model.input_size", "6"), 6),
        ]
    ):
        outcome = run(*flags, *more)
        assert (outcome.status, f"input_size {size}\n" in outcome.stdout) == (0, True), outcome
        config = tmp_path / "lightning_logs" / f"version_{number}" / "config.yaml"
        assert yaml.safe_load(config.read_text())["model"]["init_args"] == {"input_size": size}
    told = "--model.input_size: the data tells it; use --data.input_size"
    run.refused(told, *flags, "--data.input_size", "6", "--model.input_size", "7")
