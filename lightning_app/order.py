"""The seeded order: which sample comes at which position, computed rather than stored.

An epoch's order is a pure function of (seed, epoch, position). Any stretch of it is reached at
once, in the same few megabytes for a thousand samples as for a billion, and no random generator
is read or moved on.

Method: a Feistel network permutes a grid that is barely larger than the data set, and an index
that falls outside is sent through again until it lands inside (cycle walking: Black and Rogaway,
"Ciphers with Arbitrary Finite Domains", 2002; Grain's index shuffle is built likewise). The grid
is `num_rows` x `2**col_bits`, row by row, so that less than one row is wasted, and a block of
consecutive positions is a few whole rows. Short orders, where a network of so few bits would
favour some permutations, rank the outputs of the 32-bit one instead.

Not covered: cryptographic strength. Five cheap rounds pass for random in training, not against
an adversary. Not safe to call from several threads at once: give each its own.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAX_LENGTH = 2**48  # keeps `num_rows` within half a 64-bit word
MAX_KEY = 2**64 - 1
BLOCK_SIZE = 2**16  # 256 KiB an array at 32 bits: a few fit a core's cache, calls are amortised
MAX_RANKED = 2**12
MAX_COL_BITS = 16  # a block is at least one row
NUM_ROUNDS = 5

# Unsigned, all 32 bits wide or all 64, so products wrap around: by design, and alike everywhere.
Word: TypeAlias = type[np.uint32] | type[np.uint64]
Words: TypeAlias = npt.NDArray[Any]
Key: TypeAlias = tuple[Any, Any]


class SeededOrder:
    """The order of `length` samples in each epoch, never held as a whole.

    Asking for one slice after the other is the fast way: a block is computed ahead and sliced.

    Args:
        length: number of samples, 0 to 2**48.
        seed: 0 to 2**64 - 1; another seed gives other orders.
        shuffle: False gives every epoch the identity order.

    Raises:
        ValueError: `length` or `seed` is out of range.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        if not 0 <= length <= MAX_LENGTH:
            raise ValueError(f"length={length}: must be 0 to 2**48. Pass len(dataset).")
        if not 0 <= seed <= MAX_KEY:
            raise ValueError(f"seed={seed}: must be 0 to 2**64 - 1. Pass a non-negative seed.")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle

        ranked = length <= MAX_RANKED
        bits = 32 if ranked else (length - 1).bit_length()
        self._word: Word = np.uint32 if bits <= 32 else np.uint64
        self._col_bits = min(bits // 2, MAX_COL_BITS)
        self._num_rows = 2**16 if ranked else -(-length >> self._col_bits)
        # A multiple of the row length, as both are powers of two.
        self._block_size = MAX_RANKED if ranked else BLOCK_SIZE

        self._epoch = -1  # no block yet
        self._first = self._unserved = self._end = 0
        self._block = np.empty(0, dtype=np.int64)

    def indices(self, epoch: int, start: int, stop: int) -> Tensor:
        """The samples at positions `start` to `stop - 1` of an epoch.

        The result depends on the arguments alone, not on earlier calls, and is the caller's to
        change.

        Args:
            epoch: 0 to 2**64 - 1; another epoch gives another order.
            start: first position, 0 to `stop`.
            stop: the position after the last, `start` to `length`.

        Returns:
            Sample indices in range(length), shape (stop - start,), dtype int64.

        Raises:
            ValueError: `epoch`, `start` or `stop` is out of range.
        """
        if epoch == self._epoch and self._unserved <= start <= stop <= self._end:
            return self._serve(start, stop)
        if not 0 <= epoch <= MAX_KEY:
            raise ValueError(f"epoch={epoch}: must be 0 to 2**64 - 1. Count epochs from 0.")
        if not 0 <= start <= stop <= self.length:
            raise ValueError(
                f"start={start}, stop={stop}: must be 0 <= start <= stop <= {self.length}, the "
                f"length. Pass positions within one epoch."
            )
        if not self.shuffle:
            return torch.arange(start, stop)
        parts = []
        while start < stop:
            if epoch != self._epoch or not self._unserved <= start < self._end:
                self._load(epoch, start)
            edge = min(stop, self._end)
            parts.append(self._serve(start, edge))
            start = edge
        return torch.cat(parts) if parts else torch.arange(0)

    def _serve(self, start: int, stop: int) -> Tensor:
        # Each element is handed out once: a caller may change its slice in place, unseen by others.
        self._unserved = stop
        # Slicing before the step to torch takes a third of the time of slicing a tensor.
        return torch.from_numpy(self._block[start - self._first : stop - self._first])

    def _load(self, epoch: int, position: int) -> None:
        """Computes the block around a position."""
        keys = _keys(self.seed, epoch, self._word)
        first = position - position % self._block_size
        end = min(first + self._block_size, self.length)
        if self.length <= MAX_RANKED:
            outputs = self._network(keys, *self._cells(np.arange(self.length, dtype=self._word)))
            block = np.argsort(outputs)  # no ties: the network is one-to-one
        else:
            row, end_row = first >> self._col_bits, -(-end >> self._col_bits)
            rows = np.arange(row, end_row, dtype=self._word)[:, None]  # (rows, 1)
            cols = np.arange(1 << self._col_bits, dtype=self._word)  # (cols,)
            block = self._network(keys, rows, cols).reshape(-1)[: end - first]
            outside = np.flatnonzero(block >= self.length)
            while outside.size:
                walked = self._network(keys, *self._cells(block[outside]))
                block[outside] = walked
                outside = outside[walked >= self.length]
        self._block = block.astype(np.int64, copy=False)
        self._epoch, self._first, self._unserved, self._end = epoch, first, first, end

    def _cells(self, x: Words) -> tuple[Words, Words]:
        return x >> self._word(self._col_bits), x & self._word((1 << self._col_bits) - 1)

    def _network(self, keys: list[Key], rows: Words, cols: Words) -> Words:
        """Permutes the grid: the cells' new places, in the shape that rows and cols broadcast to.

        Each round moves every cell along its row or its column, by a keyed hash of the coordinate
        that stays. The first, cheap as it has one hash a row, keeps neighbours in a row together;
        parting them takes four more, as after three their columns still show a common pattern.
        """
        word, num_bits = self._word, self._word().nbytes * 8
        half, low, top = word(num_bits // 2), word(self._col_bits), word(num_bits - self._col_bits)
        num_rows = word(self._num_rows)
        for i, (factor, offset) in enumerate(keys):
            if i % 2 == 0:
                flips = _hash(rows, factor, offset)
                flips >>= top  # now in range(num_cols)
                cols = cols ^ flips
            else:
                shifts = _hash(cols, factor, offset)
                shifts >>= half
                shifts *= num_rows
                shifts >>= half  # now in range(num_rows)
                rows = rows + shifts
                np.minimum(rows, rows - num_rows, out=rows)  # modulo: below zero wraps to huge
        rows <<= low
        rows |= cols
        return rows


def _hash(x: Words, factor: Any, offset: Any) -> Words:
    """A keyed hash, best in its top bits: the square of a keyed line."""
    y: Words = x * factor
    y += offset
    y *= y
    return y


def _keys(seed: int, epoch: int, word: Word) -> list[Key]:
    """An odd factor and an offset for each round of one epoch."""
    state = _splitmix64(_splitmix64(seed) ^ epoch)
    unused = 64 - word().nbytes * 8
    words = [_splitmix64(state + i) >> unused for i in range(2 * NUM_ROUNDS)]
    return [(word(words[i] | 1), word(words[i + 1])) for i in range(0, len(words), 2)]


def _splitmix64(x: int) -> int:
    """The output function of the SplitMix64 generator."""
    x = (x + 0x9E3779B97F4A7C15) & MAX_KEY
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MAX_KEY
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MAX_KEY
    return x ^ x >> 31
