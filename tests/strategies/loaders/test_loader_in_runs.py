"""Loaders in runs: their workers, their position afterwards, several passes, what is left alone."""

import multiprocessing
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import (
    DataLoader,
    Dataset,
)

from lightning_app.strategies import SingleDeviceStrategy
from lightning_app.strategies.loaders.loader import ShardedLoader, shard_loader
from tests.runs import make_trainer
from tests.strategies.loaders.test_loader import LOADERS, numbers, read, view


@pytest.mark.filterwarnings("default")  # Lightning's advice
def test_no_worker_outlives_a_run() -> None:
    flags = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 2}
    trainer = make_trainer(SingleDeviceStrategy("cpu"), 1, fast_dev_run=False, **flags)
    loader = DataLoader(RandomDataset(32, 64), 2, num_workers=1)
    before = multiprocessing.active_children()
    trainer.fit(BoringModel(), loader, loader)
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.filterwarnings("default")
def test_the_position_is_known_after_a_run(tmp_path: Path) -> None:
    trainer = make_trainer(SingleDeviceStrategy("cpu"), 1, max_steps=11, fast_dev_run=False)
    trainer.fit(BoringModel(), DataLoader(RandomDataset(32, 64), 8))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    progress = torch.load(tmp_path / "end.ckpt", weights_only=True)["loops"]["fit_loop"]
    (state,) = progress["state_dict"]["combined_loader"]
    assert (state["epoch"], state["position"]) == (1, 3)
    assert progress["epoch_loop.batch_progress"]["current"]["completed"] == 3


class HasPosition:
    """Somebody's loader of 4 batches, which goes on from where it was."""

    def __init__(self) -> None:
        self.start = self.position = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[torch.Tensor]:
        start, self.start = self.start, 0
        for i in range(start, 4):
            self.position = i + 1
            yield torch.full((2, 32), i / 10)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["position"]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_loader_with_a_position_of_its_own_begins_a_new_epoch_anew(tmp_path: Path) -> None:
    def train(max_epochs: int, path: Path | None) -> Trainer:
        flags: dict[str, Any] = {"max_epochs": max_epochs, "limit_val_batches": 0}
        trainer = make_trainer("single_device", 1, precision="32-true", **flags)
        trainer.fit(BoringModel(), HasPosition(), ckpt_path=path)
        return trainer

    train(2, None).save_checkpoint(tmp_path / "end.ckpt")
    assert train(4, tmp_path / "end.ckpt").global_step == 16


class OnSeveral(BoringModel):
    """Is validated on several loaders."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...  # type: ignore[override]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_generator_may_stand_beside_a_loader() -> None:
    generator = (torch.full((2, 32), i / 10) for i in range(3))
    trainer = make_trainer("single_device", 1, precision="32-true", limit_val_batches=3)
    loaders = [generator, DataLoader(RandomDataset(32, 8), 2)]
    trainer.validate(OnSeveral(), loaders, verbose=False)
    assert trainer.validate_loop.batch_progress.total.completed == 6


@pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
def test_an_evaluation_may_be_set_up_without_being_run() -> None:
    trainer = make_trainer(SingleDeviceStrategy("cpu"), 1)
    model = BoringModel()
    trainer.strategy.connect(model)
    trainer._data_connector.attach_data(model)
    trainer.state.stage = RunningStage.VALIDATING
    trainer.validate_loop.setup_data()
    assert isinstance(trainer.val_dataloaders, ShardedLoader)


def test_two_passes_at_once_are_two() -> None:
    loader = view(LOADERS["sequential"](), 0, 2)
    first = iter(loader)
    next(first)
    assert read(loader) == [[0, 1, 2], [5, 6, 7], [10, 11, 12], [15, 16, 17], [20, 21]]
    assert [list(map(int, batch)) for batch in first] == [
        [5, 6, 7],
        [10, 11, 12],
        [15, 16, 17],
        [20, 21],
    ]


def test_a_second_round_in_an_epoch_has_another_order() -> None:
    loader = view(LOADERS["shuffled"]())
    first, second = read(loader), read(loader)
    assert first != second
    assert sorted(chain(*second)) == numbers(23)
    loader.sharding.epoch_alone = 1
    assert read(loader) not in (first, second)


def test_workers_of_ranks_draw_different_numbers() -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(4)
        drawn += [
            float(x)
            for batch in view(DataLoader(Noise(), 2, num_workers=2), rank, 2)
            for x in batch
        ]
        after = torch.rand(())
        torch.manual_seed(4)
        iter(DataLoader(numbers(2)))
        assert after == torch.rand(())  # the run's own stream is where torch would have it
    assert len(set(drawn)) == 8


class Noise(Dataset[torch.Tensor]):
    """An augmentation: noise drawn where the sample is made."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(())


class OwnWay(DataLoader[Any]):
    """Goes through its batches its own way."""

    def __iter__(self) -> Any:
        return super().__iter__()


def test_ready_made_batches_and_loaders_of_their_own_way_are_left_to_one_rank() -> None:
    own = OwnWay(numbers(4), 2)
    assert shard_loader(own) is own
    with pytest.raises(MisconfigurationException, match=r"OwnWay .* a `__iter__` of its own"):
        shard_loader(own, 0, 2)
    ready = DataLoader(numbers(4), batch_size=None)
    assert list(view(ready)) == [0, 1, 2, 3]
    with pytest.raises(MisconfigurationException, match="0 asks for one whole batch"):
        next(iter(view(ready, 0, 2)))
