"""What several processes cannot do as one device does is refused in words."""

import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm
from torchmetrics import MeanMetric
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_app.strategies import DDPStrategy
from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.gathers import Gathers
from lightning_app.strategies.checks.means import tells_of_weighted_means
from lightning_app.strategies.checks.refused import (
    alike_where_gathered,
    check_sync_batchnorm,
    sums_told,
)


def test_sync_batchnorm_needs_a_sample_on_each_rank() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    shard = Shard([4, 5], 0, 1)
    check_sync_batchnorm(model, shard, 3)
    model.append(nn.SyncBatchNorm(3))
    with pytest.raises(MisconfigurationException, match="2 has no sample for some of 3 processes"):
        check_sync_batchnorm(model, shard, 3)


def gather() -> None:
    dist.all_gather([torch.zeros(1)], torch.ones(1))


def test_what_gathers_unequal_parts_rightly_is_left_alone(tmp_path: Path) -> None:
    told: list[int] = []
    metric = MeanMetric(dist_sync_on_step=True, distributed_available_fn=lambda: True)
    of_batchnorm: Any = types.FunctionType(
        gather.__code__, {**globals(), "__name__": SyncBatchNorm.forward.__module__}
    )
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        watched = tells_of_weighted_means(
            "A.training_step", 1, print, Gathers()
        )  # stands in between
        with alike_where_gathered(lambda: told.append(1)), watched:
            metric(torch.ones(1))
            of_batchnorm()
            assert told == []
            gather()
            gather_all_tensors(torch.ones(1))
    finally:
        dist.destroy_process_group()
    assert told == [1] * 3  # of the shapes and of the values


def test_only_sums_of_the_users_are_told(tmp_path: Path) -> None:
    told: list[int] = []
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")])
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        watched = tells_of_weighted_means("A.training_step", 1, print, Gathers())
        with sums_told(lambda: told.append(1)), watched:
            dist.all_reduce(torch.ones(1), dist.ReduceOp.MAX)
            strategy.reduce(torch.ones(1), reduce_op="sum")  # as of `self.log(…, sync_dist=True)`
            assert told == []
            dist.all_reduce(torch.ones(1))
    finally:
        dist.destroy_process_group()
    assert told == [1]
