"""Cases of what people carry over from elsewhere, and of Lightning's own callbacks for that."""

from tests.wild.case import SEVERAL, Case, Refused, SameOr, callbacks, on

REGRESSION = "basic.Regression"
EPOCHS = {"max_epochs": 3}
OF = "lightning.pytorch.callbacks."
BUT_TWO = ("one", "dp2", "ddp3", "stopped")
BUT_SEVERAL = ("dp2", *SEVERAL)
FINDER = (f"{OF}LearningRateFinder", {"num_training_steps": 8, "max_lr": 0.5})
PRUNING = (f"{OF}ModelPruning", {"pruning_fn": "l1_unstructured", "amount": 0.3})

CASES: dict[str, Case] = {
    "loss.backward() by hand": Case(
        "habits.ByHand",
        right=on(SEVERAL, Refused("`loss.backward()` in place of")),
        leave_out=BUT_TWO,
    ),
    "LBFGS by hand": Case(
        "habits.LBFGSByHand",
        right=on(SEVERAL, Refused("LBFGS decides by the loss")),
        leave_out=BUT_TWO,
    ),
    "asks for the loss again": Case(
        "habits.AsksAgain",
        right=on(SEVERAL, Refused("ran again on the same batch")),
        leave_out=BUT_TWO,
    ),
    "compiles itself": Case(
        "habits.CompilesItself", leave_out=("stopped", "dp2", "ddp3"), timeout_s=60
    ),
    "scripted": Case("habits.Scripted", leave_out=("stopped", "ddp3")),
    "exports its net": Case("habits.Exports", leave_out=("stopped", "ddp3")),
    "a callback trains a probe": Case(
        REGRESSION,
        flags=callbacks("habits.Probe"),
        right=on(SEVERAL, SameOr("Probe.net: each process trains it on its own samples")),
        leave_out=BUT_TWO,
    ),
    "a callback adds a layer": Case(
        REGRESSION,
        flags=callbacks("habits.OnlineLayer"),
        right=on(SEVERAL, SameOr("online.weight, online.bias: each process trains it")),
        leave_out=BUT_TWO,
    ),
    "a callback adds a layer, and one thaws": Case(
        "optimizing.Unfreezes",
        flags={**EPOCHS, **callbacks("habits.OnlineLayer")},
        right=on(SEVERAL, SameOr("online.weight, online.bias: each process trains it")),
        leave_out=BUT_TWO,
    ),
    "a layer without a part in the loss": Case(
        "habits.KeepsSpare",
        right=on(SEVERAL, Refused("had no part in the last step's loss")),
        leave_out=BUT_TWO,
    ),
    "looks at a batch as it starts": Case("habits.Peeks", leave_out=("one", "dp2", "ddp3")),
    "a sum for a loss": Case(
        "habits.SumsUp",
        right=on(SEVERAL, SameOr("the loss is a sum over samples")),
        leave_out=BUT_TWO,
    ),
    "a rate by samples seen": Case(
        "habits.BySamplesSeen",
        data_args={"length": 40},
        right=on(SEVERAL, SameOr("seen: a count of each process's own samples")),
        leave_out=BUT_TWO,
    ),
    "logs as a batch begins, a rank idle": Case(
        "habits.LogsAsItBegins",
        data_args={"length": 41},
        right=on(SEVERAL, SameOr("LogsAsItBegins.on_train_batch_start counts them again")),
        leave_out=BUT_TWO,
    ),
    "mixes a batch with itself": Case(
        "habits.Flips",
        right=on(SEVERAL, SameOr("takes `flip` over the samples")),
        leave_out=BUT_TWO,
    ),
    "an empty list of loaders": Case(REGRESSION, "habits.NoValidation", leave_out=BUT_TWO),
    "logs an object as the epoch ends": Case(
        "metrics.LogsAsItEnds",
        in_float32=("mae",),
        right=on(["stopped"], SameOr("mae: a torchmetrics object is not saved")),
        leave_out=("one", "dp2", "ddp3"),
    ),
    "clamps gradients": Case(
        "habits.ClampsGradients",
        right=on(SEVERAL, SameOr("hooks on the gradient of net.0.weight")),
        leave_out=BUT_TWO,
    ),
    "clips after each backward": Case(
        "habits.ClipsEachBatch",
        flags={"accumulate_grad_batches": 2},
        data_args={"length": 41},  # whose last batch leaves ranks without samples
        leave_out=("dp2", "stopped"),
    ),
    "looks at gradients on one rank": Case(
        "habits.NormsOnFirst", flags={"accumulate_grad_batches": 2}, leave_out=BUT_TWO
    ),
    "clips in backward": Case(
        "habits.ClipsInBackward", flags={"accumulate_grad_batches": 3}, leave_out=BUT_TWO
    ),
    "recomputes, reentrant": Case(
        "habits.Recomputes",
        right=on(SEVERAL, Refused("use `use_reentrant=False`; or")),
        leave_out=BUT_TWO,
    ),
    "gathers losses at an epoch's end": Case(
        "habits.GathersLosses",
        right=on(SEVERAL, SameOr("on_validation_epoch_end: all_gather gives one value of each")),
        leave_out=BUT_TWO,
    ),
    "gathers a list, a rank idle": Case(
        "logs.GathersEach",
        data_args={"val_length": 11},
        right=on(SEVERAL, Refused("rank 0 has called all_gather once more than rank 1")),
        leave_out=BUT_TWO,
    ),
    "gathers after a step without samples": Case(
        "habits.GathersAfterwards",
        data_args={"val_length": 11},
        subcommand="validate",
        right=on(SEVERAL, Refused("all_gather in on_validation_batch_end waits for all")),
        leave_out=BUT_TWO,
    ),
    "a batch size per device": Case(
        REGRESSION,
        "habits.PerDevice",
        right=on(SEVERAL, SameOr("PerDevice.setup asks for world_size")),
        leave_out=BUT_TWO,
    ),
    "a part of the test per process": Case(
        REGRESSION,
        "habits.OwnPart",
        subcommand="test",
        right=on(SEVERAL, SameOr("OwnPart.test_dataloader asks for")),
        leave_out=BUT_TWO,
    ),
    "augmentation in the data set": Case(
        REGRESSION,
        "habits.Augments",
        right=on(SEVERAL, SameOr("random numbers are drawn")),
        leave_out=("stopped", "dp2", "ddp3"),
    ),
    "keeps its workers": Case(
        REGRESSION, "habits.KeepsWorkers", EPOCHS, leave_out=("one", "dp2", "ddp3")
    ),
    "states that are lists": Case(
        "habits.Ranks",
        data_args={"val_length": 12},  # batches of 5, 5 and 2: the third rank has two of them
        in_float32=("val/auroc", "val/hits"),
        leave_out=("one", "dp2", "ddp2", "stopped"),
    ),
    "states that are lists, a rank idle": Case(
        "habits.Ranks",
        data_args={"val_length": 2},
        in_float32=("val/auroc", "val/hits"),
        leave_out=("one", "dp2", "ddp2", "stopped"),
    ),
    "Timer": Case(
        REGRESSION,
        flags=callbacks((f"{OF}Timer", {"duration": "00:01:00:00"})),
        leave_out=("stopped", *BUT_SEVERAL),
    ),
    "LearningRateFinder": Case(
        "basic.Regression",
        flags=callbacks(FINDER),
        right={
            "stopped": Refused("LearningRateFinder would search anew"),
            **on(SEVERAL, Refused("LearningRateFinder goes by the loss of one of")),
        },
        leave_out=("dp2", "ddp3"),
    ),
    "ModelPruning": Case(
        REGRESSION,
        flags={**EPOCHS, "precision": "32-true", **callbacks(PRUNING)},
        right=on(["stopped"], SameOr("ModelPruning does not put back")),
        leave_out=BUT_SEVERAL,
    ),
}
