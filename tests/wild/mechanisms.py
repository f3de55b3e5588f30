"""What the cases guard: each mechanism, broken on purpose, and the cases that then have to fail.

A mechanism is broken by another function in its place, in the process that runs the case.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.cli import LightningCLI

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.cli.command_line import CommandLine
from lightning_app.strategies import loader, passes
from lightning_app.strategies.loss_weight import common_shard
from lightning_app.telemetry.predictions import NotSaved

APP = "lightning_app."
Cases = Mapping[str, tuple[str, ...]]  # by layout


@dataclass(frozen=True)
class Mechanism:
    """One thing that makes cases right.

    Attributes:
        target: A function's dotted path, below `lightning_app`.
        broken: What is put in its place.
        cases: Those that fail without it, by the layout on which they are run.
    """

    target: str
    broken: Callable[..., Any]
    cases: Cases

    def off(self) -> AbstractContextManager[Any]:
        """Do without it."""
        return patch(APP + self.target, self.broken)


def nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what is left out."""


@contextmanager
def _as_it_comes(*args: Any) -> Iterator[None]:
    yield


@contextmanager
def _put_back_seen(model: Any) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in kept:
            buffer.copy_(value)


_begin, _view_of = passes.Pass.begin, loader.view_of
_instantiate = CommandLine.instantiate_trainer


def _draws_twice(self: Any) -> Any:
    list(self.shards.sampler)
    return _begin(self)


def _where_training_is(self: Any, begun: Any) -> int:
    running = self.newest
    return running.position if running is not None and running.shard else 0


def _with_a_sampler_of_its_own(shards: Any) -> Any:
    view: Any = _view_of(shards)
    sampler: Any = object.__new__(type(view.sampler))
    vars(sampler).update(vars(view.sampler))
    if hasattr(sampler, "indices"):
        sampler.indices = list(sampler.indices)
    vars(view).update(sampler=sampler, batch_sampler=view.sharding)
    return view


def _plain_view(shards: Any) -> Any:
    view = _view_of(shards)
    vars(view)["drop_last"] = None
    vars(view).pop("label", None)
    return view


def _asked_for_nothing(self: Any, shard: Any) -> Iterator[Any]:
    if shard.size or not self.skips_idle:
        yield shard.indices


def _looks_while_compiled(
    self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None
) -> Any:
    self._gathers |= getattr(func, "__name__", "").startswith("all_gather")
    return func(*args, **(kwargs or {}))


def _new_shard(self: Any, hook: str) -> Any:
    self._shards = self._current_shards()
    return common_shard(self._shards, self.world_size)


def _totals(parts: Any) -> tuple[float, float]:
    return sum(p.total for p in parts), sum(p.weight for p in parts)


def _totals_by_part(parts: Any) -> tuple[float, float]:
    return sum(p.total_by_part for p in parts), sum(p.weight_by_part for p in parts)


def _runs_the_model(self: Any, trainer: Any, module: Any) -> None:
    module.net(torch.zeros(2, 6, dtype=torch.float64))


def _turns_to_training(self: Any, trainer: Any, module: Any) -> None:
    module.train()


def _ten_epochs(self: Any, **kwargs: Any) -> Any:
    return _instantiate(self, **kwargs, max_epochs=10)


def _not_saved(*args: Any) -> str:
    raise NotSaved("predictions not saved")


class _SavesEarly(LastCheckpoint):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        LastCheckpoint._after_step(self, trainer)

    def _after_step(self, trainer: Any) -> None: ...


class _SavesInValidation(LastCheckpoint):
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and any(self._agree()):
            self._act(trainer)

    def _after_step(self, trainer: Any) -> None: ...


SPLIT = (
    *("plain", "dicts", "named tuples", "indices are tuples", "indices are names"),
    *("data set without a length", "batch sampler is a list", "drop_last", "dict of loaders"),
    *("max_size_cycle", "min_size", "loaders on the model", "graphs", "lists of images"),
    *("collate makes three of one", "limit_train_batches", "overfit_batches"),
)
WEIGHED = (
    *("GAN", "transformer", "image classifier", "examples, digits"),
    *("examples, text", "examples, GAN", "CNN", "sparse embedding", "spectral norm"),
    *("a module without input", "a tensor class of its own", "loss of shape (1,)"),
    *("manual optimization", "manual accumulation", "accumulation and clipping", "AdamW"),
    *("contrastive, gathered, equal parts", "on_train_batch_start returns -1"),
    *("an argument as long as a batch", "own hyperparameters"),
)
PER_EPOCH = (
    *("several validation loaders", "plateau of an epoch's value", "torchmetrics"),
    *("checkpoint by an epoch's value", "test", "validate", "logs large values in validation"),
    *("names by class in validation", "smallest, largest, count", "check_val_every_n_epoch"),
    *("own list of callback_metrics", "a metric's own value, a mean"),
    *("first rank logs more, and says so",),
)
PER_STEP = (
    *("logs in the first epoch", "logs every seventh step", "names by class"),
    *("logs large losses", "first rank logs more", "per step and per epoch"),
    *("plateau of a step's value", "early stopping by a step's value"),
    *("checkpoint by a step's value", "log every third step"),
)
TOLD = (
    *("BatchNorm, larger parts", "dropout", "mixup by numpy", "codebook in a buffer"),
    *("a mean over nodes", "contrastive", "gathers means", "a metric's own value"),
    *("validation_step_outputs", "losses balanced by gradients", "standard targets"),
    *("a running mean scales the loss", "logs beside the step"),
    *("averages of samples, one a rank", "validation_step_outputs, synced"),
    *("a sum for a loss", "clamps gradients", "a batch size per device"),
    *("augmentation in the data set",),
)
IDLE = (
    *("flattens, batch size 1", "looks at the first sample", "0-dim tensor and strings"),
    *("packed sequences", "packed, time first", "GRU with a first state"),
    *("attention with a mask", "token means, some ranks idle", "autoencoder"),
)
TOLD_OVER = (
    *("token means", "token means, several batches", "class weights", "masked by hand"),
    *("collate drops, and says so",),
)

MECHANISMS: dict[str, Mechanism] = {
    # Loaders and samplers.
    "a batch is split once": Mechanism(
        "strategies.passes.shard_bounds", lambda size, rank, ranks: (0, size), {"ddp2": SPLIT}
    ),
    "a pass asks the sampler once": Mechanism(
        "strategies.passes.Pass.begin",
        _draws_twice,
        {
            "one": (
                *("shuffle by own generator", "bucketing", "bucketing by numpy"),
                *("sampler shuffles in place", "sampler counts passes"),
                *("sampler with a state, limited", "k-NN over a state"),
            )
        },
    ),
    "the view has the loader's sampler": Mechanism(
        "strategies.loader.view_of",
        _with_a_sampler_of_its_own,
        {
            "one": (
                *("sampler is told the epoch", "sampler weights change"),
                *("curriculum turns the sampler",),
            )
        },
    ),
    "the view has the loader's attributes": Mechanism(
        "strategies.loader.view_of",
        _plain_view,
        {"one": ("loader with own attributes", "hooks read loaders")},
    ),
    "what cannot be split is refused": Mechanism(
        "strategies.loader.why_not_split",
        nothing,
        {
            "ddp2": (
                *("loader with own __iter__", "loader keeps its iterator", "stream"),
                *("no DataLoader",),
            )
        },
    ),
    "whole batches are refused": Mechanism(
        "strategies.passes.Pass._check_ready_made", nothing, {"ddp2": ("whole batches",)}
    ),
    "a hook's pass is its own": Mechanism(
        "strategies.shards.Shards.start",
        _where_training_is,
        {"one": ("k-NN in validation",)},
    ),
    "a rank without samples runs others'": Mechanism(
        "strategies.passes.Pass._asked_for", _asked_for_nothing, {"ddp2": IDLE}
    ),
    "nothing stays of a step of nothing": Mechanism(
        "strategies.ddp.nothing_stays",
        lambda model: nullcontext(),
        {"ddp3": ("averages of means",)},
    ),
    "what is put back is unseen by autograd": Mechanism(
        "strategies.ddp.nothing_stays",
        _put_back_seen,
        {"ddp2": ("parametrized layers, a rank idle",)},
    ),
    "samples are counted": Mechanism(
        "strategies.global_batch.num_rows",
        lambda batch, asked: 1,
        {"ddp2": ("time first",)},
    ),
    "dropped samples are noticed": Mechanism(
        "strategies.global_batch.num_rows",
        lambda batch, asked: asked,
        {"ddp2": ("collate drops samples",)},
    ),
    # Losses and modules.
    "a shard counts by its samples": Mechanism(
        "strategies.loss_weight.LossWeight.weigh_loss",
        lambda self, loss, model: loss,
        {"ddp2": WEIGHED},
    ),
    "means over something else": Mechanism(
        "strategies.ddp.mean_over", nothing, {"ddp2": TOLD_OVER}
    ),
    "what differs is told": Mechanism(
        "strategies.telling.TellOnce.__call__", nothing, {"ddp2": TOLD}
    ),
    "BatchNorm of one sample is refused": Mechanism(
        "strategies.ddp.refused_by_batchnorm", _as_it_comes, {"ddp2": ("BatchNorm",)}
    ),
    "shapes that are gathered are checked": Mechanism(
        "strategies.ddp.check_shapes", nothing, {"ddp2": ("contrastive, gathered",)}
    ),
    "a step without a loss is refused": Mechanism(
        "speed.direct_step._tell_of_no_loss", nothing, {"ddp2": ("training_step returns None",)}
    ),
    "a second step on a batch is refused": Mechanism(
        "strategies.ddp.DDPStrategy._new_shard",
        _new_shard,
        {"ddp2": ("asks for the loss again",)},
    ),
    "LBFGS is refused": Mechanism(
        "strategies.ddp.check_optimizers", nothing, {"ddp2": ("LBFGS by hand", "LBFGS")}
    ),
    "ranks that part are noticed": Mechanism(
        "strategies.ddp.check_ranks_agree", nothing, {"ddp2": ("loss.backward() by hand",)}
    ),
    "nothing is looked at while compiled": Mechanism(
        "strategies.means._Watch.__torch_function__",
        _looks_while_compiled,
        {"ddp2": ("compiles itself",)},
    ),
    "no hooks on what takes none": Mechanism(
        "telemetry.sizes.takes_hooks", lambda module: True, {"one": ("scripted",)}
    ),
    "states are aligned": Mechanism(
        "strategies.global_logs.align_states",
        nothing,
        {"ddp3": ("states that are lists", "states that are lists, a rank idle")},
    ),
    "workers that stay have drawn": Mechanism(
        "strategies.loader.ShardedLoader._have_drawn",
        property(lambda self: False),  # type: ignore[arg-type]
        {"ddp2": ("keeps its workers",)},
    ),
    "text of any class is written": Mechanism(
        "cli.program.config_text.register", nothing, {"one": ("Timer",)}
    ),
    "masks that are lost are told": Mechanism(
        "checkpoint.resume._prunes", lambda trainer: False, {"stopped": ("ModelPruning",)}
    ),
    "a search is not repeated": Mechanism(
        "cli.command_line.check_progress", nothing, {"stopped": ("LearningRateFinder",)}
    ),
    "all_gather gathers": Mechanism(
        "strategies.ddp.DDPStrategy.all_gather",
        lambda self, tensor, group=None, sync_grads=False: tensor[None],
        {"ddp2": ("all_gather",)},
    ),
    "ranks are not seeded anew": Mechanism(
        "strategies.meeting.isolate_rng",
        lambda include_cuda: nullcontext(),
        {"ddp2": ("split at random in setup", "a head made in configure_model")},
    ),
    "what is trained is followed": Mechanism(
        "strategies.trained.TrainedParameters.have_changed",
        lambda self, look_for_new: False,
        {
            "ddp2": (
                *("unfreezes a layer", "freezes a layer", "adds to the optimizer"),
                *("finetuning schedule",),
            )
        },
    ),
    "modes are the user's": Mechanism(
        "telemetry.console.Console.on_train_epoch_end",
        _turns_to_training,
        {"one": ("frozen BatchNorm", "BatchNorm frozen once")},
    ),
    "nobody else calls the model": Mechanism(
        "telemetry.dashboard.callback.Dashboard.on_train_epoch_start",
        _runs_the_model,
        {"one": ("forward counts its calls",)},
    ),
    # Replicas.
    "outputs are joined": Mechanism(
        "strategies.scatter_gather.Gather.__call__",
        lambda self, outputs: outputs[0],
        {
            "dp2": (
                *("outputs are dataclasses", "outputs are distributions", "arguments by name"),
                *("hooks on the outermost module",),
            )
        },
    ),
    "what a forward writes is told": Mechanism(
        "strategies.replicas.Replicas._tell_of_writes",
        nothing,
        {"dp2": ("forward writes an attribute",)},
    ),
    # Logs.
    "values per epoch are put together": Mechanism(
        "strategies.global_logs.GlobalLogs._share", nothing, {"ddp2": PER_EPOCH}
    ),
    "values per step are put together": Mechanism(
        "strategies.step_values.StepValues.end_step", nothing, {"ddp2": PER_STEP}
    ),
    "a constant batch_size tells nothing": Mechanism(
        "strategies.global_logs.merge", _totals, {"ddp2": ("batch_size= of the loader",)}
    ),
    "the true batch_size counts": Mechanism(
        "strategies.global_logs.merge", _totals_by_part, {"ddp2": ("batch_size= of the batch",)}
    ),
    "means that are given to objects": Mechanism(
        "strategies.batch_means.BatchMeans.settle", nothing, {"ddp2": ("averages of means",)}
    ),
    "a train/loss of the model's own": Mechanism(
        "telemetry.loss._logged_as", nothing, {"one": ("own train/loss",)}
    ),
    "dicts are logged": Mechanism(
        "telemetry.dashboard.logger._is_number",
        lambda value: True,
        {"one": ("dicts for the logger",)},
    ),
    # Runs that are continued.
    "a position is taken up": Mechanism(
        "strategies.shards.Shards.load",
        nothing,
        {
            "stopped": (
                *("a new loader each epoch", "OneCycleLR", "learning rates"),
                *("accumulation scheduler",),
            )
        },
    ),
    "passes are drawn again": Mechanism(
        "strategies.shards.needs_replay",
        lambda sampler: False,
        {"stopped": ("stopped between epochs, counting",)},
    ),
    "generators go on": Mechanism(
        "strategies.shards.Shards.generators",
        property(lambda self: []),  # type: ignore[arg-type]
        {"stopped": ("stopped between epochs, generator",)},
    ),
    "new loaders begin anew": Mechanism(
        "inside.restart._has_new_loaders",
        lambda trainer: False,
        {"stopped": ("stopped between epochs, new loaders",)},
    ),
    "what is not taken up is told": Mechanism(
        "checkpoint.resume.Resume._what_is_not_taken_up",
        lambda self, trainer: iter(()),
        {
            "stopped": (
                *("epoch means over a stop", "metrics over a stop"),
                *("a switch set as the epoch starts", "SWA"),
            )
        },
    ),
    "saved after the model's hooks": Mechanism(
        "callbacks.LastCheckpoint",
        _SavesEarly,
        {"stopped": ("own average",)},
    ),
    "not saved in validation": Mechanism(
        "callbacks.LastCheckpoint",
        _SavesInValidation,
        {"stopped": ("swaps an average in", "EMAWeightAveraging")},
    ),
    "a run's own folder": Mechanism(
        "checkpoint.callbacks.last_path",
        lambda trainer: "elsewhere/last.ckpt",
        {
            "stopped": (
                *("CSVLogger", "own logger without a folder", "two loggers", "no logger"),
                *("stopped in the very last batch",),
            )
        },
    ),
    # Hooks, stops, and the user's own choices.
    "hooks of a batch's transfer run": Mechanism(
        "strategies.transfer.DirectTransfer._hooks_are_idle",
        lambda self: True,
        {
            "one": (
                *("augmentation by hooks", "every hook", "every hook, accumulating"),
                *("every hook in test", "every hook in validate"),
                *("every hook in predict", "every hook in predict, several loaders"),
                *("every hook, several loaders", "every hook, optimizing by hand"),
            )
        },
    ),
    "ranks stop together": Mechanism(
        "checkpoint.stops.AgreedStop._settle", nothing, {"ddp2": ("one rank stops",)}
    ),
    "what all ranks wish is done at once": Mechanism(
        "checkpoint.stops.AgreedStop._settle",
        lambda self, trainer: setattr(trainer, "should_stop", False),
        {"ddp2": ("all ranks stop",)},
    ),
    "another limit than epochs": Mechanism(
        "cli.command_line.CommandLine.instantiate_trainer", _ten_epochs, {"one": ("max_steps",)}
    ),
    "hyperparameters as without a command line": Mechanism(
        "cli.command_line.CommandLine._add_instantiators",
        LightningCLI._add_instantiators,
        {"one": ("a base class's hyperparameters",)},
    ),
    "a bar of the user's own": Mechanism(
        "cli.command_line._has",
        lambda kind, callbacks: False,
        {"one": ("own bar", "Lightning's bar")},
    ),
    "predictions are saved": Mechanism(
        "telemetry.predictions._save",
        _not_saved,
        {"ddp2": ("predict tensors", "predict dicts", "predict two loaders")},
    ),
}
