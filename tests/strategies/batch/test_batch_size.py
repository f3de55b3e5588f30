"""How many samples a batch has, of which the loader has asked for so many."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lightning_app.strategies.batch.batch_size import num_rows


@dataclass
class Graph:
    """Of which no dimension counts samples."""

    nodes: torch.Tensor


x = torch.zeros
BATCHES: dict[str, tuple[Any, int, int]] = {  # a batch, the samples asked for, those it has
    "a tensor": (x(4, 3), 4, 4),
    "inputs and targets": ([x(4, 3), x(4)], 4, 4),
    "names": ({"x": x(4, 3), "y": x(4)}, 4, 4),
    "some left out": ([x(3, 3), x(3)], 4, 3),
    "two views of each": ((x(8, 3), x(8)), 4, 8),
    "time first": (x(7, 4, 2), 4, 4),
    "time first, with labels": ((x(7, 4, 2), x(4)), 4, 4),
    "time first, with a mask": ({"x": x(7, 4, 2), "mask": x(7, 4)}, 4, 4),
    "a list of images": ([x(3, 5 + i, 5) for i in range(6)], 6, 6),
    "a few images and their boxes": (([x(3, 5, 5)] * 2, [{"boxes": x(7, 4)}] * 2), 2, 2),
    "two views of each, in pairs": (([(x(1, 5), x(1, 5))] * 3, (0, 1, 0)), 3, 3),
    "as many parts as samples": ([x(3, 2), x(3)], 2, 3),
    "nodes of graphs": ((x(50, 3), x(2, 90)), 4, 4),
    "an object": (Graph(x(50, 3)), 4, 4),
    "text": (["a", "b", "c"], 3, 3),
    "a number beside it": ((x(3, 2), torch.tensor(1.0)), 4, 3),
    "nothing": ([], 2, 2),
}


@pytest.mark.parametrize("name", BATCHES)
def test_how_many_samples_a_batch_has(name: str) -> None:
    batch, num_asked, num_samples = BATCHES[name]
    assert num_rows(batch, num_asked) == num_samples


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_have_samples(layout: torch.layout) -> None:
    nested = torch.nested.as_nested_tensor([x(2, 3), x(5, 3)], layout=layout)
    assert num_rows(nested, 2) == num_rows((nested, x(2)), 3) == 2
