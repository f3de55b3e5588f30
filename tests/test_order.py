"""The seeded order: a permutation, pure in its arguments, that passes for random."""

import itertools
import random
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_app.order import BLOCK_SIZE, MAX_LENGTH, MAX_RANKED, SeededOrder

BILLION = 10**9
KEYS = st.integers(0, 2**64 - 1)
# Either side of every change of method, row length, word and block count.
EDGES = [MAX_RANKED, MAX_RANKED + 1, 2**13, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE - 1]


def whole(length: int, seed: int = 0, epoch: int = 0) -> Tensor:
    """One epoch's order, shape (length,), int64."""
    return SeededOrder(length, seed).indices(epoch, 0, length)


def chi_square_sigmas(values: Tensor, num_bins: int) -> float:
    """How far the counts of values in range(num_bins) are from even, in standard deviations."""
    counts = torch.bincount(values, minlength=num_bins).double()
    assert len(counts) == num_bins
    expected = len(values) / num_bins
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    degrees = num_bins - 1
    return float((chi_square - degrees) / (2 * degrees) ** 0.5)


def all_differ(values: Tensor) -> bool:
    """Whether no value comes twice."""
    return bool((values.sort().values.diff() > 0).all())


# A permutation


@pytest.mark.parametrize("length", [*range(301), *EDGES])
def test_every_index_comes_once(length: int) -> None:
    order = whole(length, seed=1)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(length))


@settings(max_examples=40, deadline=None)
@given(length=st.integers(MAX_RANKED, 300_000), seed=KEYS, epoch=KEYS)
def test_every_index_comes_once_at_random_lengths(length: int, seed: int, epoch: int) -> None:
    assert torch.equal(whole(length, seed, epoch).sort().values, torch.arange(length))


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2**20, MAX_LENGTH), seed=KEYS, data=st.data())
def test_a_window_of_a_long_order_repeats_nothing(
    length: int, seed: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 2**17))
    window = SeededOrder(length, seed).indices(0, start, start + 2**17)
    assert all_differ(window)
    assert window.min() >= 0
    assert window.max() < length


@pytest.mark.parametrize("length", [BILLION, 2**32 - 1, 2**32, 2**32 + 1, 2**40, MAX_LENGTH])
def test_two_ends_of_a_long_order_repeat_nothing(length: int) -> None:
    order = SeededOrder(length, seed=3)
    ends = torch.cat([order.indices(0, 0, 10**5), order.indices(0, length - 10**5, length)])
    assert all_differ(ends)
    assert ends.min() >= 0
    assert ends.max() < length


# Pure in its arguments


@settings(max_examples=60, deadline=None)
@given(
    length=st.one_of(st.integers(0, 300), st.sampled_from(EDGES)),
    seed=KEYS,
    data=st.data(),
)
def test_any_calls_agree_with_the_whole(length: int, seed: int, data: st.DataObject) -> None:
    order = SeededOrder(length, seed)
    wholes = {epoch: whole(length, seed, epoch) for epoch in (0, 1)}
    for _ in range(5):
        epoch = data.draw(st.integers(0, 1))
        start = data.draw(st.integers(0, length))
        stop = data.draw(st.integers(start, length))
        assert torch.equal(order.indices(epoch, start, stop), wholes[epoch][start:stop])


@pytest.mark.parametrize("batch_size", [30, 1000, BLOCK_SIZE, BLOCK_SIZE + 1])
def test_batches_in_turn_make_up_the_whole(batch_size: int) -> None:
    length = 2 * BLOCK_SIZE + 7
    order = SeededOrder(length)
    starts = range(0, length, batch_size)
    batches = [order.indices(0, i, min(i + batch_size, length)) for i in starts]
    assert torch.equal(torch.cat(batches), whole(length))


def test_a_caller_may_change_what_it_got() -> None:
    order = SeededOrder(1000)
    for start in (0, 30, 0, 15):
        batch = order.indices(0, start, start + 30)
        assert torch.equal(batch, whole(1000)[start : start + 30])
        batch.zero_()


def test_a_batch_carries_no_more_than_itself() -> None:
    batch = SeededOrder(BILLION).indices(0, 0, 30)
    assert batch.untyped_storage().nbytes() == 30 * 8


def test_no_random_generator_is_read_or_moved_on() -> None:
    torch.manual_seed(1)
    random.seed(1)
    first = whole(5000)
    states = torch.get_rng_state(), random.getstate()
    torch.manual_seed(2)
    random.seed(2)
    assert torch.equal(whole(5000), first)
    torch.manual_seed(1)
    random.seed(1)
    whole(5000, epoch=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_orders_never_change_between_versions() -> None:
    """A checkpoint's continuation depends on these numbers: a new order needs a new name."""

    def first_five(length: int, seed: int, epoch: int, start: int = 0) -> list[int]:
        return [int(i) for i in SeededOrder(length, seed).indices(epoch, start, start + 5)]

    assert first_five(5, seed=0, epoch=0) == [0, 2, 4, 1, 3]
    assert first_five(100, seed=42, epoch=1) == [61, 4, 82, 8, 65]
    assert first_five(60_000, seed=42, epoch=1) == [35828, 5164, 14848, 42505, 51495]
    assert first_five(BILLION, seed=42, epoch=3, start=BILLION // 2) == [
        140181003,
        655362562,
        494094672,
        944188020,
        624055582,
    ]
    assert first_five(2**40, seed=2**64 - 1, epoch=0) == [
        973074726914,
        552832646657,
        230968851366,
        257739732247,
        845464343933,
    ]


# Passes for random: fixed seeds, so never by chance; five sigmas for the choice of seeds


@pytest.mark.parametrize("length", [1000, 60_000, BILLION])
def test_seeds_and_epochs_give_unrelated_orders(length: int) -> None:
    num = min(length, 20_000)
    orders = [
        SeededOrder(length, seed).indices(epoch, 0, num)
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (0, 2**32)]
    ]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # The number of places where two random orders agree is Poisson, of mean at most 1.
            assert (one == other).sum() <= 8
            correlation = torch.corrcoef(torch.stack([one, other]).double())[0, 1]
            assert abs(correlation) * num**0.5 < 5


@pytest.mark.parametrize("length", [2, 5, 30, 100, 5000])
@pytest.mark.parametrize("position", [0, 1, -1])
def test_each_index_is_as_likely_at_a_position(length: int, position: int) -> None:
    start = position % length
    seen = [SeededOrder(length, seed).indices(0, start, start + 1) for seed in range(2000)]
    num_bins = min(length, 50)
    assert abs(chi_square_sigmas(torch.cat(seen) * num_bins // length, num_bins)) < 5


def test_each_permutation_of_a_few_is_as_likely() -> None:
    permutations = list(itertools.permutations(range(4)))
    ranks = [permutations.index(tuple(whole(4, seed).tolist())) for seed in range(5000)]
    assert abs(chi_square_sigmas(torch.tensor(ranks), 24)) < 5


@pytest.mark.parametrize("length", [5000, 60_000, 10**6, 2**20 + 1, BILLION, 2**40])
def test_position_says_nothing_about_the_index(length: int) -> None:
    num = min(length, 2**18)
    order = SeededOrder(length, seed=5).indices(0, 0, num)
    both = torch.stack([torch.arange(num), order]).double()
    assert abs(torch.corrcoef(both)[0, 1]) * num**0.5 < 5


# Whole rows of the grid are 64, 128, 1024, 1024, 2**15 and 2**16 apart.
@pytest.mark.parametrize("lag", [1, 2, 64, 128, 1024, 2**15, 2**16])
@pytest.mark.parametrize("length", [5000, 60_000, 10**6, 2**20 + 1, BILLION, 2**40])
def test_neighbours_land_anywhere(length: int, lag: int) -> None:
    num = min(length, 2**18)
    lag = min(lag, num // 2)
    for seed in range(6):
        order = SeededOrder(length, seed).indices(0, 0, num)
        here, there = order[:-lag], order[lag:]
        assert abs(chi_square_sigmas((there - here) % length * 64 // length, 64)) < 5
        assert abs(chi_square_sigmas((there ^ here) % 64, 64)) < 5


# Arguments


def test_without_shuffle_the_order_is_the_identity() -> None:
    order = SeededOrder(2**40, seed=1, shuffle=False)
    assert torch.equal(order.indices(7, 2**39, 2**39 + 30), torch.arange(2**39, 2**39 + 30))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("length", [0, 1, 100, 5000])
def test_an_empty_slice_is_an_empty_int64_tensor(length: int, shuffle: bool) -> None:
    order = SeededOrder(length, shuffle=shuffle)
    for start in (0, length // 2, length):
        empty = order.indices(0, start, start)
        assert empty.shape == (0,)
        assert empty.dtype == torch.int64


@pytest.mark.parametrize(
    ("length", "seed", "message"),
    [
        (-1, 0, "length=-1: must be 0 to 2**48. Pass len(dataset)."),
        (2**48 + 1, 0, "length=281474976710657: must be 0 to 2**48. Pass len(dataset)."),
        (1, -5, "seed=-5: must be 0 to 2**64 - 1. Pass a non-negative seed."),
        (1, 2**64, f"seed={2**64}: must be 0 to 2**64 - 1. Pass a non-negative seed."),
    ],
)
def test_an_order_that_cannot_be_is_refused(length: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SeededOrder(length, seed)


@pytest.mark.parametrize("epoch", [-1, 2**64])
def test_an_epoch_out_of_range_is_refused(epoch: int) -> None:
    message = f"epoch={epoch}: must be 0 to 2**64 - 1. Count epochs from 0."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SeededOrder(10).indices(epoch, 0, 1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 11), (11, 11)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_positions_outside_the_epoch_are_refused(start: int, stop: int, shuffle: bool) -> None:
    order = SeededOrder(10, shuffle=shuffle)
    order.indices(0, 0, 5)  # also from the block at hand
    message = (
        f"start={start}, stop={stop}: must be 0 <= start <= stop <= 10, the length. "
        "Pass positions within one epoch."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        order.indices(0, start, stop)


# The benchmark


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
def test_the_benchmark_prints_its_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    sizes = ["--lengths", "100", "--batch_sizes", "30", "--num_samples", "100", "--repeats", "1"]
    runpy.run_path(str(root / "benchmarks" / "order.py"))["main"](sizes)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[3:]] == [["100", "30"], ["100", "first"]]
