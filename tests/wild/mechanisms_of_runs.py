"""Mechanisms that make runs right: what is logged, continued, and chosen by the user."""

from lightning.pytorch.cli import LightningCLI

from tests.wild import broken
from tests.wild.mechanism import Mechanism

MECHANISMS: dict[str, Mechanism] = {
    # Logs.
    "values per epoch are put together": Mechanism(
        "strategies.logs.global_logs.GlobalLogs._share",
        broken.nothing,
        "ddp2",
        "several validation loaders; plateau of an epoch's value; torchmetrics; "
        "checkpoint by an epoch's value; test; validate; logs large values in validation; "
        "names by class; names by class in validation; smallest, largest, count; "
        "check_val_every_n_epoch; own list of callback_metrics; a metric's own value, a mean; "
        "first rank logs more, and says so",
    ),
    "values per step are put together": Mechanism(
        "strategies.logs.step_values.StepValues.end_step",
        broken.nothing,
        "ddp2",
        "logs in the first epoch; logs every seventh step; logs large losses; "
        "first rank logs more; per step and per epoch; plateau of a step's value; "
        "early stopping by a step's value; checkpoint by a step's value; log every third step",
    ),
    "a constant batch_size tells nothing": Mechanism(
        "strategies.logs.global_logs.merge", broken.totals, "ddp2", "batch_size= of the loader"
    ),
    "the true batch_size counts": Mechanism(
        "strategies.logs.global_logs.merge",
        broken.totals_by_part,
        "ddp2",
        "batch_size= of the batch",
    ),
    "means that are given to objects": Mechanism(
        "strategies.logs.batch_means.BatchMeans.settle", broken.nothing, "ddp2", "averages of means"
    ),
    "a train/loss of the model's own": Mechanism(
        "telemetry.loss._logged_as", broken.nothing, "one", "own train/loss"
    ),
    "dicts are logged": Mechanism(
        "telemetry.dashboard.logger._is_number", broken.yes, "one", "dicts for the logger"
    ),
    # Runs that are continued.
    "a position is taken up": Mechanism(
        "strategies.loaders.shards.Shards.load",
        broken.nothing,
        "stopped",
        "a new loader each epoch; OneCycleLR; learning rates; accumulation scheduler",
    ),
    "passes are drawn again": Mechanism(
        "strategies.loaders.shards.needs_replay",
        broken.no,
        "stopped",
        "stopped between epochs, counting",
    ),
    "a position is the Trainer's": Mechanism(
        "strategies.loaders.shards.Shards.is_trainers",
        broken.yes,
        "stopped",
        "looks at a batch as it starts",
    ),
    "later loaders begin at once": Mechanism(
        "inside.has_training_loaders", broken.no, "stopped", "a new loader each epoch, shuffled"
    ),
    "generators go on": Mechanism(
        "strategies.loaders.shards.Shards.generators",
        property(lambda self: []),
        "stopped",
        "stopped between epochs, generator",
    ),
    "new loaders begin anew": Mechanism(
        "inside.restart._has_new_loaders",
        broken.no,
        "stopped",
        "stopped between epochs, new loaders",
    ),
    "what is not taken up is told": Mechanism(
        "checkpoint.resume.Resume._what_is_not_taken_up",
        lambda self, trainer: iter(()),
        "stopped",
        "epoch means over a stop; metrics over a stop; a switch set as the epoch starts; "
        "logs an object as the epoch ends",
    ),
    "hooks of Lightning's run again": Mechanism(
        "checkpoint.resume.bears_repeating",
        broken.no,
        "stopped",
        "SWA; accumulation scheduler, stopped later",
    ),
    "gradients by hand are waited for": Mechanism(
        "checkpoint.resume.count_by_hand", broken.nothing, "stopped", "manual accumulation"
    ),
    "what nobody saves is told": Mechanism(
        "checkpoint.resume._what_is_lost",
        lambda trainer: iter(()),
        "stopped",
        "ModelPruning; MetricTracker",
    ),
    "a search is not repeated": Mechanism(
        "checkpoint.resume._check_searches", broken.nothing, "stopped", "LearningRateFinder"
    ),
    "saved after the model's hooks": Mechanism(
        "callbacks.LastCheckpoint", broken.SavesEarly, "stopped", "own average"
    ),
    "not saved in validation": Mechanism(
        "callbacks.LastCheckpoint",
        broken.SavesInValidation,
        "stopped",
        "swaps an average in; EMAWeightAveraging",
    ),
    "a run's own folder": Mechanism(
        "checkpoint.callbacks.last_path",
        lambda trainer: "elsewhere/last.ckpt",
        "stopped",
        "CSVLogger; own logger without a folder; two loggers; no logger; "
        "stopped in the very last batch",
    ),
    # Hooks, stops, and the user's own choices.
    "hooks of a batch's transfer run": Mechanism(
        "strategies.batch.transfer.DirectTransfer._hooks_are_idle",
        broken.yes,
        "one",
        "augmentation by hooks; every hook; every hook, accumulating; every hook in test; "
        "every hook in validate; every hook in predict; every hook in predict, several loaders; "
        "every hook, several loaders; every hook, optimizing by hand",
    ),
    "ranks stop together": Mechanism(
        "checkpoint.stops.AgreedStop._settle", broken.nothing, "ddp2", "one rank stops"
    ),
    "what all ranks wish is done at once": Mechanism(
        "checkpoint.stops.AgreedStop._settle", broken.wishes_nothing, "ddp2", "all ranks stop"
    ),
    "another limit than epochs": Mechanism(
        "cli.command_line.CommandLine.instantiate_trainer", broken.ten_epochs, "one", "max_steps"
    ),
    "hyperparameters as without a command line": Mechanism(
        "cli.command_line.CommandLine._add_instantiators",
        LightningCLI._add_instantiators,
        "one",
        "a base class's hyperparameters",
    ),
    "text of any class is written": Mechanism(
        "cli.program.config_text.register", broken.nothing, "one", "Timer"
    ),
    "a bar of the user's own": Mechanism(
        "cli.command_line.has_one", broken.no, "one", "own bar; Lightning's bar"
    ),
    "predictions are saved": Mechanism(
        "telemetry.predictions._save",
        broken.not_saved,
        "ddp2",
        "predict tensors; predict dicts; predict two loaders",
    ),
}
