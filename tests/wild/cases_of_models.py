"""Cases of modules, losses and logs."""

from typing import Any

from tests.wild.case import SEVERAL, Case, Refused, SameOr, callbacks, on

EPOCHS = {"max_epochs": 3}
# Continued in mid-epoch, Lightning does not call that hook again.
AT_EPOCHS_START = on(["stopped"], SameOr("on_train_epoch_start"))
METRICS = ("accuracy", "val/macro", "val/micro", "val/distance")
AVERAGES = (
    *("called", "updated", "by_hand", "by_size", "by_full_size", "of_samples", "looped"),
    *("val/mean", "val/looped"),
)
BUT_TWO = ("one", "dp2", "ddp3")
FINETUNING = "lightning.pytorch.callbacks.BackboneFinetuning"


def _told(line: str, model: str, **more: Any) -> Case:
    """On two processes it is told in a line with this in it; other layouts show nothing more."""
    return Case(model, right=on(SEVERAL, SameOr(line)), leave_out=BUT_TWO, **more)


CASES: dict[str, Case] = {
    # Lightning's documented examples.
    "autoencoder": Case("examples.AutoEncoder", "examples.Digits", stop_at=8),
    "GAN": Case("examples.GAN", "examples.Noisy", data_args={"length": 22, "batch_size": 5}),
    "transformer": Case("examples.LanguageModel", "examples.Text"),
    "image classifier": Case(
        "examples.ImageClassifier",
        "examples.Digits",
        {**EPOCHS, **callbacks((FINETUNING, {"unfreeze_backbone_at_epoch": 1}))},
        data_args={"length": 23, "batch_size": 5},
    ),
    # This project's own examples.
    "examples, digits": Case(
        "examples.digits.CNN",
        "examples.digits.Digits",
        data_args={"num_images": 101, "batch_size": 13},
        beside="one",
    ),
    "examples, text": Case(
        "examples.text.LetterModel", "examples.text.Lines", stop_at=6, beside="one"
    ),
    "examples, GAN": Case(
        "examples.gan.GAN",
        "examples.gan.Circle",
        data_args={"num_points": 53, "batch_size": 10},
        beside="one",
    ),
    # Layers.
    "CNN": Case("shapes.Convolves"),
    "BatchNorm": Case(
        "shapes.Normalized",
        data_args={"length": 32, "batch_size": 10},
        right=on(["dp2", *SEVERAL], Refused("leaves one of them a single sample")),
        stop_at=6,
    ),
    "BatchNorm, larger parts": Case(
        "shapes.Normalized",
        data_args={"length": 36},
        right=on(["dp2", *SEVERAL], SameOr("1.running_mean")),
    ),
    "dropout": Case("modules.DropsOut", right=on(["dp2", *SEVERAL], SameOr("random numbers"))),
    "noise in a test": _told("test_step draws random", "modules.DrawsInTest", subcommand="test"),
    "mixup by numpy": Case("modules.MixesUp", right=on(SEVERAL, SameOr("random numbers"))),
    "sums up codes, a rank idle": _told(
        "in all_reduce in SumsUpCodes.", "means.SumsUpCodes", data_args={"length": 41}
    ),
    "codebook in a buffer": Case("modules.Codebook", right=on(SEVERAL, SameOr("writes codes"))),
    "frozen BatchNorm": Case("shapes.FrozenNorm", flags=EPOCHS, right=AT_EPOCHS_START),
    "BatchNorm frozen once": Case("shapes.FrozenOnce", flags=EPOCHS),
    "sparse embedding": Case("optimizing.Embeds", "optimizing.Words"),
    "spectral norm": Case("modules.SpectralNorm"),
    "parametrized layers, a rank idle": Case("modules.Parametrized", data_args={"length": 41}),
    "a head made in configure_model": Case("modules.MadeLate", leave_out=("dp2", "ddp3")),
    # Forwards.
    "lazy layers": Case(
        "modules.Lazy",
        flags={"num_sanity_val_steps": 0},
        leave_out=SEVERAL,  # which DistributedDataParallel refuses
    ),
    "forward counts its calls": Case("modules.Counts"),
    "hooks on the outermost module": Case("modules.Hooked"),
    "an argument as long as a batch": Case(
        "modules.Prototypes", model_args={"lr": 0.005}, right=on(["dp2"], SameOr("dp"))
    ),
    "outputs are dataclasses": Case("modules.ReturnsDataclass", right=on(["dp2"], SameOr("dp"))),
    "outputs are distributions": Case(
        "modules.ReturnsDistribution", right=on(["dp2"], SameOr("dp"))
    ),
    "a module without input": Case("modules.WithoutInput"),
    "arguments by name": Case("modules.Keyword"),
    "a hook keeps activations": Case(
        "modules.KeepsActivations",
        right=on(["dp2"], SameOr("writes net.1.kept")),
        leave_out=("stopped", *SEVERAL),
    ),
    "forward writes an attribute": Case("modules.Remembers", right=on(["dp2"], SameOr("dp"))),
    "a tensor class of its own": Case("modules.OwnTensors"),
    # Losses.
    "loss of shape (1,)": Case("shapes.Vector"),
    "token means": Case("means.Tagger", "means.Sentences"),
    "token means, several batches": Case("means.Tagger", "means.SentencesInBatches"),
    "token means, logged in each way": Case("means.TaggerLogs", "means.SentencesInBatches"),
    "class weights": Case("means.Weighted", "means.Sentences"),
    "masked by hand": Case("means.Masked", "means.Sentences"),
    "token means, some ranks idle": Case(
        "means.Tagger", "means.Sentences", data_args={"length": 41, "batch_size": 5}, stop_at=11
    ),
    "a mean over nodes": Case(
        "batches.OfNodes",
        "batches.Graphs",
        in_float32=("val/mae",),
        right=on(SEVERAL, SameOr("the loss is a mean of")),
    ),
    "contrastive": Case("means.Compares", right=on(SEVERAL, SameOr("compares each sample"))),
    "contrastive, gathered": Case(
        "means.ComparesAll", right=on(SEVERAL, Refused("all_gather got tensors of the shapes"))
    ),
    "contrastive, gathered by torch": Case(
        "means.GathersByTorch", right=on(SEVERAL, Refused("all_gather got tensors of the shapes"))
    ),
    "contrastive, gathered, its own put back": Case(
        "means.PutsOwnBack",
        data_args={"length": 36, "batch_size": 12},
        right=on(SEVERAL, SameOr("gathers values of all processes without their gradients")),
    ),
    "contrastive, gathered for a log": Case(
        "means.LogsGathered",
        data_args={"length": 36, "batch_size": 12},
        right=on(SEVERAL, SameOr("compares each sample with the others")),
    ),
    "contrastive, gathered, equal parts": Case(
        "means.ComparesAll", data_args={"length": 36, "batch_size": 12}
    ),
    "gathers means": Case("means.GathersMeans", right=on(SEVERAL, SameOr("weigh means by that"))),
    "losses balanced by gradients": _told("takes gradients of the samples", "means.Balanced"),
    "standard targets": _told(
        "takes `std` over the samples", "means.StandardTargets", data_args={"length": 46}
    ),
    "a running mean scales the loss": _told("writes mean, each process", "means.RunningMean"),
    "a queue of features": _told("writes queue, each process", "means.Remembers"),
    "a mean over padded time": Case(
        "shapes.OverPaddedTime",
        "shapes.TimeMajorSequences",
        data_args={"length": 41, "val_length": 5},  # one batch: Lightning weighs by time
    ),
    "weights of samples": _told("the loss is a sum divided by", "means.WeighsSamples"),
    "meta-learning": Case(
        "means.LearnsToLearn",
        right=on(SEVERAL, SameOr("takes gradients of the samples by")),
        leave_out=("one", "ddp3"),
    ),
    # Logs.
    "logs beside the step": _told("in a hook beside the step", "logs.BesideTheStep"),
    "averages of the last losses": _told(
        "MeanMetric that is computed within an epoch",
        "metrics.AveragesInMidEpoch",
        data_args={"batch_size": 9},
    ),
    "counts after steps, a rank idle": _told(
        "CountsAfterSteps.on_train_batch_end counts them again",
        "metrics.CountsAfterSteps",
        data_args={"length": 41},
    ),
    "averages of samples, one a rank": _told(
        "nothing tells whether it is given means",
        "metrics.OfEachSample",
        data_args={"length": 9, "batch_size": 2},
        in_float32=("mean",),
    ),
    "logs in the first epoch": Case("logs.FirstEpoch", stop_at=3),
    "logs every seventh step": Case("logs.EverySeventh", flags=EPOCHS, stop_at=5),
    "logs large losses": Case("logs.OnlyLarge", values_differ=("large",), leave_out=("stopped",)),
    "logs large values in validation": Case(
        "logs.OnlyLargeValidation", values_differ=("val/large",)
    ),
    "first rank logs more": Case("logs.FirstRank", values_differ=("extra", "val/extra")),
    "first rank logs more, and says so": Case("logs.FirstRankOnly", values_differ=("val/extra",)),
    "names by class": Case(
        "logs.ByClass",
        "logs.Labels",
        values_differ=("class/0", "class/1", "class/2"),
        leave_out=("stopped",),
    ),
    "names by class in validation": Case(
        "logs.ByClassValidation",
        "logs.Labels",
        values_differ=("val/class_0", "val/class_1", "val/class_2"),
    ),
    "batch_size= of the loader": Case("logs.ConstantSize", leave_out=("stopped",)),
    "batch_size= of the batch": Case("logs.TrueSize"),
    "per step and per epoch": Case(
        # In validation, a value per step is that of a rank's own shard, as with Lightning.
        "logs.Both",
        leave_out=("stopped",),
        values_differ=("val/loss_step",),
    ),
    "epoch means over a stop": Case(
        "logs.Both",
        leave_out=("one", "dp2", *SEVERAL),
        right=on(["stopped"], SameOr("this epoch's values of")),
    ),
    "own train/loss": Case(
        "metrics.OwnTrainLoss", in_float32=("train/mean",), leave_out=("stopped",)
    ),
    "torchmetrics": Case(
        "metrics.Metrics", "logs.Labels", in_float32=METRICS, leave_out=("stopped",)
    ),
    "metrics over a stop": Case(
        "metrics.Metrics",
        "logs.Labels",
        leave_out=("one", "dp2", *SEVERAL),
        right=on(["stopped"], SameOr("this epoch's values of")),
    ),
    "averages of means": Case(
        "metrics.Averages",
        data_args={"length": 42, "val_length": 11},
        in_float32=AVERAGES,
        leave_out=("stopped",),
    ),
    "a metric's own value": Case(
        "metrics.LogsReturned",
        "logs.Labels",
        in_float32=("val/accuracy", "val/f1"),
        right=on(SEVERAL, SameOr("val/f1: what a MulticlassF1Score returns")),
    ),
    "a metric's own value of a step": Case(
        "metrics.LogsReturnedAtOnce",
        "logs.Labels",
        leave_out=("ddp3",),  # where the first batch's F1 is by chance the mean of its parts
        right=on(SEVERAL, SameOr("train/f1: what a MulticlassF1Score returns")),
    ),
    "computes in a step without samples": Case(
        "metrics.ComputesAtOnce",
        "logs.SixToValidate",
        right=on(SEVERAL, Refused("accuracy.compute() in validation_step waits for all")),
        leave_out=("one", "stopped", "dp2"),
    ),
    "gathers in a step without samples": Case(
        "metrics.GathersPredictions",
        data_args={"val_length": 11},
        subcommand="predict",
        right=on(SEVERAL, Refused("all_gather in predict_step waits for all")),
        leave_out=("one", "dp2"),
    ),
    "a metric's own value, a mean": Case(
        "metrics.LogsReturnedMean",
        "logs.Labels",
        in_float32=("val/accuracy", "val/error_epoch"),
        values_differ=("val/error_step",),
    ),
    "a collection's own values": _told(
        "what a MulticlassAccuracy returns", "metrics.LogsCollection", data="logs.Labels"
    ),
    "MetricTracker": Case(
        "metrics.Tracks",
        "logs.Labels",
        EPOCHS,
        leave_out=("one", "dp2", *SEVERAL),
        right=on(["stopped"], SameOr("a MetricTracker saves nothing")),
    ),
    "a list, entry by entry": _told(
        "MeanOfBatches.compute goes by entries",
        "metrics.EntryByEntry",
        data_args={"val_length": 11},
    ),
    "correlation of a sample each": _told(
        "is NaN, as a PearsonCorrCoef may be",
        "metrics.Correlates",
        data_args={"val_length": 2},
        in_float32=("val/correlation",),
    ),
    "all_gather": Case("logs.Gathers", in_float32=("val/loss",)),
    "validation_step_outputs": Case(
        "logs.Collects",
        "logs.EvenValidation",
        in_float32=("val/loss",),
        # The mean of a rank's own batches: which it is of cannot be seen.
        right=on(SEVERAL, SameOr("differs between ranks")),
    ),
    "validation_step_outputs, synced": _told(
        "is a mean over ranks", "logs.CollectsSynced", in_float32=("val/loss",)
    ),
    "dicts for the logger": Case("logs.StepDicts"),
    "smallest, largest, count": Case(
        "logs.Smallest", data_args={"length": 41}, leave_out=("stopped",)
    ),
    # Manual optimization and steps left out.
    "manual optimization": Case("optimizing.Manual"),
    "manual accumulation": Case("optimizing.ManualAccumulation", data_args={"batch_size": 9}),
    "training_step returns None": Case(
        "optimizing.Skips", right=on(SEVERAL, Refused("returned no loss"))
    ),
    "on_train_batch_start returns -1": Case(
        "optimizing.EndsEpochs", flags=EPOCHS, data_args={"batch_size": 9}, stop_at=4
    ),
    "LBFGS": Case("optimizing.LBFGS", right=on(SEVERAL, Refused("LBFGS decides by the loss"))),
    # Layers that begin or cease to learn.
    "unfreezes a layer": Case("optimizing.Unfreezes", flags=EPOCHS, right=AT_EPOCHS_START),
    "freezes a layer": Case("optimizing.Freezes", flags=EPOCHS, right=AT_EPOCHS_START),
    "adds to the optimizer": Case(
        "optimizing.AddsGroups",
        flags=EPOCHS,
        leave_out=("stopped",),  # Lightning cannot load such an optimizer's state
    ),
    "finetuning schedule": Case(
        "optimizing.Finetuned", flags={**EPOCHS, **callbacks("optimizing.Thaw")}
    ),
}
