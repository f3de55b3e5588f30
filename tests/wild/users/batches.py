# mypy: ignore-errors
"""Batches that are no tuple of two tensors."""

from collections import namedtuple
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanAbsoluteError

from tests.wild.users.basic import Plain, Regression, xy

Pair = namedtuple("Pair", "x y")


@dataclass(slots=True)
class Rows:
    """One of the classes without a `__dict__`."""

    x: torch.Tensor


class OfRows(Regression):
    """Gives its net an object."""

    def __init__(self):
        super().__init__()
        self.rows = TakesRows()
        self.net = self.rows.net

    def forward(self, x):
        return self.rows(Rows(x))


class TakesRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)

    def forward(self, rows):
        return self.net(rows.x)


class GraphBatch:
    """Graphs as one: nodes after each other, edges with shifted numbers."""

    def __init__(self, graphs):
        sizes = [len(graph["x"]) for graph in graphs]
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.x = torch.cat([graph["x"] for graph in graphs])
        edges = [g["edges"] + s for g, s in zip(graphs, starts, strict=True)]
        self.edges = torch.cat(edges, dim=1)
        self.graph = torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor(sizes))
        self.y = torch.stack([graph["y"] for graph in graphs])
        self.num_graphs = len(graphs)

    def to(self, device, **kwargs):
        for name in ("x", "edges", "graph", "y"):
            setattr(self, name, getattr(self, name).to(device))
        return self


class Graphs(Plain):
    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)

        def graphs(number):
            for i in range(number):
                x = torch.randn(2 + i % 4, 6, generator=generator, dtype=torch.float64)
                edges = torch.randint(len(x), (2, 5), generator=generator)
                yield {"x": x, "edges": edges, "y": x.mean()[None]}

        self.train, self.val = list(graphs(self.length)), list(graphs(7))

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, collate_fn=GraphBatch)

    def val_dataloader(self):
        return DataLoader(self.val, 2, collate_fn=GraphBatch)  # 2 + 2 + 2 + 1


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, batch):
        source, target = batch.edges
        h = self.one(batch.x).tanh()
        h = h.index_add(0, target, h[source]) / 3
        return self.two(h.new_zeros(batch.num_graphs, 8).index_add(0, batch.graph, h) / 3)


class OfGraphs(Regression):
    def __init__(self):
        super().__init__()
        self.net, self.mae = GraphNet(), MeanAbsoluteError()

    def loss(self, batch):
        return nn.functional.mse_loss(self.net(batch), batch.y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch, batch_idx):
        self.mae(self.net(batch), batch.y)
        self.log("val/mae", self.mae, batch_size=batch.num_graphs)
        self.log("val/loss", self.loss(batch), batch_size=batch.num_graphs)


class OfNodes(OfGraphs):
    """A mean over the nodes of all graphs."""

    def training_step(self, batch, batch_idx):
        h = self.net.two(self.net.one(batch.x).tanh())
        loss = nn.functional.mse_loss(h, batch.x.mean(1, keepdim=True))
        self.log("loss", loss, batch_size=batch.num_graphs)
        return loss


class TimeMajor(Plain):
    """Batches of (time, batch, features), which `self.log` takes for as many samples as steps."""

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        samples = torch.randn(self.length + self.val_length, 4, 6, generator=generator)
        self.train, self.val = samples[: self.length], samples[self.length :]

    def loader(self, samples, batch_size):
        return DataLoader(samples, batch_size, collate_fn=lambda s: torch.stack(s, dim=1))

    def train_dataloader(self):
        return self.loader(self.train, self.batch_size)

    def val_dataloader(self):
        return self.loader(self.val, 5)


class OfTime(Regression):
    def __init__(self):
        super().__init__()
        self.net = nn.RNN(6, 8)

    def loss(self, batch):
        outputs, _ = self.net(batch)
        return outputs.mean((0, 2)).sub(batch.mean((0, 2))).pow(2).mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, batch_size=batch.shape[1])
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=batch.shape[1])


class Named(Dataset):
    """Samples as dicts with an id, looked up by index."""

    def __init__(self, length, seed=1):
        self.x, self.y = xy(length, seed)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "target": {"y": self.y[index]}, "id": f"sample {index}"}


class Dicts(Plain):
    def setup(self, stage):
        self.train, self.val = Named(self.length), Named(self.val_length, seed=2)


class TakesDicts(Regression):
    """Dicts in, a dict out."""

    def loss(self, batch):
        assert len(batch["id"]) == len(batch["x"])
        return super().loss((batch["x"], batch["target"]["y"]))

    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "kept": batch["x"].detach()}


class NamedTuples(Plain):
    def train_dataloader(self):
        def collate(samples):
            return Pair(*torch.utils.data.default_collate(samples))

        return DataLoader(self.train, self.batch_size, collate_fn=collate)


class TakesNamedTuples(Regression):
    def training_step(self, batch, batch_idx):
        assert type(batch).__name__ == "Pair"
        return super().training_step((batch.x, batch.y), batch_idx)


class Images(Plain):
    """Lists of images of different sizes, as detectors have them."""

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)

        def images(number):
            for i in range(number):
                image = torch.randn(1, 3 + i % 3, 4, generator=generator, dtype=torch.float64)
                yield image, {"boxes": image.mean().reshape(1, 1), "number": i}

        self.train, self.val = list(images(self.length)), list(images(self.val_length))

    def loader(self, images, batch_size):
        def collate(samples):
            return tuple(map(list, zip(*samples, strict=True)))

        return DataLoader(images, batch_size, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(self.train, self.batch_size)

    def val_dataloader(self):
        return self.loader(self.val, 5)


class DetectorNet(nn.Module):
    """Given images and targets it returns losses, as torchvision's detectors do."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 1)

    def forward(self, images, targets):
        found = [self.head(self.net(image[None]).flatten(1)) for image in images]
        losses = [(f - t["boxes"]).pow(2).mean() for f, t in zip(found, targets, strict=True)]
        return {"box": torch.stack(losses).mean()}


class Detects(Regression):
    def __init__(self):
        super().__init__()
        self.net = DetectorNet()

    def training_step(self, batch, batch_idx):
        losses = self.net(*batch)
        loss = sum(losses.values())
        self.log("loss", loss, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(*batch)["box"], batch_size=len(batch[0]))
