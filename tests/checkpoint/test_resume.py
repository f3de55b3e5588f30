"""A run continued from any checkpoint equals the run that was never interrupted, to the bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    OnExceptionCheckpoint,
)
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.speed.executions import StepsPerExecution
from lightning_app.telemetry.coverage import Coverage
from tests.ranks import run_ranks
from tests.runs import MemoryLogger, Run, assert_same_weights, fit
from tests.user_modules import Shuffled, Submodule

Curves = dict[str, dict[int, float]]


class Scheduled(LinearModule):
    """The project's model with momentum and a learning rate that changes."""

    def __init__(self, interval: str) -> None:
        super().__init__(log_shapes="off")
        self.interval = interval

    @override
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        if self.interval == "one cycle":
            steps = int(self.trainer.estimated_stepping_batches)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]
        if self.interval.startswith("plateau"):
            kind = torch.optim.lr_scheduler.ReduceLROnPlateau
            plateau = kind(optimizer, patience=0, threshold=9.0)
            config = {"scheduler": plateau, "interval": self.interval.split()[1]}
            return [optimizer], [config | {"monitor": "val/loss", "strict": False}]
        if "averag" in self.interval:
            return optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]


class Averaged(Scheduled):
    """Averages its weights in a hook of its own, which comes after all callbacks'."""

    def __init__(self, interval: str) -> None:
        super().__init__(interval)
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        for average, weight in zip(self.average.parameters(), self.net.parameters(), strict=True):
            average.data.lerp_(weight.data, 0.1)


class SaveLast(LastCheckpoint):
    """Saves wherever `LastCheckpoint` may, each time another file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.logged: dict[str, Curves] = {}  # by checkpoint: what had been logged

    @override
    def _agree(self) -> list[int]:
        return [0, 1]

    @override
    def _act(self, trainer: Trainer) -> None:
        _save(trainer, self.folder, "last", self.logged)


def _save(trainer: Trainer, folder: Path, name: str, logged: dict[str, Curves]) -> None:
    name = f"{trainer.global_step:03}-{name}-{len(logged):03}.ckpt"
    trainer.save_checkpoint(folder / name)
    assert isinstance(trainer.logger, MemoryLogger)
    logged[name] = copy.deepcopy(trainer.logger.curves)


class SaveAlways(Callback):
    """Saves where a user's callback may: after steps, in validation, at an epoch's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logged: dict[str, Curves] = {}  # by checkpoint: what had been logged

    def _save(self, trainer: Trainer, name: str) -> None:
        _save(trainer, self.folder, name, self.logged)

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        fetcher: Any = trainer.fit_loop._data_fetcher
        last = loop._is_training_done
        if not (last or loop._should_check_val_fx(fetcher) or loop._should_accumulate()):
            self._save(trainer, "step")

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer, "validation")

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "epoch")


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("epoch", {}),
    "scheduled by steps": ("step", {}),
    "validation within epochs": ("step", {"val_check_interval": 0.5}),
    "validation across epochs": (
        "epoch",
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
    ),
    "validation every other epoch": ("epoch", {"check_val_every_n_epoch": 2}),
    "accumulation": ("step", {"accumulate_grad_batches": 3}),
    "limited": ("epoch", {"limit_train_batches": 5}),
    "by steps": ("epoch", {"max_steps": 17}),
    "by steps, validation within epochs": ("epoch", {"max_steps": 17, "val_check_interval": 0.5}),
}


def train(case: str, callback: Callback | None, ckpt_path: str | None = None, **more: Any) -> Run:
    interval, flags = CASES[case]
    torch.manual_seed(1)
    model = Averaged(interval) if interval == "average" else Scheduled(interval)
    data = RandomDataModule(length=50, batch_size=7, val_length=30)
    callbacks = [Coverage(), *([callback] if callback else []), Resume()]
    if interval == "averaging callback":
        callbacks.insert(0, EMAWeightAveraging(decay=0.5, update_every_n_steps=2))
    flags = {"max_epochs": 3} | flags | more
    return fit(
        flags.pop("strategy", "single_device"),
        flags.pop("devices", 1),
        model=model,
        data=data,
        ckpt_path=ckpt_path,
        callbacks=callbacks,
        enable_checkpointing=isinstance(callback, LastCheckpoint),
        **flags,
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES)
def test_every_checkpoint_continues_the_run(case: str, tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path)
    whole = train(case, saver)
    assert whole.curves["coverage/missing"].keys() == whole.curves["coverage/repeated"].keys()
    assert set(whole.curves["coverage/missing"].values()) == {0}
    assert set(whole.curves["coverage/repeated"].values()) == {0}
    assert len(saver.logged) > 10
    for name, logged in saver.logged.items():
        run = train(case, None, str(tmp_path / name))
        assert_same_weights(run, whole, tolerance=0)
        assert_continues(logged, run.curves, whole.curves, name)


LAST_CASES = {
    **{name: CASES[name] for name in ("plain", "validation within epochs", "accumulation")},
    "by steps, validation within epochs": CASES["by steps, validation within epochs"],
    "plateau": ("plateau epoch", {}),
    "plateau by steps": ("plateau step", {"val_check_interval": 0.5}),
    "one cycle": ("one cycle", {"val_check_interval": 0.5}),
    "own average": ("average", {"val_check_interval": 0.5}),
    "averaging callback": ("averaging callback", {"val_check_interval": 0.5}),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", LAST_CASES)
def test_every_last_checkpoint_continues_the_run(case: str, tmp_path: Path) -> None:
    CASES[case] = LAST_CASES[case]
    saver = SaveLast(tmp_path)
    whole = train(case, saver)
    assert len(saver.logged) > 5
    for name, logged in list(saver.logged.items())[:-1:2]:
        run = train(case, None, str(tmp_path / name))
        assert_same_weights(run, whole, tolerance=0)
        assert_continues(logged, run.curves, whole.curves, name)


def assert_continues(before: Curves, after: Curves, whole: Curves, name: str) -> None:
    """Assert that two parts of a run's curves make up the whole, with no point twice."""
    for tag, curve in whole.items():
        if tag != "epoch":
            first, second = before.get(tag, {}), after.get(tag, {})
            assert not first.keys() & second.keys(), (name, tag)
            assert first | second == curve, (name, tag)


def test_a_longer_run_continues_one_that_ended_in_mid_epoch(tmp_path: Path) -> None:
    saver = SaveAlways(tmp_path)
    train("plain", saver, max_steps=11)
    last = list(saver.logged)[-1]
    assert last.startswith("011-epoch")
    whole = train("plain", None, max_steps=20)
    run = train("plain", None, str(tmp_path / last), max_steps=20)
    assert set(run.curves["coverage/missing"].values()) == {0}
    assert_same_weights(run, whole, tolerance=0)


def assert_points_are_from(part: Curves, whole: Curves) -> None:
    """Assert that each point of some curves is, to 1e-12, one of the whole run's."""
    for tag, curve in part.items():
        if not tag.startswith(("epoch", "batch_size/rank")):
            for step, value in curve.items():
                assert value == pytest.approx(whole[tag][step], rel=1e-12), (tag, step)


def train_ddp(devices: int, save_to: Path | None, ckpt_path: str | None) -> Run:
    saver = SaveAlways(save_to) if save_to else None
    return train("plain", saver, ckpt_path, strategy="ddp", devices=devices)


def test_another_layout_continues_the_run(tmp_path: Path) -> None:
    whole = train("plain", None)
    run_ranks(train_ddp, 2, 2, tmp_path, None)
    checkpoints = sorted(map(str, tmp_path.iterdir()))
    assert len(checkpoints) > 20
    for checkpoint in checkpoints[::5]:
        for layout in ({}, {"strategy": "dp", "devices": 3}):
            run = train("plain", None, checkpoint, **layout)
            assert_same_weights(run, whole)
            assert_points_are_from(run.curves, whole.curves)
    for checkpoint in checkpoints[3::9]:
        for run in run_ranks(train_ddp, 3, 3, None, checkpoint):
            assert_same_weights(run, whole)
            assert_points_are_from(run.curves, whole.curves)


def test_foreign_loaders_continue_as_well(tmp_path: Path) -> None:
    def train(ckpt_path: str | None, *callbacks: Callback) -> Run:
        return fit(
            "single_device",
            1,
            Submodule(),
            Shuffled(),
            ckpt_path,
            max_epochs=2,
            callbacks=[*callbacks, Resume()],
        )

    saver = SaveAlways(tmp_path)
    whole = train(None, saver)
    for name in saver.logged:
        run = train(str(tmp_path / name))
        assert_same_weights(run, whole, tolerance=0)


class FailsOnce(Scheduled):
    """Cannot take its fourth batch at first."""

    num_steps = 0

    @override
    def training_step(self, batch: Any) -> Any:
        FailsOnce.num_steps += 1
        if FailsOnce.num_steps == 4:
            raise RuntimeError("out of memory, say")
        return super().training_step(batch)


@pytest.mark.parametrize("steps", [1, 8])
def test_a_step_that_failed_is_done_again(steps: int, tmp_path: Path) -> None:
    def train(kind: type[Scheduled], path: str | None = None) -> Run:
        callbacks = [Resume(), Coverage(), OnExceptionCheckpoint(tmp_path)]
        callbacks += [StepsPerExecution(steps)] if steps > 1 else []
        module = RandomDataModule(length=80, batch_size=8, val_length=10)
        flags: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": True}
        flags |= {"log_every_n_steps": 50, "default_root_dir": tmp_path}
        torch.manual_seed(1)
        return fit("single_device", 1, kind("step"), module, path, callbacks=callbacks, **flags)

    whole = train(Scheduled)
    FailsOnce.num_steps = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        train(FailsOnce)
    continued = train(FailsOnce, str(tmp_path / "on_exception.ckpt"))
    assert_same_weights(continued, whole, tolerance=0)
    assert continued.metrics["coverage/missing"] == continued.metrics["coverage/repeated"] == 0
