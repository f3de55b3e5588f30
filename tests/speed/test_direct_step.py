"""The short way through a step does what Lightning's does, and leaves nothing behind."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import nn
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.speed.direct_step import DirectStep, can_step_directly
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.strategies import SingleDeviceStrategy
from lightning_app.telemetry.coverage import Coverage
from tests.ranks import run_ranks
from tests.runs import assert_same, fit, make_trainer
from tests.speed.test_executions import data
from tests.user_modules import (
    LossForgotten,
    TwoOptimizers,
)


class CountingSGD(torch.optim.SGD):
    num_zeroed = 0

    @override
    def zero_grad(self, set_to_none: bool = True) -> None:
        CountingSGD.num_zeroed += 1
        super().zero_grad(set_to_none)


class WithCountingSGD(LinearModule):
    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return CountingSGD(self.parameters(), lr=0.05)


def test_an_optimizers_own_zero_grad_is_called() -> None:
    CountingSGD.num_zeroed = 0
    fit("single_device", 1, WithCountingSGD(), data(), max_epochs=1, callbacks=[DirectStep()])
    assert CountingSGD.num_zeroed == 8


class SGDWithoutGrad(torch.optim.SGD):
    """Calls its closure as it is called itself: without gradients, and by its name."""

    @torch.no_grad()
    def step(self, metrics: Any = None, closure: Any = None) -> Any:  # type: ignore[override]
        assert metrics is None
        loss = closure()
        assert not loss.requires_grad
        super().step()
        return loss


class WithSGDWithoutGrad(LinearModule):
    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SGDWithoutGrad(self.parameters(), lr=0.05)


def test_the_closure_brings_its_own_gradients() -> None:
    runs = []
    for kind in (LinearModule, WithSGDWithoutGrad):
        torch.manual_seed(0)
        runs.append(fit("single_device", 1, kind(), data(), max_epochs=1, callbacks=[DirectStep()]))
    assert_same(runs[0], runs[1], tolerance=0)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_step_without_a_loss_is_told() -> None:
    Closure.warning_cache.clear()
    trainer = make_trainer("single_device", 1, max_epochs=1, callbacks=[DirectStep()])
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        trainer.fit(LossForgotten(), data())


class ReturnsItself(LinearModule):
    """Has a loss that its optimizer writes to."""

    def __init__(self) -> None:
        super().__init__(log_shapes="off")
        self.level = nn.Parameter(torch.tensor(1.0))

    @override
    def training_step(self, batch: Any) -> Any:
        return self.level


def test_a_loss_is_kept_as_it_was_before_the_step() -> None:
    module = RandomDataModule(length=40, batch_size=10)
    run = fit("single_device", 1, ReturnsItself(), module, max_epochs=1, callbacks=[DirectStep()])
    levels = [1.0, 0.95, 0.9, 0.85]  # at a rate of 0.05
    assert run.curves["train/loss"][3] == pytest.approx(sum(levels) / 4, rel=1e-12)


class Exchanges(LinearModule):
    """Has another step in its second epoch, which takes the batch's number, too."""

    def __init__(self) -> None:
        super().__init__(log_shapes="off")
        self.numbers: list[int] = []

    @override
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.training_step = self.second  # type: ignore[assignment]

    def second(self, batch: Any, number: int) -> Any:
        self.numbers.append(number)
        return LinearModule.training_step(self, batch)


def test_a_step_may_be_exchanged_for_one_that_takes_more() -> None:
    runs = []
    for kind in (LinearModule, Exchanges):
        torch.manual_seed(0)
        model = kind()
        runs.append(fit("single_device", 1, model, data(), max_epochs=2, callbacks=[DirectStep()]))
    assert isinstance(model, Exchanges)
    assert model.numbers == [*range(8)]
    assert_same(runs[0], runs[1], tolerance=0)


class Clipping(LinearModule):
    """Has something to do between backward and step."""

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None: ...


class ClippingItsWay(LinearModule):
    """Clips in its own way, which Lightning asks for whatever `gradient_clip_val` is."""

    @override
    def clip_gradients(self, *args: Any, **kwargs: Any) -> None: ...


class Watching(Callback):
    """Wants to know of each backward pass."""

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None: ...


class OwnStrategy(SingleDeviceStrategy):
    """A user's: what it does in a step is not known."""


def test_a_hook_that_is_overridden_is_called() -> None:
    plain = make_trainer("single_device", 1)
    assert can_step_directly(plain, LinearModule())
    assert not can_step_directly(plain, Clipping())
    assert not can_step_directly(plain, ClippingItsWay())
    assert not can_step_directly(plain, TwoOptimizers())
    watched = make_trainer("single_device", 1, callbacks=[Watching()])
    assert not can_step_directly(watched, LinearModule())
    mixed = make_trainer("single_device", 1, precision="bf16-mixed")
    assert not can_step_directly(mixed, LinearModule())
    profiled = make_trainer("single_device", 1, profiler="simple")
    assert not can_step_directly(profiled, LinearModule())
    own = make_trainer(OwnStrategy(), 1)
    assert not can_step_directly(own, LinearModule())


def test_lightning_still_asks_about_signals_in_every_step() -> None:
    """Which `LastCheckpoint` takes out: if this fails, see whether it is still needed."""
    assert "_broadcast_sigterm_tensor" in _TrainingEpochLoop.advance.__code__.co_names


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_what_a_run_takes_from_lightning_is_given_back(tmp_path: Path) -> None:
    callbacks = [DirectStep(), StepsPerExecution(2), LastCheckpoint()]
    flags = {"max_epochs": 1, "enable_checkpointing": True, "default_root_dir": tmp_path}
    trainer = make_trainer("single_device", 1, callbacks=callbacks, **flags)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    trainer.fit(LinearModule(log_shapes="off"), data())
    assert "_broadcast_sigterm_tensor" not in vars(trainer.fit_loop.epoch_loop)
    assert "run" not in vars(trainer.fit_loop.epoch_loop.automatic_optimization)
    assert {signum: signal.getsignal(signum) for signum in before} == before


def collectives_after_first_step(num_steps: int, folder: Path) -> list[str]:
    """Train on two ranks and tell the collectives that were called, DDP's own in C++ aside."""
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    class Spy(Callback):
        @override
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 1:
                for name in ("all_reduce", "broadcast", "all_gather", "gather_object"):
                    setattr(dist, name, counted(name, getattr(dist, name)))

    callbacks = [Spy(), Coverage(), DirectStep(), LastCheckpoint()]
    module = RandomDataModule(length=8 * num_steps, batch_size=4)
    flags: dict[str, Any] = {
        "log_every_n_steps": 1000,
        "max_steps": num_steps,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    fit("ddp", 2, data=module, callbacks=callbacks, enable_checkpointing=True, **flags)
    return calls


def test_a_step_costs_no_collective(tmp_path: Path) -> None:
    for calls in run_ranks(collectives_after_first_step, 2, 200, tmp_path):
        # Some heartbeats, which go by the clock, and what the end of the epoch gathers.
        assert 3 <= len(calls) <= 60, calls
