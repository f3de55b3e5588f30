"""What this project knows of Lightning from within is so."""

import pickle
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from typing_extensions import override

from lightning_app import inside
from lightning_app.checkpoint.callbacks import LastCheckpoint
from lightning_app.checkpoint.stops import AgreedStop
from lightning_app.speed.direct_step import DirectStep
from lightning_app.strategies.loaders.passes import Pass
from tests.runs import fit, make_trainer
from tests.user_modules import Samples, Submodule


class Looks(Callback):
    """Notes what is seen from within in hooks, and what is called around an epoch's end."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Any]] = {}

    def _note(self, name: str, value: Any) -> None:
        self.seen.setdefault(name, []).append(value)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        inside.before_epoch_values(trainer, lambda: self._note("order", "values"))
        inside.after_epoch_hooks(trainer, lambda: self._note("order", "after"))

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        (iterator,) = inside.training_iterators(trainer)
        self._note("position", iterator.its_pass.position)
        self._note("is running", inside.running_iterators(trainer) == [iterator])
        self._note("first", inside.is_first_batch(trainer))
        self._note("logged", sorted(inside.results(trainer)))

    @override
    def on_before_zero_grad(self, trainer: Trainer, *args: Any) -> None:
        self._note("log step", inside.is_log_step(trainer))

    @override
    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._note("in turn", inside.takes_loaders_in_turn(trainer))
        self._note("done", inside.loaders_done(trainer))
        current, training = inside.running_iterators(trainer), inside.training_iterators(trainer)
        self._note("others", not any(a is b for a in current for b in training))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note("order", "hook")


class Data(LightningDataModule):
    """One loader to train on, two to validate on."""

    @override
    def train_dataloader(self) -> Any:
        return DataLoader(Samples(12), 3)

    @override
    def val_dataloader(self) -> Any:
        return [DataLoader(Samples(4), 2), DataLoader(Samples(2), 2)]


class Validates(Submodule):
    """Takes its batches from several loaders."""

    @override
    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.log("val_loss", self.body(batch[0]).mean())


@pytest.fixture(scope="module")
def seen() -> dict[str, list[Any]]:
    looks = Looks()
    fit("single_device", 1, Validates(), Data(), callbacks=[looks], max_epochs=1)
    return looks.seen


def test_the_loops_iterators(seen: dict[str, list[Any]]) -> None:
    assert seen["position"] == [1, 2, 3, 4]
    assert seen["is running"] == [True] * 4
    assert seen["others"] == [True] * 3


def test_the_loops_places(seen: dict[str, list[Any]]) -> None:
    assert seen["first"] == [True, False, False, False]
    assert seen["log step"] == [False, True, False, True]  # every second one
    assert seen["logged"] == [["training_step.loss_each"]] * 4


def test_loaders_that_are_evaluated_in_turn(seen: dict[str, list[Any]]) -> None:
    assert seen["in turn"] == [True] * 3
    assert seen["done"][-1] == 2


def test_an_epochs_end(seen: dict[str, list[Any]]) -> None:
    assert seen["order"][-3:] == ["values", "hook", "after"]


def test_what_follows_an_epochs_end_is_taken_away() -> None:
    trainer = make_trainer("single_device", 1)
    connector = vars(trainer._logger_connector)
    before = dict(connector)
    inside.before_epoch_values(trainer, lambda: None)
    inside.after_epoch_hooks(trainer, lambda: None)
    assert connector.keys() - before.keys() == {"epoch_end_reached", "on_epoch_end"}
    inside.leave_epochs(trainer)
    inside.leave_epochs(trainer)
    assert connector.keys() == before.keys()


def test_what_is_around_a_batch_is_taken_away() -> None:
    trainer = make_trainer("single_device", 1)
    evaluates, predicts = vars(trainer.test_loop), vars(trainer.predict_loop)
    before = evaluates.keys() | predicts.keys()
    inside.around_evaluated_batches(trainer, nullcontext)
    added = (evaluates.keys() | predicts.keys()) - before
    assert added == {"_evaluation_step", "_predict_step"}
    inside.leave_evaluated_batches(trainer)
    inside.leave_evaluated_batches(trainer)
    assert evaluates.keys() | predicts.keys() == before


def test_nothing_runs_before_a_run() -> None:
    trainer = make_trainer("single_device", 1)
    assert inside.training_iterators(trainer) == inside.running_iterators(trainer) == []
    assert not inside.notes_indices(BatchSampler(SequentialSampler(range(3)), 2, False))


class Adds(Callback):
    """Has an entry made for what only another rank would have logged."""

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        collection = inside.results(trainer)
        how = inside.logged_as(collection["training_step.loss_each"])
        how = pickle.loads(pickle.dumps(how))
        added = inside.add_result(trainer, "training_step.other", how | {"name": "other"}, True)
        added.value, added.cumulated_batch_size = torch.tensor(6.0), torch.tensor(2)
        added._forward_cache, added.has_reset, added._update_count = torch.tensor(3.0), False, 1


class Predicts(Submodule):
    """Looks at how its samples are noted."""

    @override
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        (a_pass,) = inside.running_iterators(self.trainer)
        a_pass = a_pass.its_pass
        assert isinstance(a_pass, Pass)
        loader: Any = self.trainer.predict_dataloaders
        assert inside.notes_indices(loader.batch_sampler)
        return batch[0]


def test_what_another_rank_has_logged_is_logged_alike() -> None:
    run = fit("single_device", 1, Validates(), Data(), callbacks=[Adds()], max_epochs=1)
    assert run.metrics["other_epoch"] == 3.0
    assert run.metrics.keys() >= {"loss_each_epoch", "other_epoch"}


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning uses it
def test_predictions_have_their_indices_noted() -> None:
    trainer = make_trainer("single_device", 1, precision="32-true")
    loader: Any = DataLoader(Samples(4), 2)
    predictions: Any = trainer.predict(Predicts(), loader)
    assert [len(batch) for batch in predictions] == [2, 2]


def test_what_somebody_has_put_into_a_loop_is_there_again_after_the_run(tmp_path: Path) -> None:
    callbacks = [DirectStep(), AgreedStop(), LastCheckpoint()]
    flags: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    trainer = make_trainer("single_device", 1, max_epochs=1, callbacks=callbacks, **flags)
    epoch_loop = trainer.fit_loop.epoch_loop
    theirs: dict[str, tuple[Any, Mock]] = {}
    for owner, name in (
        (epoch_loop, "on_advance_end"),  # two of ours follow it
        (epoch_loop, "_broadcast_sigterm_tensor"),
        (epoch_loop.val_loop, "run"),
    ):
        theirs[name] = owner, Mock(side_effect=getattr(owner, name))
        setattr(owner, name, theirs[name][1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's
        trainer.fit(Validates(), Data())
    for name, (owner, mock) in theirs.items():
        assert getattr(owner, name) is mock, name
    assert "run" not in vars(epoch_loop.automatic_optimization), "it has its class's"
