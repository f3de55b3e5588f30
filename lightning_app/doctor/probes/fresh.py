"""PyTorch in a fresh process: what it counts there, with and without the variables."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lightning_app.doctor.codec import decode
from lightning_app.doctor.facts import Build, TorchGpu, TorchView
from lightning_app.doctor.machine import Machine
from lightning_app.doctor.variables import CHOOSING

WORKER = Path(__file__).with_name("torch_worker.py")


def without_choice(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without the variables that choose devices."""
    return {name: value for name, value in environ.items() if name not in CHOOSING}


def ask_fresh(
    machine: Machine, environ: Mapping[str, str], mode: str, limit_s: float
) -> tuple[Build | None, TorchView | None]:
    """Starts Python anew and asks PyTorch in it.

    Args:
        machine: Where to run it.
        environ: The environment of the fresh process.
        mode: ``try`` to put a tensor on each GPU, ``count`` to leave the GPUs alone.
        limit_s: Seconds that it may take; what it said until then is kept.

    Returns:
        The build and the view, each None where the process did not come to it.

    Raises:
        OSError: If Python cannot be started.
        TimeoutError: If it said nothing in time.
        ValueError: If it said something else.
    """
    # By runpy from a string: as a script, its folder would be searched for modules first.
    start = f"import runpy; runpy.run_path({str(WORKER)!r}, run_name='__main__')"
    answer = machine.run((sys.executable, "-c", start, mode), environ, limit_s)
    if not answer.stdout.strip():
        if answer.returncode is None:
            raise TimeoutError(f"no answer in {limit_s:g} s")
        raise ValueError(f"it ended with {answer.returncode} and no answer")
    return _read(answer.stdout, mode)


def _read(stdout: str, mode: str) -> tuple[Build | None, TorchView | None]:
    build: Build | None = None
    view: TorchView | None = None
    gpus: list[TorchGpu] = []
    for line in stdout.splitlines():
        said = _parsed(line)
        if "build" in said:
            build = decode(Build, said["build"], "build")
        if "view" in said:
            view = decode(TorchView, said["view"], "view")
        if "gpu" in said:
            gpus.append(decode(TorchGpu, said["gpu"], "gpu"))
    if view is None or mode != "try":
        return build, view
    # A process that ended early ended at the GPU whose line is missing.
    if len(gpus) < (view.runtime_count or 0):
        stuck = TorchGpu(index=len(gpus), allocated=False, error="no answer: it hung or crashed")
        gpus.append(stuck)
    return build, replace(view, gpus=tuple(gpus))


def _parsed(line: str) -> dict[str, object]:
    """Libraries may print lines of their own; these are passed over."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
