"""What virtual ranks compute is what as many ranks do: beside one device, and beside stock DDP."""

import os
import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchmetrics import MeanMetric
from typing_extensions import override

from lightning_app import strategies
from tests.ranks import run_ranks
from tests.runs import Run, assert_same, fit
from tests.user_modules import Shuffled, Submodule


class Plain(LightningModule):
    """A module of plain layers, that logs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return mse_loss(self.body(batch[0]), batch[1])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loader(batch_size: int, rank: int | None = None) -> DataLoader[Any]:
    """128 samples in their order; of four processes, each takes every fourth."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(128, 5, generator=generator, dtype=torch.float64)
    data = TensorDataset(x, x[:, :2] * 2)
    sampler: Any = None if rank is None else DistributedSampler(data, 4, rank, shuffle=False)
    return DataLoader(data, batch_size, sampler=sampler)


def train_plain(strategy: Any, devices: int, batches: DataLoader[Any]) -> dict[str, Tensor]:
    """A script without this project, but perhaps for its strategy."""
    torch.manual_seed(1)
    model = Plain()
    trainer = Trainer(
        strategy=strategy,
        devices=devices,
        accelerator="cpu",
        precision="64-true",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, batches)
    return {name: value.clone() for name, value in model.state_dict().items()}


def train_stock() -> dict[str, Tensor]:
    """Lightning's own, in four processes of 8 samples each."""
    warnings.simplefilter("ignore")
    return train_plain(DDPStrategy(), 4, loader(8, int(os.environ["RANK"])))


@pytest.mark.filterwarnings("ignore")
def test_stock_ddp_of_four_processes() -> None:
    stock = run_ranks(train_stock, 4)[0]
    virtual = strategies.with_virtual_ranks("single_device", 4)
    ours = train_plain(virtual, 1, loader(32))
    for name, weight in stock.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-12, atol=1e-12)


class Words(Submodule):
    """Has a loss that is a mean over what is not ignored."""

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.body(batch[0]), self.targets(batch), ignore_index=-100)
        self.log("loss_each", loss, on_step=True, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.body(batch[0]), self.targets(batch)))

    def targets(self, batch: Any) -> Tensor:
        """Some parts of a batch have none."""
        x, y = batch
        return torch.where(x[:, 0] > 0.3, (y[:, 0] > 0).long(), -100)

    def loss_is_mean_over(self, batch: Any) -> Tensor:
        """How many are not ignored."""
        return (self.targets(batch) != -100).sum()


class Averages(Submodule):
    """Gives the losses of its batches to objects that count these, not samples."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.validated = MeanMetric(), MeanMetric()

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.trained.update(loss)
        self.log("trained", self.trained, on_step=False, on_epoch=True)
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.update(mse_loss(self.body(batch[0]), batch[1]))
        self.log("validated", self.validated)


def both(model: Any, virtual_ranks: int = 8, **flags: Any) -> tuple[Run, Run]:
    """The same run with virtual ranks and without, in float64."""
    with_ranks: Any = strategies.with_virtual_ranks("single_device", virtual_ranks)
    flags = {"max_epochs": 2} | flags
    runs = []
    for strategy in (with_ranks, "single_device"):
        torch.manual_seed(1)
        runs.append(fit(strategy, 1, model(), Shuffled(40, 10), **flags))
    run, plain = runs
    for each in (run, plain):  # one says how it was split
        each.curves = {k: v for k, v in each.curves.items() if not k.startswith("batch_size/rank")}
    return run, plain


def test_one_device_without_virtual_ranks() -> None:
    run, plain = both(Submodule)
    assert run.curves.keys() >= {"loss_each_step", "loss_each_epoch", "val_loss", "train/loss"}
    assert_same(run, plain)
    assert_same(*both(Submodule, gradient_clip_val=0.1, accumulate_grad_batches=3))
    assert_same(*both(Words))
    run, plain = both(Averages)
    assert run.curves.keys() >= {"trained", "validated"}
    assert_same(run, plain, 1e-5)  # they count in float32


class Sometimes(Submodule):
    """Has parameters that some parts alone use, some that none does, and some that are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.rare, self.never, self.tied = nn.Linear(5, 2), nn.Linear(5, 2), nn.Linear(4, 2)
        self.tied.weight = self.body[2].weight  # type: ignore[assignment]

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = super().training_step(batch, batch_idx)
        loss = loss + mse_loss(self.tied(torch.tanh(x[:, :4])), y)
        chosen = (x[:, 0] > 1.2).to(x.dtype)[:, None]
        return loss + (chosen * self.rare(x)).square().sum(1).mean() if chosen.any() else loss

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        # With a decay, to see which gradients there are none of.
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.3)


def test_gradients_that_some_parts_lack() -> None:
    run, plain = both(Sometimes, max_epochs=1)
    assert_same(run, plain)


class Noted(Submodule):
    """Notes the hooks of its steps, counts them, and keeps in a buffer what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.num_steps = 0
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.num_steps += 1
        self.seen.add_(batch[0].sum())
        return {"loss": super().training_step(batch, batch_idx), "size": len(batch[0])}

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append(f"end {outputs['size']} {len(batch)}")

    @override
    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.calls.append("zero")

    @override
    def on_before_backward(self, loss: Tensor) -> None:
        self.calls.append("before")

    @override
    def on_after_backward(self) -> None:
        norm = torch.stack([p.grad.norm() for p in self.parameters() if p.grad is not None]).sum()
        self.calls.append(f"after {float(norm):.9f}")

    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls.append("step")


def test_hooks_are_those_of_one_batch(capsys: Any) -> None:
    models = []

    def model() -> Noted:
        models.append(Noted())
        return models[-1]

    flags = {"max_epochs": 1, "limit_train_batches": 1}
    run, _ = both(model, 3, **flags)
    ours, plain = models
    assert [call.split()[0] for call in ours.calls] == [c.split()[0] for c in plain.calls]
    assert ours.calls[2] == plain.calls[2]  # the norm of all gradients
    assert ours.calls[-1] == "end [4, 3, 3] 3"
    assert ours.num_steps == plain.num_steps == 1
    assert "Noted.on_train_batch_end: a batch is the list of" in capsys.readouterr().err
    assert run.weights["seen"] != 0


class Keeps(Submodule):
    """Keeps what its steps see in lists, and logs the mean as an epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.validated: list[Tensor] = []

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch[0].sum())
        return super().training_step(batch, batch_idx)

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(batch[0].sum())

    @override
    def on_train_epoch_end(self) -> None:
        self.log("mean_seen", torch.stack(self.seen).mean())

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("mean_validated", torch.stack(self.validated).mean())


def test_a_list_that_steps_append_to_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    both(Keeps, max_epochs=1)
    told = capsys.readouterr().err
    assert told.count("steps append to seen, validated, and each device has what its own ") == 1


def test_the_first_ranks_buffers_are_kept() -> None:
    class InOrder(LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return loader(10)

    virtual: Any = strategies.with_virtual_ranks("single_device", 3)
    run = fit(virtual, 1, Noted(), InOrder(), max_epochs=1, limit_train_batches=2)
    x = torch.stack([sample[0] for sample in loader(10).dataset])  # type: ignore[attr-defined]
    expected = x[:4].sum() + x[10:14].sum()  # parts 0 of two batches: 4 + 3 + 3 samples
    torch.testing.assert_close(run.weights["seen"], expected)
