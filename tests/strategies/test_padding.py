"""What is told of batches that each rank pads to its own longest sample."""

import pytest
import torch

from lightning_app.strategies.padding import padded_apart, shapes_of

WORDS = torch.zeros(3, 7, dtype=torch.long), torch.zeros(3)
SHORT = torch.zeros(2, 5, dtype=torch.long), torch.zeros(2)


@pytest.mark.parametrize(
    ("batches", "sizes", "expected"),
    [
        ((WORDS, SHORT), (3, 2), [(3, 7), (2, 5)]),
        ((WORDS[0].T, SHORT[0].T), (3, 2), [(7, 3), (5, 2)]),  # time first
        (({"a": WORDS[0]}, {"a": WORDS[0][:, 2:]}), (3, 3), [(3, 7), (3, 5)]),
        ((WORDS, (SHORT[0].new_zeros(2, 7), SHORT[1])), (3, 2), []),
        ((torch.zeros(7, 7), torch.zeros(6, 7)), (7, 6), []),  # as many features as samples
        ((torch.zeros(30, 4), torch.zeros(21, 4)), (3, 2), []),  # the nodes of graphs
        (([list(torch.zeros(3, 3, 8))], [list(torch.zeros(3, 3, 9))]), (3, 3), []),  # pictures
        ((torch.zeros(3), torch.zeros(3, 2)), (3, 3), []),
        ((torch.zeros(3, 2),), (3,), []),
    ],
)
def test_a_tensor_of_samples_that_are_padded_apart_is_found(
    batches: tuple[object, ...], sizes: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    ranks = [shapes_of(batch, size) for batch, size in zip(batches, sizes, strict=True)]
    assert padded_apart(ranks) == expected
