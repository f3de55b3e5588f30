"""What several processes cannot do as one device does, refused before anybody waits for it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, OnExceptionCheckpoint
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm
from torch.optim import LBFGS, Optimizer
from torchmetrics import Metric

from lightning_app import inside
from lightning_app.processes.collectives import AllGather, all_objects
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.alone import COLLECTIVES, Alone, before
from lightning_app.strategies.checks.means import tells_of_weighted_means
from lightning_app.strategies.loaders.loader import step_over_iterator

GATHERS = ("all_gather", "all_gather_into_tensor")
# The modules that gather unequal parts rightly, and those between them and a process group.
RIGHT = {SyncBatchNorm.__module__, Metric.__module__, all_objects.__module__}
BETWEEN = (
    *("torch.distributed", "torch.overrides", "torch.autograd."),
    *("torchmetrics.utilities", "lightning_utilities."),
    *(Alone.__module__, tells_of_weighted_means.__module__),
)

LIBRARIES = ("torch.", "torchmetrics.", "lightning.", "lightning_app.")


def check_run(trainer: Trainer, world_size: int, no_batchnorm: bool) -> None:
    """Refuse a run for what it is asked to do.

    Args:
        trainer: That is about to run.
        world_size: How many ranks there are.
        no_batchnorm: SyncBatchNorm is asked for, and there is none for the ranks' devices.

    Raises:
        MisconfigurationException: That, a step takes the loader's iterator, it validates by
            time, searches for a learning rate, or saves where one rank has failed.
    """
    if no_batchnorm:
        raise MisconfigurationException(
            "--sync_batchnorm needs GPUs: torch's SyncBatchNorm does not run on a CPU; "
            "leave it out, or train with `--devices 1`"
        )
    if step := step_over_iterator(trainer):
        raise MisconfigurationException(
            f"{step} takes the loader's iterator, so it is not known which batch its loss is "
            f"of, and how to weigh it over {world_size} processes: take a batch, or use one device"
        )
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    searches = trainer.state.fn == "fit" and not trainer.fast_dev_run  # type: ignore[attr-defined]
    if searches and any(isinstance(c, LearningRateFinder) for c in callbacks):
        raise MisconfigurationException(
            f"LearningRateFinder goes by the loss of one of {world_size} processes: let it search "
            "on one device or by `--strategy dp`, and give the rate that it has found"
        )
    if trainer.state.fn == "fit":
        check_saves(callbacks, world_size)
    if inside.validates_by_time(trainer):
        raise MisconfigurationException(
            f"--val_check_interval by time: the clocks of {world_size} processes differ, "
            "so they would validate at different steps; give a number of batches"
        )


def check_saves(callbacks: Sequence[Callback], world_size: int) -> None:
    """Refuse to save where a rank has failed, and the others wait for it elsewhere.

    The command line asks before a run begins: such a callback would save at a refusal as well.

    Raises:
        MisconfigurationException: A callback is to.
    """
    for callback in callbacks if world_size > 1 else ():
        is_to = isinstance(callback, OnExceptionCheckpoint)
        if is_to or getattr(callback, "save_on_exception", False):
            raise MisconfigurationException(
                f"{type(callback).__name__}{'' if is_to else '(save_on_exception=True)'} saves "
                f"with all {world_size} processes, which are not at the same place when one of "
                "them fails. Remove it: last.ckpt is saved at each epoch's end, and every "
                "--save_every_s seconds"
            )


def check_optimizers(optimizers: Sequence[Optimizer], world_size: int) -> None:
    """Refuse what decides by the loss, which is another on each rank.

    Raises:
        MisconfigurationException: One of them does.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS):
            raise MisconfigurationException(
                f"{type(optimizer).__name__} decides by the loss, which differs between the "
                f"{world_size} processes, so their weights would drift apart: use "
                "`--strategy dp` or one device"
            )


def check_new(
    hook: str, shards: Sequence[Shard], previous: Sequence[Shard], world_size: int
) -> None:
    """Refuse to run a step again on the same batch.

    Args:
        hook: The step.
        shards: This rank's parts of the step's batches.
        previous: Those of the step before.
        world_size: How many ranks there are.

    Raises:
        MisconfigurationException: They are the same.
    """
    if any(new is old for new, old in zip(shards, previous, strict=False)):
        raise MisconfigurationException(
            f"{hook} ran again on the same batch, as for LBFGS, which goes by a loss that "
            f"differs on {world_size} processes: use `--strategy dp` or one device"
        )


@contextmanager
def refused_to_wait(model: LightningModule, size: int, world_size: int) -> Iterator[None]:
    """Refuse to wait for ranks that have no part of a batch.

    Args:
        model: Whose steps and hooks the batch goes through.
        size: Samples of the batch.
        world_size: How many ranks there are.

    Raises:
        MisconfigurationException: Something would wait.
    """

    def refusal(waits: str) -> MisconfigurationException:
        return MisconfigurationException(
            f"{waits} in {inside.running_hook(model)} waits for all {world_size} processes, and "
            f"some of them have no sample of a batch of {size}: use it in a hook at the epoch's "
            "end, or batches with a sample for each process"
        )

    alone = Alone(refusal, has_parts=False)
    with alone.guards(model), alone.in_step():
        yield


def check_sync_batchnorm(model: LightningModule, shard: Shard, world_size: int) -> None:
    """Refuse SyncBatchNorm in a training step of which some ranks have no part.

    They would run other ranks' samples, which it counts again.

    Raises:
        MisconfigurationException: The model has it.
    """
    if any(isinstance(part, nn.SyncBatchNorm) and part.training for part in model.modules()):
        raise MisconfigurationException(
            f"a batch of {shard.global_size} has no sample for some of {world_size} processes, "
            "and SyncBatchNorm needs one of each: use drop_last=True, or another batch size"
        )


def check_shapes(tensor: Tensor) -> None:
    """Refuse to gather tensors of several shapes, which torch would end with a broken connection.

    All ranks call this.

    Raises:
        MisconfigurationException: The ranks' shapes differ, or some do not call this.
    """
    shapes = [rank.shape for rank in all_objects(AllGather(tuple(tensor.shape)))]
    if len(set(shapes)) > 1:
        listed = " and ".join(map(str, dict.fromkeys(shapes)))
        raise MisconfigurationException(
            f"all_gather got tensors of the shapes {listed} from {len(shapes)} processes, which "
            "have unequal parts of the data: gather a sum and a count, or use a torchmetrics "
            f"object; in training also a batch_size that {len(shapes)} divides, with drop_last=True"
        )


@contextmanager
def alike_where_gathered(tell: Callable[[], None]) -> Iterator[None]:
    """Have what a step gathers by torch's own functions checked, where ranks have unequal parts.

    Args:
        tell: Called where something is gathered, but by SyncBatchNorm or a torchmetrics object.

    Raises:
        MisconfigurationException: Ranks gather tensors of several shapes.
    """

    def check(group: object, outputs: Any, inputs: Any, *others: Any) -> None:
        if group is not dist.group.WORLD or _calls_for() in RIGHT:  # by some ranks; rightly
            return
        tell()
        for tensor in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
            check_shapes(tensor)

    with ExitStack() as undo:
        for method, function in COLLECTIVES.items():
            if function in GATHERS and method in vars(dist.ProcessGroup):
                undo.enter_context(before(dist.ProcessGroup, method, check))
        yield


@contextmanager
def sums_told(tell: Callable[[], None]) -> Iterator[None]:
    """Have it told where a step sums up by torch's own function, and not a library for it.

    Args:
        tell: Is called.
    """

    def check(group: object, tensors: Any, options: Any = None, *others: Any) -> None:
        operation = getattr(options, "reduceOp", dist.ReduceOp.SUM)
        is_sum = operation == dist.ReduceOp.SUM or operation == dist.ReduceOp.AVG
        if is_sum and not _calls_for().startswith(LIBRARIES):
            tell()

    with before(dist.ProcessGroup, "allreduce", check):
        yield


def _calls_for() -> str:
    """The module whose code has called a process group."""
    frame = sys._getframe(2)  # what has called `check`
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(BETWEEN):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


@contextmanager
def refused_by_gradients() -> Iterator[None]:
    """Make one line of torch's errors about gradients that do not come, or come twice.

    Raises:
        MisconfigurationException: One of them came.
    """
    try:
        yield
    except RuntimeError as error:
        if "have finished reduction in the prior iteration" in str(error):
            raise MisconfigurationException(
                "some parameters had no part in the last step's loss, and the ranks wait for "
                "their gradients: use `--strategy ddp_find_unused_parameters_true`"
            ) from error
        if "mark a variable ready only once" in str(error):
            raise MisconfigurationException(
                "some gradients come twice in a backward pass, as by reentrant checkpointing: use "
                "`use_reentrant=False`; or, where each loss depends on all that is trained, "
                "`--strategy ddp_find_unused_parameters_false`"
            ) from error
        raise
