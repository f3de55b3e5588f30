"""What a run waits for, said to whoever sits at a terminal once nothing has come for two seconds.

This module loads nothing but the standard library: the first wait is for PyTorch to be loaded.
"""

import os
import threading

SAYS_SO_S = 2.0
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # by launchers, and by Lightning for its own

_timers: list[threading.Timer] = []  # at most one


def say_if_slow(what: str) -> None:
    """Begin to wait for something, whatever was waited for until now."""
    nothing_to_wait_for()
    is_first = not any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS)
    if is_first and os.isatty(2):
        timer = threading.Timer(SAYS_SO_S, os.write, (2, f"{what} …\n".encode()))
        timer.daemon = True
        _timers.append(timer)
        timer.start()


def nothing_to_wait_for() -> None:
    """End what was waited for."""
    while _timers:
        _timers.pop().cancel()
