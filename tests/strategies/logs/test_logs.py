"""What is logged on three ranks is what one device logs, whoever logs it, whenever it is read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_app.strategies.logs.step_values import COLUMNS, StepValues
from tests.ranks import run_ranks
from tests.runs import fit
from tests.user_modules import Samples, Submodule

LENGTH, BATCH = 23, 7  # shards of 3, 2, 2; the last batch has two samples for three ranks


def time_first(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([x.expand(7, -1) for x, _ in samples], 1), torch.stack(
        [y for _, y in samples]
    )


class Data(LightningDataModule):
    """Batches `(T, B, 5)`, from which Lightning guesses a size of T."""

    @override
    def train_dataloader(self) -> Any:
        return DataLoader(Samples(LENGTH), BATCH, collate_fn=time_first)

    @override
    def val_dataloader(self) -> Any:
        return [self.train_dataloader(), DataLoader(Samples(1), BATCH, collate_fn=time_first)]


class Logs(Submodule):
    """Logs in all the ways there are."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch[0][0], batch[1]
        loss: Tensor = (self.body(x) - y).square().mean()
        self.log("plain", x.sum(1).mean(), on_step=True, on_epoch=True)
        self.log("each", x[:, 0].mean(), on_step=False, on_epoch=True)
        self.log("as one", x[:, 0].mean(), on_step=False, on_epoch=True, batch_size=1)
        self.log("as four", x[:, 1].mean(), on_step=True, on_epoch=True, batch_size=4)
        self.log("largest", x.max(), on_step=True, on_epoch=True, reduce_fx="max")
        self.log("least", x.min(), on_step=False, on_epoch=True, reduce_fx="min")
        self.log("total", x.sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("own mean", x[:, 1].mean(), on_step=True, on_epoch=True, sync_dist=True)
        if batch_idx == 2:
            self.log("once", x[:, 2].mean(), on_step=True, on_epoch=True)
        if not self.trainer.is_global_zero:
            self.log("not by the first", 5.0, on_step=True, on_epoch=True)
        return loss

    @override
    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.log("val", batch[0][0].sum(1).mean())
        if batch_idx % 2:
            self.log("val odd", batch[0][0].sum(1).mean())

    @override
    def on_train_epoch_end(self) -> None:
        self.log("at the end", self.trainer.callback_metrics["plain_epoch"] * 2)


class Reads(Callback):
    """Notes what schedulers and callbacks go by, where they do."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def log(strategy: str, devices: int) -> tuple[Reads, dict[str, dict[int, float]]]:
    torch.manual_seed(4)
    reads = Reads()
    run = fit(strategy, devices, Logs(), Data(), callbacks=[reads], max_epochs=2)
    return reads, run.curves


def assert_same_values(values: dict[str, float], expected: dict[str, float]) -> None:
    values = {k: v for k, v in values.items() if not k.startswith("not by the first")}
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-12), name


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    return run_ranks(log, 3, "ddp", 3)


@pytest.fixture(scope="module")
def alone() -> Any:
    return log("single_device", 1)


def test_all_ranks_read_what_one_device_has(ranks: list[Any], alone: Any) -> None:
    for reads, _ in ranks:
        for seen, expected in zip(reads.epochs, alone[0].epochs, strict=True):
            assert_same_values(seen, expected)
        for seen, expected in zip(reads.steps, alone[0].steps, strict=True):
            assert_same_values(seen, expected)


def test_the_loggers_get_what_one_device_logs(ranks: list[Any], alone: Any) -> None:
    curves = ranks[0][1]
    for tag, curve in alone[1].items():
        if not tag.startswith("batch_size/rank"):
            assert_same_values(
                {str(step): value for step, value in curves[tag].items()},
                {str(step): value for step, value in curve.items()},
            )


def test_what_the_first_rank_alone_does_not_log_is_logged(ranks: list[Any], alone: Any) -> None:
    curves = ranks[0][1]
    assert set(curves["not by the first_step"].values()) == {5.0}
    assert list(curves["not by the first_epoch"].values()) == [5.0, 5.0]
    assert "not by the first_epoch" not in alone[1]


def test_the_averages_are_right(alone: Any) -> None:
    values = torch.stack([Samples(LENGTH)[i][0] for i in range(LENGTH)])
    means = [batch[:, 0].mean() for batch in torch.split(values, BATCH)]
    for seen in alone[0].epochs:
        assert seen["each"] == pytest.approx(float(values[:, 0].mean()), rel=1e-6)
        assert seen["as one"] == pytest.approx(float(torch.stack(means).mean()), rel=1e-6)
        as_four = torch.stack([batch[:, 1].mean() for batch in torch.split(values, BATCH)])
        assert seen["as four_epoch"] == pytest.approx(float(as_four.mean()), rel=1e-6)
        assert seen["largest_epoch"] == pytest.approx(float(values.max()), rel=1e-6)


def count_exchanges(log_from: int) -> int:
    """Sums over ranks in eight steps of a run that logs at step 4, from a step on."""
    sums: list[Any] = []

    class Loud(Submodule):
        """Logs late."""

        @override
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            if batch_idx >= log_from:
                self.log("late", 1.0)
            loss: Tensor = self.body(batch[0]).square().mean()
            return loss

    original: Callable[..., Any] = StepValues._of_all_ranks

    def counted(self: StepValues) -> Any:
        sums.append(original(self))
        return sums[-1]

    StepValues._of_all_ranks = counted  # type: ignore[method-assign]
    try:
        data: Any = DataLoader(Samples(16), 2)
        fit("ddp", 2, Loud(), data, max_epochs=1, log_every_n_steps=4, limit_val_batches=0)
    finally:
        StepValues._of_all_ranks = original  # type: ignore[method-assign]
    assert all(len(row) in (1, 1 + COLUMNS) for rows in sums for row in rows)
    return len(sums)


def count_all() -> list[int]:
    return [count_exchanges(99), count_exchanges(0), count_exchanges(2)]


def test_ranks_exchange_no_more_than_they_have_to() -> None:
    # None logs: at step 1, and at the log steps 4 and 8. Steps 1 to 8, and once more for the name.
    # From step 3 on, seen at step 4: then, once more for the name, and at steps 5 to 8.
    assert run_ranks(count_all, 2) == [[3, 9, 7]] * 2


class OneAfterTheOther(Submodule):
    """Each rank logs at a step of its own, its number."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if batch_idx == 1 + self.global_rank:
            self.log("rank", float(self.global_rank), on_step=True, on_epoch=False)
        loss: Tensor = self.body(batch[0]).square().mean()
        return loss


def log_one_after_the_other() -> list[float]:
    data: Any = DataLoader(Samples(8), 2)
    flags: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 4, "limit_val_batches": 0}
    return list(fit("ddp", 2, OneAfterTheOther(), data, **flags).curves["rank"].values())


def test_the_last_step_at_which_any_rank_has_logged_counts() -> None:
    assert run_ranks(log_one_after_the_other, 2)[0] == [1.0]
