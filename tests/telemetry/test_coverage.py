"""What an epoch missed or repeated is counted, whoever split it, by the pass that is trained on."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies import DDPStrategy as LightningDDPStrategy
from torch.utils.data import DataLoader, Sampler
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.strategies.batch.sharding import Shard, shard_bounds
from lightning_app.strategies.loaders import passes
from lightning_app.telemetry.coverage import Coverage
from lightning_app.telemetry.tally import Tally, fingerprint_of
from tests.ranks import run_ranks
from tests.runs import MemoryLogger, Run, SaveAt, assert_same_weights, fit
from tests.user_modules import Samples, Shuffled, Submodule

Counts = tuple[list[float], list[float]]


def counts(curves: dict[str, dict[int, float]]) -> Counts:
    """What was missed and what was repeated, epoch by epoch."""
    missing, repeated = curves.get("coverage/missing", {}), curves.get("coverage/repeated", {})
    return list(missing.values()), list(repeated.values())


indices = st.lists(st.integers(0, 40))


@settings(max_examples=50, deadline=None)  # the machine may be busy
@given(indices, indices, st.integers(1, 5))
def test_tallies_differ_by_what_is_named_more_often(
    ours: list[int], theirs: list[int], size: int
) -> None:
    tally = Tally()
    tally.add(torch.split(torch.tensor(ours, dtype=torch.int64), size))
    tally.add([theirs], -1)
    named = range(41)
    more = [max(ours.count(index) - theirs.count(index), 0) for index in named]
    less = [max(theirs.count(index) - ours.count(index), 0) for index in named]
    assert tally.missing_and_repeated() == (sum(less), sum(more))


@pytest.mark.parametrize(
    "batch", [["a", "b", "b"], [(1, 2), (3, 4), (3, 4)], [-1, 7, 7], [2**31, 0, 0], [1.5, 2, 2]]
)
def test_indices_may_be_names(batch: list[Any]) -> None:
    tally = Tally()
    tally.add([batch])
    tally.add([batch[:2], batch[2:], batch[2:]], -1)
    assert tally.missing_and_repeated() == (1, 0)
    assert len(tally.numbers) <= 8  # and no table up to 2**31
    parts = fingerprint_of([batch[:2]]) + fingerprint_of([batch[2:]])
    assert torch.equal(fingerprint_of([batch]), parts)


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


class OneList:
    """Gives batches in one list, which it fills again and again."""

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in range(42):
            batch.append(index)
            if len(batch) == 7:
                yield batch
                batch.clear()


class Refilled(Shuffled):
    """Samples in the order of such batches."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(42), batch_sampler=OneList())


@pytest.mark.parametrize(
    "data",
    [Shuffled(drop_last=True), Shuffled(shuffle=False), Shuffled(num_workers=1), Refilled()],
    ids=["drop_last", "in order", "workers", "one list"],
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

    passes.shard_bounds = overlapping  # type: ignore[attr-defined]
    return train_shuffled()


def train_with_broken_weight() -> Run:
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


class Passes(Sampler[int]):
    """Has another order and another length in each pass, by a state of its own.

    Args:
        seed: Of its order; `None` for one that differs from rank to rank.
    """

    def __init__(self, seed: int | None) -> None:
        self.random = random.Random(seed)
        self.num_passes = 0

    def __len__(self) -> int:
        return 20 + 3 * self.num_passes

    @override
    def __iter__(self) -> Iterator[int]:
        indices = self.random.sample(range(43), len(self))
        self.num_passes += 1
        yield from indices


class OneLoader(LightningDataModule):
    """A loader that is made once."""

    def __init__(self, sampler: Passes) -> None:
        super().__init__()
        self.sampler = sampler
        self.loader = DataLoader(Samples(43), 6, sampler=sampler)

    @override
    def train_dataloader(self) -> Any:
        return self.loader


def train_passes(devices: int, seed: int | None) -> tuple[Counts, int]:
    sampler = Passes(seed)
    flags: dict[str, Any] = {"callbacks": [Coverage()], "max_epochs": 3}
    run = fit("ddp", devices, Submodule(), OneLoader(sampler), **flags)
    return counts(run.curves), sampler.num_passes


def test_the_plan_is_that_of_the_pass_that_is_trained_on() -> None:
    (seen, num_passes), (_, others) = run_ranks(train_passes, 2, 2, 5)
    assert seen == ([0, 0, 0], [0, 0, 0])
    assert (num_passes, others) == (3, 3)  # nobody has asked the sampler once more


def test_ranks_whose_samplers_disagree_are_seen() -> None:
    (missing, repeated), _ = run_ranks(train_passes, 2, 2, None)[0]
    assert min(missing) > 0
    assert missing == repeated  # as many as there should be, and not the right ones


def save_and_continue(path: str, devices: int, moved_by: int) -> Counts:
    """What is counted by a run that goes on after 4 of 7 batches, or where it should not."""
    file, callbacks = Path(path), [SaveAt(4, Path(path)), Coverage(), Resume()]
    flags: dict[str, Any] = {"max_epochs": 1, "callbacks": callbacks}
    fit("ddp", devices, Submodule(), Shuffled(length=43), **flags)
    checkpoint = torch.load(file, weights_only=True)
    (saved,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert saved["position"] == 4
    saved["position"] += moved_by
    own = file.with_suffix(f".{torch.initial_seed()}.{moved_by}")
    torch.save(checkpoint, own)
    flags["callbacks"] = [Coverage(), Resume()]
    run = fit("ddp", devices, Submodule(), Shuffled(length=43), ckpt_path=str(own), **flags)
    return counts(run.curves)


@pytest.mark.parametrize(("moved_by", "missing", "repeated"), [(0, 0, 0), (1, 7, 0), (-1, 0, 7)])
def test_a_continued_epoch_is_counted_as_one(
    moved_by: int, missing: int, repeated: int, tmp_path: Path
) -> None:
    path = str(tmp_path / "saved.ckpt")
    first, _ = run_ranks(save_and_continue, 2, path, 2, moved_by)
    assert first == ([missing], [repeated])
