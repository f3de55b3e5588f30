"""What `DataLoader(…, shuffle=True)` asks for, in the seeded order, of which nothing is stored.

torch's sampler makes a list of all indices, in each process: 480 MB for 10⁷ samples. It draws the
seed of that list from the global generator, whose place (seed, epoch) takes here anyway; so the
list can as well be a function of them. A loader with a generator of its own keeps torch's order.
"""

from collections.abc import Sequence
from typing import overload

from torch.utils.data import BatchSampler, RandomSampler
from typing_extensions import override

from lightning_app.order import MAX_KEY, SeededOrder


class ShuffledBatches(Sequence[list[int]]):
    """The batches of one pass; any of them at once.

    Args:
        length: Number of samples.
        batch_size: Samples in a batch.
        drop_last: Leave out a last batch of fewer samples.
        seed: Of this pass.
    """

    def __init__(self, length: int, batch_size: int, drop_last: bool, seed: int) -> None:
        self._order = SeededOrder(length, seed % (MAX_KEY + 1))
        self._batch_size = batch_size
        self._num_batches = length // batch_size if drop_last else -(-length // batch_size)

    @override
    def __len__(self) -> int:
        return self._num_batches

    @overload
    def __getitem__(self, position: int) -> list[int]: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[list[int]]: ...
    @override
    def __getitem__(self, position: int | slice) -> list[int] | Sequence[list[int]]:
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        start = range(len(self))[position] * self._batch_size
        stop = min(start + self._batch_size, self._order.length)
        indices: list[int] = self._order.indices(0, start, stop).tolist()
        return indices


def in_seeded_order(sampler: object, seed: int) -> object:
    """The sampler of a pass: the user's, or the same batches in the seeded order.

    Args:
        sampler: The user's. Only torch's own, as a DataLoader makes them, are replaced.
        seed: Of the pass.
    """
    if type(sampler) is not BatchSampler or type(sampler.sampler) is not RandomSampler:
        return sampler
    shuffled = sampler.sampler
    length = len(shuffled.data_source)
    draws_all = not shuffled.replacement and shuffled.num_samples == length
    if shuffled.generator is not None or not draws_all:
        return sampler
    return ShuffledBatches(length, sampler.batch_size, sampler.drop_last, seed)
