"""What the callbacks exchange between processes, under any strategy, Lightning's own included."""

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Every process's value, in rank order, on the first rank; none on the others.

    Args:
        value: Anything that can be pickled. All processes have to call this.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    is_first = dist.get_rank() == 0
    values: list[Any] = [None] * dist.get_world_size() if is_first else []
    dist.gather_object(value, values if is_first else None)
    return values


def all_objects(value: T) -> list[T]:
    """Every process's value, in rank order, on all of them.

    Args:
        value: Anything that can be pickled. All processes have to call this.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
