"""How all ranks take a decision at the same step, without a collective in every step.

A signal reaches one rank, or all at different steps; a clock runs differently on each. Ranks that
acted on them alone would wait for each other for ever. So they ask each other, about once a
second: each beat also agrees on how many steps later the next one is.
"""

import time

import torch
import torch.distributed as dist


class Heartbeat:
    """Agrees on flags with the other ranks.

    Args:
        device: Where the ranks' backend takes tensors.
        interval_s: Seconds between two beats, about. Ranks that train alone beat at every step.
    """

    def __init__(self, device: torch.device, interval_s: float = 1.0) -> None:
        self._device = device
        self._interval_s = interval_s
        self._alone = not (dist.is_available() and dist.is_initialized())
        self._steps = self._left = 1
        self._last_s = time.monotonic()

    def beat(self, *flags: int) -> list[int]:
        """Take part; every rank has to call this at the same steps, with as many flags.

        Args:
            flags: This rank's wishes; 0 for none.

        Returns:
            For each flag the largest that a rank gives at this beat, or 0s between beats, where
            what is given is not kept.
        """
        if self._alone:
            return list(flags)
        self._left -= 1
        if self._left:
            return [0] * len(flags)
        *result, steps = largest([*flags, -self._affordable_steps()], self._device)
        self._steps = self._left = -steps
        return result

    def _affordable_steps(self) -> int:
        """How many steps fit into an interval; at most twice as many as last time."""
        now_s = time.monotonic()
        per_step_s = (now_s - self._last_s) / self._steps
        self._last_s = now_s
        return max(1, min(2 * self._steps, int(self._interval_s / max(per_step_s, 1e-9))))


def largest(flags: list[int], device: torch.device) -> list[int]:
    """For each flag the largest of all ranks', which all have to call this."""
    agreed = torch.tensor(flags, device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    result: list[int] = agreed.tolist()
    return result


def largest_of_all(flags: list[int], device: torch.device) -> list[int]:
    """The same, where there may be one rank only, without a process group."""
    connected = dist.is_available() and dist.is_initialized()
    return largest(flags, device) if connected else flags
