"""Means over an epoch of which each rank has a part are those of one device."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_app.strategies.batch.sharding import Shard, shard_bounds
from lightning_app.strategies.logs.rank_means import MAX_NOTES, RankMean, merge, outside_of_steps

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=MAX_NOTES + 3)
worlds = st.integers(1, 4)


def over_ranks(
    batches: list[int], world_size: int, weight: str, full_size: int | None = None
) -> float:
    """The merged mean of values `0, 1, 4, 9 …` of the samples, logged batch by batch.

    Args:
        batches: Sizes of the global batches.
        world_size: Number of ranks.
        weight: What a step passes as `batch_size`: `own`, `one`, `some` number, `full` or
            that of the `batch`; or `told`, where the model says that the mean is over twice the
            even samples; or `told, some`: both.
        full_size: What the loader tells.
    """
    values = torch.split(torch.arange(sum(batches), dtype=torch.float64).square(), batches)
    parts = []
    for rank in range(world_size):
        mean, total, weights, steps = RankMean(full_size), 0.0, 0.0, 0
        for number, batch in enumerate(values):
            start, stop = shard_bounds(len(batch), rank, world_size)
            if start == stop:
                continue
            shard = Shard(range(len(batch)), start, stop, number=number)
            own, counts = batch[start:stop], counted(batch)[start:stop]
            constants = {"one": 1, "some": 1000, "told, some": 1000, "full": full_size or 0}
            value, passed = float(own.mean()), constants.get(weight)
            if weight.startswith("told"):
                value = float((own * counts).sum() / counts.sum()) if counts.sum() else 0.0
            passed = len(batch) if weight == "batch" else passed or len(own)
            before = (total, weights)
            total, weights, steps = total + passed * value, weights + passed, steps + 1
            told = float(counts.sum()) if weight.startswith("told") else None
            mean.add(before, (total, weights), shard, len(own), told)
        parts.append(mean.part(steps))
    merged, weights = merge([part for part in parts if part.weight])
    return merged / weights


def counted(batch: torch.Tensor) -> torch.Tensor:
    return 2.0 * (batch.sqrt() % 2 == 0)


def over_samples(batches: list[int]) -> float:
    return float(torch.arange(sum(batches), dtype=torch.float64).square().mean())


def over_batches(batches: list[int]) -> float:
    values = torch.split(torch.arange(sum(batches), dtype=torch.float64).square(), batches)
    return float(torch.stack([batch.mean() for batch in values]).mean())


@settings(max_examples=50, deadline=None)  # the machine may be busy
@given(sizes, worlds)
def test_by_their_samples(batches: list[int], world_size: int) -> None:
    expected = over_samples(batches)
    assert over_ranks(batches, world_size, "own") == pytest.approx(expected, rel=1e-12)


@settings(max_examples=50, deadline=None)  # the machine may be busy
@given(sizes, worlds)
def test_a_weight_of_one_counts_batches_alike(batches: list[int], world_size: int) -> None:
    batches = [2 * world_size + size for size in batches]  # where 1 is no shard's size
    expected = over_batches(batches)
    assert over_ranks(batches, world_size, "one") == pytest.approx(expected, rel=1e-12)


@settings(max_examples=50, deadline=None)  # the machine may be busy
@given(sizes, worlds)
def test_another_constant_counts_batches_alike(batches: list[int], world_size: int) -> None:
    batches = [world_size, *batches]  # of which one alone tells nothing
    expected = over_batches(batches)
    assert over_ranks(batches, world_size, "some") == pytest.approx(expected, rel=1e-12)


def test_numbers_that_are_alike_in_one_batch_by_chance_count_as_they_are() -> None:
    parts = []
    for start, stop, value in ((0, 3, 5.0), (3, 5, 2.0)):  # 4 labels in each part
        mean = RankMean(5)
        mean.add((0.0, 0.0), (4 * value, 4.0), Shard(range(5), start, stop), stop - start, None)
        parts.append(mean.part(1))
    assert merge(parts) == (4 * (5.0 + 2.0), 8)


@settings(max_examples=50, deadline=None)  # the machine may be busy
@given(sizes, worlds)
def test_the_full_batchs_size_is_that_of_all_ranks(batches: list[int], world_size: int) -> None:
    full = max(batches) + 1  # and no shard's
    expected = over_batches(batches)  # as on one device, which weighs them alike
    assert over_ranks(batches, world_size, "full", full) == pytest.approx(expected, rel=1e-12)


def test_what_the_model_tells_weighs_within_batches_and_samples_between_them() -> None:
    batches = [4, 7, 3]
    values = torch.split(torch.arange(14, dtype=torch.float64).square(), batches)
    means = [float((b * counted(b)).sum() / counted(b).sum()) for b in values]
    expected = sum(n * mean for n, mean in zip(batches, means, strict=True)) / 14
    for world_size in (1, 2, 3):
        assert over_ranks(batches, world_size, "told") == pytest.approx(expected, rel=1e-12)
        alike = over_ranks(batches, world_size, "told, some")
        assert alike == pytest.approx(sum(means) / 3, rel=1e-12)


def test_a_batch_that_counts_nothing_counts_as_the_model_has_it() -> None:
    counts = (0.0, 0.0), (2.0, 0.0)  # of two batches, on each of two ranks
    for values, expected in (((3.0, 3.0), (3 * 3 + 3 * 5) / 6), ((math.nan, 3.0), math.nan)):
        parts = []
        for rank in (0, 1):
            mean, size = RankMean(), 2 - rank
            second = 5.0 if rank == 0 else math.nan  # of nothing, on a rank among others
            for number, value in enumerate((values[rank], second)):
                shard = Shard(range(3), 2 * rank, 2 + rank, number=number)
                mean.add((0.0, 0.0), (size * value, size), shard, size, counts[number][rank])
            parts.append(mean.part(2))
        total, weight = merge(parts)
        assert total / weight == pytest.approx(expected, nan_ok=True)


def test_rows_that_are_not_samples_count_within_batches_and_between_them() -> None:
    rows, counts, values = ((5, 2), (3, 8)), ((1.0, 2.0), (3.0, 0.5)), ((1.0, 4.0), (9.0, 16.0))
    parts = []
    for rank in (0, 1):
        mean = RankMean()
        for number in (0, 1):
            n, value = rows[number][rank], values[number][rank]
            shard = Shard(range(3), 2 * rank, 2 + rank, number=number)
            mean.add((0.0, 0.0), (n * value, n), shard, n, counts[number][rank])
        parts.append(mean.part(2))
    means = (1 * 1 + 2 * 4) / 3, (3 * 9 + 0.5 * 16) / 3.5
    assert merge(parts) == pytest.approx((7 * means[0] + 11 * means[1], 18))


def test_what_is_logged_around_the_steps_counts_as_it_is() -> None:
    assert merge([outside_of_steps(6.0, 2.0), outside_of_steps(4.0, 2.0)]) == (10.0, 4.0)
