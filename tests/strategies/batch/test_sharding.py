"""The splits, against torch's own functions, for any sizes and worlds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_app.strategies.batch.sharding import Shard, chunk_sizes, shard_bounds, shard_sizes

sizes = st.integers(0, 300)
worlds = st.integers(1, 40)


@given(sizes, worlds)
def test_shards_are_those_of_tensor_split(size: int, world_size: int) -> None:
    parts = torch.arange(size).tensor_split(world_size)
    for rank, part in enumerate(parts):
        start, stop = shard_bounds(size, rank, world_size)
        assert torch.arange(start, stop).equal(part)
    assert shard_sizes(size, world_size) == tuple(len(part) for part in parts)


@given(st.integers(0, 10**12), worlds)
def test_every_sample_is_in_one_shard(size: int, world_size: int) -> None:
    bounds = [shard_bounds(size, rank, world_size) for rank in range(world_size)]
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == size
    assert max(shard_sizes(size, world_size)) - min(shard_sizes(size, world_size)) <= 1


@given(sizes, worlds)
def test_chunks_are_those_of_torch_chunk(size: int, num_replicas: int) -> None:
    parts = torch.zeros(size).chunk(num_replicas)
    assert chunk_sizes(size, num_replicas) == tuple(len(part) for part in parts)


@given(st.integers(1, 300), worlds)
def test_weights_turn_means_of_shards_into_the_mean(size: int, world_size: int) -> None:
    values = torch.arange(size, dtype=torch.float64) ** 2
    mean_of_ranks = 0.0
    for rank in range(world_size):
        shard = Shard(values, *shard_bounds(size, rank, world_size))
        if shard.size:
            part, weight = torch.as_tensor(shard.indices), shard.loss_weight(world_size)
            mean_of_ranks += weight * part.mean().item() / world_size
    assert mean_of_ranks == pytest.approx(values.mean().item(), rel=1e-12)


def test_an_empty_shard_weighs_nothing() -> None:
    assert Shard([4, 5, 6], 3, 3).loss_weight(5) == 0
