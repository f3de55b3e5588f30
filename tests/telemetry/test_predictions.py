"""What is predicted is joined where it can be, in the loader's order, and kept where it cannot."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from lightning_app.telemetry.predictions import in_order, join

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


def test_a_rank_may_leave_batches_out() -> None:
    first = {0: [(1, {1}, X[:1]), (2, {1}, X[2:3]), (3, {1}, X[3:4])], 1: [(1, {1}, X[:1])]}
    second = {0: [(1, {1}, X[1:2]), (3, {1}, X[4:])]}
    joined, other = in_order([first, second])
    assert torch.equal(joined, X)
    assert torch.equal(other, X[:1])
