"""What hooks gather of unequal parts is told, but where they gather what to weigh it by."""

import pytest
import torch

from lightning_app.strategies.checks.telling import TellOnce
from lightning_app.strategies.logs.own_values import Gathered

MEANS, SUMS, COUNTS = [[0.25], [0.75]], [[2.5], [1.5]], [[7.0], [6.0]]


@pytest.mark.parametrize(
    ("gathered", "is_told"),
    [
        ([MEANS], True),
        ([[[0.25], [0.25]]], False),  # alike on all ranks
        ([SUMS, COUNTS], False),
        ([COUNTS, SUMS], False),
        ([[[2.5, 7.0], [1.5, 6.0]]], False),
        ([[[0.5], [1.0]]], True),  # a share of 1 is no count
        ([[[False], [True]]], False),
    ],
)
def test_means_that_are_gathered_are_told(
    gathered: list[list[list[float]]], is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks, tell = Gathered(), TellOnce()
    for ranks in gathered:
        hooks.note("on_test_epoch_end", torch.tensor(ranks))
    for _ in range(2):
        hooks.tell(tell)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == is_told
    start = "on_test_epoch_end: all_gather gives one value of each process, and these have unequal"
    assert all(line.startswith(start) for line in lines)
