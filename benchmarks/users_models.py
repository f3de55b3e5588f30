"""Models and data as people write them, for `benchmarks.users_file`; no word of this project's."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

BATCH_SIZE = 30  # of the global batch


class Usual(LightningModule):
    """A small net.

    Args:
        logs: Log two values in each step, one of them for the progress bar.
        extra_ms: How much longer a step takes, in milliseconds.
    """

    def __init__(self, logs: bool = True, extra_ms: float = 0) -> None:
        super().__init__()
        self.logs = logs
        self.extra_s = extra_ms / 1e3
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (B, 5), (B, 2)
        predicted = self.net(x)
        loss = mse_loss(predicted, y)
        if self.logs:
            self.log("train_loss", loss, prog_bar=True)
            self.log("train_mae", (predicted - y).abs().mean())
        until_s = time.perf_counter() + self.extra_s
        while time.perf_counter() < until_s:  # busy, as arithmetic would be
            pass
        return loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class UsualData(LightningDataModule):
    """Random samples in memory.

    Args:
        num_samples: How many.
        batch_size: Samples in a batch of a loader.
    """

    def __init__(self, num_samples: int = 30_000, batch_size: int = BATCH_SIZE) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.samples = self.make(num_samples)

    def make(self, num_samples: int) -> TensorDataset:
        """Inputs `(N, 5)` and targets `(N, 2)`."""
        return TensorDataset(torch.randn(num_samples, 5), torch.randn(num_samples, 2))

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.samples, self.batch_size, shuffle=True)


class Cnn(LightningModule):
    """A small CNN on 8×8 images of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        self.accuracy = MulticlassAccuracy(num_classes=10)

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch  # (B, 1, 8, 8), (B,)
        scores = self.net(images)
        loss = cross_entropy(scores, labels)
        self.accuracy(scores, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", self.accuracy, on_step=False, on_epoch=True)
        return loss

    @override
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Images(UsualData):
    """Random images."""

    @override
    def make(self, num_samples: int) -> TensorDataset:
        images = torch.randn(num_samples, 1, 8, 8)
        return TensorDataset(images, torch.randint(10, (num_samples,)))
