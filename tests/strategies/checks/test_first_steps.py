"""What is looked at in the first training steps, and told."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from torch import nn
from torchmetrics import CatMetric, MeanMetric
from typing_extensions import override

from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.first_steps import (
    NUM_STEPS,
    FirstSteps,
)
from lightning_app.strategies.checks.padding import listeners_to_encoders
from lightning_app.strategies.checks.telling import TellOnce

CPU = torch.device("cpu")


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        for name in "abc":
            self.register_buffer(name, torch.ones(1))
        self.register_buffer("number", torch.ones(1, dtype=torch.long))


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is gathered; the second of two ranks has other values."""
    calls: list[Any] = []

    def gather(ranks: list[Any], own: Any) -> None:
        prints, shapes, why = own
        calls.append(prints)
        others = dict.fromkeys(prints, (7.0, 7.0)) if len(calls) > 1 else prints
        ranks[:] = [own, (others, shapes, why)]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return calls


@contextmanager
def step(
    first_steps: FirstSteps, hook: str = "training_step", num_samples: int = 4
) -> Iterator[None]:
    with first_steps.watch(hook, Shard(list(range(num_samples)), 0, num_samples // 2)):
        yield


def test_a_line_comes_once(gathered: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    first_steps = FirstSteps(Model(), CPU, TellOnce())
    for _ in range(3):
        with step(first_steps):
            torch.rand(1)
    assert len(gathered) == 3
    assert gathered[0] == dict.fromkeys([*"abc", "number"], (1.0, 1.0))
    draws, buffers = capsys.readouterr().err.splitlines()
    assert draws.startswith("Model.training_step draws random numbers")
    assert buffers.startswith("Model.training_step writes a, b and 2 more, each process")
    remedy = " depend on the number of devices (with --virtual_ranks N, on N alone)"
    assert remedy in draws
    assert remedy in buffers
    model = Model()
    model.automatic_optimization = False  # which virtual ranks refuse
    for hook, own in (("training_step", model), ("predict_step", Model())):
        with step(FirstSteps(own, CPU, TellOnce()), hook):
            torch.rand(1)
        draws, *_ = capsys.readouterr().err.splitlines()
        assert draws.endswith("depend on the number of devices")


@pytest.mark.parametrize("num_values", [5, 6])
def test_what_any_process_sees_of_its_loss_is_told(
    num_values: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Any] = []
    why = "is a mean of 5 values of 2 samples"

    def gather(ranks: list[Any], own: Any) -> None:
        sent.append(own[2])
        ranks[:] = [own, (*own[:2], why)]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    model = Model()
    model.automatic_optimization = False
    first_steps = FirstSteps(model, CPU, TellOnce())
    loss = nn.Linear(3, 1)(torch.ones(num_values, 3)).mean()
    with step(first_steps):  # on 2 of 4 samples
        first_steps.look_at_loss(loss, [Shard([0, 1, 2, 3], 0, 2)])
    assert sent == [why if num_values == 5 else None]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Model.training_step: the loss {why}, so")


def test_an_evaluation_is_looked_at_alone_and_told_once(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first_steps = FirstSteps(Model(), CPU, TellOnce())
    for hook in ("validation_step", "predict_step", "training_step"):
        with step(first_steps, hook):
            torch.rand(1)
            torch.ones(2).std()
    assert len(gathered) == 1  # in training: some ranks have no part of other steps
    spread, *draws = capsys.readouterr().err.splitlines()
    assert spread.startswith("Model.validation_step takes `std` over the samples")
    steps = [line.split(" draws random numbers")[0] for line in draws]
    assert steps == ["Model.validation_step", "Model.predict_step", "Model.training_step"]


def test_batch_norm_that_keeps_no_statistics_is_told(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = Model()
    frozen, none = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
    model.norms = nn.ModuleList([frozen, nn.BatchNorm1d(3), nn.InstanceNorm1d(3)])
    first_steps = FirstSteps(model, CPU, TellOnce())
    with step(first_steps):
        pass
    assert capsys.readouterr().err == ""
    frozen.track_running_stats = False  # as of BaseFinetuning with `train_bn=False`
    model.norms.append(none.eval())
    for hook in ("training_step", "validation_step"):
        with step(first_steps, hook):
            pass
    told = [line for line in capsys.readouterr().err.splitlines() if "writes" not in line]
    assert told == [
        "Model: BatchNorm (norms.0 and 1 more) takes the statistics of each process's own "
        "samples, so its numbers depend on the number of devices (with --virtual_ranks N, on N "
        "alone); on GPUs: --sync_batchnorm"
    ]


class Encoder(Model):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_fast_encoder_gives_what_it_gives_unwatched(capsys: pytest.CaptureFixture[str]) -> None:
    model = Encoder().eval()
    words, pads = torch.randn(4, 6, 8), torch.zeros(4, 6, dtype=torch.bool)
    pads[1:, 3:] = True
    first_steps = FirstSteps(model, CPU, TellOnce())
    with torch.no_grad():
        expected = model.encoder(words, src_key_padding_mask=pads)
        with step(first_steps, "validation_step"):
            model.encoder(words)
            model.encoder(words, torch.zeros(6, 6, dtype=torch.bool), pads)
            model.train().encoder(words, src_key_padding_mask=pads)
            assert capsys.readouterr().err == ""
            watched = model.eval().encoder(words, src_key_padding_mask=pads)
    assert torch.equal(watched, expected)
    assert not expected[1:, 3:].any()  # the fast path's zeros
    line = "TransformerEncoder: given src_key_padding_mask, it cuts off"
    assert capsys.readouterr().err.startswith(line)
    [(encoder, listener)] = listeners_to_encoders(model, TellOnce()).items()  # of dp
    assert encoder is model.encoder
    listener((words,), {}, expected)
    assert capsys.readouterr().err == ""
    listener((words,), {"src_key_padding_mask": pads}, expected)
    assert capsys.readouterr().err.startswith(line)


def test_what_is_drawn_between_training_steps_and_not_by_a_validation_is_told(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "random numbers are drawn between the first two steps of Model; if they augment samples"
    for hooks in (["training_step", "validation_step"], ["training_step"]):
        first_steps = FirstSteps(Model(), CPU, TellOnce())
        for hook in hooks:
            with step(first_steps, hook):
                pass
        torch.rand(1)  # as a validation's sampler does
        with first_steps.watch("training_step", Shard([4, 5, 6, 7], 0, 2, number=1)):
            pass
        assert (line in capsys.readouterr().err) == (hooks[-1] == "training_step")


class Counts(Callback):
    """Does something as a batch ends."""

    @override
    def on_train_batch_end(self, *args: Any) -> None: ...


class Begins(Callback):
    """Does something as a batch begins."""

    @override
    def on_train_batch_start(self, *args: Any) -> None: ...


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (Timer, ""),
        (LearningRateMonitor, ""),
        (Counts, "What counts samples in Counts.on_train_batch_end counts"),
        (Begins, "What counts samples in Begins.on_train_batch_start counts"),
        (Timer, "What counts samples in kept counts"),
    ],
)
def test_what_counts_in_a_step_of_fewer_samples_than_ranks_is_told(
    capsys: pytest.CaptureFixture[str], callback: type[Callback], expected: str
) -> None:
    model: Any = Model()
    model.trainer = SimpleNamespace(callbacks=[callback()])
    model.kept, model.metric = [], CatMetric()
    first_steps = FirstSteps(model, CPU, TellOnce())
    for _ in range(2):
        with first_steps.watch_spare(Shard([0], 0, 1), world_size=2):
            model.metric.update(1.0)  # which is put back
            model.kept += [1] * ("kept" in expected)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == bool(expected)
    assert all(expected in line for line in told)


def test_numbers_and_tensors_that_a_step_writes_are_looked_at(gathered: list[Any]) -> None:
    model: Any = Model()
    model.running_loss, model.scalar = 0.25, torch.ones(())
    model.began_s, model.fixed = 0.125, torch.ones(3)  # which no step writes
    model.queue, model.mean = torch.zeros(3, 5), torch.zeros(5)
    model.num_tokens, model.huge = 0, 10**400
    model.hidden, model.large = torch.zeros(1, 2, 5), torch.zeros(10**6 + 1)
    model.metric = MeanMetric()  # whose states are each rank's, until they are put together
    model.table = nn.Embedding(2, 3).requires_grad_(False)
    model.net = nn.Linear(3, 3)
    model.teacher = nn.Linear(3, 3).requires_grad_(False)  # which stays as it is
    with step(FirstSteps(model, CPU, TellOnce())):  # of two samples
        model.table.weight.data = torch.ones(2, 3)
        model.net.weight.data = torch.ones(3, 3)
        model.running_loss = 0.5
        model.scalar += 1
        model.queue = torch.cat([torch.ones(2, 5), model.queue])[:3]
        model.mean.lerp_(torch.ones(5), 0.5)
        model.hidden = torch.ones(1, 2, 5)  # of each sample
        model.features = torch.ones(5, requires_grad=True) * 2
        model.large, model.huge = model.large + 1, model.huge + 1
        model.codes = torch.arange(5)
        model.num_tokens += 3  # of which another process has fewer
    assert gathered[0] == {
        **dict.fromkeys([*"abc", "number"], (1.0, 1.0)),
        "running_loss": (0.5, 0.25),
        "scalar": (2.0, 4.0),
        "queue": (10.0, 10.0),
        "mean": (2.5, 1.25),
        "num_tokens": (3.0, 9.0),
        "table.weight": (6.0, 6.0),
    }


def test_what_is_frozen_and_moved_apart_is_told_once(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = Model()
    model.table = nn.Embedding(2, 3).requires_grad_(False)
    first_steps = FirstSteps(model, CPU, TellOnce())
    for _ in range(2):
        with step(first_steps):
            model.table.weight.data += 1
    told = capsys.readouterr().err
    assert told.startswith("Model.training_step writes a, b and 3 more, each process of its own")
    first_steps.tell_of_training_apart(["table.weight"])
    assert capsys.readouterr().err == ""
    for _ in range(2):
        first_steps.tell_of_training_apart(["table.weight", "teacher.weight"])
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith("teacher.weight: each process trains it on its own samples, so it")


def test_a_count_of_own_samples_is_told_from_one_of_steps(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = Model()
    model.steps, model.seen, model.fixed, model.large = 0, 0, 2, 2**60
    first_steps = FirstSteps(model, CPU, TellOnce())
    for _ in range(2):
        with step(first_steps, num_samples=10):
            model.steps += 1
            model.seen += 5
            model.number += 5
            model.large += 5
    line = "number, seen: a count of each process's own samples, so what goes by it depends on"
    assert sum(told.startswith(line) for told in capsys.readouterr().err.splitlines()) == 1


def test_after_the_first_steps_nothing_is_looked_at(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model()
    del model.a, model.b, model.c, model.number
    first_steps = FirstSteps(model, CPU, TellOnce())
    for _ in range(NUM_STEPS):
        with step(first_steps):
            pass
    with step(first_steps):
        torch.rand(1)
    assert len(gathered) == NUM_STEPS
    assert capsys.readouterr().err == ""


def test_parts_that_are_unequal_or_nothing_are_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first_steps = FirstSteps(Model(), CPU, TellOnce())
    for _ in range(2):
        first_steps.tell_of_gathering("test_step", Shard([0, 1, 2], 0, 2), world_size=2)
        first_steps.tell_of_idleness("validation_step", Shard([0], 0, 1), world_size=2)
    gathering, idleness = capsys.readouterr().err.splitlines()
    assert gathering.startswith("Model.test_step: all_gather gives")
    assert "and these have 2, 1 samples of the batch" in gathering
    assert "a batch of 1 leaves some of 2 processes without samples" in idleness
