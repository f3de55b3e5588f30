"""The tutorial's random data set, with something true to find in it, as a LightningDataModule.

Rank-agnostic: plain data sets, a plain batch size that counts the global batch, one seeded order.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from typing_extensions import override

from lightning_app.order import SeededOrder

_PARTS = {"train": 0, "val": 1, "test": 2}
_HIDDEN_MAP = 3  # after the parts: the streams drawn from one seed


class RandomDataset(Dataset[tuple[Tensor, Tensor]]):
    """Random inputs, and targets that a hidden linear map gives them, all in memory.

    `y = x Wᵀ + b + noise`: the inputs, `W` and `b` are standard normal; `W` and `b` depend on
    `seed` and the sizes alone, so all parts of one seed share them.

    Args:
        input_size: Features of a sample, `D`.
        length: Number of samples, `N`.
        output_size: Features of a target, `C`.
        noise_std: Standard deviation of the noise: the best reachable MSE is its square.
        seed: Seeds everything drawn here; no global generator is used.
        part: `train`, `val` or `test`: disjoint random streams.

    Attributes:
        x: Inputs `(N, D)`, float32.
        y: Targets `(N, C)`, float32.

    Raises:
        ValueError: A size is not positive, or `noise_std` is negative.
    """

    def __init__(
        self,
        input_size: int,
        length: int,
        output_size: int = 2,
        noise_std: float = 0.1,
        seed: int = 0,
        part: str = "train",
    ) -> None:
        _check_positive(input_size=input_size, length=length, output_size=output_size)
        if noise_std < 0:
            raise ValueError(f"noise_std is {noise_std}: it must be 0 or more")
        generator = _stream(seed, _HIDDEN_MAP)
        weight = torch.randn(output_size, input_size, generator=generator)
        bias = torch.randn(output_size, generator=generator)
        generator = _stream(seed, _PARTS[part])
        self.x = torch.randn(length, input_size, generator=generator)  # (N, D)
        noise = torch.randn(length, output_size, generator=generator)
        self.y = self.x @ weight.T + bias + noise_std * noise  # (N, C)

    @override
    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        """One sample by a number, or a whole batch by an index tensor `(B,)`, int64."""
        return self.x[index], self.y[index]

    def __len__(self) -> int:
        return len(self.x)


class SeededBatches(Sampler[Tensor], Sequence[Tensor]):
    """Batches of indices in the seeded order; any of them at once.

    Args:
        length: Number of samples.
        batch_size: Samples in a batch; the last one has what is left.
        seed: Of the order.
        shuffle: Without it, the samples come as they lie.
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        self._order = SeededOrder(length, seed, shuffle)
        self.batch_size, self._length = batch_size, length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, each of which has an order of its own."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self._length // self.batch_size)

    @overload
    def __getitem__(self, position: int) -> Tensor: ...
    @overload
    def __getitem__(self, position: slice) -> list[Tensor]: ...
    @override
    def __getitem__(self, position: int | slice) -> Tensor | list[Tensor]:
        """The indices `(B,)`, int64, of the batch at a position of the epoch."""
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        start = range(len(self))[position] * self.batch_size
        return self._order.indices(self.epoch, start, min(start + self.batch_size, self._length))

    @override
    def __iter__(self) -> Iterator[Tensor]:
        return (self[position] for position in range(len(self)))


class BatchesInOrder(SeededBatches, SequentialSampler):  # type: ignore[misc]
    """Batches of the samples as they lie: a sequential sampler, for Lightning to see."""

    def __init__(self, length: int, batch_size: int) -> None:
        super().__init__(length, batch_size, shuffle=False)


class RandomDataModule(LightningDataModule):
    """Random training, validation and test samples of one hidden linear map.

    Args:
        input_size: Features of a sample, `D`; the model takes it from here.
        output_size: Features of a target, `C`; the model takes it from here.
        length: Training samples.
        val_length: Validation samples.
        test_length: Test samples, also those that are predicted.
        batch_size: Samples of a global batch, over all devices.
        noise_std: Standard deviation of the targets' noise.
        seed: Seeds the samples and their order.
        num_workers: Processes that fetch batches, per rank; 0 fetches in the rank itself.
        pin_memory: Copy batches to pinned memory first, for faster transfers to a GPU.

    Raises:
        ValueError: A size is not positive, `noise_std`, `num_workers` or `seed` is negative, or
            there are less than two samples to validate or test.
    """

    def __init__(
        self,
        input_size: int = 5,
        output_size: int = 2,
        length: int = 1000,
        val_length: int = 200,
        test_length: int = 200,
        batch_size: int = 30,
        noise_std: float = 0.1,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        _check_positive(
            input_size=input_size,
            output_size=output_size,
            length=length,
            batch_size=batch_size,
        )
        for name, size in (("val_length", val_length), ("test_length", test_length)):
            if size is None or size < 2:
                raise ValueError(f"{name} is {size}: it must be 2 or more, for R² to be defined")
        for name, value in (
            ("num_workers", num_workers),
            ("noise_std", noise_std),
            ("seed", seed),
        ):
            if value is None or value < 0:
                raise ValueError(f"{name} is {value}: it must be 0 or more")
        self.save_hyperparameters(logger=False)

    def _dataset(self, part: str, length: int) -> RandomDataset:
        p: Any = self.hparams
        return RandomDataset(p.input_size, length, p.output_size, p.noise_std, p.seed, part)

    @override
    def setup(self, stage: str) -> None:
        p: Any = self.hparams
        if stage == "fit":
            self.train = self._dataset("train", p.length)
        if stage in ("fit", "validate"):
            self.val = self._dataset("val", p.val_length)
        if stage in ("test", "predict"):
            self.test = self._dataset("test", p.test_length)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        # To overfit is to see the same batches again.
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        return self._loader(self.train, shuffle=not overfits)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.val)

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.test)

    @override
    def predict_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.test)

    def _loader(
        self, dataset: RandomDataset, shuffle: bool = False
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        p: Any = self.hparams
        sizes = len(dataset), p.batch_size
        return DataLoader(
            dataset,
            sampler=SeededBatches(*sizes, p.seed) if shuffle else BatchesInOrder(*sizes),
            batch_size=None,  # the sampler's index tensors are whole batches
            num_workers=p.num_workers,
            pin_memory=p.pin_memory,
        )


def _stream(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * (_HIDDEN_MAP + 1) + number)


def _check_positive(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is None or size < 1:  # a flag may be null
            raise ValueError(f"{name} is {size}: it must be 1 or more")
