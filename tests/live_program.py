"""Starts `train.py`, for a test that watches, signals or kills it while it goes on.

It is forked from a process that has torch and Lightning imported, and so starts at once. It has a
process group of its own, a folder, and its streams in files there. The later ranks of a `ddp` run
start as usual, and take as long. Without anything to do meanwhile: `train_to_end.py`.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.command import ROOT, outlives, without_waits

CONTEXT = multiprocessing.get_context("forkserver")
STDOUT, STDERR = "stdout.txt", "stderr.txt"


class Program:
    """`train.py *args`, started in a folder.

    Args:
        args: The command line.
        cwd: The folder.
        setting: Called in the process before, with the folder.
    """

    def __init__(self, *args: str, cwd: Path, setting: Callable[[], Any] | None = None) -> None:
        CONTEXT.set_forkserver_preload(
            ["lightning.pytorch", "lightning_app.cli.program", "tests.conftest"]
        )
        self.cwd = cwd
        self.process = CONTEXT.Process(target=_main, args=(args, cwd, setting))
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def until(self, happened: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait for something, and give what it is; fail if the program ends before."""
        deadline = time.monotonic() + seconds
        while not (result := happened()):
            assert self.process.is_alive(), self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.01)
        return result

    def signal(self, signum: int) -> None:
        """Send a signal to the program's first process."""
        os.kill(self.pid, signum)

    def end(self, seconds: float = 60) -> int:
        """Wait for its end, and that of all it has started; give the exit status."""
        self.process.join(seconds)
        ended = self.process.exitcode is not None
        left = outlives(self.pid, seconds=15 if ended else 0)
        self.process.join()
        assert ended, f"it did not end: {self.stderr}"
        assert not left, "it left processes behind"
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def stderr(self) -> str:
        """What it has written to stderr."""
        return (self.cwd / STDERR).read_text()

    @property
    def lines(self) -> list[str]:
        """The lines on stderr, but for those that depend on this machine."""
        lines = without_waits(self.stderr).splitlines()
        return [line for line in lines if not line.startswith("asked for")]


def _main(args: tuple[str, ...], cwd: Path, setting: Callable[[], Any] | None) -> None:
    os.setsid()
    os.chdir(cwd)
    for name, fd in ((STDOUT, 1), (STDERR, 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, fd)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(ROOT / "train.py"), *args]
    if setting is not None:
        setting()
    from lightning_app.cli import main

    main()


def set_variable(name: str, value: str) -> None:
    """Set a variable of the environment."""
    os.environ[name] = value


def no_file_over(num_bytes: int) -> None:
    """Have writes fail that make a file larger, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, ranks that `train.py` has among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and "train.py" in (path.parent / "cmdline").read_text():
                found.append(int(path.parent.name))
    return found
