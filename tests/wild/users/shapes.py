# mypy: ignore-errors
"""Steps that take for granted that there is a sample, and that a batch has its usual shapes."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from tests.wild.users.basic import Plain, Regression, xy


class Flattens(Regression):
    """Flattens by the batch's own size, as Lightning's introduction does."""

    def loss(self, batch):
        x, y = batch
        return super().loss((x.view(x.size(0), -1), y))


class LooksAtFirst(Regression):
    """Looks at a batch's first sample, its largest values and its last row."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        assert x[0].shape == (6,)
        assert x.max(0).values.isfinite().all()
        assert x.argmax(0).shape == x[-1].shape
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        batch[0].max(0)
        return super().validation_step(batch, batch_idx)


class WithCount(Plain):
    """A batch that has a tensor without dimensions, a string and a number in it."""

    def train_dataloader(self):
        def collate(samples):
            x, y = torch.utils.data.default_collate(samples)
            return {"x": x, "y": y, "count": torch.tensor(len(x)), "name": "some", "scale": 1.0}

        return DataLoader(self.train, self.batch_size, collate_fn=collate)


class TakesCount(Regression):
    def training_step(self, batch, batch_idx):
        assert batch["count"] == len(batch["x"])
        return super().training_step((batch["x"] * batch["scale"], batch["y"]), batch_idx)


class Sequences(Plain):
    """Sequences of 1 to 5 rows, padded and with their lengths."""

    time_major = False

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)

        def sequences(number):
            lengths = torch.randint(1, 6, (number,), generator=generator)
            rows = [torch.randn(n, 6, generator=generator) for n in lengths.tolist()]
            return [(x, x.sum()[None]) for x in rows]

        self.train, self.val = sequences(self.length), sequences(self.val_length)

    def collate(self, samples):
        x, y = zip(*samples, strict=True)
        lengths = torch.tensor([len(one) for one in x])
        return pad_sequence(x, batch_first=not self.time_major), lengths, torch.stack(y)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(self.val, 5, collate_fn=self.collate)


class TimeMajorSequences(Sequences):
    time_major = True


class Packed(Regression):
    """An LSTM over packed sequences."""

    batch_first = True

    def __init__(self):
        super().__init__()
        self.net = nn.LSTM(6, 8, batch_first=self.batch_first)
        self.head = nn.Linear(8, 1)

    def loss(self, batch):
        x, lengths, y = batch
        packed = pack_padded_sequence(
            x, lengths.cpu(), batch_first=self.batch_first, enforce_sorted=False
        )
        _, (hidden, _) = self.net(packed)
        return nn.functional.mse_loss(self.head(hidden[-1]), y)


class Nested(Sequences):
    """Sequences as nested tensors, in both of torch's layouts."""

    def collate(self, samples):
        x, y = zip(*samples, strict=True)
        return [
            torch.nested.as_nested_tensor(list(x)),
            torch.nested.as_nested_tensor(list(x), layout=torch.jagged),
            torch.stack(y),
        ]


class TakesNested(Regression):
    """A mean over each sequence."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)

    def loss(self, batch):
        strided, jagged, y = batch
        means = [[one.mean(0) for one in self(x).unbind()] for x in (strided, jagged)]
        return sum(nn.functional.mse_loss(torch.stack(rows), y) for rows in means)


class OverPaddedTime(Regression):
    """A mean over time, padded places among it."""

    def __init__(self):
        super().__init__()
        self.net = nn.LSTM(6, 8)
        self.head = nn.Linear(8, 1)

    def loss(self, batch):
        x, _, y = batch
        return nn.functional.mse_loss(self.head(self.net(x)[0].mean(0)), y)


class PackedTimeMajor(Packed):
    """The first dimension is time; `self.log` would guess the batch's size from it."""

    batch_first = False

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=len(batch[1]))


class Recurrent(Regression):
    """A GRU, with a first state that it is given: (layers, batch, hidden)."""

    def __init__(self):
        super().__init__()
        self.net = nn.GRU(6, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def loss(self, batch):
        x, lengths, y = batch
        state = x.new_zeros(2, len(x), 8)
        outputs, _ = self.net(x, state)
        last = outputs[torch.arange(len(x)), lengths - 1]
        return nn.functional.mse_loss(self.head(last), y)


class Attends(Regression):
    """Attention with a mask of the padding."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def loss(self, batch):
        x, lengths, y = batch
        padding = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        h = self.net(x)
        h, _ = self.attention(h, h, h, key_padding_mask=padding, need_weights=False)
        h = h.masked_fill(padding[..., None], 0).sum(1) / lengths[:, None]
        return nn.functional.mse_loss(self.head(h), y)


class Convolves(Regression):
    """A small CNN over signals."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)
        )


class Normalized(Regression):
    """BatchNorm over the batch's statistics."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


class FrozenNorm(Normalized):
    """BatchNorm kept as it was: eval mode, no gradients, set again as each epoch starts."""

    def __init__(self):
        super().__init__()
        norm = self.net[1]
        norm.running_mean.copy_(torch.linspace(-0.5, 0.5, 8))
        norm.requires_grad_(False)

    def on_train_epoch_start(self):
        self.net[1].eval()

    def training_step(self, batch, batch_idx):
        assert not self.net[1].training
        return super().training_step(batch, batch_idx)


class FrozenOnce(FrozenNorm):
    """Puts it into eval mode when it is made, and trusts that nobody changes that."""

    def __init__(self):
        super().__init__()
        self.net[1].eval()

    def on_train_epoch_start(self):
        pass


class Vector(Regression):
    """A loss of shape (1,), which torch can go back from."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch).reshape(1)


class Short(Plain):
    """Twelve samples, three of them in the last batch of two classes each."""

    def setup(self, stage):
        self.train = TensorDataset(*xy(12))
        self.val = TensorDataset(*xy(7, seed=2))
