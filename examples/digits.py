"""A small CNN on the 1,797 handwritten digits of scikit-learn (`pip install scikit-learn`).

python train.py --model examples.digits.CNN --data examples.digits.Digits --devices 2 --strategy ddp
"""

import torch
from lightning import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

Batch = list[Tensor]


class Digits(LightningDataModule):
    """Images `(1, 8, 8)` between 0 and 1, and what they show, 0 to 9.

    Args:
        batch_size: Images in a batch.
        num_images: How many of them to take; every fifth is for validation.
    """

    def __init__(self, batch_size: int = 64, num_images: int = 1797) -> None:
        super().__init__()
        self.batch_size = batch_size
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels[:num_images] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        digits = torch.tensor(labels[:num_images])
        is_val = torch.arange(len(digits)) % 5 == 0
        self.train_set = TensorDataset(images[~is_val], digits[~is_val])
        self.val_set = TensorDataset(images[is_val], digits[is_val])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val_set, self.batch_size)


class CNN(LightningModule):
    """Two convolutions and a linear layer.

    Args:
        num_channels: Of the first convolution; the second has twice as many.
        lr: Adam's learning rate.
    """

    def __init__(self, num_channels: int = 16, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, num_channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(num_channels, 2 * num_channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * num_channels * 4, 10),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Scores `(N, 10)` of images `(N, 1, 8, 8)`."""
        scores: Tensor = self.net(images)
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, digits = batch
        return cross_entropy(self(images), digits)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, digits = batch
        scores = self(images)
        self.accuracy(scores, digits)
        self.log("val/loss", cross_entropy(scores, digits))
        self.log("val/accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
