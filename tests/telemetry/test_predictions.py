"""What is predicted is joined where it can be, in the loader's order, and kept where it cannot."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from typing_extensions import override

from lightning_app.data import RandomDataModule
from lightning_app.model import LinearModule
from lightning_app.telemetry.predictions import (
    HOW_TO_LOAD,
    PredictionWriter,
    _save,
    in_order,
    join,
    num_batches,
)
from tests.runs import make_trainer

X = torch.arange(10.0).reshape(5, 2)
SIZES = [{2}, {2}, {1}]


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass
class Output:
    y: Any
    note: Any


def batches(make: Any) -> list[Any]:
    return [make(part) for part in torch.split(X, 2)]


def test_tensors_of_the_batch_are_joined_wherever_they_are() -> None:
    assert torch.equal(join(batches(lambda x: x), SIZES), X)
    joined = join(batches(lambda x: {"y": x, "more": [x, (2 * x, Pair(-x, x))]}), SIZES)
    assert torch.equal(joined["y"], X)
    assert torch.equal(joined["more"][1][0], 2 * X)
    assert torch.equal(joined["more"][1][1].a, -X)
    output = join(batches(lambda x: Output(x, "a")), SIZES)
    assert torch.equal(output.y, X)
    assert output.note == ["a", "a", "a"]


def test_a_list_with_an_entry_for_each_sample_is_one_list() -> None:
    texts = join(batches(lambda x: [str(int(row[0])) for row in x]), SIZES)
    assert texts == ["0", "2", "4", "6", "8"]


def test_what_is_no_tensor_of_the_batch_has_an_entry_for_each_batch() -> None:
    means = join(batches(lambda x: x.mean()), SIZES)
    assert [float(mean) for mean in means] == [1.5, 5.5, 8.5]
    prototypes = join(batches(lambda x: torch.ones(3)), SIZES)
    assert [tuple(tensor.shape) for tensor in prototypes] == [(3,), (3,), (3,)]
    ragged = join([torch.ones(2, 3), torch.ones(2, 4)], [{2}, {2}])
    assert [tuple(tensor.shape) for tensor in ragged] == [(2, 3), (2, 4)]
    assert join([X, None], [{5}, {5}])[1] is None


class Predicts(LinearModule):
    """Gives what it is told to make of its predictions."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    @override
    def predict_step(self, batch: Any) -> Any:
        return self.make(self(batch[0]))


# 200 samples are 7 batches.
KINDS: dict[str, tuple[Any, str, str]] = {
    "tensor": (lambda y: y, "a tensor (200, 2)", "tensor"),
    "array": (lambda y: y.numpy(), "an array (200, 2)" + HOW_TO_LOAD, "ndarray"),
    "texts": (lambda y: [str(row) for row in y], "a list of 200", "list"),
    "mean": (lambda y: float(y.mean()), "a list of 7, one for each batch", "list"),
    "ragged": (lambda y: y[: len(y) - 1], "a list of 7, one for each batch", "list"),
    "parts": (
        lambda y: {"y": y, "top": (y.max(), y.argmax(1))},
        "a dict: y a tensor (200, 2), top a tuple of 2: a list of 7, one for each batch, a tensor "
        "(200,)",
        "dict",
    ),
    "object": (lambda y: Fraction(1, 3), "a list of 7, one for each batch" + HOW_TO_LOAD, "list"),
}


@pytest.mark.filterwarnings("default")
def test_every_kind_is_written_and_the_line_says_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (make, what, kind) in KINDS.items():
        trainer = make_trainer(
            "single_device",
            1,
            callbacks=[PredictionWriter()],
            default_root_dir=tmp_path / name,
            logger=False,
            precision=32,
        )
        trainer.predict(Predicts(make), RandomDataModule())
        file = tmp_path / name / "predictions.pt"
        line = next(out for out in capsys.readouterr().out.splitlines() if "Saved" in out)
        assert line == f"Saved in {file}: {what}"
        saved = torch.load(file, weights_only="weights_only" not in line)
        assert type(saved).__name__.lower() == kind, name
    loaders = _save(str(tmp_path), [X, [1, 2]], [1, 2])
    assert loaders.endswith(
        "list of 2, by loader: a tensor (5, 2); a list of 2, one for each batch"
    )


def test_a_rank_may_leave_batches_out() -> None:
    first = {0: [(1, {1}, X[:1]), (2, {1}, X[2:3]), (3, {1}, X[3:4])], 1: [(1, {1}, X[:1])]}
    second = {0: [(1, {1}, X[1:2]), (3, {1}, X[4:])]}
    joined, other = in_order([first, second])
    assert num_batches([first, second]) == [3, 1]
    assert torch.equal(joined, X)
    assert torch.equal(other, X[:1])
