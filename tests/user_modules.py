"""Models and data as users bring them: nothing in them knows of this project."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset, IterableDataset
from typing_extensions import override


class Submodule(LightningModule):
    """Calls a submodule in its steps, logs with `self.log`, and never says `sync_dist`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = mse_loss(self.body(batch[0]), batch[1])
        self.log("loss_each", loss, on_step=True, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", mse_loss(self.body(batch[0]), batch[1]))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Wide(Submodule):
    """Takes samples of 7 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 2))


class LossForgotten(Submodule):
    """Computes a loss in its training step, and keeps it."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        super().training_step(batch, batch_idx)


class FirstRankLogs(Submodule):
    """Logs from one process what the others do not have."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.trainer.is_global_zero:
            self.log("first_rank", 3.0, on_step=True, on_epoch=True, rank_zero_only=True)
        return super().training_step(batch, batch_idx)


class OverIterator(Submodule):
    """Fetches its batches itself."""

    @override
    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
        batch, _, _ = next(dataloader_iter)
        return mse_loss(self.body(batch[0]), batch[1])


class Functional(LightningModule):
    """Has parameters, but calls no module: nothing that replicas could take over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 5))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return mse_loss(batch[0] @ self.weight.T, batch[1])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TwoOptimizers(LightningModule):
    """Optimizes by hand: two parts, an optimizer each, two backward passes a step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(5, 3), nn.Linear(3, 2)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
            self.manual_backward(mse_loss(self.second(torch.tanh(self.first(x))), y))
            optimizer.step()

    @override
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.first, self.second)]


class RestsInTurn(TwoOptimizers):
    """Freezes the second part while the first learns, as GANs do, until the next step begins."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        optimizers: Any = self.optimizers()
        first, second = optimizers
        hidden = torch.tanh(self.first(x))
        for optimizer, given in ((second, hidden.detach()), (first, hidden)):
            self.second.requires_grad_(optimizer is second)
            optimizer.zero_grad()
            self.manual_backward(mse_loss(self.second(given), y))
            optimizer.step()


class Thaws(Submodule):
    """Begins to learn with a layer in the middle of a step."""

    thaws = True

    def __init__(self) -> None:
        super().__init__()
        self.body[0].requires_grad_(not self.thaws)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.global_step == 1:
            self.body[0].requires_grad_(self.thaws)
        return super().training_step(batch, batch_idx)


class Freezes(Thaws):
    """Ceases to."""

    thaws = False


class Normalized(LightningModule):
    """Has a BatchNorm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return mse_loss(self.body(batch[0]), batch[1])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Some samples, one by one."""

    def __init__(self, length: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(length, 5, generator=generator)
        self.y = self.x[:, :2] * 2

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __len__(self) -> int:
        return len(self.x)


class Shuffled(LightningDataModule):
    """Plain loaders: torch's own shuffling, a batch size, perhaps workers."""

    def __init__(self, length: int = 41, batch_size: int = 7, **loader: Any) -> None:
        super().__init__()
        self.length, self.batch_size = length, batch_size
        self.loader = {"shuffle": True} | loader

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(self.length), self.batch_size, **self.loader)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(13), self.batch_size)


class NumberStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples that have no numbers."""

    @override
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples = Samples(20)
        return (samples[i] for i in range(20))


class Stream(LightningDataModule):
    """A loader over a stream."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(NumberStream(), 6)


class StreamToValidate(Shuffled):
    """Its validation alone is over a stream."""

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(NumberStream(), 6)


class Faulty(Submodule):
    """Fails in its second epoch, on one rank alone."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.current_epoch == 1 and self.global_rank == 1:
            raise ZeroDivisionError("on rank 1")
        return super().training_step(batch, batch_idx)
