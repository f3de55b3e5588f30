"""A GAN with two optimizers that take turns: points on a circle, made from noise.

python train.py --model examples.gan.GAN --data examples.gan.Circle --devices 2 --strategy ddp

The noise belongs to the data: each sample brings its own, so that no layout draws another.
"""

import math

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

Batch = list[Tensor]


class Circle(LightningDataModule):
    """Points `(2,)` on the unit circle, each with noise `(4,)`.

    Args:
        batch_size: Points in a batch.
        num_points: How many there are.
    """

    def __init__(self, batch_size: int = 64, num_points: int = 1000) -> None:
        super().__init__()
        self.batch_size = batch_size
        angles = torch.rand(num_points) * 2 * math.pi
        points = torch.stack([angles.cos(), angles.sin()], dim=1)
        self.data = TensorDataset(points, torch.randn(num_points, 4))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.data, self.batch_size)


def net(input_size: int, output_size: int) -> nn.Sequential:
    """A small perceptron."""
    return nn.Sequential(nn.Linear(input_size, 32), nn.LeakyReLU(0.2), nn.Linear(32, output_size))


class GAN(LightningModule):
    """The discriminator learns to tell points from made ones, the generator to mislead it.

    Args:
        lr: Adam's learning rate, of both.
    """

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator, self.discriminator = net(4, 2), net(2, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """Points `(N, 2)` made of noise `(N, 4)`."""
        points: Tensor = self.generator(noise)
        return points

    def _loss(self, points: Tensor, is_real: bool) -> Tensor:
        scores = self.discriminator(points)
        return binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(is_real)))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        points, noise = batch
        of_generator, of_discriminator = self.optimizers()  # type: ignore[attr-defined]

        self.toggle_optimizer(of_generator)
        loss = self._loss(self.generator(noise), is_real=True)
        self.log("train/generator", loss)
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.untoggle_optimizer(of_generator)

        self.toggle_optimizer(of_discriminator)
        made = self.generator(noise).detach()
        loss = (self._loss(points, is_real=True) + self._loss(made, is_real=False)) / 2
        self.log("train/discriminator", loss)
        of_discriminator.zero_grad()
        self.manual_backward(loss)
        of_discriminator.step()
        self.untoggle_optimizer(of_discriminator)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        _, noise = batch
        self.log("val/distance", (self(noise).norm(dim=1) - 1).abs().mean())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        nets = (self.generator, self.discriminator)
        return [torch.optim.Adam(n.parameters(), self.hparams["lr"], (0.5, 0.999)) for n in nets]
