"""What the callbacks exchange between processes, under any strategy, Lightning's own included."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Every process's value, in rank order; the value alone where there is one process.

    Args:
        value: Anything small that can be pickled. All processes have to call this.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
