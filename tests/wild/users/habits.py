# mypy: ignore-errors
"""Habits from plain PyTorch, from templates, and from the time before Lightning."""

import copy
import io
import os

import lightning as L
import torch
import torchmetrics
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Subset

from tests.wild.users.basic import Plain, Regression, xy


class ByHand(Regression):
    """Calls `loss.backward()`, as in plain PyTorch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.go_back(loss)
        optimizer.step()
        self.log("loss", loss)

    def go_back(self, loss):
        loss.backward()


class LBFGSByHand(ByHand):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        self.log("loss", optimizer.step(closure))

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=5)


class Twice(torch.optim.SGD):
    """Takes two steps at once, each by a loss of its own."""

    def step(self, closure=None):
        super().step(closure)
        return super().step(closure)


class AsksAgain(Regression):
    def configure_optimizers(self):
        return Twice(self.parameters(), lr=0.01)


class CompilesItself(Regression):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager", fullgraph=True)


class Scripted(Regression):
    def __init__(self):
        super().__init__()
        self.net = torch.jit.script(self.net)


class Exports(Regression):
    """Copies, saves and scripts its net, in a step and outside of it; keeps losses meanwhile."""

    def training_step(self, batch, batch_idx):
        self.kept = [super().training_step(batch, batch_idx)]  # no copy can be made of its graph
        self.export("step")
        return self.kept[0]

    def on_validation_end(self):
        self.export("validation")

    def on_train_end(self):
        self.export("end")

    def export(self, when):
        twin, file = copy.deepcopy(self.net), io.BytesIO()
        x = torch.ones(4, 6, dtype=self.dtype, device=self.device)
        assert torch.equal(twin(x), torch.jit.script(self.net)(x))
        torch.save(self.net, file)
        self.trainer.callback_metrics[f"bytes/{when}"] = torch.tensor(float(file.tell()))


class SumsUp(Regression):
    """A loss that grows with the batch."""

    def __init__(self):
        super().__init__(lr=0.002)

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self(x), y, reduction="sum")


class ClampsGradients(Regression):
    """Clips each gradient as it comes."""

    def __init__(self):
        super().__init__()
        for parameter in self.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))


class BySamplesSeen(Regression):
    """A learning rate that goes by the samples seen so far."""

    seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += len(batch[0])
        for group in self.optimizers().param_groups:
            group["lr"] = 0.05 / (1 + self.seen / 20)
        return super().training_step(batch, batch_idx)


class LogsAsItBegins(Regression):
    def on_train_batch_start(self, batch, batch_idx):
        self.log("target", batch[1].mean(), on_step=False, on_epoch=True)


class Flips(Regression):
    """Mixes a batch with itself, turned over."""

    def loss(self, batch):
        return super().loss([0.7 * one + 0.3 * one.flip(0) for one in batch])


class NoValidation(Plain):
    def val_dataloader(self):
        return []


class OwnPart(Plain):
    """Gives each process its part of what is tested."""

    def test_dataloader(self):
        trainer = self.trainer
        part = range(trainer.global_rank, len(self.val), trainer.world_size)
        return DataLoader(Subset(self.val, part), batch_size=5)


class PerDevice(Plain):
    """A batch size per device, as templates have it."""

    def setup(self, stage):
        super().setup(stage)
        self.batch_size = 12 // self.trainer.world_size


class Augmented(Dataset):
    def __init__(self, length):
        self.x, self.y = xy(length)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + 0.1 * torch.randn(6), self.y[index]


class Augments(Plain):
    def setup(self, stage):
        super().setup(stage)
        self.train = Augmented(self.length)


class KeepsWorkers(Plain):
    def train_dataloader(self):
        return DataLoader(
            self.train,
            self.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(3),
            num_workers=1,
            persistent_workers=True,
            multiprocessing_context="fork",
        )


class Ranks(Regression):
    """A metric whose states are lists, with an entry for each batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.auroc = torchmetrics.AUROC(task="multiclass", num_classes=3)
        self.hits = torchmetrics.retrieval.RetrievalHitRate()

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x), self.label(y))

    def label(self, y):
        return (y.squeeze(1) > 0).long()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x).softmax(1)
        self.auroc.update(scores, self.label(y))
        self.hits.update(scores[:, 1], self.label(y), indexes=self.label(y))
        self.log_dict({"val/auroc": self.auroc, "val/hits": self.hits})


class Probe(L.Callback):
    """Trains a net of its own on what the model makes of its input."""

    def __init__(self):
        self.net = nn.Linear(8, 1)
        nn.init.constant_(self.net.weight, 0.1)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        x, y = batch
        features = pl_module.net[:2](x).detach().to(self.net.weight)
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.net(features), y.to(features)).backward()
        self.optimizer.step()


class OnlineLayer(L.Callback):
    """Puts a layer into the model, and trains it itself."""

    def on_fit_start(self, trainer, pl_module):
        pl_module.online = nn.Linear(6, 1).to(pl_module.device, pl_module.dtype)
        nn.init.constant_(pl_module.online.weight, 0.1)
        self.optimizer = torch.optim.SGD(pl_module.online.parameters(), 0.1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        x, y = batch
        nn.functional.mse_loss(pl_module.online(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def on_train_end(self, trainer, pl_module):
        del pl_module.online  # each rank's own


class KeepsSpare(Regression):
    """Has a layer that its step leaves out."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(6, 8)


class Peeks(Regression):
    """Keeps a batch to show, as training starts."""

    def on_train_start(self):
        self.shown = next(iter(self.trainer.train_dataloader))[0][:2]


class ClipsEachBatch(Regression):
    """Clips after each backward pass, also of batches that are accumulated."""

    def on_after_backward(self):
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class ClipsInBackward(Regression):
    def backward(self, loss):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class Norms(L.Callback):
    def on_after_backward(self, trainer, pl_module):
        self.norm = sum(p.grad.norm() for p in pl_module.parameters() if p.grad is not None)


class NormsOnFirst(Regression):
    """Only the first process looks at gradients."""

    def configure_callbacks(self):
        return [Norms()] if os.environ.get("LOCAL_RANK", "0") == "0" else []


class Recomputes(ByHand):
    """Keeps no activations, in the way of old."""

    def forward(self, x):
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=True)

    def go_back(self, loss):
        self.manual_backward(loss)


class GathersLosses(Regression):
    """Keeps a list of the losses, and means them at the end."""

    def on_validation_epoch_start(self):
        self.losses = []

    def validation_step(self, batch, batch_idx):
        self.losses.append(self.loss(batch))

    def on_validation_epoch_end(self):
        self.log("val/loss", self.all_gather(torch.stack(self.losses)).mean())


class GathersAfterwards(Regression):
    def validation_step(self, batch, batch_idx):
        return self.loss(batch)

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        self.log("val/loss", self.all_gather(outputs).mean())
