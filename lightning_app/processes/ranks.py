"""The processes of the later ranks that the first one starts: they end with it, and it with them.

Without that, a run that is killed, or ends by an error, while its ranks still look for each other
leaves processes behind that wait for minutes. This module loads nothing but the standard library:
a rank takes up its part in it before PyTorch is loaded, which takes seconds.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from lightning_app.command import program
from lightning_app.waiting import nothing_to_wait_for, say_if_slow

PARENT = "LIGHTNING_APP_PARENT"  # the process that started this one as a rank
PATIENCE_S = 5.0  # with ranks that end by themselves once another has ended
SAYS_SO_S = 10.0  # after which who waits for a rank says so
LIMIT_S = 1800.0  # for which the first rank waits for the others' end, as long as in training
POLL_S = 0.2
LAST_S = 1.0  # for what is left to do at an end
_PR_SET_PDEATHSIG = 1
_SYNCHRONIZE, _INFINITE = 0x00100000, 0xFFFFFFFF  # Windows'
# By which Lightning tells the processes of later ranks their places; it sets them here as well.
_PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")

_ranks: dict[int, "subprocess.Popen[bytes]"] = {}  # those that this process has started
_have_run: list[int] = []  # processes, this one and those that it is forked from, after a run
_kept: list[str] = []  # where the run has its last checkpoint, once there is one
_is_rank = threading.Event()  # set where this process is such a rank itself
_last: list[Callable[[], None]] = []  # what is left to do where this process ends at once
_is_ending = threading.Event()  # set once the main thread waits for no rank but for its end


def end_with_parent() -> None:
    """Have this process end with the one that started it as a rank, however that ends."""
    parent = int(os.environ.pop(PARENT, 0))
    if not parent:
        return
    _is_rank.set()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before it could be asked for
            os._exit(1)
    else:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    if sys.platform == "win32":
        # There `getppid` never changes, and in a virtual environment it is the number of the
        # `python.exe` that has started the real one.
        kernel = ctypes.WinDLL("kernel32")
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = kernel.OpenProcess(_SYNCHRONIZE, False, parent)
        kernel.WaitForSingleObject(ctypes.c_void_p(handle), _INFINITE)  # at once if it has ended
    else:
        while os.getppid() == parent:
            time.sleep(POLL_S)
    os._exit(1)


@contextmanager
def started_as_ranks() -> Iterator[None]:
    """Have processes that are started within know whose ranks they are."""
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]


def watch(ranks: dict[int, "subprocess.Popen[bytes]"]) -> None:
    """End this process if one of its ranks fails and this one does not notice by itself.

    Args:
        ranks: The processes of the later ranks, by their numbers.
    """
    _ranks.update(ranks)
    _is_ending.clear()
    threading.Thread(target=_watch, daemon=True, name="ranks").start()


def have_run() -> bool:
    """Whether this is not the first run of this process: its later ranks would begin with that."""
    return os.getpid() in _have_run


def _watch() -> None:
    while (found := failed()) is None:
        if all(process.poll() == 0 for process in list(_ranks.values())):
            return
        time.sleep(POLL_S)
    if _is_ending.wait(PATIENCE_S):
        return
    # The main thread waits for that rank where nothing reaches it.
    say(f"error: {found[0]}")
    kill()
    end_at_once(found[1])


def failed(within_s: float = 0.0) -> tuple[str, int] | None:
    """How a later rank has ended that did not end well, and the exit status that this calls for.

    Args:
        within_s: Seconds in which it may still end.
    """
    deadline = time.monotonic() + within_s
    while True:
        for rank, process in list(_ranks.items()):
            if status := process.poll():
                line = f"rank {rank} on {socket.gethostname()} {ending(status)}"
                return line + _how_to_go_on() * (status < 0), exit_code(status)
        if not _ranks or time.monotonic() >= deadline:
            return None
        time.sleep(POLL_S / 10)


def keep(path: str) -> None:
    """Note where the run keeps its last checkpoint, for the line about a rank that is killed."""
    _kept[:] = [path]


def _how_to_go_on() -> str:
    saved = (path for path in _kept if os.path.exists(path))
    return "".join(f"; {path} is whole: continue with --ckpt_path last" for path in saved)


def ending(status: int) -> str:
    """How a process has ended, in words, by its status; negative for a signal that killed it."""
    names = {int(known): known.name for known in signal.Signals}
    if status < 0:
        return f"was killed by {names.get(-status, f'signal {-status}')}"
    if status - 128 in names:
        return f"was stopped by {names[status - 128]}"
    return f"ended with status {status}: what it printed tells why"


def exit_code(status: int) -> int:
    """The first rank's status where another's is this; a kill is not what the user asked for."""
    return status if status > 0 else 1


@contextmanager
def ended_together() -> Iterator[None]:
    """Wait at the end for the ranks that were started within; none of them is left behind.

    The script that has started them goes on in the first process alone.

    Raises:
        SystemExit: All went well here, and not with one of them; or this process is one of them.
    """
    places = {name: os.environ.get(name) for name in _PLACE}
    try:
        yield
        _is_ending.set()
        _wait(LIMIT_S)
        if found := failed() or _left():
            say(f"error: {found[0]}")
            raise SystemExit(found[1])
        if _is_rank.is_set():
            raise SystemExit(0)
    except BaseException:
        _is_ending.set()
        _wait(PATIENCE_S)
        raise
    finally:
        nothing_to_wait_for()
        kill()
        _have_run.append(os.getpid())
        for name, place in places.items():
            os.environ.pop(name, None)
            if place is not None:
                os.environ[name] = place


def _left() -> tuple[str, int] | None:
    """A later rank that has not ended, and the exit status that this calls for."""
    alive = [rank for rank, process in _ranks.items() if process.poll() is None]
    return (f"rank {alive[0]} on {socket.gethostname()} did not end", 1) if alive else None


def _wait(limit_s: float) -> None:
    """Wait for all ranks to end."""
    began_s, has_said = time.monotonic(), False
    say_if_slow("waiting for the other processes to end")
    while alive := [rank for rank, p in _ranks.items() if p.poll() is None]:
        waited_s = time.monotonic() - began_s
        if waited_s >= limit_s:
            return
        if waited_s >= SAYS_SO_S and not has_said:
            has_said = True
            say(f"waiting for rank {alive[0]}, which has not ended (for at most {limit_s:g} s)")
        time.sleep(POLL_S / 10)


def stop() -> None:
    """Tell the ranks to end as this one does, by a signal."""
    for process in _ranks.values():
        process.terminate()


def kill() -> None:
    """End the ranks that are still there."""
    for process in _ranks.values():
        process.kill()
        process.wait()
    _ranks.clear()


def end_at_once(status: int) -> NoReturn:
    """End this process, from any thread; what is left to do comes first, if that is quick."""
    do_last()
    os._exit(status)


@contextmanager
def done_last(what: Callable[[], None]) -> Iterator[None]:
    """Within, have something done also where the process ends at once; by any thread."""
    _last.append(what)
    try:
        yield
    finally:
        _last.remove(what)


def do_last() -> None:
    """Do what is left to do, and write what was printed, if that is quick; from any thread."""
    doing = threading.Thread(target=_do_last, daemon=True)
    doing.start()
    doing.join(LAST_S)


def _do_last() -> None:
    with suppress(OSError, ValueError):  # closed
        sys.stdout.flush()
    for what in _last:
        what()


def say(line: str) -> None:
    """Write a line to stderr at once, from any thread, whatever the main one is in."""
    os.write(2, f"{program()}: {line}\n".encode())
