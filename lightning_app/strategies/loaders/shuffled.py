"""What `DataLoader(…, shuffle=True)` asks for, in the seeded order, of which nothing is stored.

torch's sampler makes a list of all indices, in each process: 480 MB for 10⁷ samples. It draws the
seed of that list from the global generator, whose place (seed, epoch) takes here anyway; so the
list can as well be a function of them. A loader with a generator of its own keeps torch's order.
"""

from collections.abc import Iterator
from typing import TypeGuard

from torch.utils.data import BatchSampler, RandomSampler

from lightning_app.order import MAX_KEY, SeededOrder


def is_shuffled(sampler: object) -> TypeGuard[BatchSampler]:
    """Whether a sampler is what a DataLoader makes of `shuffle=True`, without a generator."""
    if type(sampler) is not BatchSampler or type(sampler.sampler) is not RandomSampler:
        return False
    shuffled = sampler.sampler
    takes_all = not shuffled.replacement and shuffled.num_samples == len(shuffled.data_source)
    return shuffled.generator is None and takes_all


def in_seeded_order(sampler: BatchSampler, seed: int, first: int = 0) -> Iterator[list[int]]:
    """The batches of one pass.

    As in torch, the number of samples is asked when the first batch is, and the batch size for
    each.

    Args:
        sampler: A shuffled one.
        seed: Of this pass.
        first: The number of the batch to begin with.
    """
    length = len(sampler.sampler.data_source)  # type: ignore[union-attr]
    order = SeededOrder(length, seed % (MAX_KEY + 1))
    start = first * sampler.batch_size
    while start < length:
        stop = min(start + sampler.batch_size, length)
        if sampler.drop_last and stop - start < sampler.batch_size:
            return
        yield order.indices(0, start, stop).tolist()
        start = stop
