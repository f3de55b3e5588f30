"""Runs command lines of `train.py` to their ends: one process imports, and forks for each.

`train` and `Forks` are what tests use; `live_program.py` has a run that is watched, or disturbed.
This file is started as a process of its own, so that nothing of the tests (threads, plugins, open
files) is in the children.
"""

import atexit
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from tests.command import ROOT, Outcome, outlives, without_waits

LIMIT_S = 60.0
END_S = 15.0  # for the processes that a run has started
MEMORY_BYTES = 8 << 30  # of addresses, most of which PyTorch never uses


@dataclass(frozen=True)
class Ended:
    """How a command line ended.

    Attributes:
        status: The exit status; that of a signal is negative, and of a run out of time -9.
        stdout: All of it.
        stderr: All of it.
        files: What is in its folder now, and was not before.
        is_left: Whether a process of its group was left, and had to be killed.
        seconds: How long it took.
    """

    status: int
    stdout: str
    stderr: str
    files: tuple[str, ...]
    is_left: bool
    seconds: float


class Forks:
    """Runs `train.py`'s command lines, each in a fork of one process.

    Args:
        scratch: A folder for outputs.
    """

    def __init__(self, scratch: Path) -> None:
        self._outputs = scratch / "stdout", scratch / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *argv: str,
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        limit_s: float = LIMIT_S,
    ) -> Ended:
        """Run one, in a folder, to its end.

        Args:
            argv: What follows `train.py`.
            cwd: The folder.
            env: Variables that are set; `None` takes one away.
            limit_s: Seconds after which it is killed.
        """
        process, begin, before = self._process, time.monotonic(), _files(cwd)
        assert process.stdin is not None
        assert process.stdout is not None
        outputs = list(map(str, self._outputs))
        request = {"argv": argv, "cwd": str(cwd), "env": dict(env or {}), "outputs": outputs}
        print(json.dumps(request | {"limit_s": limit_s}), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
        stdout, stderr = (path.read_text(errors="replace") for path in self._outputs)
        files = tuple(sorted(_files(cwd) - before))
        return Ended(
            answer["status"], stdout, stderr, files, answer["is_left"], time.monotonic() - begin
        )

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


_of_this_thread = threading.local()


def train(
    *args: str, cwd: Path, timeout_s: float = 90, env: Mapping[str, str | None] | None = None
) -> Outcome:
    """Run `python train.py *args` in a folder; its whole process group ends with it."""
    if not hasattr(_of_this_thread, "forks"):
        _of_this_thread.forks = Forks(Path(tempfile.mkdtemp()))
        atexit.register(_of_this_thread.forks.close)
    ended = _of_this_thread.forks.run(*args, cwd=cwd, limit_s=timeout_s, env=env)
    assert not ended.is_left, "train.py left processes behind"
    return Outcome(ended.status, ended.stdout, without_waits(ended.stderr))


def clean_environment() -> dict[str, str]:
    """This process's variables, without those of a launcher."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TORCHELASTIC"))}
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _serve() -> dict[str, Any]:
    """Fork for each request that comes, and answer; returns in the forks alone, with theirs."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        status, is_late = _wait(pid, request["limit_s"])
        is_left = not is_late and outlives(pid, seconds=END_S)
        print(json.dumps({"status": status, "is_left": is_left}), flush=True)
    raise SystemExit


def _wait(pid: int, limit_s: float) -> tuple[int, bool]:
    """Wait for a process, and kill its group after some time; its status, and whether it was."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), True


def _become(request: dict[str, Any]) -> None:
    """Make of this process what `python train.py` begins as."""
    os.setsid()
    if not torch.cuda.device_count():  # CUDA takes addresses for all of its devices' memory
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, path in enumerate(request["outputs"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for name, value in request["env"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.chdir(request["cwd"])
    sys.path[:0] = request["env"].get("PYTHONPATH", "").split()
    sys.argv = [str(ROOT / "train.py"), *request["argv"]]


def _run() -> NoReturn:
    """Run `train.py`, and end as Python does, but without taking all modules apart, for 2 s."""
    status: Any = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    from lightning_app.cli import main

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), suppress(SystemExit):
        sys.argv = ["train.py", "--print_config"]  # the parser looks up types, and keeps them
        main()
    gc.freeze()  # or each fork makes its own copy of everything as it collects
    _become(_serve())
    _run()
