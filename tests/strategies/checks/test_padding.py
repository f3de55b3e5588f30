"""What is told of batches that each rank pads to its own longest sample."""

import pytest
import torch

from lightning_app.strategies.checks.padding import padded_apart, shapes_of

WORDS = torch.zeros(3, 7, dtype=torch.long), torch.zeros(3)
SHORT = torch.zeros(2, 5, dtype=torch.long), torch.zeros(2)


@pytest.mark.parametrize(
    ("batches", "sizes", "expected"),
    [
        ((WORDS, SHORT), (3, 2), [5, 7]),
        ((WORDS[0].T, SHORT[0].T), (3, 2), [5, 7]),  # time first
        (({"a": torch.zeros(5, 7)}, {"a": torch.zeros(5, 6)}), (5, 5), [6, 7]),
        ((torch.zeros(5, 7), torch.zeros(5, 7), torch.zeros(5, 9)), (5, 5, 5), [7, 9]),
        ((torch.zeros(2, 30), torch.zeros(2, 21)), (2, 2), []),  # the edges of graphs
        ((torch.zeros(9, 4), torch.zeros(6, 4)), (4, 4), []),  # boxes in pictures
        ((WORDS, (SHORT[0].new_zeros(2, 7), SHORT[1])), (3, 2), []),
        ((torch.zeros(7, 7), torch.zeros(6, 7)), (7, 6), []),  # as many features as samples
        ((torch.zeros(30, 4), torch.zeros(21, 4)), (3, 2), []),  # the nodes of graphs
        (([list(torch.zeros(3, 3, 8))], [list(torch.zeros(3, 3, 9))]), (3, 3), []),  # pictures
        ((torch.zeros(3), torch.zeros(3, 2)), (3, 3), []),
        ((torch.zeros(3, 2),), (3,), []),
    ],
)
def test_a_tensor_of_samples_that_are_padded_apart_is_found(
    batches: tuple[object, ...], sizes: tuple[int, ...], expected: list[int]
) -> None:
    ranks = [shapes_of(batch, size) for batch, size in zip(batches, sizes, strict=True)]
    assert padded_apart(ranks) == expected
