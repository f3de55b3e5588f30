"""`DataLoader(shuffle=True)` in the seeded order: each sample once, and nothing stored."""

import tracemalloc

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

from lightning_app.strategies.shuffled import ShuffledBatches, in_seeded_order
from tests.user_modules import Samples


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("length", "size"), [(43, 6), (42, 6), (5, 6), (70_000, 999)])
def test_the_batches_are_those_of_torch_in_another_order(
    length: int, size: int, drop_last: bool
) -> None:
    users = BatchSampler(RandomSampler(range(length)), size, drop_last)
    ours = in_seeded_order(users, 3)
    assert isinstance(ours, ShuffledBatches)
    assert [len(batch) for batch in ours] == [len(batch) for batch in users]
    seen = [index for batch in ours for index in batch]
    assert len(set(seen)) == len(seen) == (len(ours) * size if drop_last else length)
    assert set(map(type, seen)) <= {int}
    assert drop_last or sorted(seen) == list(range(length))
    assert ours[1:3] == [ours[i] for i in range(1, min(3, len(ours)))]
    again, other = in_seeded_order(users, 3), in_seeded_order(users, 4)
    assert isinstance(again, ShuffledBatches)
    assert isinstance(other, ShuffledBatches)
    assert list(again) == list(ours)
    assert list(other) != list(ours) or not seen


class Own(RandomSampler):
    """A user's subclass, which may do anything."""


def with_sampler(sampler: Sampler[int]) -> BatchSampler:
    return BatchSampler(sampler, 6, False)


@pytest.mark.parametrize(
    "users",
    [
        with_sampler(RandomSampler(range(43), generator=torch.Generator())),
        with_sampler(RandomSampler(range(43), replacement=True)),
        with_sampler(RandomSampler(range(43), num_samples=20)),
        with_sampler(Own(range(43))),
        DataLoader(Samples(43), 6).batch_sampler,
        RandomSampler(range(43)),
    ],
    ids=["generator", "replacement", "some", "subclass", "in order", "not batched"],
)
def test_any_other_sampler_is_the_users(users: object) -> None:
    assert in_seeded_order(users, 3) is users


def test_nothing_is_stored() -> None:
    users = BatchSampler(RandomSampler(range(10**7)), 30, False)
    tracemalloc.start()
    ours = in_seeded_order(users, 3)
    assert isinstance(ours, ShuffledBatches)
    assert len({*ours[0], *ours[200_000], *ours[-1 + len(ours)]}) == 70
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
