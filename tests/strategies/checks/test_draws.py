"""Random numbers that a step draws are noticed, from whichever generator."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.first_steps import FirstSteps, random_states
from lightning_app.strategies.checks.telling import TellOnce

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


OWN: list[tuple[Any, Callable[[Any], Any]]] = [
    (torch.Generator(), lambda own: torch.rand(1, generator=own)),
    (random.Random(0), lambda own: own.random()),
    (np.random.default_rng(0), lambda own: own.random()),
    (np.random.RandomState(0), lambda own: own.rand()),
]


@pytest.mark.parametrize(("own", "draw"), OWN)
def test_a_generator_of_a_models_own_is_looked_at(
    own: Any, draw: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model: Any = LightningModule()
    model.part = nn.Identity()
    model.part.noise = own
    first_steps = FirstSteps(model, CPU, TellOnce())
    shard = Shard([0, 1, 2, 3], 0, 2)
    with first_steps.watch("validation_step", shard):
        pass
    assert capsys.readouterr().err == ""
    for _ in range(2):
        with first_steps.watch("validation_step", shard):
            draw(own)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "LightningModule.validation_step draws from part.noise: what it draws there"
    )
