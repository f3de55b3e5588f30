"""K steps per execution, and the short way through a step, change no number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.finite import NonFiniteLoss
from lightning_app.checkpoint.io import load
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.speed.direct_step import DirectStep
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.telemetry.coverage import Coverage
from tests.checkpoint.saving import Scheduled
from tests.ranks import run_ranks
from tests.runs import Run, assert_same, fit
from tests.user_modules import (
    OverIterator,
    Shuffled,
    Stream,
    Submodule,
    TwoOptimizers,
)

Case = Callable[[], tuple[LightningModule, Any, dict[str, Any]]]
CASES: dict[str, Case] = {
    "plain": lambda: (Scheduled("epoch"), data(), {}),
    "scheduled by steps": lambda: (Scheduled("step"), data(), {}),
    "validation within epochs": lambda: (Scheduled("step"), data(), {"val_check_interval": 0.5}),
    "accumulation": lambda: (Scheduled("step"), data(), {"accumulate_grad_batches": 3}),
    "by steps": lambda: (Scheduled("step"), data(), {"max_steps": 17}),
    "limited": lambda: (Scheduled("step"), data(), {"limit_train_batches": 5}),
    "a new loader in each epoch": lambda: (
        Submodule(),
        Shuffled(),
        {"reload_dataloaders_every_n_epochs": 1},
    ),
    "clipping": lambda: (Submodule(), Shuffled(), {"gradient_clip_val": 0.05}),
    "logs in each step": lambda: (Submodule(), Shuffled(), {"log_every_n_steps": 4}),
    "logs with weights": lambda: (LogsWeighted(), data(), {"log_every_n_steps": 4}),
    "logs in two hooks": lambda: (LogsInTwoHooks(), data(), {"log_every_n_steps": 4}),
}


class LogsWeighted(LinearModule):
    """Tells how much what it logs counts, in both ways that there are."""

    def __init__(self) -> None:
        super().__init__(log_shapes="off")

    @override
    def training_step(self, batch: Any) -> Any:
        loss = super().training_step(batch)
        self.log("weighted", loss, on_step=True, on_epoch=True, batch_size=7)
        return loss

    def loss_is_mean_over(self, batch: Any) -> int:
        return len(batch[0])


class LogsInTwoHooks(LogsWeighted):
    """Logs its gradients' norm, too."""

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        self.log("norm", torch.stack(norms).sum(), on_step=True, on_epoch=True)


def data() -> RandomDataModule:
    return RandomDataModule(length=50, batch_size=7, val_length=10)


def run_all(strategy: str, devices: int, steps: int) -> dict[str, Run]:
    runs = {}
    for name, case in CASES.items():
        torch.manual_seed(1)
        model, module, flags = case()
        callbacks: list[Callback] = [Coverage(), DirectStep()]
        callbacks += [StepsPerExecution(steps)] if steps > 1 else []
        flags |= {"max_epochs": 2, "callbacks": callbacks}
        flags.setdefault("log_every_n_steps", 3)
        runs[name] = fit(strategy, devices, model, module, **flags)
    return runs


@pytest.fixture(scope="module")
def by_single_steps() -> dict[str, Run]:
    """Lightning's own way, one device."""
    runs = {}
    for name, case in CASES.items():
        torch.manual_seed(1)
        model, module, flags = case()
        flags |= {"max_epochs": 2, "callbacks": [Coverage()]}
        flags.setdefault("log_every_n_steps", 3)
        runs[name] = fit("single_device", 1, model, module, **flags)
    return runs


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize(("strategy", "devices"), [("single_device", 1), ("dp", 3)])
def test_one_process(
    strategy: str, devices: int, steps: int, by_single_steps: dict[str, Run]
) -> None:
    for name, run in run_all(strategy, devices, steps).items():
        assert_same(run, by_single_steps[name], tolerance=0 if devices == 1 else 1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_two_processes(steps: int, by_single_steps: dict[str, Run]) -> None:
    for runs in run_ranks(run_all, 2, "ddp", 2, steps):
        for name, run in runs.items():
            assert_same(run, by_single_steps[name])


def sizes(num_steps: int, callback: Callback | None = None, **flags: Any) -> list[int]:
    """Train and tell how many steps each execution had."""
    found = []
    grouping = StepsPerExecution(num_steps)
    num_next = grouping._num_next

    def noted(trainer: Trainer) -> int:
        found.append(num_next(trainer))
        return found[-1]

    grouping._num_next = noted  # type: ignore[method-assign]
    callbacks = [*([callback] if callback else []), grouping]
    fit("single_device", 1, data=data(), callbacks=callbacks, **flags)
    return found


def test_an_execution_ends_where_the_loop_has_something_to_do() -> None:
    flags: dict[str, Any] = {"log_every_n_steps": 5, "val_check_interval": 4, "max_steps": 15}
    # An epoch of 8: validated at 4 and 8; logged at steps 1, 5, 10, 15.
    assert sizes(3, **flags) == [1, 3, 1, 3, 2, 2, 3]
    assert sizes(3, min_steps=7, **flags) == [1, 3, 1, 2, 1, 2, 2, 3]


class StopsIn(Scheduled):
    """Asks for the run's end in a step."""

    def __init__(self, step: int) -> None:
        super().__init__("step")
        self.step = step

    @override
    def training_step(self, batch: Any) -> Any:
        self.trainer.should_stop = self.trainer.should_stop or self.global_step == self.step
        return super().training_step(batch)


def stopped_and_continued(steps: int, folder: Path, **flags: Any) -> tuple[Run, Run, int, int]:
    """Two runs, and the step and the position in the data that the second one begins at."""

    def run(model: LightningModule, path: str | None = None) -> Run:
        callbacks = [DirectStep(), StepsPerExecution(steps), LastCheckpoint()]
        return fit("single_device", 1, model, data(), path, callbacks=callbacks, **flags)

    flags |= {"log_every_n_steps": 50, "max_epochs": 2, "default_root_dir": folder}
    flags["enable_checkpointing"] = True
    torch.manual_seed(1)
    stopped, path = run(StopsIn(2)), next(folder.rglob("last.ckpt"))
    saved = load(path, weights_only=True)
    [loader] = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    return stopped, run(Scheduled("step"), str(path)), saved["global_step"], loader["position"]


@pytest.mark.parametrize(
    ("flags", "end"),
    [
        ({}, (3, 3)),
        ({"min_steps": 11}, (11, 3)),
        ({"min_epochs": 1}, (8, 8)),
        ({"accumulate_grad_batches": 2}, (2, 5)),  # of which the fifth is not learnt
    ],
)
def test_a_stop_counts_after_its_step(
    flags: dict[str, Any], end: tuple[int, int], tmp_path: Path
) -> None:
    one, other = (stopped_and_continued(k, tmp_path / str(k), **flags) for k in (1, 4))
    assert one[2:] == other[2:] == end
    for run, grouped in zip(one[:2], other[:2], strict=True):
        assert_same(run, grouped, tolerance=0)


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_callback_logs_and_saves_at_the_same_steps(steps: int, tmp_path: Path) -> None:
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    callbacks = [LearningRateMonitor("step"), every, DirectStep(), StepsPerExecution(steps)]
    flags: dict[str, Any] = {"log_every_n_steps": 3, "max_epochs": 2, "enable_checkpointing": True}
    run = fit("single_device", 1, Scheduled("step"), data(), callbacks=callbacks, **flags)
    assert list(run.curves["lr-SGD"]) == [2, 5, 8, 11, 14]  # of two epochs of 8
    assert {path.stem for path in tmp_path.iterdir()} == {"step=5", "step=10", "step=15"}


class CountsBatches(Callback):
    """Acts in each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.batches.append(args[-1])


class HasHelper(Callback):
    """Has a method of the name by which this project's own are told of steps."""

    def on_step_end(self) -> None: ...


class NanFromSixth(LinearModule):
    """Has a loss that is NaN from its sixth step on."""

    @override
    def training_step(self, batch: Any) -> Any:
        return super().training_step(batch) * (float("nan") if self.global_step >= 5 else 1)


def test_the_step_at_which_a_loss_became_nan_is_told() -> None:
    callbacks = [HasHelper(), StepsPerExecution(8)]
    with pytest.raises(NonFiniteLoss, match="the loss of step 6 is nan"):
        fit("single_device", 1, NanFromSixth(), data(), callbacks=callbacks, log_every_n_steps=50)


class Augments(Submodule):
    """Changes each batch where it is."""

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x + 1, y


def test_what_acts_in_each_batch_has_them_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    counts = CountsBatches()
    assert sizes(4, counts, max_epochs=2) == []
    assert counts.batches == [*range(8), *range(8)]
    assert "CountsBatches.on_train_batch_end may act in each step, so steps run one by one" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", [Augments, Submodule])
def test_averages_and_augmentations_are_as_without(kind: type[Submodule]) -> None:
    runs = []
    for steps in (1, 4):
        torch.manual_seed(1)
        callbacks: list[Callback] = [DirectStep(), StepsPerExecution(steps)]
        callbacks += [EMAWeightAveraging(decay=0.5)] if kind is Submodule else []
        runs.append(fit("single_device", 1, kind(), data(), max_epochs=1, callbacks=callbacks))
    assert_same(runs[0], runs[1], tolerance=0)


@pytest.mark.parametrize(
    ("model", "module"),
    [(TwoOptimizers(), Shuffled()), (OverIterator(), Shuffled()), (Submodule(), Stream())],
)
def test_what_cannot_be_grouped_is_refused(model: LightningModule, module: Any) -> None:
    with pytest.raises(MisconfigurationException, match="--steps_per_execution 2: it needs one"):
        fit("single_device", 1, model, module, max_epochs=1, callbacks=[StepsPerExecution(2)])
