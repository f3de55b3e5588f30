"""How a run is continued at the very place where it was saved.

Lightning's loops can restart from almost any step they are saved at. Where they would skip a
validation or an epoch's end, do something twice, or forget the loader's position, the progress is
put right here. What they cannot take up is told in one line.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
)
from lightning_utilities.core.apply_func import apply_to_collection
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor
from torch.nn.utils.prune import is_pruned
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.by_hand import count_by_hand, count_no_more
from lightning_app.checkpoint.drawn import DrawnOtherwise, drawn_anew
from lightning_app.checkpoint.epoch_starts import bears_repeating, prepares_epochs
from lightning_app.checkpoint.io import continued_from
from lightning_app.checkpoint.mid_epoch import (
    SAVE_NOTHING,
    begins_anew,
    changed_since,
    gathered_so_far,
    gradients_lost,
    unsaved_now,
    what_is_lost,
)
from lightning_app.checkpoint.optimizers import (
    check_optimizers,
    kept_aside,
    kept_within,
    trained_by,
)
from lightning_app.checkpoint.progress import (
    end_step,
    num_learnt,
    plateaus_are_due,
    put_right,
)
from lightning_app.checkpoint.switches import set_switches, switches
from lightning_app.hooks import has_hook
from lightning_app.modules import plain, tensors_of
from lightning_app.own_part import own_part
from lightning_app.strategies.checks.kept import Prints
from lightning_app.strategies.loaders.loader import why_not_split

_NOTHING_PENDING = "nothing_pending"
_PLATEAUS_DUE = "plateaus_due"
_EPOCH_MEANS = "epoch_means"
_GATHERED = "gathered_so_far"
_METRICS = "callback_metrics"
_SWITCHES = "switches"
_TRAINED_BY = "trained_by"
_VALIDATED = "validated"
_OWN = (
    *("event_files", _NOTHING_PENDING, _PLATEAUS_DUE, _EPOCH_MEANS, _GATHERED),
    *(_METRICS, _SWITCHES, _TRAINED_BY, _VALIDATED),
)
# They load a checkpoint of their own, after which Lightning forgets the one to go on from.
_SEARCHES = (LearningRateFinder.on_fit_start, BatchSizeFinder.on_fit_start)


class RewindsFiles(ABC):
    """A logger whose files are cut back to where they were when a checkpoint was made."""

    @abstractmethod
    def position(self) -> dict[str, int]:
        """How long its files are."""

    @abstractmethod
    def rewind(self, position: dict[str, int]) -> None:
        """Cut them back."""


class Resume(Callback):
    """Makes what is saved, by whichever callback, such that the run goes on exactly there."""

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] = {}  # of what this callback adds to one
        self._numbers: list[int] = []  # of optimizers and schedulers in it
        self._has_position = False  # in the data, the checkpoint
        self._ends_step = False  # it was saved in a hook of a step that had more behind it
        self._drawn = DrawnOtherwise()
        self._begun: Prints = {}  # of what no checkpoint has, before the first step

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        own = own_part(checkpoint)
        has_begun = trainer.state.fn is not None  # else to ask for files would make one
        if isinstance(trainer.logger, RewindsFiles) and trainer.is_global_zero and has_begun:
            own["event_files"] = trainer.logger.position()
        progress = checkpoint["loops"]["fit_loop"]
        metrics = inside.metrics_to_save(trainer)  # plateau schedulers go by them
        own[_PLATEAUS_DUE] = plateaus_are_due(trainer, progress, metrics)
        in_training = put_right(trainer, progress)
        own[_TRAINED_BY] = trained_by(trainer)
        own[_NOTHING_PENDING] = in_training  # a step that has not ended is done again
        own[_EPOCH_MEANS] = sorted(_logged_per_epoch(trainer))
        own[_GATHERED] = gathered_so_far(trainer, self._begun)
        # Those of the run that is continued, until the next validation has taken them over.
        own[_VALIDATED] = self._checkpoint.get(_VALIDATED) or inside.validation_steps(trainer)
        own[_SWITCHES] = switches(pl_module, with_modes=in_training)
        own[_METRICS] = tensors_of(metrics)
        if any(type(value) is not Tensor for value in metrics.values()):  # callbacks keep them, too
            states = checkpoint.get("callbacks")
            checkpoint["callbacks"] = apply_to_collection(states, Tensor, plain)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit":
            return  # for its weights
        if continued_from(trainer) is None:  # what a search has put back
            return
        if num_learnt(checkpoint["loops"]["fit_loop"]):
            _check_searches(trainer)
        own = own_part(checkpoint)
        self._checkpoint = {name: own.get(name) for name in _OWN}
        progress = checkpoint["loops"]["fit_loop"]
        self._ends_step = end_step(progress)
        loaders = progress.get("state_dict") or {}
        self._has_position = bool(loaders.get("combined_loader"))
        self._numbers = [len(checkpoint.get(k, ())) for k in ("optimizer_states", "lr_schedulers")]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        count_by_hand(trainer)
        self._begun = {}
        inside.before_first_step(trainer, lambda: self._look_at_unsaved(pl_module))
        if self._checkpoint and trainer.strategy.lightning_restore_optimizer:
            check_optimizers(trainer, self._checkpoint.get(_TRAINED_BY), self._numbers)
        event_files = self._checkpoint.get("event_files")
        if isinstance(trainer.logger, RewindsFiles) and trainer.is_global_zero and event_files:
            trainer.logger.rewind(event_files)  # not before: the run may still be refused
        self._put_metrics(trainer)
        gathered = self._checkpoint.get(_GATHERED) or {}
        lost: list[str] = []
        if not (pl_module.automatic_optimization and inside.is_between_epochs(trainer)):
            lost += gradients_lost(gathered)
        if self._checkpoint:
            lost += (*_what_is_lost(trainer), *begins_anew(gathered), *drawn_anew(trainer))
        for line in (*set_switches(pl_module, self._checkpoint.get(_SWITCHES) or {}), *lost):
            rank_zero_only(print)(f"continued: {line}", file=sys.stderr)
        if self._checkpoint:
            inside.keep_reload_epochs(trainer)
        if self._checkpoint.get(_PLATEAUS_DUE):
            inside.step_plateaus_of_epoch(trainer)
        inside.load_positions(trainer)
        if not trainer.fit_loop.restarting:
            return
        if inside.is_between_epochs(trainer):
            # Saved between two epochs. With `max_steps`, Lightning takes it for one in mid-epoch.
            inside.begin_with_new_epoch(trainer)
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if bears_repeating(callback, trainer):
                callback.on_train_epoch_start(trainer, pl_module)
        if self._ends_step or self._checkpoint.get(_NOTHING_PENDING):
            inside.begin_with_next_step(trainer, self._ends_step)
        inside.end_epoch_as_usual(trainer)
        for line in self._what_is_not_taken_up(trainer):
            rank_zero_only(print)(f"continued within an epoch: {line}", file=sys.stderr)

    def _look_at_unsaved(self, pl_module: LightningModule) -> None:
        """Once hooks of the model may have put back what no checkpoint has by itself."""
        self._begun = unsaved_now(pl_module)
        for line in changed_since(self._checkpoint.get(_GATHERED) or {}, self._begun):
            rank_zero_only(print)(f"continued: {line}", file=sys.stderr)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            inside.put_validation_steps(trainer, self._checkpoint.pop(_VALIDATED, None) or {})
        if self._checkpoint and trainer.global_step:
            self._drawn.tell_of_validation(trainer)

    def _put_metrics(self, trainer: Trainer) -> None:
        inside.put_metrics(trainer, self._checkpoint.pop(_METRICS, None) or {})

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_metrics(trainer)  # training does not start where nothing is left to be done

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        count_no_more(trainer)
        inside.forget_restart(trainer)  # a run may be told to stop before its first step
        self._checkpoint = {}

    def _what_is_not_taken_up(self, trainer: Trainer) -> Iterator[str]:
        for loader in inside.training_loaders(trainer):
            name = type(getattr(loader, "dataset", loader)).__name__
            if not hasattr(loader, "load_state_dict"):
                yield (
                    f"{why_not_split(loader) or name}: it tells no position, so it starts again, "
                    "unless your code puts it back"
                )
            elif not self._has_position:
                yield (
                    "the checkpoint has no position in the data, as of another program's, so "
                    f"{name} starts again: continue from an epoch's end to have each batch once"
                )
        if names := self._checkpoint.get(_EPOCH_MEANS):
            yield (
                f"this epoch's values of {', '.join(names)} are those of its remaining batches; "
                "values per step have no gap"
            )
        yield from what_is_lost(self._checkpoint.get(_GATHERED) or {})
        model: LightningModule = trainer.lightning_module
        if self._ends_step and has_hook(model, "on_train_batch_end"):
            yield (
                "it was saved in on_train_batch_end or before, and that of "
                f"{type(model).__name__}, which comes after those of callbacks, does not run for "
                "that step; nor is what the step logged for itself written"
            )
        if owners := [type(owner).__name__ for owner in prepares_epochs(trainer)]:
            yield (
                f"on_train_epoch_start of {', '.join(owners)} ran when the epoch began, and does "
                "not run again; what it sets has to be in the checkpoint (`on_save_checkpoint`, or "
                "a buffer)"
            )

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")


def _check_searches(trainer: Trainer) -> None:
    """Refuse callbacks that would lose the place to go on from."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if getattr(callback.on_fit_start, "__func__", None) in _SEARCHES:
            raise MisconfigurationException(
                f"--ckpt_path {trainer.ckpt_path}: {type(callback).__name__} would search anew, "
                "and training would then begin at step 0: leave it out, and give what it has found"
            )


def _what_is_lost(trainer: Trainer) -> Iterator[str]:
    """What Lightning and torchmetrics save nothing of, in words."""
    model: LightningModule = trainer.lightning_module
    prunes = any(isinstance(callback, ModelPruning) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if prunes and not is_pruned(model):
        yield (
            "ModelPruning does not put back its masks, so what it has pruned is trained until it "
            "prunes again"
        )
    every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    if every and (late := trainer.current_epoch % every):
        begun = trainer.current_epoch - late
        yield (
            f"loaders that were made for epoch {begun} (`reload_dataloaders_every_n_epochs`) are "
            f"made again at epoch {trainer.current_epoch}, and then at {begun + every}"
        )
    for kind in SAVE_NOTHING:
        if names := [name for name, m in model.named_modules() if isinstance(m, kind)]:
            yield (
                f"{', '.join(names)}: a {kind.__name__} saves nothing of its history, so that "
                "begins anew"
            )
    if names := kept_aside(trainer):
        yield (
            f"{', '.join(names)} of {type(model).__name__}: configure_optimizers does not return "
            "it, so it is in no checkpoint and begins anew: return it, or save it in "
            "on_save_checkpoint"
        )
    for name in kept_within(trainer):
        yield (
            f"{name}: the outer optimizer's state_dict leaves its state out, so it is in no "
            "checkpoint and begins anew: save it in on_save_checkpoint"
        )


def _logged_per_epoch(trainer: Trainer) -> set[str]:
    """What the model has logged of the epoch's batches so far, to be put together at its end."""
    results = inside.training_results(trainer).values()
    is_cut_short = trainer.global_step == trainer.max_steps and not inside.has_all_batches(trainer)
    return {m.meta.name for m in results if m.meta.on_epoch and (is_cut_short or not m.has_reset)}
