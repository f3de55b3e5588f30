"""Models and loaders of a user's own give the same numbers on any layout, unchanged."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app.strategies.loaders.loader import step_over_iterator
from tests.ranks import run_ranks
from tests.runs import Run, assert_same, fit
from tests.user_modules import (
    FirstRankLogs,
    Freezes,
    Functional,
    Normalized,
    OverIterator,
    RestsInTurn,
    Samples,
    Shuffled,
    Stream,
    StreamToValidate,
    Submodule,
    Thaws,
    TwoOptimizers,
)

CASES: dict[str, Any] = {
    "submodule": lambda: (Submodule(), Shuffled(), {}),
    "workers": lambda: (Submodule(), Shuffled(num_workers=1), {}),
    "last batch of one": lambda: (Submodule(), Shuffled(length=43), {}),
    "clipping": lambda: (Submodule(), Shuffled(), {"gradient_clip_val": 0.05}),
    "two optimizers": lambda: (TwoOptimizers(), Shuffled(), {}),
    "a part rests at a time": lambda: (RestsInTurn(), Shuffled(), {}),
    "limited": lambda: (Submodule(), Shuffled(), {"limit_train_batches": 3}),
    "overfit": lambda: (Submodule(), Shuffled(shuffle=False), {"overfit_batches": 2}),
    "two validations an epoch": lambda: (Submodule(), Shuffled(), {"val_check_interval": 0.5}),
    "boring": lambda: (BoringModel(), BoringDataModule(), {}),
}


def run_all(strategy: str, devices: int) -> dict[str, Run]:
    runs = {}
    for name, case in CASES.items():
        torch.manual_seed(2)
        model, data, flags = case()
        runs[name] = fit(strategy, devices, model, data, max_epochs=2, **flags)
    return runs


@pytest.fixture(scope="module")
def single() -> dict[str, Run]:
    return run_all("single_device", 1)


def test_one_device_logs_what_the_models_log(single: dict[str, Run]) -> None:
    tags = {"loss_each_step", "loss_each_epoch", "val_loss", "train/loss"}
    assert single["submodule"].curves.keys() >= tags
    assert single["boring"].curves.keys() >= {"train/loss"}


@pytest.mark.parametrize("devices", [2, 3])
def test_ddp(single: dict[str, Run], devices: int) -> None:
    for runs in run_ranks(run_all, devices, "ddp", devices):
        for name, run in runs.items():
            assert_same(run, single[name])


@pytest.mark.parametrize("devices", [2, 3])
def test_dp(single: dict[str, Run], devices: int) -> None:
    for name, run in run_all("dp", devices).items():
        assert_same(run, single[name])


def test_dp_refuses_a_model_it_cannot_split() -> None:
    with pytest.raises(MisconfigurationException, match="calls no module that has parameters"):
        fit("dp", 2, Functional(), Shuffled(), max_epochs=1)


def log_on_the_first_rank() -> Run:
    return fit("ddp", 2, FirstRankLogs(), Shuffled(), max_epochs=1)


def test_what_one_rank_alone_logs_is_not_waited_for() -> None:
    first, _ = run_ranks(log_on_the_first_rank, 2)
    assert set(first.curves["first_rank_step"].values()) == {3.0}


def test_ddp_trains_a_model_that_calls_no_module() -> None:
    run = fit("single_device", 1, Functional(), Shuffled(), max_epochs=1)
    for other in run_ranks(fit_functional, 2):
        assert_same(other, run)


def fit_functional() -> Run:
    return fit("ddp", 2, Functional(), Shuffled(), max_epochs=1)


def test_dp_splits_the_batches_of_a_stream() -> None:
    run = fit("dp", 2, Submodule(), Stream(), max_epochs=1)
    assert run.curves["batch_size/rank_0"] == {0: 3, 1: 3, 2: 3, 3: 1}
    assert run.curves["batch_size/rank_1"] == {0: 3, 1: 3, 2: 3, 3: 1}
    assert_same(run, fit("single_device", 1, Submodule(), Stream(), max_epochs=1))


@pytest.fixture(scope="module")
def refused() -> list[list[str]]:
    return run_ranks(refusals, 2)


def test_sync_batchnorm_is_refused_where_it_cannot_work(refused: list[list[str]]) -> None:
    for message, *_ in refused:
        assert "--sync_batchnorm needs GPUs" in message
    with pytest.raises(MisconfigurationException, match="does nothing for replicas"):
        fit("dp", 2, Normalized(), Shuffled(), sync_batchnorm=True)


def refusals() -> list[str]:
    """What `ddp` on two CPU ranks says to models it cannot train right."""
    messages = []
    cases: list[tuple[Any, dict[str, Any]]] = [
        (Normalized(), {"sync_batchnorm": True}),
        (OverIterator(), {}),
        (Thaws(), {"max_epochs": 1}),
        (Freezes(), {"max_epochs": 1}),
        (NoStep(), {"data": StreamToValidate(), "check_val_every_n_epoch": 2, "max_epochs": 2}),
    ]
    for model, flags in cases:
        with pytest.raises(MisconfigurationException) as caught:
            fit("ddp", 2, model, **({"data": Shuffled()} | flags))
        messages.append(str(caught.value))
    fit("ddp", 2, Submodule(), StreamToValidate(), check_val_every_n_epoch=2, max_epochs=1)
    return messages


class NoStep(Submodule):
    """Must not be trained."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        raise AssertionError


def test_what_is_trained_is_not_changed_within_a_step(refused: list[list[str]]) -> None:
    for _, _, thaws, freezes, _ in refused:
        assert thaws.startswith("body.0.weight is unfrozen within training_step")
        assert freezes.startswith("body.0.weight is frozen within training_step")


def test_what_is_validated_later_is_refused_before_the_first_step(refused: list[list[str]]) -> None:
    for *_, stream in refused:
        assert stream.startswith("the data set NumberStream is an IterableDataset")


def test_a_step_over_the_loaders_iterator_has_one_rank(refused: list[list[str]]) -> None:
    for _, message, *_ in refused:
        assert message.startswith("OverIterator.training_step takes the loader's iterator")
    run_ranks(fit_over_iterator, 1)


def test_a_model_may_say_that_it_has_no_step() -> None:
    model: Any = Submodule()
    model.validation_step = None
    trainer: Any = SimpleNamespace(lightning_module=model)
    assert step_over_iterator(trainer) is None


def fit_over_iterator() -> Run:
    return fit("ddp", 1, OverIterator(), Shuffled(), max_epochs=1, precision="32-true")


class TwoSets(LightningDataModule):
    """Two loaders to train on at once."""

    def __init__(self, lengths: tuple[int, int]) -> None:
        super().__init__()
        self.lengths = lengths

    @override
    def train_dataloader(self) -> CombinedLoader:
        loaders = [DataLoader(Samples(length), 6) for length in self.lengths]
        return CombinedLoader(loaders, "max_size_cycle")


class TwoLoaders(Submodule):
    """Takes its batches from two loaders in turn."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        step = super().training_step
        return step(batch[0], batch_idx) if batch_idx % 2 else step(batch[1], batch_idx)


def two_loaders(strategy: str, devices: int, lengths: tuple[int, int]) -> Run:
    torch.manual_seed(2)
    return fit(strategy, devices, TwoLoaders(), TwoSets(lengths), max_epochs=1)


def test_several_loaders_need_one_weight() -> None:
    expected = two_loaders("single_device", 1, (12, 6))
    for run in run_ranks(two_loaders, 2, "ddp", 2, (12, 6)):
        assert_same(run, expected)
    with pytest.raises(AssertionError, match="different parts of their batches"):
        run_ranks(two_loaders, 2, "ddp", 2, (12, 7))
