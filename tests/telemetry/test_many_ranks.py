"""What is told of 1,024 and 4,096 ranks is short, and agrees with what they do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_app.data import SeededBatches
from lightning_app.strategies.batch.sharding import shard_bounds, shard_sizes
from lightning_app.telemetry.dashboard.card import splits_table
from lightning_app.telemetry.dashboard.pictures import who_got_what
from lightning_app.telemetry.many_ranks import curves, in_words, runs_of_ranks, sum_in_words
from lightning_app.telemetry.plan import Plan, command, kept_bytes, lines, warnings
from lightning_app.telemetry.sizes import Sizes, _decoded, _encoded, by_rank
from lightning_app.telemetry.tally import fingerprint_of


def test_few_ranks_are_shown_one_by_one() -> None:
    assert sum_in_words([5, 4, 4]) == "5 + 4 + 4"
    assert curves("batch_size", [5, 4]) == {"batch_size/rank_0": 5, "batch_size/rank_1": 4}


def test_many_ranks_are_ranges_extremes_and_the_first_few() -> None:
    sizes = shard_sizes(5000, 1024)
    assert sum_in_words(sizes) == "5 on ranks 0 to 903, 4 on ranks 904 to 1023"
    assert curves("batch_size", sizes) == {
        **{f"batch_size/rank_{rank}": 5 for rank in range(4)},
        "batch_size/rank_min": 4,
        "batch_size/rank_max": 5,
    }
    assert "5 on ranks 0 to 903" in splits_table({sizes: (0, 9, 10)})
    assert who_got_what({tuple(sizes): 10}).shape[1] <= 350


@given(st.lists(st.integers(0, 3), max_size=60))
def test_ranges_are_all_of_the_ranks(values: list[int]) -> None:
    runs = list(runs_of_ranks(values))
    assert [value for ranks, value in runs for _ in ranks] == values
    assert [rank for ranks, _ in runs for rank in ranks] == list(range(len(values)))
    assert all(in_words(ranks).startswith("rank") for ranks, _ in runs)


shapes = st.lists(st.integers(0, 2**40), min_size=1, max_size=4).map(tuple)
steps: st.SearchStrategy[dict[int, Sizes]] = st.one_of(
    st.just({}), st.dictionaries(st.integers(0, 8), st.builds(Sizes, shapes, shapes), max_size=3)
)


@given(st.lists(st.tuples(steps, st.integers(1, 10**6)), max_size=6))
def test_sizes_travel_as_numbers(runs: list[tuple[dict[int, Sizes], int]]) -> None:
    assert _decoded(_encoded(runs)) == runs


@pytest.mark.parametrize("world_size", [1024, 4096])
def test_the_plan_is_what_so_many_ranks_do(world_size: int) -> None:
    length, batch_size = 20_011, 5_000
    order = SeededBatches(length, batch_size, 0)
    batches = [torch.as_tensor(batch) for batch in order]
    plan = Plan(world_size // 8, 8, batch_size, length, len(batches))
    done = torch.zeros(3, dtype=torch.int64)
    by_ranks = []
    for rank in range(world_size):
        runs = []
        for batch in batches:
            start, stop = shard_bounds(len(batch), rank, world_size)
            done += fingerprint_of([batch[start:stop]])
            shape = (stop - start, 5)
            runs.append(({0: Sizes(shape, shape, shape[0])} if stop > start else {}, 1))
        by_ranks.append(runs)
    assert torch.equal(done, fingerprint_of(batches))  # each sample once
    sizes = [
        [s[r].input[0] if r in s else 0 for r in range(world_size)] for s, _ in by_rank(by_ranks)
    ]
    told = list(lines(plan))
    assert told[1] == f"global batch {batch_size} = {sum_in_words(sizes[0])}"
    assert told[2] == f"an epoch: {len(sizes)} steps, {length} samples"
    assert told[3] == f"its last batch {sum(sizes[-1])} = {sum_in_words(sizes[-1])}"
    idle = [rank for rank, size in enumerate(sizes[-1]) if not size]
    assert f"{in_words(range(idle[0], idle[-1] + 1))} have no sample" in " ".join(warnings(plan))


def test_a_sample_that_is_missed_or_repeated_is_seen() -> None:
    planned = fingerprint_of([[0, 1, 2, 3]])
    assert torch.equal(planned, fingerprint_of([[3, 2], [1, 0]]))
    for other in ([[0, 1, 3]], [[0, 1, 2, 2]], [[0, 1, 2, 4]], [[0, 1, 2, "3"]]):
        assert not torch.equal(planned, fingerprint_of(other))
    assert torch.equal(fingerprint_of([["a", "b"]]), fingerprint_of([["b"], ["a"]]))


def test_a_plan_warns_of_ranks_that_would_do_nothing() -> None:
    (idle, rate) = warnings(Plan(4, 8, 20, 100, 5))
    told = "a batch of 20 has fewer samples than there are ranks (32): ranks 20 to 31 have nothing"
    assert idle.startswith(told)
    assert "the global batch stays 20" in rate
    assert next(warnings(Plan(1, 8, 20, 100, 5))).endswith(
        "as its largest part, 3 samples; a batch of 24 would take no longer"
    )
    assert list(warnings(Plan(1, 1, 20, 100, 5))) == []
    assert command(Plan(1, 2, 20, 100, 5, arguments="--a 1")) == "python train.py --a 1"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("SGD", {}, 0),
        ("SGD", {"momentum": 0.9}, 100),
        ("AdamW", {}, 200),
        ("AdamW", {"amsgrad": True}, 300),
        ("Mine", {}, None),
    ],
)
def test_what_an_optimizer_keeps(name: str, options: dict[str, float], expected: int) -> None:
    assert kept_bytes(name, 100, **options) == expected  # type: ignore[arg-type]
    if expected is not None:  # as torch's does
        weight = torch.nn.Parameter(torch.ones(25))
        optimizer = getattr(torch.optim, name)([weight], lr=0.1, **options)
        weight.grad = torch.ones(25)
        optimizer.step()
        kept = [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)]
        assert sum(v.nbytes for v in kept if v.numel() > 1) == expected
