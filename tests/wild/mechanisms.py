"""What the cases guard: each mechanism, broken on purpose, and the cases that then have to fail."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from lightning.pytorch.cli import LightningCLI

from tests.wild import broken


@dataclass(frozen=True)
class Mechanism:
    """One thing that makes cases right.

    Attributes:
        target: A function's dotted path, below `lightning_app`.
        instead: What is put in its place.
        layout: On which its cases are run.
        cases: Those that fail without it, separated by `; `.
    """

    target: str
    instead: Any
    layout: str
    cases: str

    def off(self) -> AbstractContextManager[Any]:
        """Do without it."""
        return patch(f"lightning_app.{self.target}", self.instead)


MECHANISMS: dict[str, Mechanism] = {
    # Loaders and samplers.
    "a batch is split once": Mechanism(
        "strategies.passes.shard_bounds",
        lambda size, rank, world_size: (0, size),
        "ddp2",
        "plain; dicts; named tuples; indices are tuples; indices are names; "
        "data set without a length; batch sampler is a list; drop_last; dict of loaders; "
        "max_size_cycle; min_size; loaders on the model; graphs; lists of images; "
        "collate makes three of one; limit_train_batches; overfit_batches",
    ),
    "a pass asks the sampler once": Mechanism(
        "strategies.passes.Pass.begin",
        broken.draws_twice,
        "one",
        "shuffle by own generator; bucketing; bucketing by numpy; sampler shuffles in place; "
        "sampler counts passes; sampler with a state, limited; k-NN over a state",
    ),
    "the view has the loader's sampler": Mechanism(
        "strategies.loader.view_of",
        broken.with_a_sampler_of_its_own,
        "one",
        "sampler is told the epoch; sampler weights change; curriculum turns the sampler",
    ),
    "the view has the loader's attributes": Mechanism(
        "strategies.loader.view_of",
        broken.plain_view,
        "one",
        "loader with own attributes; hooks read loaders",
    ),
    "what cannot be split is refused": Mechanism(
        "strategies.loader.why_not_split",
        broken.nothing,
        "ddp2",
        "loader with own __iter__; loader keeps its iterator; stream; no DataLoader",
    ),
    "whole batches are refused": Mechanism(
        "strategies.passes.Pass._check_ready_made", broken.nothing, "ddp2", "whole batches"
    ),
    "a hook's pass is its own": Mechanism(
        "strategies.shards.Shards.start", broken.where_training_is, "one", "k-NN in validation"
    ),
    "a rank without samples runs others'": Mechanism(
        "strategies.passes.Pass._asked_for",
        broken.asked_for_nothing,
        "ddp2",
        "flattens, batch size 1; looks at the first sample; 0-dim tensor and strings; "
        "packed sequences; packed, time first; GRU with a first state; attention with a mask; "
        "token means, some ranks idle; autoencoder",
    ),
    "nothing stays of a step of nothing": Mechanism(
        "strategies.ddp.nothing_stays", broken.as_it_comes, "ddp3", "averages of means"
    ),
    "what is put back is unseen by autograd": Mechanism(
        "strategies.ddp.nothing_stays",
        broken.put_back_seen,
        "ddp2",
        "parametrized layers, a rank idle",
    ),
    "samples are counted": Mechanism(
        "strategies.global_batch.num_rows", lambda batch, num_asked: 1, "ddp2", "time first"
    ),
    "dropped samples are noticed": Mechanism(
        "strategies.global_batch.num_rows", broken.as_asked, "ddp2", "collate drops samples"
    ),
    # Losses and modules.
    "a shard counts by its samples": Mechanism(
        "strategies.loss_weight.LossWeight.weigh_loss",
        lambda self, loss, model: loss,
        "ddp2",
        "GAN; transformer; image classifier; examples, digits; examples, text; examples, GAN; CNN; "
        "sparse embedding; spectral norm; a module without input; a tensor class of its own; "
        "loss of shape (1,); manual optimization; manual accumulation; accumulation and clipping; "
        "AdamW; on_train_batch_start returns -1; own hyperparameters",
    ),
    "means over something else": Mechanism(
        "strategies.ddp.mean_over",
        broken.nothing,
        "ddp2",
        "token means; token means, several batches; class weights; masked by hand; "
        "collate drops, and says so",
    ),
    "what differs is told": Mechanism(
        "strategies.telling.TellOnce.__call__",
        broken.nothing,
        "ddp2",
        "BatchNorm, larger parts; dropout; mixup by numpy; codebook in a buffer; "
        "a mean over nodes; contrastive; gathers means; a metric's own value; "
        "a metric's own value of a step; "
        "validation_step_outputs; losses balanced by gradients; standard targets; "
        "a running mean scales the loss; logs beside the step; averages of samples, one a rank; "
        "validation_step_outputs, synced; a sum for a loss; clamps gradients; "
        "a batch size per device; augmentation in the data set; weights of samples; "
        "meta-learning; a collection's own values; correlation of a sample each; "
        "a list, entry by entry; noise in a test; counts after steps, a rank idle; "
        "a part of the test per process; averages of the last losses",
    ),
    "BatchNorm of one sample is refused": Mechanism(
        "strategies.ddp.refused_by_batchnorm", broken.as_it_comes, "ddp2", "BatchNorm"
    ),
    "a rank without samples leaves nothing in an evaluation": Mechanism(
        "strategies.ddp.nothing_stays", broken.as_it_comes, "ddp2", "pairs in validation"
    ),
    "nobody waits for a rank that skips a step": Mechanism(
        "strategies.ddp.refused_to_wait",
        broken.as_it_comes,
        "ddp2",
        "computes in a step without samples; gathers in a step without samples",
    ),
    "shapes that are gathered are checked": Mechanism(
        "strategies.refused.check_shapes",
        broken.nothing,
        "ddp2",
        "contrastive, gathered; contrastive, gathered by torch",
    ),
    "a step without a loss is refused": Mechanism(
        "speed.direct_step._tell_of_no_loss", broken.nothing, "ddp2", "training_step returns None"
    ),
    "a second step on a batch is refused": Mechanism(
        "strategies.ddp.check_new", broken.nothing, "ddp2", "asks for the loss again"
    ),
    "LBFGS is refused": Mechanism(
        "strategies.ddp.check_optimizers", broken.nothing, "ddp2", "LBFGS by hand; LBFGS"
    ),
    "ranks that part are noticed": Mechanism(
        "strategies.ddp.check_ranks_agree", broken.nothing, "ddp2", "loss.backward() by hand"
    ),
    "nothing is looked at while compiled": Mechanism(
        "strategies.means._Watch.__torch_function__",
        broken.looks_while_compiled,
        "ddp2",
        "compiles itself",
    ),
    "nothing of ours is on a module": Mechanism(
        "strategies.module_calls.ModuleCalls.follow",
        broken.by_hooks,
        "one",
        "scripted; exports its net",
    ),
    "states are aligned": Mechanism(
        "strategies.global_logs.align_states",
        broken.nothing,
        "ddp3",
        "states that are lists; states that are lists, a rank idle",
    ),
    "workers that stay have drawn": Mechanism(
        "strategies.loader.ShardedLoader._have_drawn",
        property(broken.no),
        "ddp2",
        "keeps its workers",
    ),
    "text of any class is written": Mechanism(
        "cli.program.config_text.register", broken.nothing, "one", "Timer"
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
    "all_gather gathers": Mechanism(
        "strategies.ddp.DDPStrategy.all_gather",
        lambda self, tensor, group=None, sync_grads=False: tensor[None],
        "ddp2",
        "all_gather; contrastive, gathered, equal parts",
    ),
    "ranks are not seeded anew": Mechanism(
        "strategies.meeting._draw_on_from",
        broken.nothing,
        "ddp2",
        "split at random in setup; a head made in configure_model",
    ),
    "what is trained is followed": Mechanism(
        "strategies.trained.TrainedParameters.have_changed",
        broken.no,
        "ddp2",
        "unfreezes a layer; freezes a layer; adds to the optimizer; finetuning schedule",
    ),
    "modes are the user's": Mechanism(
        "telemetry.console.Console.on_train_epoch_end",
        broken.turns_to_training,
        "one",
        "frozen BatchNorm; BatchNorm frozen once",
    ),
    "nobody else calls the model": Mechanism(
        "telemetry.dashboard.callback.Dashboard.on_train_epoch_start",
        broken.runs_the_model,
        "one",
        "forward counts its calls",
    ),
    # Replicas.
    "outputs are joined": Mechanism(
        "strategies.scatter_gather.Gather.__call__",
        lambda self, outputs: outputs[0],
        "dp2",
        "outputs are dataclasses; outputs are distributions; arguments by name",
    ),
    "a length tells nothing": Mechanism(
        "strategies.rows.Rows.kind", broken.by_length, "dp2", "an argument as long as a batch"
    ),
    "a transform runs in one piece": Mechanism(
        "strategies.dp.is_in_transform", broken.no, "dp2", "meta-learning"
    ),
    "weights that are not there are finite": Mechanism(
        "checkpoint.finite.is_lazy", broken.no, "one", "lazy layers"
    ),
    "hooks run once": Mechanism(
        "strategies.replicas.Replicas.call", broken.hooked, "dp2", "hooks on the outermost module"
    ),
    "what a forward writes is told": Mechanism(
        "strategies.replicas.Replicas._tell_of_writes",
        broken.nothing,
        "dp2",
        "forward writes an attribute",
    ),
    # Logs.
    "values per epoch are put together": Mechanism(
        "strategies.global_logs.GlobalLogs._share",
        broken.nothing,
        "ddp2",
        "several validation loaders; plateau of an epoch's value; torchmetrics; "
        "checkpoint by an epoch's value; test; validate; logs large values in validation; "
        "names by class; names by class in validation; smallest, largest, count; "
        "check_val_every_n_epoch; own list of callback_metrics; a metric's own value, a mean; "
        "first rank logs more, and says so",
    ),
    "values per step are put together": Mechanism(
        "strategies.step_values.StepValues.end_step",
        broken.nothing,
        "ddp2",
        "logs in the first epoch; logs every seventh step; logs large losses; "
        "first rank logs more; per step and per epoch; plateau of a step's value; "
        "early stopping by a step's value; checkpoint by a step's value; log every third step",
    ),
    "a constant batch_size tells nothing": Mechanism(
        "strategies.global_logs.merge", broken.totals, "ddp2", "batch_size= of the loader"
    ),
    "the true batch_size counts": Mechanism(
        "strategies.global_logs.merge", broken.totals_by_part, "ddp2", "batch_size= of the batch"
    ),
    "means that are given to objects": Mechanism(
        "strategies.batch_means.BatchMeans.settle", broken.nothing, "ddp2", "averages of means"
    ),
    "a train/loss of the model's own": Mechanism(
        "telemetry.loss._logged_as", broken.nothing, "one", "own train/loss"
    ),
    "dicts are logged": Mechanism(
        "telemetry.dashboard.logger._is_number", broken.yes, "one", "dicts for the logger"
    ),
    # Runs that are continued.
    "a position is taken up": Mechanism(
        "strategies.shards.Shards.load",
        broken.nothing,
        "stopped",
        "a new loader each epoch; OneCycleLR; learning rates; accumulation scheduler",
    ),
    "passes are drawn again": Mechanism(
        "strategies.shards.needs_replay", broken.no, "stopped", "stopped between epochs, counting"
    ),
    "generators go on": Mechanism(
        "strategies.shards.Shards.generators",
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
        "epoch means over a stop; metrics over a stop; a switch set as the epoch starts; SWA",
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
        "strategies.transfer.DirectTransfer._hooks_are_idle",
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
