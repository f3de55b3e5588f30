"""Cases of loaders, samplers and batches."""

from tests.wild.case import SEVERAL, Case, Refused, SameOr, callbacks, on

REGRESSION = "basic.Regression"
EPOCHS = {"max_epochs": 3}

CASES: dict[str, Case] = {
    "plain": Case(REGRESSION),
    # Samplers, whose second and third pass are others than the first.
    "shuffle by own generator": Case(REGRESSION, "basic.ShuffledByItself", EPOCHS),
    "bucketing": Case(REGRESSION, "samplers.Bucketed", EPOCHS),
    "bucketing by numpy": Case(REGRESSION, "samplers.BucketedNumpy", EPOCHS),
    "sampler shuffles in place": Case(REGRESSION, "samplers.ShuffledInPlace", EPOCHS),
    "sampler counts passes": Case(REGRESSION, "samplers.Counted", EPOCHS),
    "sampler is told the epoch": Case(REGRESSION, "samplers.ToldEpoch", EPOCHS),
    "sampler with a state, limited": Case(
        REGRESSION, "samplers.Counted", {**EPOCHS, "limit_train_batches": 3}
    ),
    "sampler weights change": Case(
        REGRESSION,
        "samplers.Weighted",
        {**EPOCHS, **callbacks("samplers.ChangesWeights")},
        leave_out=("stopped",),  # what a callback wrote into a sampler is in no checkpoint
    ),
    "curriculum turns the sampler": Case(
        REGRESSION,
        "samplers.Queued",
        {**EPOCHS, **callbacks("samplers.TurnsQueue")},
        stop_at=2,
    ),
    "batch sampler is a list": Case(REGRESSION, "samplers.ListOfBatches"),
    "indices are tuples": Case(REGRESSION, "samplers.ByPlace", stop_at=6),
    "indices are names": Case(REGRESSION, "samplers.ByName"),
    "data set without a length": Case(REGRESSION, "samplers.WithoutLength"),
    "drop_last": Case(REGRESSION, "samplers.DropsLast", EPOCHS, stop_at=5),
    "split at random in setup": Case(REGRESSION, "basic.Split", leave_out=("dp2",), stop_at=4),
    "a new loader each epoch": Case(
        REGRESSION,
        "samplers.NewEachEpoch",
        {**EPOCHS, "reload_dataloaders_every_n_epochs": 1},
        stop_at=5,
    ),
    "a new loader each epoch, shuffled": Case(
        REGRESSION,
        "samplers.NewShuffled",
        {**EPOCHS, "reload_dataloaders_every_n_epochs": 1},
        leave_out=("dp2", *SEVERAL),
        stop_at=6,
    ),
    # Loaders that are not torch's own.
    "whole batches": Case(
        REGRESSION, "loaders.WholeBatches", right=on(SEVERAL, SameOr("batch_size=None"))
    ),
    "loader with own __iter__": Case(
        REGRESSION,
        "loaders.OwnIteration",
        right=on(SEVERAL, Refused("Repeating")),
        leave_out=("stopped",),
    ),
    "loader keeps its iterator": Case(
        REGRESSION,
        "loaders.KeptIterator",
        right=on(SEVERAL, Refused("KeepsIterator")),
        leave_out=("stopped",),
    ),
    "loader with own attributes": Case("loaders.ReadsAttributes", "loaders.OwnAttributes"),
    "hooks read loaders": Case("loaders.Reads"),
    "stream": Case(
        REGRESSION,
        "loaders.Stream",
        right={
            "stopped": SameOr("so it starts again"),  # a stream has no position
            **on(SEVERAL, Refused("IterableDataset")),
        },
    ),
    "no DataLoader": Case(
        REGRESSION,
        "loaders.NoLoader",
        right=on(SEVERAL, Refused("is not a DataLoader")),
        leave_out=("stopped",),
    ),
    # Several loaders.
    "dict of loaders": Case("loaders.TakesBoth", "loaders.Both"),
    "max_size_cycle": Case("loaders.TakesBoth", "loaders.Cycled"),
    "min_size": Case("loaders.TakesBoth", "loaders.Shortest", stop_at=2),
    "pairs in validation": Case(
        "loaders.ValidatesPairs", "loaders.PairsToValidate", in_float32=("val/error",)
    ),
    "several validation loaders": Case("loaders.ValidatesSeveral", "loaders.SeveralValidations"),
    "loaders on the model": Case("loaders.HasLoaders", None),
    # Loops within loops.
    "k-NN in validation": Case(
        "loaders.Neighbours", flags={"val_check_interval": 0.5}, values_differ=("val/bank",)
    ),
    "k-NN over a state": Case(
        "loaders.Neighbours",
        "samplers.Counted",
        flags={"val_check_interval": 0.5},
        values_differ=("val/bank",),
        leave_out=("stopped",),  # a validation's own pass is in no checkpoint
    ),
    "augmentation by hooks": Case(REGRESSION, "loaders.Augments"),
    "limit_train_batches": Case(
        REGRESSION, flags={**EPOCHS, "limit_train_batches": 0.6}, stop_at=4
    ),
    "overfit_batches": Case(REGRESSION, flags={**EPOCHS, "overfit_batches": 2}, stop_at=3),
    # Batches that are no pair of tensors.
    "graphs": Case(
        "batches.OfGraphs",
        "batches.Graphs",
        in_float32=("val/mae",),
        right=on(["dp2"], SameOr("dp")),
    ),
    "time first": Case("batches.OfTime", "batches.TimeMajor", right=on(["dp2"], SameOr("dp"))),
    "objects with slots": Case("batches.OfRows", leave_out=("ddp3", "stopped")),
    "dicts": Case("batches.TakesDicts", "batches.Dicts"),
    "named tuples": Case("batches.TakesNamedTuples", "batches.NamedTuples"),
    "lists of images": Case("batches.Detects", "batches.Images", right=on(["dp2"], SameOr("dp"))),
    # Shards of nothing and of one.
    "flattens, batch size 1": Case(
        "shapes.Flattens", data_args={"length": 7, "batch_size": 1}, stop_at=9
    ),
    "looks at the first sample": Case(
        "shapes.LooksAtFirst", data_args={"length": 41, "val_length": 11}
    ),
    "0-dim tensor and strings": Case(
        "shapes.TakesCount", "shapes.WithCount", data_args={"length": 41}
    ),
    "packed sequences": Case(
        "shapes.Packed",
        "shapes.Sequences",
        data_args={"length": 41},
        right=on(["dp2"], SameOr("dp")),
    ),
    "packed, time first": Case(
        "shapes.PackedTimeMajor",
        "shapes.TimeMajorSequences",
        data_args={"length": 41},
        right=on(["dp2"], SameOr("dp")),
    ),
    "nested tensors": Case(
        "shapes.TakesNested",
        "shapes.Nested",
        data_args={"length": 41},
        right=on(["dp2"], SameOr("a nested tensor cannot be split")),
    ),
    "GRU with a first state": Case(
        "shapes.Recurrent",
        "shapes.Sequences",
        data_args={"length": 41},
        right=on(["dp2"], SameOr("dp")),
    ),
    "attention with a mask": Case(
        "shapes.Attends", "shapes.Sequences", data_args={"length": 41, "val_length": 11}
    ),
    "padded to the longest": Case("padded.OverTime", "padded.Padded"),
    "padded and sorted": Case("padded.OverTime", "padded.Sorted"),
    "padded in workers": Case(
        "padded.OverTime",
        "padded.PaddedInWorkers",
        leave_out=("one", "dp2", "stopped"),
        timeout_s=120,
    ),
    "padded, not at first": Case(
        "padded.OverTime", "padded.ApartLater", data_args={"length": 33, "batch_size": 6}
    ),
    "padded, several in validation": Case(
        "padded.ValidatesSeveral",
        "padded.SeveralInValidation",
        right=on(SEVERAL, SameOr("leaves some of")),
        leave_out=("stopped",),
    ),
    "padded, loaders made in setup": Case(
        "padded.OverTime", "padded.AsksForSteps", leave_out=("stopped", "dp2")
    ),
    "padded as lists": Case("padded.OfLists", "padded.AsLists", leave_out=("stopped", "dp2")),
    "padded by the data set": Case("padded.OverPlaces", "padded.ByItems"),
    "padded, to predict": Case(
        "padded.Predicts",
        "padded.ToPredict",
        callbacks("padded.ChecksIndices"),
        data_args={"val_length": 13},
        subcommand="predict",
    ),
    "padded, to predict, a sample a process": Case(
        "padded.Predicts",
        "padded.PairsToPredict",
        subcommand="predict",
        right=on(["ddp3"], SameOr("which a `collate_fn` that pads to the longest pads by itself")),
        leave_out=("one", "dp2", "ddp2"),
    ),
    "padded, to predict, not to be split": Case(
        "padded.PredictsBeside",
        "padded.ConcatenatedToPredict",
        callbacks("padded.ChecksIndices"),
        data_args={"val_length": 13},
        subcommand="predict",
        right=on(SEVERAL, SameOr("something else in the batch cannot be split")),
    ),
    "padded, some of an epoch": Case(
        "padded.OverTime", "padded.Padded", {"max_steps": 7}, leave_out=("stopped",)
    ),
    "padded, beside concatenated targets": Case(
        "padded.OfConcatenated",
        "padded.BesideConcatenated",
        right=on(SEVERAL, SameOr("something else in the batch cannot be split")),
    ),
    "padded, with places in the batch": Case(
        "padded.PutsBack",
        "padded.InOrder",
        right=on(SEVERAL, SameOr("something else in the batch cannot be split")),
    ),
    "padded and shuffled, by steps that draw": Case(
        "padded.DropsSome", "padded.Shuffles", leave_out=("one", "stopped", "dp2", "ddp3")
    ),
    "padded, and a sample squeezed": Case(
        "padded.OverSqueezed", "padded.Squeezed", data_args={"length": 41, "val_length": 10}
    ),
    "padded, and samples dropped": Case(
        "padded.OverTime",
        "padded.DropsLater",
        right=on(SEVERAL, Refused("the batch has 4 of the 5 samples asked for")),
    ),
    # Samples that come and go in `collate_fn`.
    "collate drops samples": Case(
        REGRESSION, "means.SomeMissing", right=on(SEVERAL, SameOr("collate_fn"))
    ),
    "collate drops, and says so": Case("means.CountsSamples", "means.SomeMissing"),
    "collate makes three of one": Case(REGRESSION, "means.Triples"),
}
