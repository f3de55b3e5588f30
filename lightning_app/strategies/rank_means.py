"""Means over an epoch, of which each rank has a part: pure arithmetic."""

from typing import Any

import torch

MAX_NOTES = 64

Numbers = tuple[float, ...]


class RankMean:
    """A rank's part of a weighted mean: sums of weighted values and of weights.

    What a step passes as `batch_size` may be the number of samples that the rank was given, or a
    number that is the same for every batch, and so that of the whole batch. Both sums are kept.

    Args:
        full_size: Samples of a full global batch; `None` if this is not known.
    """

    def __init__(self, full_size: int | None = None) -> None:
        self._full_size = full_size
        self._notes: list[tuple[Any, ...]] = []
        self._sums: Numbers = (0.0, 0.0, 0.0, 0.0)
        self._num_notes = 0
        self._least, self._most, self._are_sizes = float("inf"), 0.0, True

    def add(self, start: tuple[Any, Any], end: tuple[Any, Any], size: int, part: float) -> None:
        """Add what a step has added.

        Args:
            start: Weighted sum and weights before the step.
            end: The same after it.
            size: Samples that the rank was given.
            part: What these are of the global batch, 0 to 1.
        """
        # Looked at later, many at once: on a GPU it would wait for the device each time.
        self._notes.append((*start, *end, size, part))
        if len(self._notes) >= MAX_NOTES:
            self._fold()

    def _fold(self) -> None:
        notes, self._notes = self._notes, []
        if not notes:
            return
        rows = torch.tensor([[float(x) for x in note] for note in notes], dtype=torch.float64)
        totals, weights = rows[:, 2] - rows[:, 0], rows[:, 3] - rows[:, 1]
        sizes, parts = rows[:, 4], rows[:, 5]
        new = (totals, weights, totals * parts, weights * parts)
        self._sums = tuple(a + float(b.sum()) for a, b in zip(self._sums, new, strict=True))
        self._num_notes += len(notes)
        self._least = min(self._least, float(weights.min()))
        self._most = max(self._most, float(weights.max()))
        self._are_sizes &= bool((weights == sizes).all())

    def numbers(self, num_steps: int) -> Numbers:
        """The sums, to send to other ranks: by what was passed, and with that as a whole batch's.

        Args:
            num_steps: How many steps the rank has made in the epoch.

        Returns:
            Sums of weighted values and of weights, the same with each step's weight times the
            rank's part of the batch, and last the number that was passed in every step, if it is
            that of a whole batch; 0 if not.
        """
        self._fold()
        is_every_step = self._num_notes == num_steps
        constant = self._least if self._least == self._most and not self._are_sizes else 0.0
        if not (constant == self._full_size or (constant == 1 and is_every_step)):
            constant = 0.0
        return (*self._sums, constant)


def merge(ranks: list[Numbers]) -> tuple[float, float]:
    """The weighted sum and the sum of weights over all ranks' parts."""
    totals, weights, totals_by_part, weights_by_part, constants = zip(*ranks, strict=True)
    if min(constants) == max(constants) > 0:
        return sum(totals_by_part), sum(weights_by_part)
    return sum(totals), sum(weights)
