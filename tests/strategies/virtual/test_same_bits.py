"""The promise of `--virtual_ranks`: the same bits on any number of devices, in float32 and less."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_app.strategies.virtual import passes, strategy, tree
from lightning_app.strategies.virtual.streams import seed_of
from tests.ranks import run_ranks
from tests.strategies.virtual.cases import CASES, Ended, train, train_all

FAST = ["transformer", "branches", "workers", "short"]


def assert_same_bits(ended: Ended, expected: Ended) -> None:
    """Of weights, optimizers and buffers, and of each point of each curve that a rank has."""
    assert ended.sha256 == expected.sha256
    assert ended.curves.keys() >= {"train/loss", "val/loss", "own_loss_step", "own_loss_epoch"}
    for tag, curve in ended.curves.items():
        assert curve == expected.curves[tag], tag


def compare(names: list[str], world_size: int, timeout_s: float = 100, **flags: Any) -> None:
    """Train cases on one device, and on several."""
    expected = train_all(names, 1, flags)
    several = run_ranks(train_all, world_size, names, world_size, flags, timeout_s=timeout_s)
    for ended in several:
        for name in names:
            assert_same_bits(ended[name], expected[name])
    for name in names:
        assert several[0][name].transcript == expected[name].transcript
    shown = [line.split("  ")[1] for line in expected["short"].transcript if "In Model" in line]
    assert shown[:5] == [f"(rank {rank}, cpu)" for rank in range(5)]  # of 5 samples


def test_a_few_on_one_device_and_on_three() -> None:
    compare(FAST, 3, max_epochs=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
def test_all_on_any_number_of_devices(world_size: int) -> None:
    compare(list(CASES), world_size, timeout_s=1100)


def stop_twice(name: str, folder: Path, world_sizes: list[int]) -> list[Ended]:
    """Train a case that is stopped in mid-epoch twice, and goes on on another layout each time."""
    first, second = (1, 3) if name == "accumulated" else (2, 6)
    stops = [(first, str(folder / "a")), (second, str(folder / "b")), None]
    path, ended = None, []
    for world_size, stop in zip(world_sizes, stops, strict=True):
        if world_size == 1:
            ended = [train(name, 1, stop, path)]
        else:
            ended = run_ranks(train, world_size, name, world_size, stop, path)
        path = stop[1] if stop else None
    return ended


def assert_continued(ended: list[Ended], expected: Ended) -> None:
    assert {each.sha256 for each in ended} == {expected.sha256}
    for tag in ("val/loss", "own_loss_step"):
        points = expected.curves[tag]
        assert ended[0].curves[tag].items() <= points.items(), tag
        assert ended[0].curves[tag].keys() >= {max(points)}


def test_a_run_that_is_stopped_twice_and_goes_on_on_other_layouts(tmp_path: Path) -> None:
    assert_continued(stop_twice("workers", tmp_path, [1, 2, 1]), train("workers"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted({*CASES} - {"short"}))
def test_all_cases_when_they_are_stopped(name: str, tmp_path: Path) -> None:
    assert_continued(stop_twice(name, tmp_path, [3, 1, 5]), train(name))


def test_the_order_of_sums_and_each_stream_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = short_run()
    assert short_run() == expected

    def other_seed(number: int, *purpose: Any) -> int:
        return seed_of(*purpose) + int(purpose[-1] == number)

    # Of one virtual rank, and of the samples of one batch.
    for module, number in ((strategy, 5), (passes, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(module, "seed_of", partial(other_seed, number))
            assert short_run() != expected
    for owner in (random, np.random):  # which augmentation draws from, beside torch's
        with monkeypatch.context() as patch:
            patch.setattr(owner, "seed", lambda seed: None)
            assert short_run() != expected
    with monkeypatch.context() as patch:  # a chain in place of a tree
        patch.setattr(tree, "halves", chained)
        assert short_run() != expected


def short_run() -> str:
    """The hash that a few steps end with."""
    return train("augmented", max_epochs=1, limit_train_batches=2, limit_val_batches=0).sha256


def chained(node: range) -> tuple[range, range]:
    """The association of a sum in a row."""
    return range(node.start, node.stop - 1), range(node.stop - 1, node.stop)


def test_threads_are_fixed_and_given_back() -> None:
    expected = short_run()
    torch.set_num_threads(2)
    try:
        assert short_run() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
