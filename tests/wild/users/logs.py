# mypy: ignore-errors
"""`self.log` as people write it: under conditions, with sizes of their own, from few ranks."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.wild.users.basic import Plain, Regression, xy


class FirstEpoch(Regression):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if self.current_epoch == 0:
            self.log("early", loss)
        return loss


class EverySeventh(Regression):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step % 7 == 0:
            self.log("seventh", loss)
        return loss


class OnlyLarge(Regression):
    """Logs a value where it is large, which each rank decides by its own."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if loss > 3:
            self.log("large", loss, on_step=False, on_epoch=True)
        return loss


class OnlyLargeValidation(Regression):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if batch[1].max() > 3.3:  # on some ranks only
            self.log("val/large", batch[1].max())


class FirstRank(Regression):
    """Logs more on the first rank, without saying `rank_zero_only`."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.is_global_zero:
            self.log("extra", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if self.trainer.is_global_zero:
            self.log("val/extra", self.loss(batch))


class FirstRankOnly(Regression):
    """The same, said so."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if self.trainer.is_global_zero:
            self.log("val/extra", self.loss(batch), rank_zero_only=True)


class Labels(Plain):
    """Three classes; most batches do not have them all, and the third is in no first half."""

    def setup(self, stage):
        x, _ = xy(self.length)
        labels = torch.arange(self.length).div(15, rounding_mode="floor").clamp(max=1)
        labels[::7] = 1
        labels[9::10] = 2
        self.train = TensorDataset(x, labels)
        self.val = TensorDataset(*self.train[:13])

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=5)


class SixToValidate(Labels):
    """The last batch of a validation has one sample."""

    def setup(self, stage):
        super().setup(stage)
        self.val = TensorDataset(*self.train[:6])


class Classifier(Regression):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)


class ByClass(Classifier):
    """A loss for each class that the batch has."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = nn.functional.cross_entropy(self(x), y, reduction="none")
        for label in y.unique().tolist():
            of_label = losses[y == label]
            self.log(f"class/{label}", of_label.mean(), on_step=False, on_epoch=True)
        return losses.mean()


class ByClassValidation(Classifier):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        losses = nn.functional.cross_entropy(self(x), y, reduction="none")
        for label in y.unique().tolist():
            of_label = losses[y == label]
            self.log(f"val/class_{label}", of_label.mean(), batch_size=len(of_label))


class ConstantSize(Regression):
    """Gives the loader's batch size to `self.log`; the last batch is shorter."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=10)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=5)


class TrueSize(Regression):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=len(batch[0]))


class Both(Regression):
    """Per step and per epoch, a dict at once, on the bar, and sums."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("both", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"twice": 2 * loss, "more": loss + 1}, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), on_step=True, on_epoch=True)
        self.log("val/sync", self.loss(batch), sync_dist=True)


class GathersEach(Regression):
    """Keeps a list of the losses, and gathers them one by one."""

    def on_validation_epoch_start(self):
        self.losses = []

    def validation_step(self, batch, batch_idx):
        self.losses.append(self.loss(batch))

    def on_validation_epoch_end(self):
        losses = self.all_gather(self.losses)
        if self.trainer.is_global_zero:
            self.log("val/loss", torch.stack(losses).mean(), rank_zero_only=True)


class Gathers(Regression):
    """Sums over all ranks, put together by hand at the epoch's end."""

    def on_validation_epoch_start(self):
        self.total, self.number = torch.zeros(2, 1, device=self.device)

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.total += loss * len(batch[0])
        self.number += len(batch[0])

    def on_validation_epoch_end(self):
        total, number = self.all_gather(self.total).sum(), self.all_gather(self.number).sum()
        self.log("val/loss", total / number)


class Collects(Regression):
    """Keeps a list of what its steps computed, as in the guides for moving to Lightning 2."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.outputs.append(loss)
        return loss

    def on_validation_epoch_end(self):
        self.log("val/loss", torch.stack(self.outputs).mean())
        self.outputs.clear()


class CollectsSynced(Collects):
    """The same with `sync_dist=True`."""

    def on_validation_epoch_end(self):
        self.log("val/loss", torch.stack(self.outputs).mean(), sync_dist=True)
        self.outputs.clear()


class EvenValidation(Plain):
    """Batches that two and three ranks split evenly."""

    def val_dataloader(self):
        return DataLoader(TensorDataset(*xy(18, seed=2)), batch_size=6)


class StepDicts(Regression):
    """Values in nested dicts straight to the logger, as TensorBoard's `add_scalars` takes them."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if batch_idx == 0:
            for logger in self.loggers:
                logger.log_metrics({"parts": {"a": 1.0, "b": 2.0}}, step=self.global_step)
        return loss


class Smallest(Regression):
    """Logs with another reduction than the mean."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        options = {"on_step": False, "on_epoch": True}
        self.log("smallest", x.min(), reduce_fx="min", **options)
        self.log("largest", x.max(), reduce_fx="max", **options)
        self.log("count", float(len(x)), reduce_fx="sum", **options)
        self.log("counted", float(len(x)), reduce_fx="sum", sync_dist=True)
        return self.loss(batch)


class BesideTheStep(Regression):
    """Logs a step's loss after it."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("after", outputs["loss"], on_step=True)
