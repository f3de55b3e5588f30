"""The optimizer step of a small model costs less than Lightning's way to it; this is a shorter one.

Between `training_step` and `optimizer.step`, Lightning calls eight hooks of the model, four of
every callback and several of the precision plugin and the strategy, and notes the name of each.
Where none of them does anything, nothing is lost by not calling them: the same forward and backward
pass and the same optimizer step, in the same order, with the same progress counted. Where one
might, also a strategy, precision plugin or profiler that is not known here, Lightning's way is
taken. Hooks are looked at in each step, as a user's may appear at any time; strategy, plugin and
profiler, and this project's own callbacks, are as the run began.

This stands in for a loop of Lightning's that is not public; tests notice if it changes.
"""

import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.plugins.precision import DoublePrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_app import inside
from lightning_app.hooks import has_hook
from lightning_app.speed.profiler import NoProfiler
from lightning_app.strategies import DataParallelStrategy, DDPStrategy, SingleDeviceStrategy

CALLBACK_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
MODEL_HOOKS = (
    *CALLBACK_HOOKS,
    "optimizer_zero_grad",
    "backward",
    "configure_gradient_clipping",
    "clip_gradients",
    "optimizer_step",
)
OURS = "lightning_app."
NO_LOSS = "`training_step` returned `None`: nothing is learnt in this step"


class DirectStep(Callback):
    """Takes the short way in every training step, where nothing is skipped by it."""

    _is_possible = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        missing = inside.missing_for_speed(trainer)
        self._is_possible = not missing
        if missing:
            rank_zero_only(print)(
                f"Lightning {lightning.__version__} has no {', '.join(missing)}: steps go "
                "Lightning's own way, which takes longer",
                file=sys.stderr,
            )
            return
        from lightning_app.inside.quick_logs import log_quickly  # which need not be possible

        log_quickly(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_possible:
            return
        from lightning_app.inside.quick_logs import look_up_once

        look_up_once()
        inside.put_step_runner(trainer, _direct_run(trainer, pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        if not self._is_possible:
            return
        from lightning_app.inside.quick_logs import look_up_each_time

        look_up_each_time()
        inside.give_step_runner_back(trainer)


def can_step_directly(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether no hook between `training_step` and `optimizer.step` has anything to do."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    strategy = trainer.strategy
    return not (
        any(has_hook(pl_module, hook) for hook in MODEL_HOOKS)
        or any(has_hook(c, hook) for hook in CALLBACK_HOOKS for c in callbacks)
        or type(trainer.precision_plugin) not in (Precision, DoublePrecision)
        or type(trainer.profiler) not in (NoProfiler, PassThroughProfiler)  # type: ignore[attr-defined]
        or type(strategy) not in (DDPStrategy, DataParallelStrategy, SingleDeviceStrategy)
        or getattr(strategy, "_model_averager", None) is not None  # steps after the optimizer
        or not pl_module.automatic_optimization
    )


class _IsDirect:
    """`can_step_directly`, which is asked again where a hook or the callbacks have changed."""

    _hooks_of_model, _hooks_of_callback = attrgetter(*MODEL_HOOKS), attrgetter(*CALLBACK_HOOKS)

    def __init__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer, self._module = trainer, pl_module
        self._callbacks: list[Callback] = []
        self._others: list[Callback] = []  # whose hooks may change: those that are not ours
        self._hooks: list[Any] = []
        self._answer = False

    def __call__(self) -> bool:
        callbacks: list[Callback] = self._trainer.callbacks  # type: ignore[attr-defined]
        if callbacks != self._callbacks:
            self._callbacks, self._hooks = list(callbacks), []
            self._others = [c for c in callbacks if not type(c).__module__.startswith(OURS)]
        hooks = [self._hooks_of_model(self._module), *map(self._hooks_of_callback, self._others)]
        if hooks != self._hooks:
            self._hooks = hooks
            self._answer = can_step_directly(self._trainer, self._module)
        return self._answer


def _direct_run(trainer: Trainer, pl_module: LightningModule) -> Callable[..., dict[str, Any]]:
    strategy = trainer.strategy
    progress, usual = inside.optimizer_progress(trainer), inside.step_runner(trainer)
    is_direct = _IsDirect(trainer, pl_module)
    weigh: Callable[[Tensor], Tensor] = getattr(strategy, "weigh", lambda loss: loss)

    def run(optimizer: Optimizer, batch_idx: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Callbacks may set all of these in mid-run.
        accumulates_or_clips = trainer.accumulate_grad_batches > 1 or trainer.gradient_clip_val
        if accumulates_or_clips or inside.skips_backward(trainer) or not is_direct():
            return usual(optimizer, batch_idx, kwargs)
        output: dict[str, Any] | None = None

        def closure() -> Tensor | None:
            nonlocal output
            with torch.enable_grad():  # an optimizer may call it without
                kept: Tensor | None
                loss: Any = strategy.training_step(*kwargs.values())
                if isinstance(loss, Tensor):
                    kept = loss.detach().clone()  # before the optimizer writes to it
                    output = {"loss": kept}
                else:  # checked as Lightning does
                    result = ClosureResult.from_training_step_output(loss)
                    loss, kept = result.closure_loss, result.loss
                    output = {} if loss is None else result.asdict()
                weighed = None if loss is None else weigh(loss)
            progress.zero_grad.increment_ready()
            progress.zero_grad.increment_started()
            _zero_grad(optimizer)
            progress.zero_grad.increment_completed()
            if weighed is None:
                Closure.warning_cache.warn(NO_LOSS)
            else:
                weighed.backward()  # type: ignore[no-untyped-call]
            return kept

        inside.set_hook(pl_module, "training_step")
        progress.step.increment_ready()
        optimizer.step(closure=closure)  # type: ignore[arg-type]
        progress.step.increment_completed()
        inside.set_hook(pl_module, None)
        if output is None:
            raise MisconfigurationException(
                f"{type(optimizer).__name__}.step did not call the closure that it was given"
            )
        return output

    return run


def _zero_grad(optimizer: Optimizer) -> None:
    """What torch's own `zero_grad` does, without its note for the profiler, which costs more."""
    if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
