"""Ranks agree at the same step, without a collective per step."""

import time
from typing import Any

import torch
import torch.distributed as dist

from lightning_app.checkpoint.heartbeat import Heartbeat
from tests.ranks import run_ranks

CPU = torch.device("cpu")


def test_a_rank_alone_acts_at_once() -> None:
    heartbeat = Heartbeat(CPU)
    assert heartbeat.beat(0, 0) == [0, 0]
    assert heartbeat.beat(15, 1) == [15, 1]


def steps_until_agreed(interval_s: float) -> tuple[int, int]:
    """The step at which a wish of rank 1 is heard, and the number of collectives until then."""
    dist.init_process_group("gloo")
    calls = 0
    all_reduce = dist.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return all_reduce(*args, **kwargs)

    dist.all_reduce = counted
    heartbeat = Heartbeat(CPU, interval_s)
    for step in range(5000):
        time.sleep(0.0005 * (1 + dist.get_rank()))  # ranks of different speed
        (heard,) = heartbeat.beat(7 if dist.get_rank() == 1 and step >= 150 else 0)
        if heard:
            assert heard == 7
            return step, calls
    raise AssertionError("never heard")


def test_ranks_hear_one_of_them_at_the_same_step() -> None:
    (step, calls), other = run_ranks(steps_until_agreed, 2, 0.1)
    assert (step, calls) == other
    assert 150 <= step < 600
    assert calls < step / 4
