# mypy: ignore-errors
"""torchmetrics objects as people use them: logged, called, in collections, computed by hand."""

import torch
from torch import nn
from torchmetrics import (
    MeanAbsoluteError,
    MeanMetric,
    Metric,
    MetricCollection,
    MetricTracker,
    PearsonCorrCoef,
    SumMetric,
)
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.wild.users.basic import Regression
from tests.wild.users.logs import Classifier


class OwnTrainLoss(Regression):
    """Logs a `train/loss` of its own, and a metric that it computes by hand."""

    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.mean.update(loss.detach(), weight=len(batch[0]))
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log("train/mean", self.mean.compute())
        self.mean.reset()


class Metrics(Classifier):
    """torchmetrics objects, logged as such, in a collection, and computed by hand."""

    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(3, average="micro")
        self.several = MetricCollection(
            {"macro": MulticlassAccuracy(3), "micro": MulticlassAccuracy(3, average="micro")},
            prefix="val/",
        )
        self.by_hand = MeanAbsoluteError()

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.accuracy(self(x), y)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        super().validation_step(batch, batch_idx)
        self.several.update(self(x), y)
        self.log_dict(self.several)
        self.by_hand.update(self(x).argmax(1), y)

    def on_validation_epoch_end(self):
        self.log("val/distance", self.by_hand.compute())
        self.by_hand.reset()


class Averages(Regression):
    """torchmetrics' averages of what is a mean already: of the loss, or of sizes and samples."""

    def __init__(self):
        super().__init__()
        names = ("called", "updated", "by_hand", "by_size", "by_full_size", "of_samples", "looped")
        self.means = nn.ModuleDict({name: MeanMetric() for name in (*names, "val", "val_looped")})

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = (self(x) - y).square().flatten()
        loss = losses.mean()
        self.means["called"](loss)
        for name in ("updated", "by_hand"):
            self.means[name].update(loss.detach())
        self.means["by_size"].update(loss, weight=len(x))
        self.means["by_full_size"].update(loss, 10)
        self.means["of_samples"](losses)
        for one in losses:
            self.means["looped"](one)
        for name, metric in self.means.items():
            if not name.startswith(("by_hand", "val")):
                self.log(name, metric, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log("by_hand", self.means["by_hand"].compute())
        self.means["by_hand"].reset()

    def validation_step(self, batch, batch_idx):
        losses = (self(batch[0]) - batch[1]).square()
        self.means["val"](losses.mean())
        self.log("val/mean", self.means["val"])
        for one in losses:
            self.means["val_looped"](one)
        self.log("val/looped", self.means["val_looped"])


class AveragesInMidEpoch(Regression):
    """Computes the mean of the last two losses."""

    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.mean.update(loss.detach())
        if batch_idx % 2:
            self.log("mean", self.mean.compute())
            self.mean.reset()
        return loss


class CountsAfterSteps(Regression):
    """Counts samples where a batch ends."""

    def __init__(self):
        super().__init__()
        self.seen = SumMetric()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.update(len(batch[0]))

    def on_train_epoch_end(self):
        self.log("seen", self.seen.compute())
        self.seen.reset()


class OfEachSample(Regression):
    """Gives a mean the loss of each sample."""

    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = (self(x) - y).square().mean(1)
        self.mean.update(losses)
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return losses.mean()


class LogsReturned(Classifier):
    """Logs what torchmetrics objects return for a batch: an F1, which is no mean, and a mean."""

    def __init__(self):
        super().__init__()
        self.f1 = MulticlassF1Score(3)
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        scores = self(batch[0])
        self.log("val/accuracy", self.accuracy(scores, batch[1]))
        self.log("val/f1", self.f1(scores, batch[1]))


class LogsReturnedAtOnce(Classifier):
    """Logs what an F1 returns for a training batch, as `self.log` does by default: per step."""

    def __init__(self):
        super().__init__()
        self.f1 = MulticlassF1Score(3)

    def training_step(self, batch, batch_idx):
        self.log("train/f1", self.f1(self(batch[0]), batch[1]))
        return super().training_step(batch, batch_idx)


class ComputesAtOnce(Classifier):
    """Computes a metric in each step, of all that it has seen so far."""

    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def validation_step(self, batch, batch_idx):
        self.accuracy.update(self(batch[0]), batch[1])
        self.log("val/so_far", self.accuracy.compute())


class GathersPredictions(Regression):
    def predict_step(self, batch, batch_idx):
        return self.all_gather(self(batch[0]).mean())


class LogsReturnedMean(Classifier):
    """The same of a mean over samples alone."""

    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(3, average="micro")
        self.error = MeanAbsoluteError()

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        scores = self(batch[0])
        self.log("val/accuracy", self.accuracy(scores, batch[1]))
        self.log("val/error", self.error(scores.argmax(1), batch[1]), on_step=True, on_epoch=True)


class LogsCollection(Classifier):
    """Logs what a collection returns for a batch that is trained on."""

    def __init__(self):
        super().__init__()
        self.several = MetricCollection([MulticlassAccuracy(3), MulticlassF1Score(3)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.log_dict(self.several(scores, y))
        return nn.functional.cross_entropy(scores, y)


class LogsAsItEnds(Regression):
    """Logs an object as the epoch ends, and not in the step."""

    def __init__(self):
        super().__init__()
        self.mae = MeanAbsoluteError()

    def training_step(self, batch, batch_idx):
        self.mae(self(batch[0]), batch[1])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.log("mae", self.mae)


class Tracks(Classifier):
    """Keeps the best of all epochs."""

    def __init__(self):
        super().__init__()
        self.tracker = MetricTracker(MulticlassAccuracy(3, average="micro"))

    def on_validation_epoch_start(self):
        self.tracker.increment()

    def validation_step(self, batch, batch_idx):
        self.tracker.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        self.log("val/best", self.tracker.best_metric())


class Correlates(Regression):
    def __init__(self):
        super().__init__()
        self.correlation = PearsonCorrCoef()

    def validation_step(self, batch, batch_idx):
        self.correlation.update(self(batch[0]).flatten(), batch[1].flatten())
        self.log("val/correlation", self.correlation)


class MeanOfBatches(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("errors", [], dist_reduce_fx=None)

    def update(self, errors):
        self.errors.append(errors.abs())

    def compute(self):
        return torch.stack([errors.mean() for errors in self.errors]).mean()


class EntryByEntry(Regression):
    def __init__(self):
        super().__init__()
        self.error = MeanOfBatches()

    def validation_step(self, batch, batch_idx):
        self.error.update(self(batch[0]) - batch[1])
        self.log("val/error", self.error)
