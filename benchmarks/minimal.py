"""A minimal Lightning script, as `benchmarks.startup` compares `train.py` with it."""

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override


class Minimal(LightningModule):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(5, 2)

    @override
    def training_step(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return mse_loss(self.net(x), y)

    @override
    def validation_step(self, batch: list[Tensor]) -> None:
        x, y = batch
        self.log("val/loss", mse_loss(self.net(x), y))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--strategy", default="auto")
    args = parser.parse_args()
    train, val = (
        DataLoader(TensorDataset(torch.randn(length, 5), torch.randn(length, 2)), batch_size=30)
        for length in (1000, 200)
    )
    Trainer(fast_dev_run=True, devices=args.devices, strategy=args.strategy).fit(
        Minimal(), train, val
    )
