"""What of a batch that is padded to its longest sample is a part's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_sequence

from lightning_app.strategies.batch.padded import (
    are_padded_apart,
    digest_of,
    lists_of_samples,
    rows_of,
    shapes_in,
)
from lightning_app.strategies.batch.sharding import shard_bounds

Collate = Callable[[list[Tensor]], Any]
LENGTHS = [3, 1, 2, 7, 5]  # of the samples of one batch


@dataclass
class Fields:
    x: Tensor
    lengths: list[int]


class Opaque:
    """Nobody can say what is in it."""


def padded(samples: list[Tensor]) -> Tensor:
    return pad_sequence(samples, batch_first=True)


def samples_of(lengths: list[int]) -> list[Tensor]:
    return [torch.full((length, 2), float(i)) for i, length in enumerate(lengths)]


def split(collate: Collate, lengths: list[int], world_size: int) -> tuple[list[Any], Any]:
    """What a `collate_fn` makes of each rank's part of a batch, and of the whole."""
    samples = samples_of(lengths)
    bounds = [shard_bounds(len(samples), rank, world_size) for rank in range(world_size)]
    return [collate(samples[start:stop]) for start, stop in bounds], collate(samples)


def ranks_of(parts: list[Any], size: int) -> list[tuple[int, Any]]:
    bounds = [shard_bounds(size, rank, len(parts)) for rank in range(len(parts))]
    both = zip(parts, bounds, strict=True)
    return [(stop - start, shapes_in(part)) for part, (start, stop) in both]


@pytest.mark.parametrize(
    ("collate", "rows"),
    [
        (padded, {(): 0}),
        (pad_sequence, {(): 1}),  # time first
        (lambda s: (padded(s), torch.stack([x[0] for x in s])), {(0,): 0, (1,): 0}),
        (
            lambda s: {"x": padded(s), "names": ["a" for _ in s], "longest": max(map(len, s))},
            {("x",): 0, ("names",): 0, ("longest",): None},
        ),
        (lambda s: Fields(padded(s), [len(x) for x in s]), {(0,): 0, (1,): 0}),
        (lambda s: [padded(s).numpy(), torch.arange(max(map(len, s)))], {(0,): 0, (1,): None}),
        (lambda s: [padded(s), tuple(s)], {(0,): 0, (1,): 0}),
        (lambda s: [padded(s), torch.tensor(0.5), None, "en", True], {(0,): 0, (1,): None}),
        (lambda s: [padded(s), np.int64(max(map(len, s))), 1], {(0,): 0, (1,): None, (2,): None}),
        (lambda s: [padded(s), len(s), torch.tensor(len(s))], {(0,): 0, (1,): 0, (2,): 0}),
        (lambda s: [padded(s), torch.tensor([x[0, 0] for x in s]).long()], {(0,): 0, (1,): 0}),
        (lambda s: [[1] * len(x) + [0] * (max(map(len, s)) - len(x)) for x in s], {(): 0}),
        (lambda s: list(padded(s)), {(): 0}),
        (lambda s: [padded(s), [Opaque() for _ in s]], {(0,): 0, (1,): 0}),
        (lambda s: [padded(s), [[7] * 99 for _ in s]], {(0,): 0, (1,): 0}),
    ],
)
@pytest.mark.parametrize("world_size", [2, 3])
def test_rows_of_a_padded_batch_are_found(
    collate: Collate, rows: dict[Any, int | None], world_size: int
) -> None:
    parts, all_samples = split(collate, LENGTHS, world_size)
    ranks = ranks_of(parts, len(LENGTHS))
    assert are_padded_apart(ranks)
    assert rows_of(all_samples, ranks) == rows


@pytest.mark.parametrize(
    "beside",
    [
        torch.cat,  # the rows of all samples, one after the other
        lambda s: sum(map(len, s)),
        lambda s: torch.tensor(sum(map(len, s))),
        lambda s: torch.zeros(len(s), len(s)),  # which of the two?
        lambda s: [x[0] for x in s for _ in range(2)],
        lambda s: pack_sequence(s, enforce_sorted=False),
        lambda s: torch.arange(len(s)),  # places, which are others in each part
        lambda s: list(range(len(s)))[::-1],
        lambda s: [
            torch.stack([x[min(t, len(x) - 1)] for x in s]) for t in range(max(map(len, s)))
        ],
        lambda s: torch.nested.nested_tensor(s, layout=torch.jagged),
        lambda s: Opaque(),
        lambda s: 0,  # and so many for all others?
        lambda s: torch.zeros(0, 3),
        lambda s: [7] * 99,  # of 99 classes, the samples of each, perhaps
        lambda s: s[-1][: 0 if len(s) == 3 else 4],
        lambda s: 0 if len(s) == 3 else 4,  # the boxes of some samples alone
    ],
)
def test_what_cannot_be_split_keeps_a_batch_in_parts(beside: Callable[[Any], Any]) -> None:
    parts, all_samples = split(lambda s: (padded(s), beside(s)), LENGTHS, 2)
    ranks = ranks_of(parts, len(LENGTHS))
    assert not are_padded_apart(ranks) or rows_of(all_samples, ranks) is None


class Held:
    """An object of the user's own with tensors in it."""

    def __init__(self, samples: list[Tensor]) -> None:
        self.x, self.name = padded(samples), "x"


@pytest.mark.parametrize(
    "collate",
    [
        Held,  # which nobody can make another of
        lambda s: [torch.zeros(len(s), 2) for _ in range(max(map(len, s)))],  # steps of time
    ],
)
def test_what_is_padded_is_seen_where_it_cannot_be_split(collate: Collate) -> None:
    parts, all_samples = split(collate, LENGTHS, 2)
    ranks = ranks_of(parts, len(LENGTHS))
    assert are_padded_apart(ranks)
    assert rows_of(all_samples, ranks) is None


@pytest.mark.parametrize(
    ("collate", "lengths"),
    [
        (padded, [4, 4, 4, 4]),
        (padded, [7, 2, 7, 5]),  # the longest is as long in both parts
        (lambda s: list(s), LENGTHS),
        (torch.cat, LENGTHS),
        (lambda s: ["a" for _ in s], LENGTHS),
    ],
)
def test_batches_of_one_length_need_not_be_whole(collate: Collate, lengths: list[int]) -> None:
    parts, _ = split(collate, lengths, 2)
    assert not are_padded_apart(ranks_of(parts, len(lengths)))


def test_entries_of_lists_of_samples_are_not_looked_at() -> None:
    """A picture of another height may have as many channels as its part has samples."""
    pictures = lambda s: [[torch.zeros(3, 5 + len(x), 7) for x in s], torch.cat(s)]  # noqa: E731
    parts, all_samples = split(pictures, [2, 3, 4, 1, 2, 5], 2)
    ranks = ranks_of(parts, 6)
    assert are_padded_apart(ranks)
    assert (found := lists_of_samples(all_samples, ranks)) == {(0,)}
    assert not are_padded_apart(ranks, found)
    alike = lambda s: [[1] * len(x) for x in s]  # noqa: E731
    parts, all_samples = split(alike, [3, 3, 5, 5], 2)  # by chance
    ranks = ranks_of(parts, 4)
    assert are_padded_apart(ranks)
    assert not are_padded_apart(ranks, lists_of_samples(all_samples, ranks))
    fields = lambda s: tuple(padded(s) for _ in range(3))  # noqa: E731
    parts, all_samples = split(fields, [2, 3, 4, 1, 2, 5], 2)
    ranks = ranks_of(parts, 6)
    assert are_padded_apart(ranks, lists_of_samples(all_samples, ranks))


def test_a_digest_tells_batches_apart() -> None:
    batch = [torch.zeros(2), {"a": np.ones(3)}, "b", torch.tensor(True)]
    assert digest_of(batch) == digest_of([batch[0], {"a": np.ones(3)}, "c", batch[3]])
    for different in ([torch.ones(2), *batch[1:]], [batch[0], {"a": np.zeros(3)}, *batch[2:]]):
        assert digest_of(batch) != digest_of(different)
    conjugate = torch.tensor([1 + 1j]).conj()
    objects = np.array([object()])  # whose bytes are addresses
    assert digest_of([conjugate, objects]) == digest_of([conjugate.clone(), np.array([None])])
