# mypy: ignore-errors
"""Samplers as people write them: with a state, with names, with epochs, without batches."""

import random

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, WeightedRandomSampler

from tests.wild.users.basic import Plain, xy


class Bucketing(Sampler):
    """Batches of neighbours, in an order drawn from a generator of its own."""

    def __init__(self, length, batch_size):
        self.length, self.batch_size = length, batch_size
        self.random = random.Random(3)

    def __len__(self):
        return -(-self.length // self.batch_size)

    def __iter__(self):
        order = list(range(self.length))
        self.random.shuffle(order)
        batches = [order[i : i + self.batch_size] for i in range(0, self.length, self.batch_size)]
        self.random.shuffle(batches)
        yield from batches


class OwnNumpy(Bucketing):
    """The same with a generator of NumPy's, and batches that are arrays."""

    def __init__(self, length, batch_size):
        super().__init__(length, batch_size)
        self.random = np.random.default_rng(3)

    def __iter__(self):
        order = self.random.permutation(self.length)
        for start in range(0, self.length, self.batch_size):
            yield order[start : start + self.batch_size]


class Bucketed(Plain):
    sampler = Bucketing

    def train_dataloader(self):
        sampler = self.sampler(self.length, self.batch_size)
        return DataLoader(self.train, batch_sampler=sampler)


class BucketedNumpy(Bucketed):
    sampler = OwnNumpy


class InPlace(Sampler):
    """Shuffles its own list in place, from the order of the last time."""

    def __init__(self, length):
        self.order = list(range(length))
        self.random = random.Random(4)

    def __len__(self):
        return len(self.order)

    def __iter__(self):
        self.random.shuffle(self.order)
        return iter(list(self.order))


class ShuffledInPlace(Plain):
    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, sampler=InPlace(self.length))


class Counting(Sampler):
    """Counts its passes, and shuffles by the count."""

    def __init__(self, length):
        self.length, self.epoch = length, 0

    def __len__(self):
        return self.length

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        return iter(torch.randperm(self.length, generator=generator).tolist())


class Counted(Plain):
    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, sampler=Counting(self.length))


class ByEpoch(Sampler):
    """Is told the epoch, as a DistributedSampler is, and shuffles by it."""

    def __init__(self, length):
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        generator = torch.Generator().manual_seed(100 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


class ToldEpoch(Plain):
    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, sampler=ByEpoch(self.length))


class Queue(Sampler):
    """A curriculum: what a callback puts into it is drawn in the next epoch."""

    def __init__(self, length):
        self.indices = list(range(length))

    def __len__(self):
        return len(self.indices)

    def __iter__(self):
        return iter(self.indices)


class Queued(Plain):
    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, sampler=Queue(self.length))


class TurnsQueue(L.Callback):
    """Hardest first: turns the sampler's own list around as an epoch ends."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.train_dataloader.sampler.indices.reverse()


class Weighted(Plain):
    """Draws by weights, with repetitions."""

    def train_dataloader(self):
        sampler = WeightedRandomSampler(
            torch.ones(self.length), self.length, generator=torch.Generator().manual_seed(5)
        )
        return DataLoader(self.train, self.batch_size, sampler=sampler)


class ChangesWeights(L.Callback):
    """Draws some samples more often, epoch by epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        sampler = trainer.train_dataloader.sampler
        weights = torch.ones_like(sampler.weights)
        weights[: 10 * (trainer.current_epoch + 1)] = 5
        sampler.weights = weights


class Grid(Dataset):
    """Samples at places of a grid, looked up by a tuple."""

    def __init__(self, rows, cols):
        self.rows, self.cols = rows, cols
        self.x, self.y = xy(rows * cols)

    def __len__(self):
        return self.rows * self.cols

    def __getitem__(self, place):
        row, col = place
        return self.x[row * self.cols + col], self.y[row * self.cols + col]


class Places(Sampler):
    def __init__(self, rows, cols):
        self.places = [(row, col) for col in range(cols) for row in range(rows)]

    def __len__(self):
        return len(self.places)

    def __iter__(self):
        return iter(self.places)


class ByPlace(Plain):
    def train_dataloader(self):
        return DataLoader(Grid(7, 5), self.batch_size, sampler=Places(7, 5))


class ByName(Plain):
    """A data set that is a dict, looked up by names."""

    def train_dataloader(self):
        x, y = xy(self.length)
        samples = {f"sample {i}": (x[i], y[i]) for i in range(self.length)}
        return DataLoader(samples, self.batch_size, sampler=list(samples))


class Endless(Dataset):
    """A data set that makes what it is asked for, and has no length."""

    def __init__(self):
        self.x, self.y = xy(50)

    def __getitem__(self, index):
        return self.x[index % 50], self.y[index % 50]


class WithoutLength(Plain):
    def train_dataloader(self):
        return DataLoader(Endless(), self.batch_size, sampler=range(43))


class ListOfBatches(Plain):
    """A batch sampler that is a plain list of lists, of different lengths."""

    def train_dataloader(self):
        batches = [[0, 1, 2], [3], [4, 5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
        return DataLoader(self.train, batch_sampler=batches)


class DropsLast(Plain):
    def train_dataloader(self):
        generator = torch.Generator().manual_seed(7)
        return DataLoader(
            self.train, self.batch_size, shuffle=True, drop_last=True, generator=generator
        )


class NewShuffled(Plain):
    """A new loader for each epoch, with a generator of its own."""

    def train_dataloader(self):
        own = torch.Generator().manual_seed(4 + self.trainer.current_epoch)
        return DataLoader(self.train, self.batch_size, shuffle=True, generator=own)


class NewEachEpoch(Plain):
    """A new loader, of other data, for each epoch."""

    def train_dataloader(self):
        epoch = self.trainer.current_epoch
        return DataLoader(TensorDataset(*xy(31 + epoch, seed=10 + epoch)), self.batch_size)
