"""Signals that reach a whole process group, as Ctrl-C does: a loader's workers leave them alone.

The process that trains takes such a signal as a wish: it goes on to the end of the step, saves and
stops its workers. With its workers dead or in a KeyboardInterrupt it could not: torch has a worker
end by a SIGTERM from anyone, and leaves the others as they are.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning_app.processes.signals import SIGNALS

CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on Windows and macOS


@contextmanager
def as_workers_start() -> Iterator[None]:
    """Hold signals back while processes are started, which have them held back from the first."""
    if not CAN_WAIT:
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # what came meanwhile arrives here


def deaf_to_signals(init: Callable[[int], Any] | None) -> Callable[[int], None]:
    """A `worker_init_fn` of a DataLoader that does as another, which may be none, and this.

    Args:
        init: The loader's own.
    """
    return partial(_begin, init)


def _begin(init: Callable[[int], Any] | None, worker_id: int) -> None:
    for signum in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(signum, signal.SIG_IGN)
    if CAN_WAIT:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a forkserver's mask is its own
        threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.excepthook = partial(_leave_out_lost_connections, sys.excepthook)
    if init is not None:
        init(worker_id)


def _leave_out_lost_connections(usual: Callable[..., Any], kind: type, *error: Any) -> None:
    """A thread hands tensors to the process that trains, which may end before it takes them."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        usual(kind, *error)


def _end_with_parent() -> None:
    """End by a SIGTERM from the parent, which tells a worker so that does not end otherwise."""
    parent = multiprocessing.parent_process()  # not `getppid`: that may be a server that forks
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
