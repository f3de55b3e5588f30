"""The ways to ask a machine, as one value that tests replace."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    stdout: str
    returncode: int | None
    """None if it was ended at its time limit; ``stdout`` is what came until then."""


def run_command(command: Sequence[str], environ: Mapping[str, str], limit_s: float) -> Answer:
    """Runs a command without a terminal.

    Args:
        command: Program and arguments.
        environ: Its whole environment.
        limit_s: Seconds after which it is killed.

    Raises:
        OSError: If it cannot be started.
    """
    process = subprocess.Popen(
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        stdout, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, _ = process.communicate()
        return Answer(stdout.decode(errors="replace"), None)
    return Answer(stdout.decode(errors="replace"), process.returncode)


def read_file(path: str) -> bytes:
    """Reads a file of the system, at most its first 64 KiB.

    Raises:
        OSError: If it cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(65536)


def own_address() -> str:
    """Returns the address that this host's name stands for.

    Raises:
        OSError: If it stands for none.
    """
    return socket.gethostbyname(socket.gethostname())


def connect(address: str, port: int, limit_s: float) -> None:
    """Connects to a port of a host, and leaves it.

    Raises:
        OSError: If it cannot be reached, or nothing listens there.
    """
    socket.create_connection((address, port), limit_s).close()


def load_nvml() -> ModuleType:
    """Returns the module ``pynvml``.

    Raises:
        ImportError: If nvidia-ml-py is not installed.
    """
    return import_module("pynvml")


@dataclass(frozen=True)
class Machine:
    """The ways to ask; by default this machine, with this process's environment."""

    system: str = field(default_factory=platform.system)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    run: Callable[[Sequence[str], Mapping[str, str], float], Answer] = run_command
    read: Callable[[str], bytes] = read_file
    listdir: Callable[[str], list[str]] = os.listdir
    nvml: Callable[[], ModuleType] = load_nvml
    torch: Callable[[], ModuleType | None] = lambda: sys.modules.get("torch")
    """PyTorch, where this process has loaded it already."""
    interactive: bool = field(
        # As Lightning tells: lightning/fabric/utilities/imports.py.
        default_factory=lambda: hasattr(sys, "ps1") or bool(sys.flags.interactive)
    )
    num_cpus: int | None = field(default_factory=os.cpu_count)
    files_s: float = 5.0
    """Limit in seconds for what files say, and for NVML."""
    command_s: float = 15.0
    """Limit in seconds for a command of the system; PowerShell starts slowly."""
    fresh_s: float = 60.0
    """Limit in seconds for a fresh process: PyTorch from a slow disk, a context on each GPU."""
    own_address: Callable[[], str] = own_address
    connect: Callable[[str, int, float], None] = connect
