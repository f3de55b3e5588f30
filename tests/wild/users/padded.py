# mypy: ignore-errors
"""Samples of several lengths, padded to the longest of a batch, and a mean over padded places."""

from types import MappingProxyType

import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Subset

from tests.wild.users.basic import Plain, Regression


class OverTime(Regression):
    """A mean over all places, the padded ones among them."""

    def loss(self, batch):
        assert len(batch["x"]) == len(batch["names"]) == len(batch["spans"])
        assert [f"{n} steps" for n in batch["lengths"].tolist()] == batch["names"]
        assert all(sum(span) == n for span, n in zip(batch["spans"], batch["lengths"], strict=True))
        return nn.functional.mse_loss(self(batch["x"]).mean(1), batch["y"])


def lengths(number):
    """1 to 8, such that the parts of a batch have different longest ones."""
    return [1 + i * i * 5 % 17 % 8 for i in range(number)]


class Samples(Dataset):
    def __init__(self, lengths, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = [torch.randn(n, 6, generator=generator) for n in lengths]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.x[index].sum()[None]


class Padded(Plain):
    """A batch of tensors, names and lists of numbers."""

    loader_args = MappingProxyType({})

    def setup(self, stage):
        self.train = Samples(lengths(self.length), seed=1)
        self.val = Samples(lengths(self.val_length), seed=2)

    @staticmethod
    def collate(samples):
        x, y = zip(*samples, strict=True)
        lengths = [len(one) for one in x]
        return {
            "x": pad_sequence(x, batch_first=True, padding_value=0.5),
            "y": torch.stack(y),
            "lengths": torch.tensor(lengths),
            "names": [f"{n} steps" for n in lengths],
            "spans": tuple([1] * n for n in lengths),
            "longest": max(lengths),
            "language": "en",
        }

    def loader(self, data):
        return DataLoader(data, self.batch_size, collate_fn=self.collate, **self.loader_args)

    def train_dataloader(self):
        return self.loader(self.train)

    def val_dataloader(self):
        return self.loader(self.val)


class Sorted(Padded):
    """The longest first, as `pack_padded_sequence` may want it."""

    @staticmethod
    def collate(samples):
        return Padded.collate(sorted(samples, key=lambda one: -len(one[0])))


class PaddedInWorkers(Padded):
    loader_args = MappingProxyType({"num_workers": 1, "persistent_workers": True})


class ApartLater(Padded):
    """The first two batches need no padding."""

    def setup(self, stage):
        super().setup(stage)
        same = [3] * 2 * self.batch_size
        self.train = Samples(same + lengths(self.length)[len(same) :], seed=1)


class PaddedByItself(Samples):
    """Pads all samples that it is asked for at once."""

    def __getitems__(self, indices):
        return list(zip(pad_sequence([self.x[i] for i in indices], True), indices, strict=True))


class ByItems(Padded):
    def setup(self, stage):
        super().setup(stage)
        self.train = Subset(PaddedByItself(lengths(self.length), 1), range(33))
        self.val = PaddedByItself(lengths(self.val_length), 2)

    def loader(self, data):
        return DataLoader(data, self.batch_size)


class OverPlaces(Regression):
    def loss(self, batch):
        x, index = batch
        return (self(x).mean(1) - index[:, None]).pow(2).mean()


class BesideConcatenated(Padded):
    """Targets of all samples one after the other, as for CTC: nothing tells whose are whose."""

    @staticmethod
    def collate(samples):
        x, _ = zip(*samples, strict=True)
        return pad_sequence(x, batch_first=True), torch.cat([one.sum(1) for one in x])


class OfConcatenated(Regression):
    def loss(self, batch):
        x, targets = batch
        return self(x).pow(2).mean() + 0 * targets.sum()


class DropsLater(Padded):
    """Leaves a sample out of the third batch."""

    @staticmethod
    def collate(samples):
        return Padded.collate([one for one in samples if len(one[0]) < 9])

    def setup(self, stage):
        super().setup(stage)
        own = lengths(self.length)
        own[2 * self.batch_size] = 9
        self.train = Samples(own, seed=1)


class SeveralInValidation(Padded):
    """Loaders of 8, 1 and 8 samples: a rank has no part of the second."""

    def val_dataloader(self):
        return [
            DataLoader(Subset(self.val, range(n)), 4, collate_fn=self.collate) for n in (8, 1, 8)
        ]


class AsksForSteps(Padded):
    """Has the Trainer make its loaders before the strategy is set up."""

    def setup(self, stage):
        super().setup(stage)
        self.num_steps = self.trainer.estimated_stepping_batches


class ValidatesSeveral(OverTime):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch))


class InOrder(Padded):
    """Sorted by length, with the places at which each sample was."""

    @staticmethod
    def collate(samples):
        order = sorted(range(len(samples)), key=lambda i: -len(samples[i][0]))
        x, y = zip(*samples, strict=True)
        return pad_sequence([x[i] for i in order], True), torch.tensor(order), torch.stack(y)


class PutsBack(Regression):
    def loss(self, batch):
        x, order, y = batch
        return nn.functional.mse_loss(self(x).mean(1)[order.argsort()], y)


class Shuffles(Padded):
    """Gives the samples of a batch in another order each time."""

    @staticmethod
    def collate(samples):
        return Padded.collate([samples[i] for i in torch.randperm(len(samples))])


class DropsSome(OverTime):
    """Draws in each step, so that the ranks' generators part."""

    def loss(self, batch):
        kept = nn.functional.dropout(batch["x"][:, :, :1], 0.5).mean() * 0
        return super().loss(batch) + kept


class Squeezed(Padded):
    """Takes the dimension of a single sample away."""

    @staticmethod
    def collate(samples):
        x, y = zip(*samples, strict=True)
        return pad_sequence(x, batch_first=True).squeeze(0), torch.stack(y).squeeze(0)


class OverSqueezed(Regression):
    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self(x).mean(-2), y)


class AsLists(Padded):
    """Lists of numbers, padded, which the step makes tensors of."""

    @staticmethod
    def collate(samples):
        x, y = zip(*samples, strict=True)
        return pad_sequence(x, batch_first=True).tolist(), torch.stack(y)


class OfLists(Regression):
    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self(torch.tensor(x, dtype=y.dtype)).mean(1), y)


class ToPredict(Padded):
    """Samples of which only later ones are padded, to be predicted twice."""

    def predict_dataloader(self):
        samples = Samples([3] * 10 + lengths(self.val_length), seed=3)
        batches = {"batch_size": 5, "collate_fn": self.collate}
        return [DataLoader(samples, **batches), DataLoader(self.val, num_workers=1, **batches)]


class ChecksIndices(BasePredictionWriter):
    """Files predictions by the indices of their samples, as most writers do."""

    def __init__(self):
        super().__init__("batch_and_epoch")

    def write_on_batch_end(self, trainer, model, prediction, indices, batch, *place):
        samples = trainer.predict_dataloaders[place[-1]].dataset.x
        assert [len(samples[i]) for i in indices] == batch["lengths"].tolist()
        assert len(prediction) == len(indices)

    def write_on_epoch_end(self, trainer, model, predictions, batch_indices):
        for of_loader, indices in zip(predictions, batch_indices, strict=True):
            assert [len(p) for p in of_loader] == [len(i) for i in indices]


class Predicts(OverTime):
    """Adds up what it predicts, weighed by the samples' lengths."""

    def on_predict_epoch_start(self):
        self.total = torch.zeros((), dtype=self.dtype, device=self.device)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        predicted = self(batch["x"]).mean(1)
        self.total += (predicted[:, 0] * batch["lengths"]).sum()
        return predicted

    def on_predict_epoch_end(self):
        self.trainer.callback_metrics["predicted"] = self.all_gather(self.total).sum()


class ConcatenatedToPredict(ToPredict):
    @staticmethod
    def collate(samples):
        return Padded.collate(samples) | {"targets": torch.cat([x.sum(1) for x, _ in samples])}


class PredictsBeside(Predicts):
    def loss(self, batch):
        return super().loss(batch) + 0 * batch["targets"].sum()


class PairsToPredict(Padded):
    def predict_dataloader(self):
        return DataLoader(self.val, batch_size=2, collate_fn=self.collate)
