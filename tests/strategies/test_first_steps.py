"""What is looked at in the first training steps, and told."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import MeanMetric

from lightning_app.strategies.first_steps import NUM_STEPS, FirstSteps, differing, random_states
from lightning_app.strategies.sharding import Shard

CPU = torch.device("cpu")
DRAWS: list[Callable[[], Any]] = [
    lambda: torch.rand(1),
    lambda: nn.functional.dropout(torch.ones(2), 0.5),
    random.random,
    lambda: np.random.beta(1, 1),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_each_global_generator_is_looked_at(draw: Callable[[], Any]) -> None:
    before = random_states([CPU])
    assert random_states([CPU]) == before
    draw()
    assert random_states([CPU]) != before


def test_what_draws_nothing_is_no_draw() -> None:
    before = random_states([CPU])
    nn.functional.dropout(torch.ones(2), 0.0, training=True)
    torch.rand(1, generator=torch.Generator())
    assert random_states([CPU]) == before


def test_buffers_differ_beyond_rounding() -> None:
    nan = float("nan")
    first = {"same": (1.0, 2.0), "other": (1.0, 2.0), "nan": (nan, nan), "own": (0.0, 0.0)}
    second = {"same": (1.0 + 1e-12, 2.0), "other": (1.0, 2.1), "nan": (nan, nan)}
    assert differing([first, second]) == ["other"]
    assert differing([first, first, second]) == ["other"]
    assert differing([first]) == differing([]) == []


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
        calls.append(own)
        ranks[:] = [own, dict.fromkeys(own, (7.0, 7.0)) if len(calls) > 1 else own]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return calls


@contextmanager
def step(first_steps: FirstSteps) -> Iterator[None]:
    with first_steps.watch(Shard([0, 1, 2, 3], 0, 2)):
        yield


def test_a_line_comes_once(gathered: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    first_steps = FirstSteps(Model(), CPU)
    for _ in range(3):
        with step(first_steps):
            torch.rand(1)
    assert len(gathered) == 2
    assert gathered[0] == dict.fromkeys("abc", (1.0, 1.0))
    draws, buffers = capsys.readouterr().err.splitlines()
    assert draws.startswith("Model.training_step draws random numbers")
    assert buffers.startswith("Model.training_step writes a, b and 1 more, each process")


def test_a_number_that_a_step_sets_is_looked_at(gathered: list[Any]) -> None:
    model = Model()
    model.running_loss, model.outputs = 0.25, torch.ones(3)  # type: ignore[assignment]
    model.began_s = 0.125  # type: ignore[assignment] # which no step sets
    model.metric = MeanMetric()  # whose states are each rank's, until they are put together
    with step(FirstSteps(model, CPU)):
        model.running_loss = 0.5  # type: ignore[assignment]
    assert gathered[0] == {**dict.fromkeys("abc", (1.0, 1.0)), "running_loss": (0.5, 0.25)}


def test_after_the_first_steps_nothing_is_looked_at(
    gathered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model()
    del model.a, model.b, model.c
    first_steps = FirstSteps(model, CPU)
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
    first_steps = FirstSteps(Model(), CPU)
    for _ in range(2):
        first_steps.tell_of_gathering(Shard([0, 1, 2], 0, 2), world_size=2)
        first_steps.tell_of_idleness("validation_step", Shard([0], 0, 1), world_size=2)
    gathering, idleness = capsys.readouterr().err.splitlines()
    assert "and these have 2, 1 samples of the batch" in gathering
    assert "a batch of 1 leaves some of 2 processes without samples" in idleness
