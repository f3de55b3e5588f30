"""Hosts that a launcher has started processes on: do they reach each other?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_app.doctor.facts import Launch
from lightning_app.doctor.probes.launch import launch

from .fakes import machine

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "run1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
}
ALONE = TORCHRUN | {"WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1"}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_STEP_NODELIST": "node[1-3]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("environ", "address", "error", "expected"),
    [
        ({}, "10.0.0.2", None, None),
        (ALONE, "10.0.0.2", None, None),
        (TORCHRUN, "10.0.0.2", None, Launch("torchrun", 2, False, None)),
        (TORCHRUN, "10.0.0.2", ConnectionRefusedError(), Launch("torchrun", 2, False, None)),
        (TORCHRUN, "127.0.1.1", TimeoutError(), Launch("torchrun", 2, True, "TimeoutError")),
        (SRUN, "10.0.0.2", TimeoutError(), Launch("srun", 3, False, "TimeoutError")),
    ],
)
def test_the_hosts_of_a_launcher(
    environ: dict[str, str], address: str, error: OSError | None, expected: Launch | None
) -> None:
    asked: list[tuple[str, int]] = []

    def connect(host: str, port: int, limit_s: float) -> None:
        asked.append((host, port))
        if error is not None:
            raise error

    hosts = replace(machine(environ=environ), own_address=lambda: address, connect=connect)
    assert launch(hosts, 5.0) == expected
    port = 29400 if environ is TORCHRUN else 15007  # that train.py listens on, in that step
    assert asked == ([("node1", port)] if expected else [])
