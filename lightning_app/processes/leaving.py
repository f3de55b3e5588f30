"""The end of a process that has done its work."""

import atexit
import os
import sys
import threading
from contextlib import suppress


def leave() -> None:
    """End this process at once: Python would take PyTorch apart first, which takes seconds.

    Threads that are still at work are waited for, and what has asked to be called at the end is.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(0)
