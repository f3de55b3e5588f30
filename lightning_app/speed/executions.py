"""`--steps_per_execution K`: up to K optimizer steps in one iteration of the Trainer's loop.

Keras's word and meaning. What the loop does around a step (fetching, hooks of callbacks, progress,
signals) is done once per execution. Every step is the same as with K = 1: its own batch, backward
pass, optimizer step and learning rate, so weights, sizes, coverage, checkpoints and logged curves
are, too. An execution ends early where there is something to do: at a step that is logged or that
a `ModelCheckpoint` saves, before a validation, at `min_steps`, at the epoch's and the run's end. So
it does after a step that sets `trainer.should_stop`, but on several processes, which agree on that
after an execution.

Hooks that fire per batch (`on_train_batch_start`, `on_train_batch_end`, the transfer hooks) fire
per execution, with the list of its batches. Lightning's callbacks that show or log something in
them, or save, do so at the same steps. Where any other has one, say a moving average of the
weights, steps run one by one, and a line tells why. This drives Lightning's training loop from
within, which is not public; tests notice if it changes.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from lightning_app import inside, strategies
from lightning_app.hooks import has_hook
from lightning_app.strategies.loaders.loader import ShardedLoader, step_over_iterator

BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
TRANSFER_HOOKS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)
# Whose hooks per batch do the same, or enough, once per execution.
HARMLESS = (
    "lightning_app.",
    "lightning.pytorch.callbacks.device_stats_monitor",
    "lightning.pytorch.callbacks.lr_monitor",
    "lightning.pytorch.callbacks.model_checkpoint",
    "lightning.pytorch.callbacks.progress.",
    "lightning.pytorch.callbacks.timer",
)


class StepsPerExecution(Callback):
    """Groups training steps.

    Args:
        steps: The most optimizer steps in one execution.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._loader: Any = None
        self._is_grouping = False
        self._has_told = False  # of hooks that were set later
        self._begins_at_logs = False  # for what is logged as a batch starts
        self._saved_every: list[int] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_grouping = self._has_told = False
        if not (
            isinstance(trainer.train_dataloader, ShardedLoader)
            and strategies.splits_batches(trainer.strategy)
            and pl_module.automatic_optimization
            and not step_over_iterator(trainer)
        ):
            raise MisconfigurationException(
                f"--steps_per_execution {self.steps}: it needs one training loader with a length, "
                "a strategy of this project (dp, ddp, one device), automatic optimization and a "
                "training_step that takes a batch; leave it out"
            )
        if missing := inside.missing_for_speed(trainer):
            self._tell(f"Lightning has no {', '.join(missing)}, so steps run one by one")
            return
        if names := list(_acts_per_batch(trainer)):
            self._tell(f"{', '.join(names)} may act in each step, so steps run one by one")
            return
        self._is_grouping = True
        self._group(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        owners = (pl_module, *callbacks)
        self._begins_at_logs = any(has_hook(o, "on_train_batch_start") for o in owners)
        saves = [inside.saved_every(c) for c in callbacks if isinstance(c, ModelCheckpoint)]
        self._saved_every = [steps for steps in saves if steps]
        run_step = inside.step_runner(trainer)
        results = inside.training_results(trainer)
        listeners = [
            c.on_step_end  # type: ignore[attr-defined]
            for c in callbacks
            if _made_in(c, "on_step_end").startswith("lightning_app.")
        ]

        def run(optimizer: torch.optim.Optimizer, batch_idx: int, kwargs: Any) -> Any:
            batches, its_pass = kwargs["batch"], self._loader.sharding.current()
            for i, batch in enumerate(batches):
                if i:
                    its_pass.announce()
                results.batch, results.batch_size = batch, None
                own = OrderedDict(kwargs, batch=batch)
                if "batch_idx" in own:
                    own["batch_idx"] = batch_idx + i
                outputs = run_step(optimizer, batch_idx + i, own)
                if i + 1 == len(batches) or _stops(trainer):
                    break
                for listener in listeners:
                    listener(trainer, outputs)
                inside.begin_next_step(trainer)
            return outputs

        inside.put_step_runner(trainer, run)

    def _tell(self, what: str) -> None:
        line = f"--steps_per_execution {self.steps}: {what}"
        rank_zero_only(print)(line, file=sys.stderr)

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if not self._is_grouping or self._has_told:
            return
        if names := list(_acts_per_batch(trainer)):
            self._has_told = True
            self._tell(
                f"{', '.join(names)} was set after training began: it is called once for several "
                "batches; set it before, or leave out --steps_per_execution"
            )

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_grouping:
            self._group(trainer)

    def _group(self, trainer: Trainer) -> None:
        """Have the training loader, of which an epoch may have a new one, give groups."""
        self._loader = trainer.train_dataloader
        if isinstance(self._loader, ShardedLoader):
            self._loader.sharding.group_size = partial(self._num_next, trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        inside.give_step_runner_back(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        inside.give_step_runner_back(trainer)

    def _num_next(self, trainer: Trainer) -> int:
        """How many batches the next execution takes."""
        batches, total = trainer.fit_loop.batch_idx + 1, trainer.fit_loop.total_batch_idx + 1
        step, last_step = trainer.global_step, trainer.global_step + self.steps
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        check = trainer.val_check_batch or torch.inf
        ends = (last_step, trainer.min_steps, trainer.max_steps)
        for num in count(1):
            end_of_epoch = batches + num == trainer.num_training_batches
            if (batches + num) % trainer.accumulate_grad_batches == 0 or end_of_epoch:
                step += 1
                is_log_step = every and (step == 1 or step % every == 0)
                if is_log_step or step in ends:
                    return num
                if every and self._begins_at_logs and (step + 1) % every == 0:
                    return num
                if any(step % saved == 0 for saved in self._saved_every):
                    return num
            validated = (total if trainer.check_val_every_n_epoch is None else batches) + num
            if end_of_epoch or validated % check == 0:
                return num
        raise AssertionError("an epoch ends")


def _acts_per_batch(trainer: Trainer) -> Iterator[str]:
    """The hooks of the user's that an execution would call once for several batches."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    module, datamodule = trainer.lightning_module, getattr(trainer, "datamodule", None)
    owners: list[tuple[Any, tuple[str, ...]]] = [(c, BATCH_HOOKS) for c in callbacks]
    owners += [(module, BATCH_HOOKS + TRANSFER_HOOKS)]
    owners += [(datamodule, TRANSFER_HOOKS)] if datamodule is not None else []
    for owner, hooks in owners:
        for hook in hooks:
            if has_hook(owner, hook) and not _made_in(owner, hook).startswith(HARMLESS):
                yield f"{type(owner).__name__}.{hook}"


def _made_in(owner: object, name: str) -> str:
    """The module in which an object's method was made; empty if there is none."""
    return getattr(getattr(owner, name, None), "__module__", None) or ""


def _stops(trainer: Trainer) -> bool:
    """Whether a step was the last; ranks that are processes agree on that after an execution."""
    return inside.is_told_to_stop(trainer) and trainer.world_size == 1
