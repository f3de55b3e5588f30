"""Which rank gets which part of a global batch: pure arithmetic, no devices, no data.

Two rules, as the two strategies have them: processes (`ddp`) get the parts of
`torch.tensor_split`, replicas (`dp`) those of `torch.chunk`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def shard_bounds(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Where one rank's part of a batch starts and stops, split as `torch.tensor_split` does.

    Args:
        size: Samples in the global batch.
        rank: The rank asked for, from 0.
        world_size: Number of ranks; the parts' sizes differ by at most one.

    Returns:
        The part as a half-open range `[start, stop)`; empty for the last ranks where `size` is
        less than `world_size`.
    """
    base, extra = divmod(size, world_size)
    start = rank * base + min(rank, extra)
    return start, start + base + (rank < extra)


def shard_sizes(size: int, world_size: int) -> tuple[int, ...]:
    """The sizes of all ranks' parts of a batch of `size` samples under `ddp`, in rank order."""
    bounds = (shard_bounds(size, rank, world_size) for rank in range(world_size))
    return tuple(stop - start for start, stop in bounds)


def chunk_sizes(size: int, num_replicas: int) -> tuple[int, ...]:
    """The sizes of the replicas' parts under `dp`, split as `torch.chunk` does.

    Args:
        size: Samples in the global batch.
        num_replicas: Number of devices. Fewer parts come back where the rounded-up part size
            uses the batch up earlier: 10 samples on 8 devices are five parts of 2.

    Returns:
        The parts' sizes in replica order; their number is that of the replicas at work.
    """
    if size == 0:
        return (0,) * num_replicas
    step = -(-size // num_replicas)
    return tuple(min(step, size - start) for start in range(0, size, step))


@dataclass(eq=False)
class Shard:
    """One rank's part of one global batch.

    Attributes:
        batch: The indices of the whole batch, over all ranks, as the sampler named them.
        start: Where this rank's part of them begins.
        stop: Where it ends; `start` where the rank has no part in the batch.
        is_ready_made: The data set gives whole batches: `batch` has one index, and how many
            samples that is has not been told.
        number: The batch's place in its epoch, from 0.
        global_size: Samples in the whole batch, over all ranks.
    """

    batch: "Sequence[Any] | Tensor"
    start: int
    stop: int
    is_ready_made: bool = False
    number: int = 0
    global_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.global_size = len(self.batch)  # once, as a tensor's takes long

    @property
    def indices(self) -> "Sequence[Any] | Tensor":
        """The samples this rank takes; may be empty."""
        return self.batch if self.is_whole else self.batch[self.start : self.stop]

    @property
    def is_whole(self) -> bool:
        """Whether this is all of the batch."""
        return self.size == self.global_size

    @property
    def size(self) -> int:
        """How many samples this rank takes."""
        return self.stop - self.start

    def loss_weight(self, world_size: int) -> float:
        """What this rank's mean loss counts in the mean of the ranks' gradients.

        DDP divides the sum of the gradients by the number of ranks. With this factor on each
        rank's loss, what comes out is the gradient of the mean over the global batch.
        """
        return self.size * world_size / self.global_size
