"""A run continued from any checkpoint equals the run that was never interrupted, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from typing_extensions import override

from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from lightning_app.telemetry.coverage import Coverage
from tests.checkpoint.saving import MODELS, Curves, LogsBatches, SaveAlways, SaveLast, Scheduled
from tests.ranks import run_ranks
from tests.runs import Run, SaveAt, assert_same_weights, fit
from tests.user_modules import Shuffled, StreamToValidate, Submodule

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
    "plateau every other epoch": ("plateau epoch 2", {}),
    "plateau by steps": ("plateau step", {"val_check_interval": 0.5}),
    "by hand": ("by hand", {"val_check_interval": 0.5, "max_epochs": 2}),
    "freezing": ("freezing", {"limit_train_batches": 3, "val_check_interval": 2, "max_epochs": 2}),
    "by steps": ("epoch", {"max_steps": 17}),
    "by steps, validation within epochs": ("epoch", {"max_steps": 17, "val_check_interval": 0.5}),
}


def train(case: str, callback: Callback | None, ckpt_path: str | None = None, **more: Any) -> Run:
    interval, flags = CASES[case]
    torch.manual_seed(1)
    model = MODELS.get(interval, Scheduled)(interval)
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
    **{name: CASES[name] for name in ("by steps, validation within epochs", "plateau by steps")},
    "plateau": ("plateau epoch", {}),
    "plateau by each epoch": ("by its epoch", {}),
    "validation by batches": ("validation by batches", {"val_check_interval": 0.5}),
    "one cycle": ("one cycle", {"val_check_interval": 0.5}),
    "accumulated by hand": ("accumulated by hand", {}),
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


class Shrinks(Callback):
    """Changes the weights as an epoch ends."""

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.5)


def test_what_ends_an_epoch_comes_once_where_steps_end_the_run_within_it(tmp_path: Path) -> None:
    def run(ckpt_path: str | None = None, **limit: int) -> tuple[Run, str]:
        torch.manual_seed(1)
        last = LastCheckpoint()
        flags: dict[str, Any] = {"callbacks": [Shrinks(), Resume(), last]}
        data = RandomDataModule(length=50, batch_size=7, val_length=30)
        model = LogsBatches("validation by batches")
        flags |= {"enable_checkpointing": True, "default_root_dir": tmp_path}
        flags["check_val_every_n_epoch"] = 2
        done = fit("single_device", 1, model, data, ckpt_path, **flags, **limit)
        assert last.last_good is not None
        return done, last.last_good

    whole, _ = run(max_epochs=4)
    _, first = run(max_steps=19)
    _, second = run(first, max_steps=21)  # without a validation between
    continued, _ = run(second, max_epochs=4)
    assert_same_weights(continued, whole, tolerance=0)
    steps = list(whole.curves["batch_step"])
    assert list(continued.curves["batch_step"]) == steps[len(steps) // 2 :]


class Kept(Callback):
    """Keeps the Trainer."""

    @override
    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.trainer = trainer


def test_a_run_saved_after_it_has_ended_goes_on(tmp_path: Path) -> None:
    kept, path = Kept(), tmp_path / "end.ckpt"
    whole = train("plateau by steps", None)
    before = train("plateau by steps", kept, max_steps=4)  # with a validation
    kept.trainer.save_checkpoint(path)
    run = train("plateau by steps", None, str(path))
    assert_same_weights(run, whole, tolerance=0)
    for tag in ("batch_size/global", "train/loss_step", "val/loss"):
        assert before.curves[tag] | run.curves[tag] == whole.curves[tag], tag


def test_a_run_continued_at_an_epochs_last_step_goes_on_again(tmp_path: Path) -> None:
    saver, again = SaveAlways(tmp_path / "first"), SaveLast(tmp_path / "again")
    whole = train("plain", saver)
    (name,) = (name for name in saver.logged if name.startswith("008-step"))
    train("plain", again, str(tmp_path / "first" / name))
    for name in list(again.logged)[:9:4]:  # within an epoch, and after it
        run = train("plain", None, str(tmp_path / "again" / name))
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
    for checkpoint in checkpoints[::6]:
        for layout in ({}, {"strategy": "dp", "devices": 3}):
            run = train("plain", None, checkpoint, **layout)
            assert_same_weights(run, whole)
            assert_points_are_from(run.curves, whole.curves)
    for checkpoint in checkpoints[3::12]:
        for run in run_ranks(train_ddp, 3, 3, None, checkpoint):
            assert_same_weights(run, whole)
            assert_points_are_from(run.curves, whole.curves)


class ValidatesOverIterator(Submodule):
    """Fetches the batches of a validation itself."""

    @override
    def validation_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
        (x, y), _, _ = next(dataloader_iter)
        super().validation_step((x.to(self.dtype), y.to(self.dtype)), 0)


@pytest.mark.parametrize(
    ("model", "data"), [(Submodule, Shuffled), (ValidatesOverIterator, StreamToValidate)]
)
def test_foreign_loaders_continue_as_well(
    model: type[Submodule], data: type[Shuffled], tmp_path: Path
) -> None:
    def train(ckpt_path: str | None, *callbacks: Callback) -> Run:
        return fit(
            "single_device",
            1,
            model(),
            data(),
            ckpt_path,
            max_epochs=2,
            max_steps=20,  # which it does not come to, but Lightning restarts otherwise
            callbacks=[*callbacks, Resume()],
        )

    saver = SaveAlways(tmp_path)
    whole = train(None, saver)
    for name, logged in saver.logged.items():
        run = train(str(tmp_path / name))
        assert_same_weights(run, whole, tolerance=0)
        for tag in ("batch_size/global", "val_loss"):
            first, second = logged.get(tag, {}), run.curves.get(tag, {})
            assert not first.keys() & second.keys(), (name, tag)
            assert first | second == whole.curves[tag], (name, tag)


class NotesEpochs(RandomDataModule):
    """Notes the epochs in which its loaders are made."""

    def __init__(self) -> None:
        super().__init__(length=50, batch_size=7, val_length=30)  # 8 batches
        self.epochs: dict[str, list[int]] = {"train": [], "val": []}

    def _note(self, name: str) -> None:
        assert self.trainer is not None
        self.epochs[name].append(self.trainer.current_epoch)

    @override
    def train_dataloader(self) -> Any:
        self._note("train")
        return super().train_dataloader()

    @override
    def val_dataloader(self) -> Any:
        self._note("val")
        return super().val_dataloader()


@pytest.mark.parametrize(("step", "epochs"), [(24, [2, 4]), (25, [3, 4])])
def test_loaders_are_made_anew_when_they_would_have_been(
    step: int, epochs: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.ckpt"
    for ckpt_path, expected in ((None, [0, 2, 4]), (str(path), epochs)):
        data = NotesEpochs()
        more: dict[str, Any] = {"max_epochs": 5, "reload_dataloaders_every_n_epochs": 2}
        callbacks = [Resume(), *([] if ckpt_path else [SaveAt(step, path)])]
        fit("single_device", 1, None, data, ckpt_path, callbacks=callbacks, **more)
        assert data.epochs == {"train": expected, "val": expected}
    line = (
        "continued: loaders that were made for epoch 2 (`reload_dataloaders_every_n_epochs`) are "
    )
    told = line + "made again at epoch 3, and then at 4\n"
    assert (told in capsys.readouterr().err) == (step == 25)
