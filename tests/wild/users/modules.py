# mypy: ignore-errors
"""Modules with more than a forward: hooks, counters, outputs of their own, other arguments."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tests.wild.users.basic import Plain, Regression


class CountingNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 1)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return self.linear(x)


class Counts(Regression):
    """Counts the calls of its net in a buffer."""

    def __init__(self):
        super().__init__()
        self.net = CountingNet()


class Lazy(Regression):
    """Has weights from its first step on: no validation comes before it."""

    def __init__(self):
        super().__init__()
        self.net = nn.LazyLinear(1)


class Hooked(Regression):
    """A hook that changes what the outermost module is given, and one that reads its outputs."""

    def __init__(self):
        super().__init__()
        self.net.register_forward_pre_hook(lambda module, args: ((args[0] - 0.5) / 0.5,))
        self.net.register_forward_hook(lambda module, args, output: output * 2)

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)  # by `self(x)` this model were outermost


class PrototypeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 4)

    def forward(self, x, prototypes):
        closeness = (self.embed(x) @ self.embed(prototypes).T).softmax(1)
        return closeness @ torch.arange(len(prototypes)).to(x)[:, None]


class Prototypes(Regression):
    """Ten prototypes go into the model beside a batch, which is ten long, too."""

    def __init__(self, lr: float = 0.05):
        super().__init__(lr)
        self.net = PrototypeNet()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("prototypes", torch.randn(10, 6, generator=generator).double())

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.net(x, self.prototypes), y)


@dataclass
class Output:
    mean: torch.Tensor
    hidden: torch.Tensor


class DataclassNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.one(x).tanh()
        return Output(self.two(hidden), hidden)


class ReturnsDataclass(Regression):
    def __init__(self):
        super().__init__()
        self.net = DataclassNet()

    def loss(self, batch):
        x, y = batch
        output = self.net(x)
        return nn.functional.mse_loss(output.mean, y) + 0.01 * output.hidden.pow(2).mean()


class NormalNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, x):
        return torch.distributions.Normal(self.mean(x), self.log_std(x).clamp(-2, 2).exp())


class ReturnsDistribution(Regression):
    def __init__(self):
        super().__init__()
        self.net = NormalNet()

    def loss(self, batch):
        x, y = batch
        return -self.net(x).log_prob(y).mean()


class SpectralNorm(Regression):
    """A weight computed from others, by a buffer that forward writes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net[2] = nn.utils.parametrizations.spectral_norm(self.net[2])


class Parametrized(Regression):
    """Weights computed from others; one keeps a buffer for the backward pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        parametrizations = nn.utils.parametrizations
        self.net[0] = parametrizations.orthogonal(self.net[0])
        self.net[2] = parametrizations.weight_norm(self.net[2])


class DropsOut(Regression):
    def __init__(self):
        super().__init__()
        self.net.insert(2, nn.Dropout(0.3))


class DrawsInTest(Regression):
    """Tests with noise."""

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test/loss", self.loss((x + torch.randn_like(x), y)))


class MixesUp(Regression):
    """Mixes each sample with the next, by a share from NumPy's global generator."""

    def training_step(self, batch, batch_idx):
        share = np.random.beta(0.4, 0.4)
        mixed = [share * part + (1 - share) * part.roll(1, 0) for part in batch]
        return super().training_step(mixed, batch_idx)


class Codebook(Regression):
    """Codes that follow the means of what was closest to them, as in a VQ-VAE."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.linspace(-1, 1, 3)[:, None].repeat(1, 6).double())

    def training_step(self, batch, batch_idx):
        x, y = batch
        nearest = torch.cdist(x, self.codes).argmin(1)
        for number in nearest.unique():
            self.codes[number].lerp_(x[nearest == number].mean(0), 0.1)
        return super().training_step((x + 0.5 * self.codes[nearest], y), batch_idx)


class WithNote(torch.Tensor):
    """A tensor class of a library's own, as that of medical images."""

    def __deepcopy__(self, memo):
        return self.detach().clone()


class OwnTensors(Regression):
    def loss(self, batch):
        return super().loss([part.as_subclass(WithNote) for part in batch])


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self):
        return self.scale


class WithoutInput(Regression):
    """A module that is called without a tensor, beside one that has a batch."""

    def __init__(self):
        super().__init__()
        self.temperature = Scale()

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.net(x) * self.temperature(), y)


class Keyword(Regression):
    """Arguments by name, and a number among them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 1)

        def forward(self, *, x, power, mask=None):
            return self.linear(x) ** power

    def __init__(self):
        super().__init__()
        self.net = self.Net()

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.net(x=x, power=1, mask=None), y)


class KeepsActivations(Regression):
    """A hook on an inner layer keeps what it gives, which the loss is made of, too."""

    def __init__(self):
        super().__init__()
        self.net[1].register_forward_hook(lambda layer, _, output: setattr(layer, "kept", output))

    def loss(self, batch):
        return super().loss(batch) + 0.1 * self.net[1].kept.abs().mean()


class Remembers(Regression):
    """A net that keeps, as an attribute, what it computed last."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 4)
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            self.hidden = self.linear(x).tanh()
            return self.last(self.hidden)

    def __init__(self):
        super().__init__()
        self.net = self.Net()

    def loss(self, batch):
        return super().loss(batch) + 0.01 * self.net.hidden.pow(2).mean()


class MadeLate(Regression):
    """A backbone from the start, and a head that is made where the strategy wants it."""

    def __init__(self):
        super().__init__()
        self.net = self.net[:2]
        self.head = None

    def configure_model(self):
        if self.head is None:
            self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.net(x))


class PredictsDict(Regression):
    def predict_step(self, batch, batch_idx):
        return {"y": self(batch[0]), "number": batch_idx}


class PredictsTensor(Regression):
    def predict_step(self, batch, batch_idx):
        return self(batch[0])


class PredictsFromSeveral(Regression):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch[0])


class TwoPredictions(Plain):
    def predict_dataloader(self):
        return [super().predict_dataloader(), super().predict_dataloader()]
