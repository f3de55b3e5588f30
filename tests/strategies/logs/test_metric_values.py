"""What torchmetrics objects return for a batch is told where it is not a mean over samples."""

import threading
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import MeanMetric, MeanSquaredError, Metric
from torchmetrics.classification import BinaryAUROC, BinaryF1Score, MulticlassAccuracy
from typing_extensions import override

from lightning_app.strategies.logs.metric_values import tell_of_values

SCORES = torch.tensor([0.9, 0.7, 0.2, 0.8, 0.1, 0.6, 0.3])
LABELS = torch.tensor([1, 0, 1, 1, 0, 1, 0])
SIZES = [4, 3]


class Locked(BinaryF1Score):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Named(BinaryF1Score):
    """Keeps a word for each batch, which no device takes."""

    words: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("words", default=[], dist_reduce_fx=None)

    @override
    def update(self, scores: Tensor, labels: Tensor) -> None:
        super().update(scores, labels)
        self.words.append("a")


MAKE: dict[str, Any] = {
    "accuracy": lambda: MulticlassAccuracy(2, average="micro"),
    "squared error": MeanSquaredError,
    "mean": MeanMetric,
    "F1": BinaryF1Score,
    "AUROC": BinaryAUROC,
    "root": lambda: MeanSquaredError(squared=False),
    "macro": lambda: MulticlassAccuracy(2),
    "locked": Locked,
    "named": Named,
}


def told(kind: str, monkeypatch: pytest.MonkeyPatch, offset: float = 0.0) -> list[str]:
    """The lines of the first of two ranks, whose objects measure their parts."""
    models, values = [], []
    trained = SCORES.clone().requires_grad_() * 1  # as what a training step gives
    for scores, labels in zip(torch.split(trained, SIZES), torch.split(LABELS, SIZES), strict=True):
        metric: Metric = MAKE[kind]()
        if kind == "mean":
            value = metric(scores.mean())
        else:
            value = metric(
                scores.round().int() if isinstance(metric, MulticlassAccuracy) else scores, labels
            )
        models.append(nn.ModuleDict({"metric": metric}))
        values.append({"value": float(value.detach()) + offset, "loss": 0.123})
    sent: list[Any] = []
    lines: list[str] = []

    def tell(line: str, subject: str) -> None:
        lines.append(line)

    def gather(ranks: list[Any], own: Any) -> None:
        sent.append(own)
        ranks[:] = [own, sent[0]]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    for rank in (1, 0):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        tell_of_values(models[rank], values[rank], SIZES[rank], tell)  # type: ignore[arg-type]
    return lines


@pytest.mark.parametrize("kind", ["F1", "AUROC", "root", "macro"])
def test_what_is_no_mean_is_told(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(kind, monkeypatch)
    assert line.startswith(f"value: what a {type(MAKE[kind]()).__name__} returns")
    assert "self.log('value', self.metric)" in line


@pytest.mark.parametrize("kind", ["accuracy", "squared error", "mean", "locked", "named"])
def test_a_mean_is_not(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(kind, monkeypatch) == []


def test_what_no_object_has_returned_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told("F1", monkeypatch, offset=0.1) == []
