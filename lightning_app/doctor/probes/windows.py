"""Windows, and Windows below WSL2: the video controllers that its Device Manager shows."""

from __future__ import annotations

import json
import re
from typing import Any

from lightning_app.doctor.facts import Adapter
from lightning_app.doctor.machine import Machine
from lightning_app.doctor.probes.linux import VENDORS

SCRIPT = (
    "[Console]::OutputEncoding=[Text.Encoding]::UTF8;"
    "Get-CimInstance Win32_VideoController | "
    "Select-Object Name,PNPDeviceID,ConfigManagerErrorCode | ConvertTo-Json -Compress"
)
COMMAND = ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", SCRIPT)


def adapters(machine: Machine, limit_s: float) -> tuple[Adapter, ...]:
    """Lists the video controllers.

    Args:
        machine: Windows itself, or Linux under WSL2, where Windows programs can be run.
        limit_s: Seconds that PowerShell may take.

    Raises:
        OSError: If PowerShell cannot be started.
        TimeoutError: If it did not end in time.
        ValueError: If it gave something else than the controllers.
    """
    answer = machine.run(COMMAND, machine.environ, limit_s)
    if answer.returncode is None:
        raise TimeoutError(f"PowerShell gave no answer in {limit_s:g} s")
    # Without a controller there is no output; one is an object, several are a list.
    parsed = json.loads(answer.stdout.lstrip("\ufeff")) if answer.stdout.strip() else []
    controllers = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(each, dict) for each in controllers) or answer.returncode:
        raise ValueError(f"PowerShell ended with {answer.returncode} and no list of controllers")
    return tuple(_adapter(each) for each in controllers)


def _adapter(controller: dict[str, Any]) -> Adapter:
    name, code = controller.get("Name"), controller.get("ConfigManagerErrorCode")
    return Adapter(
        vendor=_vendor(str(controller.get("PNPDeviceID"))),
        name=name if isinstance(name, str) else None,
        problem_code=code if isinstance(code, int) else None,
    )


def _vendor(device_id: str) -> str:
    match = re.match(r"PCI\\VEN_([0-9A-F]{4})", device_id, re.IGNORECASE)
    return VENDORS.get(int(match[1], 16), "other") if match else "other"
