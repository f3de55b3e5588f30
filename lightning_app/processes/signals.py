"""Signals that end a run: SIGTERM, Ctrl-C (SIGINT), SIGHUP, of a terminal that is closed, and
SIGUSR1 and SIGUSR2, by which a batch system tells that time is nearly up.

The first one is a wish. Training takes it up where nothing is pending, saves, and stops (see
`checkpoint/callbacks.py`); whatever else a program is in ends at once. A second one ends the
process in any case, and so does a first one that nothing comes of. For that there is a thread of
its own: the main one may wait for another rank in C++, where no Python handler runs.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from lightning_app.command import program
from lightning_app.processes import slurm
from lightning_app.processes.placement import SLURM, global_rank, local_rank, placement
from lightning_app.processes.ranks import do_last, end_at_once, say

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
# A launcher passes on what its whole group has got: one wish, not two. Somebody who presses Ctrl-C
# again means it; what torchrun, Slurm and Kubernetes send may come again seconds later.
SAME_S = {signal.SIGINT: 1.0}
USUALLY_SAME_S = 10.0
HEED_S = 2.0  # in which a main thread takes up a signal, unless it is in C++
PATIENCE_S = 10.0  # with its end, then


class Stopped(BaseException):
    """A run was told to stop, has saved its state if there is any, and ends.

    Not an `Exception`: like a KeyboardInterrupt it may come at any place in the user's code, which
    may go on after what it takes for an error of its own.

    Attributes:
        signum: The signal that told it.
        agreed: Whether all ranks stop by it.
        requeue: Whether Slurm is to queue the job again, as the last that the run does.
    """

    def __init__(
        self, signum: int, path: str | None = None, agreed: bool = False, requeue: bool = False
    ) -> None:
        saved = f"saved {path}; continue with --ckpt_path last" if path else "nothing to save"
        super().__init__(f"stopped by {signal.Signals(signum).name}: {saved}")
        self.signum = signum
        self.agreed = agreed
        self.requeue = requeue


class _Waiting:
    """How the main thread stands to signals."""

    is_allowed = False  # it trains, and takes them up later; or another process does
    trains = False  # this one
    is_heeded = False  # it ends by one
    has_end = False  # a second one ends it
    is_spawned = False  # it is another process's rank, whose signals tell why it ends


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """The handler for all but training."""
    if _Waiting.is_heeded:
        return  # it ends by an earlier one
    _Waiting.is_heeded = True
    raise Stopped(signum)


def leave_to_this_end() -> None:
    """Have further signals not disturb an end by one that all ranks have agreed on."""
    _Waiting.is_heeded = True


def _is_ours(handler: object) -> bool:
    """Whether a handler is this project's, or Lightning's around it."""
    parts = getattr(handler, "signal_handlers", [handler])
    return any(str(getattr(p, "__module__", "")).startswith("lightning_app.") for p in parts)


_forking = threading.local()


def _hold_back() -> None:
    """Before a fork: what the child is sent before it is ready reaches it then."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _leave_to_child() -> None:
    """In a process that the user's code forks from this one, signals are as in any other.

    What this one's handlers noted there would be lost, and the socket of both is this one's.
    """
    if _Waiting.has_end:
        signal.set_wakeup_fd(-1)
    _Waiting.has_end = _Waiting.is_allowed = False
    for signum in SIGNALS:
        if _is_ours(signal.getsignal(signum)):
            is_break = signum == signal.SIGINT
            signal.signal(signum, signal.default_int_handler if is_break else signal.SIG_DFL)
    _let_through()


# At import, as Python never forgets it: it does nothing where no handler is this project's.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_hold_back, after_in_parent=_let_through, after_in_child=_leave_to_child
    )


@contextmanager
def listening() -> Iterator[None]:
    """Have signals end this program, which runs in the main thread; elsewhere none arrive.

    Raises:
        SystemExit: One has, which is told in one line.
    """
    if _Waiting.has_end or threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {signum: signal.getsignal(signum) for signum in SIGNALS}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    earlier_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=(reader,), daemon=True, name="signals").start()
    _Waiting.has_end, _Waiting.is_heeded = True, False
    try:
        for signum in SIGNALS:
            if not is_left_alone(signum):
                signal.signal(signum, stop_at_once)
        yield
    except Stopped as stop:
        if _Waiting.is_spawned and not stop.agreed and os.name == "posix":
            signal.signal(stop.signum, signal.SIG_DFL)
            _end_by(stop.signum)
        if _is_first():
            print(f"{program()}: {stop}", file=sys.stderr, flush=True)
            if stop.requeue:
                slurm.requeue(stop.signum)
        # A launcher takes another rank's status for a crash, and kills the first one.
        status = 0 if stop.agreed and _leaves_status() else 128 + stop.signum
        raise SystemExit(status) from None
    finally:
        _Waiting.is_heeded = True  # no signal breaks this off
        _Waiting.has_end = False
        signal.set_wakeup_fd(earlier_fd)
        writer.close()
        for signum, handler in earlier.items():
            signal.signal(signum, handler)


@contextmanager
def listening_as_rank() -> Iterator[None]:
    """As `listening`, in another process's rank.

    Out of training, that process tells: it has passed the signal on, or its launcher ends the rank
    because another one has failed.

    Raises:
        SystemExit: A signal has ended this rank.
    """
    _Waiting.is_spawned = True
    with listening():
        yield


def _is_first() -> bool:
    return global_rank(os.environ) == 0


def _leaves_status() -> bool:
    """Whether another rank's status is the run's: torchrun's on each host go by their own."""
    placed = placement(os.environ)
    is_slurms = placed is not None and placed.launcher == SLURM
    return bool(global_rank(os.environ) if is_slurms else local_rank(os.environ))


def is_left_alone(signum: int) -> bool:
    """Whether a signal is not for this program, as SIGHUP is not under `nohup`."""
    return signal.getsignal(signum) == signal.SIG_IGN and signum != signal.SIGINT


def may_wait(allowed: bool, trains: bool = True) -> None:
    """Tell whether somebody takes up a signal later, and may be waited for.

    Args:
        allowed: Whether it is so.
        trains: Whether it is this process, and not one that it has started.
    """
    _Waiting.is_allowed, _Waiting.trains = allowed, allowed and trains


def second_signal_ends() -> bool:
    """Whether a second signal ends the process without its main thread."""
    return _Waiting.has_end


def same_s(signum: int) -> float:
    """Seconds in which a signal is taken for the one before."""
    return SAME_S.get(signal.Signals(signum), USUALLY_SAME_S)


@contextmanager
def deaf() -> Iterator[None]:
    """Within, SIGTERM is ignored: a launcher ends what tells why it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _insist(reader: socket.socket) -> None:
    """End the process by its second signal, or if the first one does not."""
    first, heard_s = 0, 0.0
    is_late = is_taken_up = False  # of the first: its time is up; by a training
    with reader, suppress(EOFError):
        while True:
            limit_s = PATIENCE_S if _Waiting.is_heeded else HEED_S
            signum = _next(reader, limit_s if first and not is_late else None)
            if signum is None:
                if not (is_taken_up or _Waiting.is_allowed):
                    _end(first, str(Stopped(first)))
                is_late = True
                _tell_at_terminal(first)
            elif not _is_ours(signal.getsignal(signum)):
                continue  # the user's own program takes it up
            elif not first:
                first, heard_s, is_taken_up = signum, time.monotonic(), _Waiting.is_allowed
            elif time.monotonic() - heard_s > same_s(signum):
                name = signal.Signals(signum).name
                _end(signum, f"stopped by a second {name}, at once: not saved")


def _tell_at_terminal(signum: int) -> None:
    """Tell who sits there that a signal was heard, where what comes of it takes long."""
    if _Waiting.trains and _is_first() and os.isatty(2):
        line = f"{signal.Signals(signum).name} heard: saves and stops when this step, or validation"
        _say(signum, f"{line}, is done; a second one ends it unsaved")


def _say(signum: int, line: str) -> None:
    if signum == signal.SIGINT and os.isatty(2):
        os.write(2, b"\n")  # after the terminal's own ^C
    say(line)


def _next(reader: socket.socket, limit_s: float | None) -> int | None:
    """The next of our signals; `None` if none comes in time.

    Raises:
        EOFError: The program is at its end.
    """
    reader.settimeout(limit_s)
    while True:
        try:
            heard = reader.recv(1)
        except TimeoutError:
            return None
        if not heard:
            raise EOFError
        if heard[0] in SIGNALS:
            return heard[0]


def _end(signum: int, line: str) -> None:
    if _Waiting.is_spawned and os.name == "posix":
        _end_by(signal.SIGKILL)  # the only one without a handler, which threads cannot change
    if _is_first():
        _say(signum, line)
    end_at_once(128 + signum)


def _end_by(signum: int) -> None:
    """End this process as a signal does that nothing takes up; what is left to do comes first."""
    do_last()
    os.kill(os.getpid(), signum)
