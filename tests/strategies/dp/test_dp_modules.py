"""What modules of every kind keep and write under `dp`: as on one device, or told."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from typing_extensions import override

from tests.runs import assert_same, assert_same_weights, fit
from tests.strategies.one_step import (
    B,
    Call,
    Step,
    assert_as_on_one_device,
    run_step,
    x,
)
from tests.user_modules import OverIterator, Samples, Shuffled, Submodule

NORMED: dict[str, Callable[[], nn.Module]] = {
    "parametrized": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "by a hook": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "weight": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
}


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("inner", [False, True])
def test_spectral_norm(name: str, inner: bool, capsys: pytest.CaptureFixture[str]) -> None:
    for devices in (2, 3):
        torch.manual_seed(3)
        own = nn.Sequential(NORMED[name](), nn.Tanh()) if inner else NORMED[name]()
        torch.manual_seed(3)
        one = nn.Sequential(NORMED[name](), nn.Tanh()) if inner else NORMED[name]()
        want = run_step(one.double(), lambda m, b: m(b), x(B, 4), 1)
        got = run_step(own.double(), lambda m, b: m(b), x(B, 4), devices)
        for mine, theirs in zip(got, want, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not capsys.readouterr().err


class Writes(nn.Module):
    """Writes attributes and buffers in its forward."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.last: Tensor | None = None
        self.same = 0

    def forward(self, x: Tensor) -> Tensor:
        """Predict, count, and remember."""
        self.calls += 1
        self.same = 3
        self.last = self.linear(x)
        return self.last


def test_what_forward_writes_is_counted_once_or_told(capsys: pytest.CaptureFixture[str]) -> None:
    module = Writes().double()
    run_step(module, lambda m, b: m(b), x(B, 4), 2)
    assert float(module.calls) == 1
    told = capsys.readouterr().err
    assert told.startswith("Writes.forward writes last, of each replica's own samples")
    norm = nn.BatchNorm1d(4).double()
    run_step(norm, lambda m, b: m(b), x(B, 4), 2)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * x(B, 4)[:3].mean(0), rtol=1e-12, atol=1e-12)
    assert "BatchNorm1d.forward writes running_mean, running_var" in capsys.readouterr().err
    norm.track_running_stats = False
    run_step(norm, lambda m, b: m(b), x(B, 4), 2)
    told = capsys.readouterr().err
    assert "BatchNorm (BatchNorm1d) takes the statistics of each replica's own" in told
    run_step(norm.eval(), lambda m, b: m(b), x(B, 4), 2)  # those that it was given before
    assert capsys.readouterr().err == ""


class ByFirstBatch(nn.Module):
    """Sets a weight by the first samples that it sees, as ActNorm."""

    is_set: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4))
        self.register_buffer("is_set", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """Shift and scale."""
        if not self.is_set:
            self.shift.data.copy_(-x.mean(0))
            self.is_set.fill_(True)
        return self.scale * (x + self.shift)


def test_weights_that_forward_writes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(ByFirstBatch(), nn.Linear(4, 2)).double()
    run_step(module, lambda m, b: m(b), x(B, 4), 2)
    line = "Sequential.forward writes 0.shift, of each replica's own samples"
    assert capsys.readouterr().err.startswith(line)
    run_step(module, lambda m, b: m(b), x(B, 4), 2)
    assert not capsys.readouterr().err


def test_hooks_on_the_outermost_module_run_once_and_inner_ones_per_replica() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    module.register_forward_pre_hook(lambda _, args: ((args[0] - 0.5) / 0.5,))
    module.register_forward_hook(lambda _, args, out: 2 * out + args[0].sum())
    grads: list[int] = []
    note: Any = lambda _, grad_in, grad_out: grads.append(len(grad_out[0]))  # noqa: E731
    module.register_full_backward_hook(note)
    inner: list[int] = []
    batch = x(B, 4).requires_grad_()
    module[0].register_forward_hook(lambda _, args, out: inner.append(len(out)))
    want = run_step(copy.deepcopy(module), lambda m, b: m(b), batch, 1)
    grads.clear()
    inner.clear()
    got = run_step(module, lambda m, b: m(b), batch, 3)
    torch.testing.assert_close(got[:2], want[:2], rtol=1e-12, atol=1e-12)
    assert grads == [B]
    assert inner == [2, 2, 2]


def test_a_metric_gets_the_whole_batch() -> None:
    class Net(MeanMetric):
        """A metric with weights, as perceptual ones have."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1).double()

        def update(self, value: Any, weight: Any = 1.0) -> None:
            """Take the mean of a network's output."""
            super().update(self.net(value).detach(), weight)

    metric = Net()
    run_step_without_grad(metric, x(B, 4))
    want = metric.net(x(B, 4)).mean()
    torch.testing.assert_close(metric.compute(), want.float().detach())
    assert metric._update_count == 1


def run_step_without_grad(metric: nn.Module, batch: Tensor) -> None:
    run_step(nn.Linear(4, 1).double(), lambda m, b: [metric(b), m(b)], batch, 2)


def test_checkpointed_modules_within_and_around() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    within = Call(lambda net, x: checkpoint(net, x, use_reentrant=False), net)
    assert_as_on_one_device(within, lambda m, b: m(b), x(B, 4))
    around: Step = lambda m, b: checkpoint(m, b, use_reentrant=False)  # noqa: E731
    assert_as_on_one_device(net, around, x(B, 4))


class Pickled(Submodule):
    """Is copied and pickled in its own hooks and steps."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        teacher = copy.deepcopy(self.body)
        assert pickle.loads(pickle.dumps(self.body))
        with torch.no_grad():
            torch.testing.assert_close(teacher(batch[0]), self.body(batch[0]))
        return super().training_step(batch, batch_idx)


def test_nothing_of_ours_is_in_a_module_during_and_after_a_run() -> None:
    model = Pickled()
    usual = nn.Module.__call__
    before = {name: set(vars(part)) for name, part in model.body.named_modules()}
    run = fit("dp", 2, model, Shuffled(), max_epochs=1)
    assert {name: set(vars(part)) for name, part in model.body.named_modules()} == before
    assert nn.Module.__call__ is usual
    again = pickle.loads(pickle.dumps(model.body))
    torch.testing.assert_close(again(x(2, 5)), model.body(x(2, 5)))
    torch.manual_seed(1)
    assert run.curves["batch_size/rank_0"][0] == 4


class TimeFirst(LightningDataModule):
    """Batches of sequences with the time steps first, which may be as many as the samples."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            sequences = [x.expand(self.num_steps, -1) for x, _ in samples]
            return torch.stack(sequences, 1), torch.stack([y for _, y in samples])

        return DataLoader(Samples(20), 6, collate_fn=collate)


class Sequences(Submodule):
    """Takes sequences, time steps first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(5, 2)  # type: ignore[assignment]

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.body(batch[0])[1][0][0], batch[1])


@pytest.mark.parametrize("num_steps", [4, 6])
def test_runs_over_sequences_with_time_first(num_steps: int) -> None:
    def run(strategy: str, devices: int) -> Any:
        torch.manual_seed(4)
        return fit(strategy, devices, Sequences(), TimeFirst(num_steps), max_epochs=1)

    expected = run("single_device", 1)
    for devices in (2, 3):
        assert_same_weights(run("dp", devices), expected)  # sizes are those of the first dimension


def test_a_step_over_the_loaders_iterator_runs_in_one_piece(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(strategy: str, devices: int) -> Any:
        torch.manual_seed(4)
        data = Shuffled(shuffle=False)
        return fit(strategy, devices, OverIterator(), data, max_epochs=1, precision="32-true")

    assert_same(run("dp", 2), run("single_device", 1))
    assert "nothing tells how many samples the batch has" in capsys.readouterr().err


class Unlucky(Submodule):
    """Has a module that fails, on a batch of one sample that cannot be split."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step((batch[0][:1], batch[1][:1]), batch_idx)


def test_an_error_of_a_call_in_one_piece_has_no_other_before_it() -> None:
    model = Unlucky()
    model.body = nn.Sequential(model.body, nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="more than 1 value per channel") as failed:
        fit("dp", 2, model, max_epochs=1, limit_val_batches=0)
    assert failed.value.__context__ is None
