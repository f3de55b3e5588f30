"""Starts `train.py` as a user does, in a folder of its own; `tests.train_to_end` runs it sooner."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def start(*args: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `python train.py *args` in a folder, in a process group of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TORCHELASTIC"))}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *args],
        cwd=cwd,
        env=env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def outlives(group: int, seconds: float) -> bool:
    """Whether a process group is still there after some time; if so, it is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return True


def without_waits(stderr: str) -> str:
    """The lines but for those that say that a rank waits: on a slow machine one may say so."""
    waits = r"[\w.-]+: (rank \d+ waits|waiting) for .*\bfor at most .*\n"
    return re.sub(waits, "", stderr)


def transcript(stdout: str) -> list[str]:
    """The transcript's lines in a console output."""
    return [line for line in stdout.splitlines() if line.startswith(("\tIn Model", "Outside"))]
