"""What a model keeps from step to step, and what of it depends on the number of processes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from lightning_app.strategies.batch.sharding import Shard

MOST_VALUES = 10**6  # of a plain tensor, or a frozen parameter, that is looked at
FEW = 3  # samples
MOST_COUNTED = 2**53  # by a whole number, up to which `float` has each

Prints = dict[str, tuple[float, float]]  # of each tensor or number two sums, by its name


def kept_by(model: LightningModule, num_samples: int) -> Prints:
    """Of buffers, frozen parameters, and numbers and tensors in plain attributes, as a queue."""
    plain = _plain(model, num_samples)
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if _is_known_sort(buffer))
    frozen = (
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
        if parameter.numel() <= MOST_VALUES and _is_known_sort(parameter)
    )
    return {name: _print(value) for name, value in (*buffers, *frozen, *plain)}


def unsaved_by(model: LightningModule) -> Prints:
    """Of what is in no checkpoint by itself: such buffers, and plain attributes as `kept_by`."""
    buffers = (
        (f"{path}.{name}".lstrip("."), buffer)
        for path, part in model.named_modules()
        for name in part._non_persistent_buffers_set
        if (buffer := part._buffers[name]) is not None
        if buffer.numel() <= MOST_VALUES and _is_known_sort(buffer)
    )
    return {name: _print(value) for name, value in (*buffers, *_plain(model, 0))}


def _plain(model: LightningModule, num_samples: int) -> Iterator[tuple[str, Any]]:
    for path, part in model.named_modules():
        if isinstance(part, Metric):
            continue  # its states are each rank's, until they are put together
        for name, value in vars(part).items():
            if _is_number(value) or (type(value) is Tensor and _may_stay(value, num_samples)):
                yield f"{path}.{name}".lstrip("."), value


def lists_in(model: LightningModule) -> Iterator[tuple[str, int]]:
    """The lists in plain attributes, and their lengths; those of metrics are put back."""
    for path, part in model.named_modules():
        for name, value in vars(part).items() if not isinstance(part, Metric) else ():
            if isinstance(value, list):
                yield f"{path}.{name}".lstrip("."), len(value)


def written(model: LightningModule, before: Prints, after: Prints) -> Prints:
    """Of the buffers, and of what else a step has written."""
    buffers = dict(model.named_buffers())
    return {name: two for name, two in after.items() if name in buffers or before.get(name) != two}


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < MOST_COUNTED)


def _is_known_sort(tensor: Tensor) -> bool:
    """Whether sums can be made of its values: of whole numbers of one alone, as of a count."""
    is_whole = tensor.numel() == 1 and not (tensor.is_complex() or tensor.is_quantized)
    is_there = tensor.layout is torch.strided and not tensor.is_meta
    return is_there and tensor.numel() > 0 and (tensor.is_floating_point() or is_whole)


def _may_stay(value: Tensor, num_samples: int) -> bool:
    """Whether a tensor may be meant for the next step, and not for this one's samples alone."""
    is_of_step = value.requires_grad or num_samples in value.shape  # as a hidden state
    is_kept = value.numel() == 1 or (value.numel() <= MOST_VALUES and not is_of_step)
    return is_kept and _is_known_sort(value)


def _print(value: Tensor | float) -> tuple[float, float]:
    if not isinstance(value, Tensor):
        return float(value), float(value) * float(value)
    values = value.detach().double()
    return float(values.sum()), float(values.square().sum())


def differing(ranks: Sequence[Prints]) -> list[str]:
    """The buffers that are not alike on all ranks; one that a rank lacks is left out."""
    return [
        name
        for name, first in (ranks[0] if ranks else {}).items()
        if not all(_are_close(first, other[name]) for other in ranks[1:] if name in other)
    ]


def _are_close(prints: Sequence[float], others: Sequence[float]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=1e-9) or (a != a and b != b)
        for a, b in zip(prints, others, strict=True)
    )


class SampleCounts:
    """Follows the numbers that a rank's steps leave behind.

    A count of steps rises by one or a few; that of the rank's own samples, or of their tokens, by
    its part's size or a multiple of that. So a part of few samples tells nothing.
    """

    def __init__(self) -> None:
        self._last: Prints = {}  # as the step before has left them
        self._rises: dict[str, float] = {}

    def own(self, before: Prints, after: Prints, shard: Shard) -> list[str]:
        """Name those that count the rank's own samples; steps and the hooks beside them raise some.

        Args:
            before: The numbers as the step began, by their names.
            after: As it has ended.
            shard: What it was given.
        """
        last, earlier = self._last or before, self._rises
        self._last = after
        self._rises = {n: total - last[n][0] for n, (total, _) in after.items() if n in last}
        if not FEW < shard.size < shard.global_size:
            return []
        return [
            name
            for name, rise in self._rises.items()
            if rise == shard.size or (rise == earlier.get(name) and _is_of_part(rise, shard))
        ]


def _is_of_part(rise: float, shard: Shard) -> bool:
    """Whether a rise is a multiple of the part's size, and not of the whole batch's."""
    return rise > 0 == rise % shard.size and rise % shard.global_size > 0
