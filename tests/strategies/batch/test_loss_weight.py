"""What a loss counts that is a mean over something else than samples, on each layout."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_app import strategies
from lightning_app.strategies.batch.loss_weight import LossWeight, common_shard
from lightning_app.strategies.batch.sharding import Shard
from tests.ranks import run_ranks
from tests.runs import assert_same, fit
from tests.user_modules import Samples, Submodule

LENGTH, BATCH = 11, 5  # shards of 3 + 2, and the last of one sample


@pytest.mark.parametrize(
    ("hook", "size", "told", "weights"),
    [
        ("training_step", 3, (6.0, 2.0), (1.5, 0.5)),
        ("training_step", 3, (0.0, 2.0), (0.0, 2.0)),
        ("training_step", 3, (0.0, 0.0), (4 / 3, 2 / 3)),  # NaN then, as on one device
        ("training_step", 1, (0.0, 0.0), (2.0, 0.0)),
        ("training_step", 1, (5.0, 5.0), (2.0, 0.0)),  # the second runs other ranks' samples
        ("validation_step", 3, (6.0, 2.0), (1.5, 0.5)),
        ("validation_step", 1, (6.0, 2.0), (2.0, 0.0)),  # the second does not run
    ],
)
def test_what_a_shard_counts(hook: str, size: int, told: Any, weights: Any) -> None:
    sums: list[int] = []

    def over_ranks(own: Tensor) -> Tensor:
        sums.append(1)
        return torch.tensor([sum(told) if size > 1 else told[0]], dtype=own.dtype)

    for rank in (0, 1):
        shard = Shard(range(size), *((0, (size + 1) // 2), ((size + 1) // 2, size))[rank])
        weight = LossWeight(rank, 2, over_ranks)
        weight.set(hook, shard, shard.size, told[rank])
        assert weight.value == pytest.approx(weights[rank])
    assert len(sums) == (0 if hook == "validation_step" and size == 1 else 2)


def test_a_step_without_a_split_batch_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="a hook has put loaders in the place"):
        common_shard([], 2)


def nodes(samples: list[Any]) -> list[Tensor]:
    """Graphs one behind the other: x (N, 5), y (N, 2), and which nodes count (N,)."""
    of_all = []
    for x, y, counts in samples:
        scales = torch.arange(1 + 3 * (x[0] > 0))[:, None] + 1  # of one node, or four
        of_all.append((x * scales, y / scales, (scales[:, 0] < 3) & counts))
    return [torch.cat(parts) for parts in zip(*of_all, strict=True)]


def flat(samples: list[Any]) -> list[Tensor]:
    """The same as one row (1, N, …), as a collator without padding has it."""
    return [part[None] for part in nodes(samples)]


class Data(LightningDataModule):
    def __init__(self, collate: Any) -> None:
        super().__init__()
        self.collate = collate

    @override
    def train_dataloader(self) -> Any:
        return self.loader(range(5, 10))  # a batch

    @override
    def val_dataloader(self) -> Any:
        return self.loader(range(3))  # a shard, the first

    def loader(self, counting_nothing: range) -> Any:
        data = Samples(LENGTH)
        samples: Any = [(*data[i], i not in counting_nothing) for i in range(LENGTH)]
        return DataLoader(samples, BATCH, collate_fn=self.collate)


class OfMasked(Submodule):
    """A mean over the nodes that count, logged in each way."""

    def __init__(self) -> None:
        super().__init__()
        self.val_mean = MeanMetric()

    def loss(self, batch: Any) -> Tensor:
        x, y, mask = batch
        errors: Tensor = (self.body(x) - y).square().mean(-1)
        num = mask.sum().clamp(min=1) if self.training else mask.sum()  # no NaN, or NaN
        loss: Tensor = (errors * mask).sum() / num + 0.1 * next(self.parameters()).square().sum()
        return loss

    def loss_is_mean_over(self, batch: Any) -> int:
        return int(batch[2].sum())

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("synced", loss, on_step=True, on_epoch=False, sync_dist=True)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.val_mean(loss)
        self.log("val/metric", self.val_mean)
        self.log("val/loss", loss)


def train(strategy: str, devices: int, virtual_ranks: int = 0) -> list[Any]:
    runs = []
    for collate in (nodes, flat):
        named: Any = strategies.with_virtual_ranks(strategy, virtual_ranks)
        flags: dict[str, Any] = {"max_epochs": 2, "log_every_n_steps": 1}
        how = named if virtual_ranks else strategy
        torch.manual_seed(4)
        runs.append(fit(how, devices, OfMasked(), Data(collate), **flags))
    return runs


def test_every_layout_has_what_one_device_has() -> None:
    alone = train("single_device", 1)
    virtual = train("single_device", 1, 2)
    for run, expected in zip(virtual, alone, strict=True):  # an object counts parts alike
        run.curves["val/metric"] = expected.curves["val/metric"]
    for runs in (train("dp", 2), virtual, *run_ranks(train, 2, "ddp", 2)):
        for run, expected in zip(runs, alone, strict=True):
            for each in (run, expected):  # which is of rows
                each.curves.pop("batch_size/global", None)
            assert_same(run, expected, tolerance=1e-6)  # torchmetrics' sums are in float32
