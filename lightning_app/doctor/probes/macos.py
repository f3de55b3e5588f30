"""macOS: the graphics that System Information lists."""

from __future__ import annotations

import json
from typing import Any

from lightning_app.doctor.facts import Adapter
from lightning_app.doctor.machine import Machine

COMMAND = ("/usr/sbin/system_profiler", "SPDisplaysDataType", "-json")


def adapters(machine: Machine, limit_s: float) -> tuple[Adapter, ...]:
    """Lists the graphics.

    Args:
        machine: A Mac.
        limit_s: Seconds that the command may take.

    Raises:
        OSError: If the command cannot be started.
        TimeoutError: If it did not end in time.
        ValueError: If it gave something else than the graphics.
    """
    answer = machine.run(COMMAND, machine.environ, limit_s)
    if answer.returncode is None:
        raise TimeoutError(f"system_profiler gave no answer in {limit_s:g} s")
    parsed = json.loads(answer.stdout)
    graphics = parsed.get("SPDisplaysDataType") if isinstance(parsed, dict) else None
    if not isinstance(graphics, list) or not all(isinstance(each, dict) for each in graphics):
        raise ValueError("system_profiler gave no list of graphics")
    return tuple(_adapter(each) for each in graphics)


def _adapter(graphics: dict[str, Any]) -> Adapter:
    name = graphics.get("sppci_model") or graphics.get("_name")
    described = f"{graphics.get('spdisplays_vendor')} {name}".lower()
    vendors = ("apple", "nvidia", "amd", "intel")
    return Adapter(
        vendor=next((vendor for vendor in vendors if vendor in described), "other"),
        name=name if isinstance(name, str) else None,
    )
