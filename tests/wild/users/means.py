# mypy: ignore-errors
"""Losses that are means over something other than the samples of a batch."""

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tests.wild.users.basic import Plain, Regression, xy


class Sentences(Plain):
    """Labels of words; padding has the label -100, which cross_entropy leaves out of its mean."""

    val_batch_size = 13

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)

        def sentences(number):
            lengths = torch.randint(1, 6, (number,), generator=generator)
            x = torch.randn(number, 5, 6, generator=generator)
            labels = x[..., :3].argmax(-1)
            return TensorDataset(x, labels.masked_fill(torch.arange(5) >= lengths[:, None], -100))

        self.train, self.val = sentences(self.length), sentences(self.val_length)

    def val_dataloader(self):
        return DataLoader(self.val, self.val_batch_size)


class SentencesInBatches(Sentences):
    """Validation in several batches, of other numbers of words each."""

    val_batch_size = 5


class Tagger(Regression):
    """A mean over words."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x).flatten(0, 1), y.flatten())

    def loss_is_mean_over(self, batch):
        return (batch[1] != -100).sum()


class TaggerLogs(Tagger):
    """Logs per step and epoch, and by a number that is none of words or samples."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("alike", loss, on_step=False, on_epoch=True, batch_size=8)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/alike", self.loss(batch), batch_size=8)


class Weighted(Tagger):
    """Class weights: the mean is over their sum."""

    def __init__(self):
        super().__init__()
        self.register_buffer("class_weights", torch.tensor([1.0, 5.0, 0.2]))

    def loss(self, batch):
        x, y = batch
        weights = self.class_weights.to(x.dtype)
        return nn.functional.cross_entropy(self.net(x).flatten(0, 1), y.flatten(), weights)

    def loss_is_mean_over(self, batch):
        labels = batch[1]
        return self.class_weights[labels[labels != -100]].sum()


class Masked(Tagger):
    """A masked mean, computed by hand; the weight is a plain number."""

    def loss(self, batch):
        x, y = batch
        mask = y != -100
        return (self.net(x)[..., 0].sub(1).pow(2) * mask).sum() / mask.sum()

    def loss_is_mean_over(self, batch):
        return int((batch[1] != -100).sum())


class SomeMissing(Plain):
    """Some samples cannot be read, and collate drops them."""

    def setup(self, stage):
        super().setup(stage)
        x, y = xy(self.length)
        bad = {1, 2, 3, 12, 27, 31, 32}
        self.train = [None if i in bad else (x[i], y[i]) for i in range(self.length)]

    def train_dataloader(self):
        def collate(samples):
            return default_collate([sample for sample in samples if sample is not None])

        return DataLoader(self.train, self.batch_size, collate_fn=collate)


class CountsSamples(Regression):
    """Says how many samples are left."""

    def loss_is_mean_over(self, batch):
        return len(batch[0])


class Triples(Plain):
    """Collate makes three samples of each."""

    def train_dataloader(self):
        def collate(samples):
            x, y = default_collate(samples)
            return x.repeat(3, 1), y.repeat(3, 1)

        return DataLoader(self.train, self.batch_size, collate_fn=collate)


class Compares(Regression):
    """Each sample of a batch is to be told from the others by another view of it."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        one, two = self.views(self.net[:2](x), self.net[:2](x + 0.1))
        loss = nn.functional.cross_entropy(one @ two.T, torch.arange(len(one), device=one.device))
        loss = loss + super().training_step(batch, batch_idx)
        return loss

    def views(self, one, two):
        return one, two


class ComparesAll(Compares):
    """The same, with what the other processes have."""

    def views(self, *both):
        return [self.all_gather(view, sync_grads=True).flatten(0, -2) for view in both]


class GathersByTorch(ComparesAll):
    """The same, by torch's own function, as in many copies of one gathering layer."""

    def views(self, *both):
        number = dist.get_world_size() if dist.is_initialized() else 1
        if number == 1:
            return both
        gathered = [[torch.zeros_like(view) for _ in range(number)] for view in both]
        for parts, view in zip(gathered, both, strict=True):
            self.gather(parts, view)
        return [torch.cat(parts) for parts in gathered]

    def gather(self, parts, view):
        dist.all_gather(parts, view.detach())


class PutsOwnBack(GathersByTorch):
    """The same, with this process's own in its place, so that there are gradients."""

    def gather(self, parts, view):
        dist.all_gather(parts, view)
        parts[dist.get_rank()] = view


class LogsGathered(Compares):
    """Gathers what it logs, and compares the samples of its own process alone."""

    def views(self, one, two):
        self.log("train/view", self.all_gather(one.detach().mean()).mean())
        return one, two


class GathersMeans(Regression):
    """Follows the mean of what its net gives, over all processes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(1))

    def training_step(self, batch, batch_idx):
        mean = self(batch[0]).mean().detach()
        self.center.lerp_(self.all_gather(mean).double().mean(), 0.1)
        return super().training_step(batch, batch_idx)


class SumsUpCodes(Regression):
    """A codebook that follows running sums over all processes, as in many copies of one layer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("sizes", torch.ones(3, 1).double())
        self.register_buffer("sums", torch.linspace(-1, 1, 3)[:, None].repeat(1, 6).double())

    def training_step(self, batch, batch_idx):
        x, y = batch
        codes = self.sums / self.sizes
        nearest = nn.functional.one_hot(torch.cdist(x, codes).argmin(1), 3).to(x.dtype)
        for running, own in ((self.sizes, nearest.sum(0)[:, None]), (self.sums, nearest.T @ x)):
            if dist.is_initialized():
                dist.all_reduce(own)
            running.lerp_(own, 0.1)
        return super().training_step((x + 0.5 * nearest @ codes, y), batch_idx)


class Balanced(Regression):
    """Two losses, one weighed by their gradients' norms, as VQGAN's are."""

    def loss(self, batch):
        x, y = batch
        losses = nn.functional.mse_loss(self(x), y), nn.functional.l1_loss(self(x), y)
        if not self.training:
            return losses[0]
        weight = self.net[2].weight
        norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in losses]
        return losses[0] + norms[0] / norms[1] * losses[1]


class StandardTargets(Regression):
    """Targets relative to the batch's own, as advantages often are."""

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self(x), (y - y.mean()) / (y.std() + 1e-6))


class RunningMean(Regression):
    """A running mean of the loss, in a plain attribute, scales the next one."""

    mean = 1.0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.mean = 0.9 * self.mean + 0.1 * loss.item()
        return loss / self.mean


class Remembers(Regression):
    """A queue of the last features, in a plain attribute, that the loss keeps away from."""

    queue = None

    def training_step(self, batch, batch_idx):
        features = self.net[:2](batch[0])
        seen = features.detach()[:2] if self.queue is None else self.queue
        self.queue = torch.cat([features.detach(), seen])[:7]
        return super().training_step(batch, batch_idx) + (features @ seen.T).square().mean()


class WeighsSamples(Regression):
    """Divides by the sum of the samples' weights."""

    def loss(self, batch):
        x, y = batch
        weights = x[:, :1].abs()
        return (weights * (self(x) - y).square()).sum() / weights.sum()


class LearnsToLearn(Regression):
    """One step down the loss of the batch, inside of the step, as meta-learning does."""

    def loss(self, batch):
        x, y = batch
        parameters = dict(self.net.named_parameters())

        def after(parameters):
            return nn.functional.mse_loss(torch.func.functional_call(self.net, parameters, (x,)), y)

        gradients = torch.func.grad(after)(parameters)
        return after({name: p - 0.01 * gradients[name] for name, p in parameters.items()})
