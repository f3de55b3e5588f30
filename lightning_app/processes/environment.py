"""The variables by which launchers tell a process its place: refused if they make no sense.

Lightning reads some of them as it is imported, so this comes first, and imports nothing of it.
"""

import os
import sys
from collections.abc import Mapping

from lightning_app.command import program

_LEAST = {
    "LOCAL_RANK": 0,
    "RANK": 0,
    "NODE_RANK": 0,
    "GROUP_RANK": 0,
    "GROUP_WORLD_SIZE": 1,
    "WORLD_SIZE": 1,
    "LOCAL_WORLD_SIZE": 1,
    "MASTER_PORT": 0,
    "SLURM_JOB_ID": 0,
    "SLURM_NTASKS": 1,
    "SLURM_NTASKS_PER_NODE": 1,
    "SLURM_NNODES": 1,
    "SLURM_PROCID": 0,
    "SLURM_LOCALID": 0,
    "SLURM_NODEID": 0,
    "SLURM_STEP_ID": 0,
    "SLURM_STEP_NUM_TASKS": 1,
    "SLURM_RESTART_COUNT": 0,
    "TORCHELASTIC_RESTART_COUNT": 0,
    "JSM_NAMESPACE_RANK": 0,
    "JSM_NAMESPACE_SIZE": 1,
    "JSM_NAMESPACE_LOCAL_RANK": 0,
}
_OF = {  # a number, and what it counts from 0 up to
    "RANK": "WORLD_SIZE",
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "GROUP_RANK": "GROUP_WORLD_SIZE",
    "SLURM_PROCID": "SLURM_NTASKS",
    "SLURM_NODEID": "SLURM_NNODES",
    "JSM_NAMESPACE_RANK": "JSM_NAMESPACE_SIZE",
}
_MAX_PORT = 65535


def check_environment() -> None:
    """End this process, in one line, if a launcher's variable makes no sense.

    Raises:
        SystemExit: With status 2.
    """
    if wrong := what_is_wrong(os.environ):
        print(f"{program()}: error: {wrong}", file=sys.stderr)
        raise SystemExit(2)


def what_is_wrong(environ: Mapping[str, str]) -> str | None:
    """The first of the variables that makes no sense, in words; `None` if all do."""
    numbers: dict[str, int] = {}
    for name, least in _LEAST.items():
        text = environ.get(name)
        if text is None:
            continue
        if not (text.isdecimal() and int(text) >= least):
            remedy = "start the run by a launcher that sets it, or unset it"
            return f"{name}={text}: it must be a whole number, {least} or more: {remedy}"
        numbers[name] = int(text)
    if (port := numbers.get("MASTER_PORT", 0)) > _MAX_PORT:
        return f"MASTER_PORT={port}: it must be at most {_MAX_PORT}"
    for name, total in _OF.items():
        if name in numbers and total in numbers and numbers[name] >= numbers[total]:
            return f"{name}={numbers[name]}: it must be less than {total}={numbers[total]}"
    return None
