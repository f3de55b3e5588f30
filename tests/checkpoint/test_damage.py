"""A checkpoint that was damaged is not taken, and nothing makes the look at one fail."""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_app.checkpoint.io import find_checkpoint, is_whole, load
from tests.checkpoint.test_input import NO_CHECKPOINTS

pytestmark = pytest.mark.filterwarnings("default")  # Lightning uses what is deprecated


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("num_flips", [150, pytest.param(2500, marks=pytest.mark.slow)])
def test_flipped_bits(num_flips: int, checkpoint: Path, content: Any, tmp_path: Path) -> None:
    """`last` takes the file with a flipped bit only if all in it is as it was."""
    older, newest = (tmp_path / f"lightning_logs/version_{n}/checkpoints/last.ckpt" for n in (0, 1))
    for path in (older, newest):
        path.parent.mkdir(parents=True)
        shutil.copy(checkpoint, path)
    os.utime(older, (1e9, 1e9))
    sound, draw = checkpoint.read_bytes(), random.Random(num_flips)
    num_taken = 0
    for _ in range(num_flips):
        bit = draw.randrange(8 * len(sound))
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        newest.write_bytes(flipped)
        found = find_checkpoint("last", str(tmp_path))
        assert found in (str(older), str(newest)), bit
        if found == str(newest):
            num_taken += 1
            assert _same(load(newest, weights_only=True), content), bit
    assert 0 < num_taken < num_flips  # where it does not matter; where it does


def test_the_newest_of_runs_with_and_without_a_logger(checkpoint: Path, tmp_path: Path) -> None:
    csv = CSVLogger(str(tmp_path / "csv"))
    for second, folder in enumerate((".", "lightning_logs/a", "csv/lightning_logs/b"), start=1):
        path = tmp_path / folder / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        shutil.copy(checkpoint, path)
        os.utime(path, (second, second))
        usual = tmp_path / ("." if second == 1 else "lightning_logs/a") / "checkpoints/last.ckpt"
        assert find_checkpoint("last", str(tmp_path)) == str(usual)
        last = path if second == 3 else usual  # with none of its own, the usual
        assert find_checkpoint("last", str(tmp_path), csv) == str(last)
    os.utime(tmp_path / "checkpoints/last.ckpt", (4, 4))
    assert find_checkpoint("last", str(tmp_path)) == str(tmp_path / "checkpoints/last.ckpt")
    assert find_checkpoint("last", str(tmp_path), csv) == str(path)


def test_nothing_makes_is_whole_raise(tmp_path: Path) -> None:
    for name, make in NO_CHECKPOINTS.items():
        if name != "pipe":  # which `last` would not find a checkpoint in either
            make(tmp_path / name)
            assert not is_whole(tmp_path / name)
    assert not is_whole(tmp_path / "nope")
    assert not is_whole("foo://nope")
