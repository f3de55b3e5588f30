"""Means over an epoch, of which each rank has a part: pure arithmetic."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_app.strategies.batch.sharding import Shard

MAX_NOTES = 64


@dataclass
class PartOfMean:
    """One rank's part of a weighted mean, to send to the other ranks.

    Attributes:
        total: Sum of the weighted values.
        weight: Sum of the weights.
        total_by_part: As `total`, with each step's weight times the rank's part of its batch.
        weight_by_part: As `weight`, likewise.
        constant: The weight that was passed in every step, if it may be that of a whole batch;
            else 0.
        is_sure: It is not so by chance, as in one batch whose parts have as many labels each.
        are_sizes: Each step's weight was the number of its samples, or of the rows of its batch.
        batches: Where the model tells what its means are over: for each batch, by its number and
            turn, the mean over these, how many they are, and the weight that was passed.
    """

    total: float = 0.0
    weight: float = 0.0
    total_by_part: float = 0.0
    weight_by_part: float = 0.0
    constant: float = 0.0
    is_sure: bool = False
    are_sizes: bool = False
    batches: dict[tuple[int, int], tuple[float, float, float]] = field(default_factory=dict)


class RankMean:
    """Adds up a rank's part of a weighted mean.

    What a step passes as `batch_size` may be the number of samples that the rank was given, or a
    number that is the same for every batch, and so that of the whole batch. Both sums are kept.

    Args:
        full_size: Samples of a full global batch; `None` if this is not known.
    """

    def __init__(self, full_size: int | None = None) -> None:
        self._full_size = full_size
        self._notes: list[tuple[Any, ...]] = []
        self._part = PartOfMean()
        self._num_notes = 0
        self._least, self._most, self._are_sizes = float("inf"), 0.0, True
        self._turns: Counter[int] = Counter()

    def add(
        self,
        start: tuple[Any, Any],
        end: tuple[Any, Any],
        shard: Shard,
        rows: int,
        mean_over: float | None,
    ) -> None:
        """Add what a step has added.

        Args:
            start: Weighted sum and weights before the step.
            end: The same after it.
            shard: What the step was given.
            rows: The samples that its batch was taken to have.
            mean_over: What the model's means are over in this shard; `None`: its samples.
        """
        # Looked at later, many at once: on a GPU it would wait for the device each time.
        of_shard = shard.size, shard.global_size, rows, shard.number
        self._notes.append((*start, *end, *of_shard, mean_over))
        if len(self._notes) >= MAX_NOTES:
            self._fold()

    def _fold(self) -> None:
        notes, self._notes = self._notes, []
        if not notes:
            return
        rows = torch.tensor([[float(x) for x in note[:7]] for note in notes], dtype=torch.float64)
        totals, weights = rows[:, 2] - rows[:, 0], rows[:, 3] - rows[:, 1]
        parts = rows[:, 4] / rows[:, 5]
        totals[weights == 0] = 0.0  # not NaN, the mean of nothing
        # A single row may hold all samples, one behind the other: it is not one of the samples.
        is_size = (weights == rows[:, 4]) | ((weights == rows[:, 6]) & (rows[:, 6] > 1))
        part = self._part
        part.total += float(totals.sum())
        part.weight += float(weights.sum())
        part.total_by_part += float((totals * parts).sum())
        part.weight_by_part += float((weights * parts).sum())
        self._num_notes += len(notes)
        self._least = min(self._least, float(weights.min()))
        self._most = max(self._most, float(weights.max()))
        self._are_sizes &= bool(is_size.all())
        means = (totals / weights).tolist()
        for value, weight, note in zip(means, weights.tolist(), notes, strict=True):
            *_, number, mean_over = note
            if mean_over is not None:
                self._turns[number] += 1  # a shorter loader of several begins anew
                part.batches[number, self._turns[number]] = (value, mean_over, weight)

    def part(self, num_steps: int) -> PartOfMean:
        """What is to be sent.

        Args:
            num_steps: How many steps the rank has made in the epoch.
        """
        self._fold()
        is_every_step = self._num_notes == num_steps
        constant = self._least if self._least == self._most else 0.0
        self._part.are_sizes = self._are_sizes
        if constant == self._full_size or is_every_step:
            self._part.constant = constant
            self._part.is_sure = constant in (1, self._full_size) or self._num_notes > 1
        if not (self._are_sizes or self._part.constant):
            self._part.batches = {}  # the model has passed weights of its own
        return self._part


def merge(parts: list[PartOfMean]) -> tuple[float, float]:
    """The weighted sum and the sum of weights over all ranks' parts."""
    constants = {part.constant for part in parts}
    are_sizes, is_sure = all(p.are_sizes for p in parts), any(p.is_sure for p in parts)
    constant = constants.pop() if len(constants) == 1 and is_sure and not are_sizes else 0.0
    if all(part.batches for part in parts) and (are_sizes or constant):
        return _merge_batches(parts, constant)
    if constant:
        return sum(p.total_by_part for p in parts), sum(p.weight_by_part for p in parts)
    return sum(p.total for p in parts), sum(p.weight for p in parts)


def _merge_batches(parts: list[PartOfMean], constant: float) -> tuple[float, float]:
    """Each batch's mean over what the model says, and over batches by a constant, or by samples."""
    batches: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for part in parts:
        for number, own in part.batches.items():
            batches.setdefault(number, []).append(own)
    total = weight = 0.0
    for ranks in batches.values():
        size = constant or sum(rows for *_, rows in ranks)
        total, weight = total + size * _mean_of_batch(ranks), weight + size
    return total, weight


def _mean_of_batch(ranks: list[tuple[float, float, float]]) -> float:
    # A mean over nothing is NaN on that rank; on all of them it is that on one device, too.
    pairs = [(value, count) for value, count, _ in ranks if count]
    pairs = pairs or [(value, rows) for value, _, rows in ranks]
    return sum(value * n for value, n in pairs) / sum(n for _, n in pairs)


def outside_of_steps(total: float, weight: float) -> PartOfMean:
    """The part of a mean that was not logged in steps, but in hooks around them."""
    return PartOfMean(total, weight, total, weight)
