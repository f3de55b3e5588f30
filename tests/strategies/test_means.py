"""A loss that is no mean over samples is told, where this can be seen."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_app.strategies.means import tells_of_weighted_means

scores, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, -100])
shifted = torch.tensor([0, -100, 2, -100])  # two samples, of two words
weights = torch.tensor([1.0, 2.0, 1.0])

TOLD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "ignored": (lambda: functional.cross_entropy(scores, labels), "leaves out labels of -100"),
    "another": (
        lambda: functional.cross_entropy(scores, labels.clamp(0), ignore_index=2),
        "leaves out labels of 2",
    ),
    "weights": (lambda: functional.nll_loss(scores, labels.abs() % 3, weights), "weighs its"),
    "a module": (
        lambda: torch.nn.CrossEntropyLoss(weight=weights)(scores, labels.clamp(0)),
        "weighs its classes",
    ),
}

NOT_TOLD: dict[str, Callable[[], Tensor]] = {
    "all labels": lambda: functional.cross_entropy(scores, labels.clamp(0)),
    "a sum": lambda: functional.cross_entropy(scores, labels, reduction="sum"),
    "each": lambda: functional.cross_entropy(scores, labels, reduction="none"),
    "soft labels": lambda: functional.cross_entropy(scores, scores),
    "texts shifted by a word": lambda: functional.cross_entropy(scores, shifted),
    "another loss": lambda: functional.mse_loss(scores, scores),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told(name: str) -> None:
    loss, why = TOLD[name]
    expected = loss()
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append):
        assert loss().equal(expected)
    (line,) = lines
    assert re.match(rf"A.training_step: \w+ {why}.*`loss_is_mean_over\(batch\)`", line)


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_is_not_told(name: str) -> None:
    expected = NOT_TOLD[name]()
    lines: list[str] = []
    with tells_of_weighted_means("A.training_step", 2, lines.append):
        assert NOT_TOLD[name]().equal(expected)
    assert lines == []
