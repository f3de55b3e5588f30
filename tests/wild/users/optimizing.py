# mypy: ignore-errors
"""Optimizers, schedules, and who decides by what."""

import copy

import lightning as L
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.wild.users.basic import Plain, Regression, xy


class Adam(Regression):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class LBFGS(Regression):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class OneCycle(Regression):
    """A schedule over the whole run, whose length the Trainer tells."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Plateau(Regression):
    """Lowers the learning rate by a value that is logged in each step."""

    interval = "step"
    monitor = "loss"

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
        entry = {"scheduler": scheduler, "interval": self.interval, "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": entry}


class PlateauOfValidation(Plateau):
    interval = "epoch"
    monitor = "val/loss"


class Manual(Regression):
    """Two optimizers by hand, with clipping and a scheduler."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.5)
            optimizer.step()
        self.log("loss", loss)
        if self.trainer.is_last_batch:
            self.lr_schedulers().step()

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD(self.net[i].parameters(), lr=0.05) for i in (0, 2)]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizers[0], 1)]


class ManualAccumulation(Manual):
    """Steps at every second batch."""

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers()
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2:
            for optimizer in (one, two):
                optimizer.step()
                optimizer.zero_grad()


class Skips(Regression):
    """Leaves out a step now and then."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx == 2 else super().training_step(batch, batch_idx)


class EndsEpochs(Regression):
    """Has had enough of an epoch after three batches."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


class Unfreezes(Regression):
    """A layer learns from the second epoch on; its optimizer knows it from the start."""

    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[0].requires_grad_(True)


class Freezes(Regression):
    """The other way: a layer rests from the second epoch on."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[0].requires_grad_(False)


class AddsGroups(Regression):
    """A layer comes to the optimizer in mid-run, without a callback's help."""

    def __init__(self):
        super().__init__()
        self.net[2].requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[0].parameters(), lr=0.05)

    def on_train_epoch_start(self):
        groups = self.optimizers().param_groups
        if self.current_epoch == 1 and len(groups) == 1:
            self.net[2].requires_grad_(True)
            self.optimizers().add_param_group({"params": list(self.net[2].parameters())})


class Thaw(BaseFinetuning):
    """A finetuning schedule: one layer after the other."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.01)


class Finetuned(Regression):
    def configure_optimizers(self):
        learning = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(learning, lr=0.05)


class StopsOne(Regression):
    """The first rank asks for the run's end."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.is_global_zero and self.global_step == 3:
            self.trainer.should_stop = True


class StopsAll(Regression):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 3:
            self.trainer.should_stop = True


class OwnAverage(Regression):
    """An average of the weights, moved on after each batch, in the model's own hook."""

    def __init__(self):
        super().__init__()
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for mean, weight in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.data.lerp_(weight.data, 0.1)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", nn.functional.mse_loss(self.average(x), y))


class SwapsAverage(L.Callback):
    """An average of the weights that takes their place during validation."""

    def on_fit_start(self, trainer, pl_module):
        if not hasattr(self, "average"):
            self.average = [p.detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for mean, weight in zip(self.average, pl_module.parameters(), strict=True):
            mean.lerp_(weight.detach().to(mean.device), 0.1)

    def on_validation_start(self, trainer, pl_module):
        self.swap(pl_module)

    def on_validation_end(self, trainer, pl_module):
        self.swap(pl_module)

    def swap(self, pl_module):
        for mean, weight in zip(self.average, pl_module.parameters(), strict=True):
            kept = weight.detach().clone()
            weight.data.copy_(mean)
            mean.copy_(kept)

    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state):
        self.average = state["average"]


class Curriculum(Regression):
    """A switch that is set as an epoch starts, and acts in its steps."""

    weight = 0.0

    def on_train_epoch_start(self):
        self.weight = 0.1 * (self.current_epoch + 1)

    def training_step(self, batch, batch_idx):
        penalty = self.net[0].weight.pow(2).mean()
        return super().training_step(batch, batch_idx) + self.weight * penalty


class Words(Plain):
    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(0, 9, (self.length, 3), generator=generator)
        self.train = TensorDataset(words, words.sum(1, keepdim=True).double() / 9)
        self.val = TensorDataset(*self.train[:13])

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size)


class Embeds(Regression):
    """An embedding with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.EmbeddingBag(9, 4, mode="sum", sparse=True), nn.Linear(4, 1))


class Hyper(Regression):
    """Keeps its arguments."""

    def __init__(self, lr: float = 0.02, sizes: tuple = (6, 1), name: str = "linear"):
        super().__init__(lr)
        self.save_hyperparameters()
        self.net = nn.Linear(*self.hparams.sizes)


class HyperData(Plain):
    def __init__(self, length: int = 43, seed: int = 8):
        super().__init__(length)
        self.save_hyperparameters()

    def setup(self, stage):
        super().setup(stage)
        self.train = TensorDataset(*xy(self.hparams.length, seed=self.hparams.seed))


class OfWidth(Regression):
    """Reads its hyperparameters back, as libraries do."""

    def __init__(self, hidden_size=8, depth=1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(6, self.hparams.hidden_size),
            *(nn.Tanh() for _ in range(self.hparams.depth)),
            nn.Linear(self.hparams.hidden_size, 1),
        )


class Wider(OfWidth):
    """Gives its base class other arguments than it is given."""

    def __init__(self, width: int = 3):
        super().__init__(hidden_size=2 * width, depth=2)
