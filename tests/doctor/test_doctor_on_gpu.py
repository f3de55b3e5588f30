"""The doctor on a real machine with GPUs: what it finds, and what a variable hides."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.command import ROOT

pytestmark = pytest.mark.gpu
DEVICES = "CUDA_VISIBLE_DEVICES"


def doctor(visible: str | None) -> tuple[int, dict[str, Any]]:
    """The exit status and the JSON, under a value of CUDA_VISIBLE_DEVICES."""
    env = {key: value for key, value in os.environ.items() if key != DEVICES}
    if visible is not None:
        env[DEVICES] = visible
    command = [sys.executable, "-m", "lightning_app.doctor", "--json"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def healthy() -> dict[str, Any]:
    """What it says where nothing is hidden."""
    return doctor(None)[1]


def test_what_is_there(healthy: dict[str, Any]) -> None:
    facts = healthy["facts"]
    gpus = facts["nvml"]["gpus"]
    assert len(gpus) == facts["clean"]["device_count"] == len(facts["clean"]["gpus"]) > 0
    assert facts["clean"]["is_available"]
    assert facts["nvml"]["driver_version"]
    assert facts["build"]["cuda"]
    assert healthy["lightning_picks"] == {"accelerator": "cuda", "num_devices": len(gpus)}


@pytest.mark.parametrize(
    ("visible", "cause"),
    [
        ("", "visible-devices-empty"),
        ("-1", "visible-devices-negative"),
        ("99", "visible-devices-out-of-range"),
        ("0,0", "visible-devices-repeated"),
        ("GPU-00000000", "visible-devices-unknown-uuid"),
        ("all", "visible-devices-not-a-device"),
    ],
)
def test_what_hides_all(visible: str, cause: str) -> None:
    status, told = doctor(visible)
    assert status == 1
    assert told["findings"][0]["cause"] == cause
    assert told["facts"]["here"]["device_count"] == 0
    assert told["facts"]["clean"]["device_count"] > 0


def test_a_gpus_uuid_is_a_name_for_it() -> None:
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    uuid = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    _, told = doctor(uuid)
    assert told["facts"]["here"]["device_count"] == 1
    assert not any("uuid" in finding["cause"] for finding in told["findings"])
