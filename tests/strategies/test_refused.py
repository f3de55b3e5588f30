"""What several processes cannot do as one device does is refused in words."""

from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_app.strategies.refused import check_sync_batchnorm
from lightning_app.strategies.sharding import Shard


def test_sync_batchnorm_needs_a_sample_on_each_rank() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    shard = Shard([4, 5], 0, 1)
    check_sync_batchnorm(model, shard, 3)
    model.append(nn.SyncBatchNorm(3))
    with pytest.raises(MisconfigurationException, match="2 has no sample for some of 3 processes"):
        check_sync_batchnorm(model, shard, 3)
