# mypy: ignore-errors
"""A small model and plain loaders; many of the others are made from these."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def xy(length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, 6, generator=generator)
    return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(length, 1, generator=generator)


class Regression(L.LightningModule):
    def __init__(self, lr: float = 0.05):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Plain(L.LightningDataModule):
    """43 samples in batches of 10: the last has 3."""

    def __init__(self, length: int = 43, batch_size: int = 10, val_length: int = 13):
        super().__init__()
        self.length, self.batch_size, self.val_length = length, batch_size, val_length

    def setup(self, stage):
        self.train = TensorDataset(*xy(self.length))
        self.val = TensorDataset(*xy(self.val_length, seed=2))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=5)

    def test_dataloader(self):
        return DataLoader(self.val, batch_size=5)

    def predict_dataloader(self):
        return DataLoader(self.val, batch_size=5)


class ShuffledByItself(Plain):
    """The usual shuffle, with a generator of the loader's own."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(7)
        return DataLoader(self.train, self.batch_size, shuffle=True, generator=generator)


class Split(Plain):
    """Splits by the global generator, after the model has drawn its weights from it."""

    def setup(self, stage):
        self.train, self.val = random_split(TensorDataset(*xy(self.length)), [30, 13])
