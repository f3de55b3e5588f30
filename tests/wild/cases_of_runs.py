"""Cases of callbacks, schedules, loggers, bars and subcommands."""

from tests.wild.case import SEVERAL, Case, Ends, SameOr, callbacks, class_spec, on

REGRESSION = "basic.Regression"
EPOCHS = {"max_epochs": 3}
BUT_STOPPED = ("one", "dp2", *SEVERAL)
BUT_ONE = ("stopped", "dp2", *SEVERAL)
OF = "lightning.pytorch.callbacks."
EMA = (f"{OF}EMAWeightAveraging", {"decay": 0.9})
SWA = (f"{OF}StochasticWeightAveraging", {"swa_lrs": 0.01, "swa_epoch_start": 1})
STOPPING = (
    f"{OF}EarlyStopping",
    {"monitor": "loss", "patience": 0, "check_on_train_epoch_end": True},
)
STEP_CHECKPOINT = (
    f"{OF}ModelCheckpoint",
    {"dirpath": "kept", "monitor": "loss", "every_n_train_steps": 2, "filename": "{step}"},
)
EPOCH_CHECKPOINT = (
    f"{OF}ModelCheckpoint",
    {"dirpath": "kept", "monitor": "val/loss", "save_last": True, "filename": "{epoch}"},
)
ACCUMULATION = (f"{OF}GradientAccumulationScheduler", {"scheduling": {0: 1, 1: 2}})

CASES: dict[str, Case] = {
    "every hook": Case("hooks.Model", "hooks.Data", callbacks("hooks.LooksOn")),
    "every hook, accumulating": Case(
        "hooks.Model",
        "hooks.Data",
        {"accumulate_grad_batches": 2, "val_check_interval": 2, **callbacks("hooks.LooksOn")},
        leave_out=("stopped",),
    ),
    "every hook in test": Case(
        "hooks.Model", "hooks.Data", callbacks("hooks.LooksOn"), subcommand="test"
    ),
    "every hook in validate": Case(
        "hooks.Model", "hooks.Data", callbacks("hooks.LooksOn"), subcommand="validate"
    ),
    "every hook in predict": Case(
        "hooks.Model",
        "hooks.Data",
        callbacks("hooks.LooksOn"),
        subcommand="predict",
        leave_out=BUT_ONE,
    ),
    "every hook, optimizing by hand": Case(
        "hooks.ByHand", "hooks.Data", callbacks("hooks.LooksOn"), leave_out=BUT_ONE
    ),
    "every hook, several loaders": Case(
        "hooks.OfSeveral", "hooks.SeveralLoaders", callbacks("hooks.LooksOn"), leave_out=BUT_ONE
    ),
    "every hook in predict, several loaders": Case(
        "hooks.OfSeveral",
        "hooks.SeveralLoaders",
        callbacks("hooks.LooksOn"),
        subcommand="predict",
        leave_out=BUT_ONE,
    ),
    # Averages of weights.
    "own average": Case("optimizing.OwnAverage"),
    "swaps an average in": Case(REGRESSION, flags=callbacks("optimizing.SwapsAverage")),
    "EMAWeightAveraging": Case(REGRESSION, flags={**EPOCHS, **callbacks(EMA)}),
    "SWA": Case(REGRESSION, flags={**EPOCHS, **callbacks(SWA)}, stop_at=3),
    # Schedules and decisions.
    "AdamW": Case("optimizing.Adam"),
    "OneCycleLR": Case("optimizing.OneCycle", "basic.ShuffledByItself"),
    "plateau of a step's value": Case(
        "optimizing.Plateau", flags=callbacks((f"{OF}LearningRateMonitor", {}))
    ),
    "plateau of an epoch's value": Case("optimizing.PlateauOfValidation", flags=EPOCHS),
    "early stopping by a step's value": Case(
        REGRESSION, flags={"max_epochs": 4, **callbacks(STOPPING)}
    ),
    "checkpoint by a step's value": Case(REGRESSION, flags=callbacks(STEP_CHECKPOINT)),
    "checkpoint by an epoch's value": Case(REGRESSION, flags=callbacks(EPOCH_CHECKPOINT)),
    "own list of callback_metrics": Case(REGRESSION, flags=callbacks("hooks.History")),
    "stopped in the very last batch": Case(REGRESSION, leave_out=BUT_STOPPED, stop_at=9),
    # What goes on from one epoch to the next: states of samplers and generators.
    "stopped between epochs, counting": Case(
        "optimizing.OneCycle",
        "samplers.Counted",
        EPOCHS,
        leave_out=BUT_STOPPED,
        stop_at=9,
    ),
    "stopped between epochs, generator": Case(
        REGRESSION, "basic.ShuffledByItself", EPOCHS, leave_out=BUT_STOPPED, stop_at=9
    ),
    "stopped between epochs, new loaders": Case(
        REGRESSION,
        "samplers.Counted",
        {**EPOCHS, "reload_dataloaders_every_n_epochs": 1},
        leave_out=BUT_STOPPED,
        stop_at=9,
    ),
    "learning rates": Case(
        "optimizing.OneCycle",
        flags=callbacks((f"{OF}LearningRateMonitor", {"logging_interval": "step"})),
    ),
    "accumulation scheduler": Case(
        REGRESSION, flags={**EPOCHS, **callbacks(ACCUMULATION)}, stop_at=3
    ),
    "accumulation scheduler, stopped later": Case(
        REGRESSION,
        flags={**EPOCHS, **callbacks(ACCUMULATION)},
        leave_out=BUT_STOPPED,
        stop_at=8,
    ),
    "accumulation and clipping": Case(
        REGRESSION,
        flags={"accumulate_grad_batches": 2, "gradient_clip_val": 0.3},
        leave_out=("stopped",),
    ),
    # Continued in mid-epoch, Lightning does not call `on_train_epoch_start` again.
    "a switch set as the epoch starts": Case(
        "optimizing.Curriculum", right=on(["stopped"], SameOr("on_train_epoch_start"))
    ),
    "all ranks stop": Case("optimizing.StopsAll", stop_at=1),
    "one rank stops": Case(
        "optimizing.StopsOne", right=on(SEVERAL, Ends("should_stop")), stop_at=1
    ),
    "max_steps": Case(REGRESSION, flags={"max_epochs": None, "max_steps": 57}),
    "check_val_every_n_epoch": Case(
        REGRESSION, flags={"max_epochs": 4, "check_val_every_n_epoch": 2}
    ),
    "log every third step": Case(REGRESSION, flags={"log_every_n_steps": 3}),
    # The user's own choices.
    "a base class's hyperparameters": Case("optimizing.Wider", model_args={"width": 5}),
    "own hyperparameters": Case(
        "optimizing.Hyper",
        "optimizing.HyperData",
        model_args={"lr": 0.03, "name": "mine"},
        data_args={"seed": 9},
    ),
    "CSVLogger": Case(
        REGRESSION,
        flags={"logger": class_spec("lightning.pytorch.loggers.CSVLogger", {"save_dir": "csv"})},
    ),
    "own logger without a folder": Case(
        REGRESSION, flags={"logger": class_spec("hooks.JsonLogger", {})}
    ),
    "two loggers": Case(
        REGRESSION,
        flags={
            "logger": [
                class_spec("lightning.pytorch.loggers.TensorBoardLogger", {"save_dir": "events"}),
                class_spec("hooks.JsonLogger", {}),
            ]
        },
    ),
    "no logger": Case(REGRESSION, flags={"logger": False}),
    "own bar": Case(REGRESSION, flags=callbacks("hooks.OwnBar")),
    "Lightning's bar": Case(
        REGRESSION, flags=callbacks((f"{OF}TQDMProgressBar", {"refresh_rate": 10}))
    ),
    # Subcommands.
    "validate": Case(REGRESSION, subcommand="validate"),
    "test": Case(REGRESSION, data_args={"val_length": 11}, subcommand="test"),
    "predict tensors": Case("modules.PredictsTensor", subcommand="predict"),
    "predict dicts": Case("modules.PredictsDict", subcommand="predict"),
    "predict two loaders": Case(
        "modules.PredictsFromSeveral", "modules.TwoPredictions", subcommand="predict"
    ),
}
