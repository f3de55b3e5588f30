"""`DataLoader(shuffle=True)` in the seeded order: each sample once, and nothing stored."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler
from typing_extensions import override

from lightning_app.checkpoint.resume import Resume
from lightning_app.strategies.loaders.loader import shard_loader
from lightning_app.strategies.loaders.shuffled import in_seeded_order, is_shuffled
from lightning_app.telemetry.coverage import Coverage
from tests.runs import SaveAt, fit
from tests.user_modules import Samples, Submodule


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("length", "size"), [(43, 6), (42, 6), (5, 6), (70_000, 999)])
def test_the_batches_are_those_of_torch_in_another_order(
    length: int, size: int, drop_last: bool
) -> None:
    users = BatchSampler(RandomSampler(range(length)), size, drop_last)
    assert is_shuffled(users)
    ours = list(in_seeded_order(users, 3))
    assert [len(batch) for batch in ours] == [len(batch) for batch in users]
    seen = [index for batch in ours for index in batch]
    assert len(set(seen)) == len(seen) == (len(ours) * size if drop_last else length)
    assert set(map(type, seen)) <= {int}
    assert drop_last or sorted(seen) == list(range(length))
    assert list(in_seeded_order(users, 3, 2)) == ours[2:]
    assert list(in_seeded_order(users, 4)) != ours or not seen


class Own(RandomSampler):
    """A user's subclass, which may do anything."""


def batched(sampler: Sampler[int]) -> BatchSampler:
    return BatchSampler(sampler, 6, False)


@pytest.mark.parametrize(
    "users",
    [
        batched(RandomSampler(range(43), generator=torch.Generator())),
        batched(RandomSampler(range(43), replacement=True)),
        batched(RandomSampler(range(43), num_samples=20)),
        batched(Own(range(43))),
        DataLoader(Samples(43), 6).batch_sampler,
        RandomSampler(range(43)),
    ],
    ids=["generator", "replacement", "some", "subclass", "in order", "not batched"],
)
def test_any_other_sampler_is_the_users(users: object) -> None:
    assert not is_shuffled(users)


def test_nothing_is_stored() -> None:
    users = BatchSampler(RandomSampler(range(10**7)), 30, False)
    tracemalloc.start()
    seen = {i for first in (0, 200_000, 333_333) for i in next(in_seeded_order(users, 3, first))}
    assert len(seen) == 70
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_sizes_are_those_of_the_moment_as_in_torch() -> None:
    dataset = Samples(50)
    loader: Any = shard_loader(DataLoader(dataset, 5, shuffle=True))
    batches = iter(loader)
    dataset.x = dataset.x[:40]  # by a hook that comes before the first step
    sizes = [len(next(batches)[0])]
    loader.batch_sampler.batch_size = 10
    sizes += [len(batch[0]) for batch in batches]
    assert sizes == [5, 10, 10, 10, 5]


class Pairs(LightningDataModule):
    """Two shuffled loaders of the same samples."""

    @override
    def train_dataloader(self) -> Any:
        return {name: DataLoader(Samples(40), 5, shuffle=True) for name in "ab"}


class Paired(Submodule):
    """Notes the pairs that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[bool] = []

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.pairs += (batch["a"][0] == batch["b"][0]).all(1).tolist()
        loss: Tensor = self.body(batch["a"][0]).square().mean()
        return loss


def test_two_loaders_are_not_in_the_same_order() -> None:
    model = Paired()
    fit("single_device", 1, model, Pairs(), max_epochs=2, limit_val_batches=0)
    assert len(model.pairs) == 80
    assert sum(model.pairs) < 20


@pytest.mark.parametrize("step", [3, 9])  # in mid-epoch; and in an epoch's last batch
def test_a_continued_run_has_nothing_missing(step: int, tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"

    def train(**flags: Any) -> tuple[dict[str, dict[int, float]], dict[str, Tensor]]:
        torch.manual_seed(1)
        data: Any = DataLoader(Samples(43), 5, shuffle=True)
        callbacks = [SaveAt(step, path), Coverage(), Resume()]
        run = fit("single_device", 1, Submodule(), data, callbacks=callbacks, max_epochs=2, **flags)
        return run.curves, run.weights

    (_, whole), (curves, weights) = train(), train(ckpt_path=str(path))
    for name, weight in whole.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0)
    for tag in ("coverage/missing", "coverage/repeated"):
        assert set(curves[tag].values()) == {0}
