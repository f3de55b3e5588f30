"""Sizes are those that a module was called with, and nothing is put into it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from typing_extensions import override

from lightning_app.modules import called_modules
from lightning_app.strategies.dp.replicas import replica_rank
from lightning_app.telemetry.shapes import MAX_ALIKE, ShapeLogger
from lightning_app.telemetry.sizes import SizeRecorder, Sizes, StepRun, by_rank
from tests.runs import fit
from tests.user_modules import Shuffled, Submodule


@pytest.fixture
def record() -> Iterator[Callable[..., SizeRecorder]]:
    """Makes recorders, which are stopped at the end."""
    made: list[SizeRecorder] = []

    def make(*args: Any, **kwargs: Any) -> SizeRecorder:
        made.append(SizeRecorder(*args, **kwargs))
        return made[-1]

    yield make
    for recorder in made:
        recorder.stop()


class Branches(nn.Module):
    """Takes and gives more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)])
        self.loss = nn.MSELoss()

    def forward(self, batch: dict[str, Any]) -> tuple[int, Tensor]:
        """Predict."""
        return 1, self.parts[1](self.parts[0](batch["x"]))


def test_the_first_input_and_the_last_output_are_noted(record: Callable[..., SizeRecorder]) -> None:
    module = Branches()
    recorder = record(called_modules(module))
    module({"name": "n", "x": torch.zeros(7, 3)})
    recorder.end_step(None)
    assert recorder.take() == [({0: Sizes((7, 3), (7, 2), 7)}, 1)]
    whole = record([module])
    module({"name": "n", "x": torch.zeros(7, 3)})
    whole.end_step(None)
    assert whole.take() == [({0: Sizes((7, 3), (7, 2), 7)}, 1)]


def test_a_scalar_before_the_batch_is_passed_over(record: Callable[..., SizeRecorder]) -> None:
    class Scaled(nn.Module):
        def forward(self, factor: Tensor, x: Tensor) -> Tensor:
            return factor * x

    net = Scaled()
    recorder = record([net])
    net(torch.tensor(2.0), x=torch.zeros(7, 3))
    recorder.end_step(None)
    assert recorder.take() == [({0: Sizes((7, 3), (7, 3), 7)}, 1)]


@pytest.mark.parametrize(
    ("given", "made", "num_samples", "expected"),
    [
        ((9, 5, 2), (5, 1), 5, 5),  # time first
        ((5, 9, 2), (5, 1), 5, 5),
        ((45, 2), (45, 1), 5, 45),  # rows of all steps of time
        ((45, 2), (45, 1), None, 45),
    ],
)
def test_samples_may_be_in_another_dimension(
    given: tuple[int, ...],
    made: tuple[int, ...],
    num_samples: int | None,
    expected: int,
    record: Callable[..., SizeRecorder],
) -> None:
    net = nn.Linear(2, 1)
    net.forward = lambda input: torch.zeros(made)  # type: ignore[method-assign]
    recorder = record([net])
    net(torch.zeros(given))
    recorder.end_step(num_samples)
    assert recorder.take() == [({0: Sizes(given, made, expected)}, 1)]


def test_shapes_are_put_together_along_the_samples() -> None:
    ranks = Sizes((9, 5, 2), (5, 1), 5), Sizes((9, 4, 2), (4, 1), 4)
    assert ranks[0].over_all(ranks) == ((9, 9, 2), (9, 1))
    ranks = Sizes((5, 9), (5, 1), 5), Sizes((4, 9), (4, 1), 4)
    assert ranks[0].over_all(ranks) == ((9, 9), (9, 1))
    ranks = Sizes((45, 2), (1,), 45), Sizes((36, 2), (1,), 36)
    assert ranks[0].over_all(ranks) == ((81, 2), (2,))


@pytest.mark.parametrize("max_calls", [1, 4, 1000])
def test_equal_steps_are_counted_not_stored(
    max_calls: int, record: Callable[..., SizeRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_app.telemetry.sizes.MAX_CALLS", max_calls)
    net = nn.Linear(3, 2)
    recorder = record([net])
    for size in (5, 5, 5, 4, 5):
        net(torch.zeros(size, 3))
        recorder.end_step(None)
    assert recorder.num_steps == 5
    assert [count for _, count in recorder.take()] == [3, 1, 1]
    assert recorder.num_steps == 0


def test_runs_of_several_processes_are_cut_where_any_of_them_changes() -> None:
    a, b = Sizes((2, 5), (2, 1), 2), Sizes((1, 5), (1, 1), 1)
    first: list[StepRun] = [({0: a}, 3), ({0: b}, 1)]
    second: list[StepRun] = [({0: a}, 1), ({}, 1), ({0: a}, 2)]
    assert list(by_rank([first, second])) == [
        ({0: a, 1: a}, 1),
        ({0: a}, 1),
        ({0: a, 1: a}, 1),
        ({0: b, 1: a}, 1),
    ]


def test_calls_are_followed_until_nobody_listens(record: Callable[..., SizeRecorder]) -> None:
    usual, net = nn.Module.__call__, nn.Linear(3, 2)
    first, second = record([net]), record([net])
    followed = nn.Module.__call__
    assert followed is not usual
    first.stop()
    first.stop()
    assert nn.Module.__call__ is followed  # what is compiled for it is not compiled again
    net(torch.zeros(7, 3))
    for recorder in (first, second):
        recorder.end_step(None)
    assert [len(r.take()[0][0]) for r in (first, second)] == [0, 1]
    second.stop()
    assert nn.Module.__call__ is usual


def test_under_dp_only_replicas_count(record: Callable[..., SizeRecorder]) -> None:
    net = nn.Linear(3, 2)
    recorder = record([net], replicas_only=True)
    net(torch.zeros(9, 3))
    for rank in (1, 0):
        token = replica_rank.set(rank)
        net(torch.zeros(4 + rank, 3))
        replica_rank.reset(token)
    recorder.end_step(None)
    assert recorder.take() == [({1: Sizes((5, 3), (5, 2), 5), 0: Sizes((4, 3), (4, 2), 4)}, 1)]


class EveryOther(Submodule):
    """Calls its modules in every other step."""

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if batch_idx % 2:
            return torch.stack([p.square().sum() for p in self.parameters()]).sum()
        return super().training_step(batch, batch_idx)


def test_steps_without_a_call_count_as_steps() -> None:
    run = fit("single_device", 1, EveryOther(), Shuffled(), max_epochs=1)
    assert run.curves["batch_size/global"] == {0: 7, 1: 0, 2: 7, 3: 0, 4: 7, 5: 0}


class AsksTheModel(Callback):
    """Calls the model around each step, as one that logs pictures of its outputs does."""

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        _ask(pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        _ask(pl_module)


def _ask(model: Any) -> None:
    model.body(torch.zeros(99, 5, dtype=model.dtype))


def test_only_calls_within_the_training_step_count() -> None:
    run = fit("single_device", 1, Submodule(), Shuffled(), max_epochs=1, callbacks=[AsksTheModel()])
    sizes = [run.curves[f"batch_size/{name}"].values() for name in ("global", "rank_0")]
    assert [list(values) for values in sizes] == [[7, 7, 7, 7, 7, 6]] * 2


class Lengths(BoringModel):
    """Takes inputs of other lengths in each step."""

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.layer(batch.repeat(1, batch_idx + 1, 1)).sum()


@pytest.mark.filterwarnings("default")
def test_splits_that_differ_in_length_alone_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=10,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        callbacks=[ShapeLogger()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Lengths())
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("Outside")]
    assert len(shown) == MAX_ALIKE
    assert "input size torch.Size([1, 3, 32])" in shown[2]
    assert [line for line in lines if "more" in line] == ["\t… and 7 more with other sizes"]
