# mypy: ignore-errors
"""Other loaders: whole batches, subclasses, several at once, streams; and who reads them."""

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanSquaredError

from tests.wild.users.basic import Plain, Regression, xy


class Chunks(Dataset):
    """Each item is a batch that is ready."""

    def __init__(self):
        self.x, self.y = xy(40)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return self.x[part], self.y[part]


class WholeBatches(Plain):
    def train_dataloader(self):
        return DataLoader(Chunks(), batch_size=None)


class Repeating(DataLoader):
    """Gives each batch twice, by an `__iter__` of its own."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch
            yield batch

    def __len__(self):
        return 2 * super().__len__()


class OwnIteration(Plain):
    def train_dataloader(self):
        return Repeating(self.train, self.batch_size)


class KeepsIterator(DataLoader):
    """Makes its iterator once and keeps it, as loaders that reuse their workers do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept = super().__iter__()

    def __iter__(self):
        for _ in range(len(self)):
            try:
                yield next(self.kept)
            except StopIteration:
                return
        self.kept = super().__iter__()


class KeptIterator(Plain):
    def train_dataloader(self):
        return KeepsIterator(self.train, self.batch_size)


class Labelled(DataLoader):
    """A loader with attributes and a method more, and nothing else."""

    def __init__(self, *args, label="", **kwargs):
        super().__init__(*args, **kwargs)
        self.label = label

    def describe(self):
        return f"{self.label} of {len(self.dataset)}"


class OwnAttributes(Plain):
    def train_dataloader(self):
        return Labelled(self.train, self.batch_size, label="train")


class ReadsAttributes(Regression):
    def on_train_start(self):
        assert self.trainer.train_dataloader.describe() == "train of 43"
        assert isinstance(self.trainer.train_dataloader, Labelled)


class Reads(Regression):
    """Looks at its loaders, as callbacks and hooks do."""

    def on_train_start(self):
        loader = self.trainer.train_dataloader
        assert isinstance(loader, DataLoader)
        assert loader.num_workers == 0
        assert loader.batch_size == 10
        assert loader.batch_sampler.batch_size == 10
        assert loader.batch_sampler.sampler is loader.sampler
        assert len(loader.sampler) == len(loader.dataset) == 43
        assert loader.collate_fn([torch.zeros(1)] * 3).shape == (3, 1)
        assert loader.drop_last is False
        assert loader.pin_memory is False
        assert loader.generator is None
        assert len(loader) == self.trainer.num_training_batches == 5

    def on_validation_start(self):
        assert isinstance(self.trainer.val_dataloaders, DataLoader)
        assert self.trainer.num_val_batches == [3]


class Both(Plain):
    """Two loaders of the same number of batches, in a dict."""

    def train_dataloader(self):
        other = TensorDataset(*xy(43, seed=4))
        return {
            "a": DataLoader(self.train, self.batch_size),
            "b": DataLoader(other, self.batch_size),
        }


class Cycled(Plain):
    """The shorter loader goes round, each time in another order of its own."""

    mode = "max_size_cycle"

    def train_dataloader(self):
        other = TensorDataset(*xy(20, seed=4))
        generator = torch.Generator().manual_seed(9)
        loaders = {
            "a": DataLoader(TensorDataset(*xy(50)), 10),
            "b": DataLoader(other, 10, shuffle=True, generator=generator),
        }
        return CombinedLoader(loaders, self.mode)


class Shortest(Cycled):
    mode = "min_size"


class TakesBoth(Regression):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"], batch_idx) + self.loss(batch["b"])


class SeveralValidations(Plain):
    def val_dataloader(self):
        other = TensorDataset(*xy(8, seed=6))
        return [DataLoader(self.val, batch_size=5), DataLoader(other, batch_size=3)]


class ValidatesSeveral(Regression):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/each", self.loss(batch))
        self.log(f"val/loss_{dataloader_idx}", self.loss(batch), add_dataloader_idx=False)


class PairsToValidate(Plain):
    """Validates on two loaders at once, whose last batches have one sample."""

    def val_dataloader(self):
        loaders = {
            "a": DataLoader(TensorDataset(*xy(9, seed=6)), 4),
            "b": DataLoader(TensorDataset(*xy(9, seed=7)), 4),
        }
        return CombinedLoader(loaders, "max_size")


class ValidatesPairs(Regression):
    def __init__(self):
        super().__init__()
        self.error = MeanSquaredError()

    def validation_step(self, batch, batch_idx):
        for x, y in batch.values():
            self.error.update(self(x), y)
        self.log("val/error", self.error)


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(zip(*xy(43), strict=True))


class Stream(Plain):
    def train_dataloader(self):
        return DataLoader(Numbers(), self.batch_size)


class Batches:
    """Anything that can be gone through, and knows its length."""

    def __init__(self):
        x, y = xy(43)
        self.batches = list(zip(x.split(10), y.split(10), strict=True))

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class NoLoader(Plain):
    def train_dataloader(self):
        return Batches()


class Neighbours(Regression):
    """Goes through the training loader in every validation, as a k-NN test does."""

    def on_validation_start(self):
        self.bank = torch.zeros(0)
        if not self.trainer.sanity_checking:
            self.bank = torch.cat([x for x, _ in self.trainer.train_dataloader])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/bank", float(len(self.bank)))


class HasLoaders(Regression):
    """A model with its own loaders, and no data module."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(*xy(33, seed=3)), batch_size=8)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*xy(9, seed=5)), batch_size=4)


class Augments(Plain):
    """Counts what each sample was asked for in this process."""

    def setup(self, stage):
        super().setup(stage)
        self.asked = 0

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x + 0.5, y

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        x, y = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return x * 2, y

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x.flip(1), y - 0.1


class PrintsSizes(L.Callback):
    """Notes, on its own, the size of every batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert len(batch[0]) > 0
