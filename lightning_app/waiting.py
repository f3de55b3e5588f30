"""What a run waits for, said to whoever sits at a terminal once nothing has come for two seconds.

This module loads nothing but the standard library: the first wait is for PyTorch to be loaded.
"""

import os
import threading
import time

SAYS_SO_S = 2.0
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # by launchers, and by Lightning for its own

_timers: list[threading.Timer] = []  # at most one
_silent_since_s: list[float] = []  # likewise


def say_if_slow(what: str) -> None:
    """Begin to wait for something, whatever was waited for until now.

    The time goes on from that, if nothing was said of it: several short waits are a long one.
    """
    _cancel()
    is_first = not any(os.environ.get(name, "0") not in ("", "0") for name in _RANKS)
    if is_first and os.isatty(2):
        now_s = time.monotonic()
        (since_s,) = _silent_since_s[:] or [now_s]  # at once: a timer may just say so
        _silent_since_s[:] = [since_s]
        timer = threading.Timer(since_s + SAYS_SO_S - now_s, _say, (what,))
        timer.daemon = True
        _timers.append(timer)
        timer.start()


def nothing_to_wait_for() -> None:
    """End what was waited for."""
    _cancel()
    _silent_since_s.clear()


def _say(what: str) -> None:
    _silent_since_s.clear()
    os.write(2, f"{what} …\n".encode())


def _cancel() -> None:
    while _timers:
        _timers.pop().cancel()
