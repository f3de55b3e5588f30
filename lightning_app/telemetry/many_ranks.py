"""What is shown of many ranks: ranges of those that are alike, the least and the most, a few."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeVar

T = TypeVar("T")

MAX_EACH = 16  # ranks that are shown one by one
FIRST = 4  # of more ranks, those with a curve of their own


def shown_ranks(num_ranks: int) -> range:
    """The ranks that have curves of their own."""
    return range(num_ranks if num_ranks <= MAX_EACH else FIRST)


def curves(prefix: str, values: Sequence[float]) -> dict[str, float]:
    """What is logged of one value per rank, by tags: each; of many ranks the extremes and a few."""
    logged = {f"{prefix}/rank_{rank}": values[rank] for rank in shown_ranks(len(values))}
    if len(values) > MAX_EACH:
        logged |= {f"{prefix}/rank_min": min(values), f"{prefix}/rank_max": max(values)}
    return logged


def runs_of_ranks(values: Sequence[T]) -> Iterator[tuple[range, T]]:
    """Ranks in a row that have equal values, with these."""
    start = 0
    for value, group in groupby(values):
        stop = start + len(list(group))
        yield range(start, stop), value
        start = stop


def each_alone(values: Sequence[T]) -> Iterator[tuple[range, T]]:
    """The same, of each rank by itself."""
    return ((range(rank, rank + 1), value) for rank, value in enumerate(values))


def sum_in_words(sizes: Sequence[int]) -> str:
    """`4 + 3 + 3`; of many ranks, `4 on ranks 0 to 9, 3 on ranks 10 to 99`."""
    if len(sizes) <= MAX_EACH:
        return " + ".join(map(str, sizes))
    return ", ".join(f"{size} on {in_words(ranks)}" for ranks, size in runs_of_ranks(sizes))


def in_words(ranks: range) -> str:
    """`rank 3`, or `ranks 3 to 7`."""
    first, last = ranks[0], ranks[-1]
    return f"rank {first}" if first == last else f"ranks {first} to {last}"
