"""What the callbacks exchange between processes, under any strategy, Lightning's own included."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

T = TypeVar("T")


class AllGather(NamedTuple):
    """What a process exchanges where the user's code has called `all_gather`, of this shape."""

    shape: tuple[int, ...]


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

    Raises:
        MisconfigurationException: Some of them have, and others call `all_gather`.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    _check_same_place(values)
    return values


def _check_same_place(values: Sequence[object]) -> None:
    gathers = [isinstance(value, AllGather) for value in values]
    if any(gathers) and not all(gathers):
        raise MisconfigurationException(
            f"rank {gathers.index(True)} has called all_gather once more than rank "
            f"{gathers.index(False)}, as where it gathers a list with a value of each batch, and "
            "some have had none: gather a sum and a count, or use a torchmetrics object"
        )


def gather_numbers(numbers: list[int], device: torch.device) -> list[list[int]]:
    """Every process's whole numbers, in rank order, on the first rank; none on the others.

    Args:
        numbers: As many as there are. All processes have to call this, and there are several.
        device: Where the ranks' backend takes tensors.
    """
    longest = torch.tensor(len(numbers), device=device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    own = torch.full((int(longest) + 1,), 0, dtype=torch.int64)
    own[: len(numbers) + 1] = torch.tensor([len(numbers), *numbers])
    own = own.to(device)
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    is_first = dist.get_rank() == 0
    dist.gather(own, rows if is_first else None)
    return [row[1 : int(row[0]) + 1].tolist() for row in rows] if is_first else []
