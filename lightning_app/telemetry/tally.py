"""Which samples were visited, as sums that the ranks can add up: a few bytes, or a table."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_app.strategies.loaders.passes import Indices

_SALTS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
MAX_NUMBER = 2**24  # or a few times the data set's length


def fingerprint_of(batches: Iterable[Indices]) -> Tensor:
    """How many indices there are, and two sums of hashes of them `(3,)`, int64.

    Those of the same indices are equal, in whatever order and batches they come, and those of
    parts add up to that of the whole.
    """
    fingerprint = torch.zeros(1 + len(_SALTS), dtype=torch.int64, device="cpu")
    numbers, names = _parted(batches)
    fingerprint[0] = len(numbers) + len(names)
    for place, salt in enumerate(_SALTS, 1):
        fingerprint[place] = torch.from_numpy(_mixed(numbers, salt)).sum()
    for name in names:
        digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
        fingerprint[1:] += torch.tensor(np.frombuffer(digest, np.int64), device="cpu")
    return fingerprint


class Tally:
    """How often each index was named, or how much more often than it should be.

    Args:
        limit: Indices from here on are names, which need no table up to the largest.

    Attributes:
        limit: As given.
        numbers: By the index, int32, of indices that are whole numbers from 0.
        names: Of what else there is.
    """

    def __init__(self, limit: int = MAX_NUMBER) -> None:
        self.limit = limit
        self.numbers = torch.zeros(0, dtype=torch.int32, device="cpu")
        self.names: Counter[Any] = Counter()

    def add(self, batches: Iterable[Indices], times: int = 1) -> None:
        """Count what is in some batches; -1 `times` takes it off."""
        numbers, names = _parted(batches)
        is_small = numbers < self.limit
        for name in [*names, *numbers[~is_small].tolist()]:
            self.names[name] += times
        small = torch.from_numpy(numbers[is_small])
        if len(small):
            self.grow(int(small.max()) + 1)
            self.numbers.index_add_(0, small, torch.full_like(small, times, dtype=torch.int32))

    def grow(self, length: int) -> None:
        """Make room for indices below a length."""
        if length > len(self.numbers):
            larger = torch.zeros(length, dtype=torch.int32, device="cpu")
            larger[: len(self.numbers)] = self.numbers
            self.numbers = larger

    def missing_and_repeated(self) -> tuple[int, int]:
        """How much is below 0, and how much above."""
        counts = [*self.names.values(), int(self.numbers.clamp(max=0).sum())]
        missing = -sum(count for count in counts if count < 0)
        counts[-1] = int(self.numbers.clamp(min=0).sum())
        return missing, sum(count for count in counts if count > 0)


def _parted(batches: Iterable[Any]) -> tuple[Any, list[Any]]:
    """The indices that are whole numbers from 0, as an array `(N,)`, int64, and all others."""
    arrays, names = [np.empty(0, np.int64)], []
    for batch in batches:
        array = _as_array(batch)
        if array is None:  # one by one: another rank's part may hold numbers alone
            array = np.array([i for i in batch if _is_number(i)], np.int64)
            names += [_as_saved(i) for i in batch if not _is_number(i)]
        elif array.size and array.min() < 0:
            names += array[array < 0].tolist()
            array = array[array >= 0]
        arrays.append(array)
    return np.concatenate(arrays), names


def _as_array(batch: Any) -> Any:
    """A batch of whole numbers `(B,)`, int64; `None` for any other."""
    try:
        array = np.asarray(batch)
    except (ValueError, TypeError):
        return None
    if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
        return array.astype(np.int64, copy=False)
    return None


def _is_number(index: Any) -> bool:
    return isinstance(index, int) and 0 <= index < 2**63


def _mixed(indices: Any, salt: int) -> Any:
    """A hash of each index, int64: splitmix64's last steps."""
    mixed = indices.astype(np.uint64) * np.uint64(salt) + np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))).view(np.int64)


def _as_saved(index: Any) -> Any:
    """An index as a checkpoint may hold it: numbers, text, and tuples of these."""
    if isinstance(index, tuple):
        return tuple(map(_as_saved, index))
    return index if isinstance(index, (int, float, str)) else repr(index)
