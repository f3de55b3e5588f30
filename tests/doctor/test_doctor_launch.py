"""Hosts that a launcher has started processes on: do they reach each other?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_app.doctor.facts import Launch
from lightning_app.doctor.probes.launch import launch

from .fakes import machine

TORCHRUN = {"GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "29400"}


@pytest.mark.parametrize(
    ("environ", "address", "error", "expected"),
    [
        ({}, "10.0.0.2", None, None),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "1"}, "10.0.0.2", None, None),
        (TORCHRUN, "10.0.0.2", None, Launch("torchrun", 2, False, None)),
        (TORCHRUN, "10.0.0.2", ConnectionRefusedError(), Launch("torchrun", 2, False, None)),
        (TORCHRUN, "127.0.1.1", TimeoutError(), Launch("torchrun", 2, True, "TimeoutError")),
        ({"SLURM_STEP_NUM_NODES": "3"}, "10.0.0.2", TimeoutError(), Launch("srun", 3, False, None)),
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
    assert asked == ([("node1", 29400)] if expected and "MASTER_ADDR" in environ else [])
