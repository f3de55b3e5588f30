"""A batch's way to the replicas of a module and back, on any kind of device.

`torch.nn.parallel`'s own functions do this for CUDA alone; these follow the same rule, that of
`torch.chunk`, for every tensor whose length is that of the batch.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor

from lightning_app.strategies.sharding import chunk_sizes


def batch_length(inputs: Any) -> int | None:
    """The length of the first tensor in a collection that has one; `None` where none has."""
    found: list[int] = []
    apply_to_collection(inputs, Tensor, lambda t: found.append(len(t)) if t.ndim else None)
    return found[0] if found else None


def scatter(inputs: Any, devices: Sequence[torch.device]) -> list[tuple[int, Any]]:
    """Split what a module is called with over devices.

    Args:
        inputs: A collection (tuples, lists, dictionaries, dataclasses) with tensors in it. Those of
            the batch's length `(B, …)` are split along it; everything else goes to each replica.
        devices: One per replica.

    Returns:
        For each replica at work its number of samples and its inputs, on its device.

    Raises:
        ValueError: There is no tensor to split in `inputs`.
    """
    length = batch_length(inputs)
    if length is None:
        raise ValueError("none of the arguments is a tensor with a batch dimension")
    sizes = chunk_sizes(length, len(devices))
    stops = accumulate(sizes)

    def part(tensor: Tensor, start: int, stop: int, device: torch.device) -> Tensor:
        own = tensor[start:stop] if tensor.ndim and len(tensor) == length else tensor
        return own.to(device, non_blocking=True)

    return [
        (size, apply_to_collection(inputs, Tensor, part, stop - size, stop, device))
        for size, stop, device in zip(sizes, stops, devices, strict=False)
    ]


def gather(outputs: Sequence[Any], sizes: Sequence[int], device: torch.device) -> Any:
    """Put the replicas' outputs together.

    Args:
        outputs: What each replica returned: tensors `(B_r, …)`, or collections of them.
        sizes: Samples of each replica.
        device: Where the result goes.

    Returns:
        One output of the same structure: tensors joined along the batch `(B, …)`, and scalars
        taken as means over a replica's samples, so averaged by the replicas' sizes.

    Raises:
        TypeError: An output is neither tensor nor collection, and differs between replicas.
    """
    first = outputs[0]
    if isinstance(first, Tensor):
        tensors = [output.to(device, non_blocking=True) for output in outputs]
        if first.ndim:
            return torch.cat(tensors)
        parts = [t * (size / max(sum(sizes), 1)) for t, size in zip(tensors, sizes, strict=True)]
        return torch.stack(parts).sum()
    if isinstance(first, Mapping):
        items = {key: gather([o[key] for o in outputs], sizes, device) for key in first}
        return items if type(first) is dict else type(first)(**items)
    if isinstance(first, (list, tuple)):
        values = [gather(parts, sizes, device) for parts in zip(*outputs, strict=True)]
        return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)
    if all(output == first for output in outputs):
        return first
    raise TypeError(f"replicas returned {type(first).__name__} objects, which cannot be joined")
