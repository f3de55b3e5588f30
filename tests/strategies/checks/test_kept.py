"""What a model keeps from step to step: by sums, and by how numbers rise."""

from itertools import pairwise

import pytest

from lightning_app.strategies.batch.sharding import Shard
from lightning_app.strategies.checks.kept import SampleCounts, differing


def test_buffers_differ_beyond_rounding() -> None:
    nan = float("nan")
    first = {"same": (1.0, 2.0), "other": (1.0, 2.0), "nan": (nan, nan), "own": (0.0, 0.0)}
    second = {"same": (1.0 + 1e-12, 2.0), "other": (1.0, 2.1), "nan": (nan, nan)}
    assert differing([first, second]) == ["other"]
    assert differing([first, first, second]) == ["other"]
    assert differing([first]) == differing([]) == []


@pytest.mark.parametrize(
    ("totals", "size", "told"),
    [
        ([0, 5, 10, 13], 5, [1, 2]),
        ([7, 22, 37, 52], 5, [2, 3]),  # three tokens of each
        ([0, 5, 15, 20], 5, [1, 3]),
        ([0, 10, 20, 30], 10, []),  # of all samples
        ([0, 1, 2, 3], 1, []),  # or steps
        ([0, 3, 6, 9], 5, []),
        ([0, 2, 4, 6], 2, []),  # of steps with two optimizers, or so
        ([0, 10, 20, 30], 5, []),  # of all ranks'
        ([9, 4, -1, -6], 5, []),
    ],
)
def test_counts_of_samples(totals: list[int], size: int, told: list[int]) -> None:
    counts, shard = SampleCounts(), Shard(list(range(10)), 0, size)
    prints = [
        {"it": (float(total), 0.0), "steps": (float(i), 0.0)} for i, total in enumerate(totals)
    ]
    own = [counts.own(*pair, shard) for pair in pairwise(prints)]
    assert [i for i, names in enumerate(own, 1) if names == ["it"]] == told
    assert [names for names in own if names not in ([], ["it"])] == []
