"""The tutorial's one linear layer, as a plain LightningModule that knows nothing of devices."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score
from typing_extensions import override

Batch = tuple[Tensor, Tensor]


class Linear(nn.Module):
    """One linear layer.

    Args:
        input_size: Features of a sample, `D`.
        output_size: Features of a prediction, `C`.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(input_size, output_size)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Predict `(B, C)` from `(B, D)`."""
        y: Tensor = self.fc(x)
        return y


class LinearModule(LightningModule):
    """Fits a linear map by least squares.

    Every step returns the mean over the batch it was given; what that batch is on several devices
    is the strategy's business.

    Args:
        input_size: Features of a sample, `D`. On the command line it is the data's.
        output_size: Features of a target, `C`. On the command line it is the data's.
        lr: Learning rate.
        optimizer: A class of `torch.optim`, by its name.
        log_shapes: Which steps' sizes the console shows: `every` one, those at which a split is
            seen for the first time (`change`), or none (`off`).

    Raises:
        ValueError: A size or `lr` is not positive, or `torch.optim` has no such optimizer, or it
            does not take these parameters.
    """

    def __init__(
        self,
        input_size: int = 5,
        output_size: int = 2,
        lr: float = 0.05,
        optimizer: str = "SGD",
        log_shapes: Literal["every", "change", "off"] = "change",
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("output_size", output_size), ("lr", lr)):
            if value is None or value <= 0:
                raise ValueError(f"{name} is {value}: it must be more than 0")
        if not _is_optimizer(optimizer):
            known = [name for name in dir(torch.optim) if _is_optimizer(name)]
            raise ValueError(f"optimizer is {optimizer!r}: use one of {', '.join(known)}")
        self.save_hyperparameters(ignore="log_shapes", logger=False)
        self.lr, self.optimizer = lr, optimizer
        self.net = Linear(input_size, output_size)
        try:
            self._make_optimizer()
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer is {optimizer!r}: {error}") from None
        self.log_shapes = log_shapes
        metrics = MetricCollection(
            {"loss": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()}
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Predict `(B, C)` from `(B, D)`."""
        y: Tensor = self.net(x)
        return y

    @override
    def training_step(self, batch: Batch) -> Tensor:
        x, y = batch
        return mse_loss(self(x), y)

    @override
    def on_validation_start(self) -> None:
        # In the model's precision: torchmetrics ignores `.double()`, by design.
        self.val_metrics.set_dtype(self.dtype)

    @override
    def on_test_start(self) -> None:
        self.test_metrics.set_dtype(self.dtype)

    @override
    def validation_step(self, batch: Batch) -> None:
        self._measure(self.val_metrics, batch)

    @override
    def test_step(self, batch: Batch) -> None:
        self._measure(self.test_metrics, batch)

    def _measure(self, metrics: MetricCollection, batch: Batch) -> None:
        x, y = batch
        metrics.update(self(x), y)
        self.log_dict(metrics)

    @override
    def predict_step(self, batch: Batch) -> Tensor:
        """Predict `(B, C)` for a batch's inputs."""
        y: Tensor = self(batch[0])
        return y

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        make: type[Any] = getattr(torch.optim, self.optimizer)
        optimizer: torch.optim.Optimizer = make(self.parameters(), lr=self.lr)
        return optimizer


def _is_optimizer(name: str) -> bool:
    found = getattr(torch.optim, name, None)
    unfit = torch.optim.Optimizer, torch.optim.SparseAdam  # the base class; for sparse gradients
    return (
        isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and found not in unfit
    )
