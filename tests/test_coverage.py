"""What an epoch missed or repeated is counted, whoever split it."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy as LightningDDPStrategy

from lightning_app.coverage import Coverage
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.strategies import ddp, loader
from lightning_app.strategies.sharding import Shard, shard_bounds
from tests.ranks import run_ranks
from tests.runs import MemoryLogger, Run, assert_same_weights, fit
from tests.user_modules import Shuffled, Submodule

Counts = tuple[list[float], list[float]]


def counts(curves: dict[str, dict[int, float]]) -> Counts:
    """What was missed and what was repeated, epoch by epoch."""
    missing, repeated = curves.get("coverage/missing", {}), curves.get("coverage/repeated", {})
    return list(missing.values()), list(repeated.values())


def train_ours(devices: int, **flags: Any) -> Counts:
    data = RandomDataModule(length=100, val_length=3)
    run = fit("ddp", devices, data=data, callbacks=[Coverage()], max_epochs=2, **flags)
    return counts(run.curves)


def test_our_ddp_visits_each_sample_once() -> None:
    assert run_ranks(train_ours, 3, 3)[0] == ([0, 0], [0, 0])


@pytest.mark.parametrize("flags", [{"limit_train_batches": 2}, {"max_steps": 3}])
def test_what_is_left_out_on_purpose_is_not_missing(flags: dict[str, Any]) -> None:
    run = fit("single_device", 1, callbacks=[Coverage()], **{"max_epochs": 1} | flags)
    assert counts(run.curves) == ([0], [0])


@pytest.mark.parametrize(
    "data",
    [Shuffled(drop_last=True), Shuffled(shuffle=False), Shuffled(num_workers=1)],
    ids=["drop_last", "in order", "workers"],
)
def test_a_foreign_loader_is_counted(data: Shuffled) -> None:
    run = fit("single_device", 1, Submodule(), data, max_epochs=2, callbacks=[Coverage()])
    assert counts(run.curves) == ([0, 0], [0, 0])


def test_a_new_loader_in_each_epoch_is_counted() -> None:
    flags: dict[str, Any] = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}
    run = fit("single_device", 1, Submodule(), Shuffled(), callbacks=[Coverage()], **flags)
    assert counts(run.curves) == ([0, 0, 0], [0, 0, 0])


def train_lightnings() -> Counts:
    logger = MemoryLogger()
    trainer = Trainer(
        accelerator="cpu",
        strategy=LightningDDPStrategy(),
        devices=3,
        max_epochs=1,
        logger=logger,
        callbacks=[Coverage()],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(LinearModule(), RandomDataModule(length=100))
    return counts(logger.curves)


def test_lightnings_ddp_repeats_samples_to_fill_the_last_batch() -> None:
    # 100 samples on 3 ranks become 102 — in batches of 30 given to every rank by our own sampler,
    # which its DistributedSampler splits by batches: 4 batches become 6.
    missing, repeated = run_ranks(train_lightnings, 3)[0]
    assert missing == [0]
    assert repeated == [60]


def train_shuffled(strategy: str = "ddp", devices: int = 2) -> Run:
    torch.manual_seed(4)
    model, data = Submodule(), Shuffled(length=43)
    return fit(strategy, devices, model, data, callbacks=[Coverage()], max_epochs=1)


def train_with_broken_split() -> Run:
    def overlapping(size: int, rank: int, world_size: int) -> tuple[int, int]:
        start, stop = shard_bounds(size, rank, world_size)
        return max(start - 1, 0), stop

    loader.shard_bounds = overlapping  # type: ignore[attr-defined]
    return train_shuffled()


def train_with_broken_weight() -> Run:
    assert ddp.Shard is Shard  # type: ignore[attr-defined]
    Shard.loss_weight = lambda self, world_size: 1.0  # type: ignore[method-assign]
    return train_shuffled()


def test_a_broken_split_is_seen() -> None:
    whole = train_shuffled("single_device", 1)
    assert_same_weights(run_ranks(train_shuffled, 2)[0], whole)
    broken = run_ranks(train_with_broken_split, 2)[0]
    assert counts(broken.curves) == ([0], [7])  # one sample of each of seven batches
    with pytest.raises(AssertionError):
        assert_same_weights(broken, whole)


def test_a_broken_weight_is_seen() -> None:
    whole = train_shuffled("single_device", 1)
    with pytest.raises(AssertionError):
        assert_same_weights(run_ranks(train_with_broken_weight, 2)[0], whole)
