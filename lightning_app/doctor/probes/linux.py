"""Linux: display adapters from sysfs, the driver from /proc, containers and WSL by their marks."""

from __future__ import annotations

import re

from lightning_app.doctor.facts import Adapter
from lightning_app.doctor.machine import Machine

PCI = "/sys/bus/pci/devices"
VENDORS = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel", 0x106B: "apple"}
CONTAINER_FILES = (("/", ".dockerenv"), ("/run", ".containerenv"))
CONTAINER_GROUPS = ("docker", "kubepods", "containerd", "libpod", "/lxc", "garden")


def adapters(machine: Machine) -> tuple[Adapter, ...]:
    """Lists the PCI devices of display class (0x03), in the order of the bus.

    Raises:
        OSError: If sysfs does not list the PCI bus.
    """
    slots = sorted(machine.listdir(PCI))
    found = (_adapter(machine, slot) for slot in slots)
    return tuple(adapter for adapter in found if adapter is not None)


def _adapter(machine: Machine, slot: str) -> Adapter | None:
    try:
        event = _text(machine, f"{PCI}/{slot}/uevent")
    except OSError:
        return None
    values = dict(line.split("=", 1) for line in event.splitlines() if "=" in line)
    # PCI_CLASS is written in hexadecimal without leading zeros: 30000 is class 03.
    if not re.fullmatch(r"0?3[0-9A-Fa-f]{4}", values.get("PCI_CLASS", "")):
        return None
    vendor = values.get("PCI_ID", "").split(":")[0]
    number = int(vendor, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,4}", vendor) else None
    return Adapter(
        vendor=None if number is None else VENDORS.get(number, "other"),
        bus_id=slot.lower(),
        revision=_revision(machine, slot),
        driver=values.get("DRIVER"),
    )


def _revision(machine: Machine, slot: str) -> int | None:
    """Reads byte 8 of the device's own configuration space.

    The file ``revision`` beside it is a copy from boot and stays right when the device is gone.
    """
    try:
        config = machine.read(f"{PCI}/{slot}/config")
    except OSError:
        return None
    return config[8] if len(config) > 8 else None


def kernel_driver(machine: Machine) -> str | None:
    """Returns the version of the loaded NVIDIA kernel module, None if it is not loaded.

    Raises:
        OSError: If its file is there and cannot be read.
    """
    try:
        text = _text(machine, "/proc/driver/nvidia/version")
    except FileNotFoundError:
        return None
    match = re.search(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)*)", text)
    return match[1] if match else None


def device_nodes(machine: Machine) -> int:
    """Returns the number of GPU nodes (``/dev/nvidia0``, ...).

    Raises:
        OSError: If /dev cannot be listed.
    """
    return sum(re.fullmatch(r"nvidia\d+", name) is not None for name in machine.listdir("/dev"))


def in_wsl(machine: Machine) -> bool:
    """Returns whether the kernel is that of WSL2.

    Raises:
        OSError: If /proc/version cannot be read.
    """
    return "microsoft" in _text(machine, "/proc/version").lower()


def in_container(machine: Machine) -> bool:
    """Returns whether marks of a container are there; none of them is required of one.

    Raises:
        OSError: If there is no mark and the control groups cannot be read.
    """
    if "container" in machine.environ or "KUBERNETES_SERVICE_HOST" in machine.environ:
        return True
    if any(_holds(machine, folder, name) for folder, name in CONTAINER_FILES):
        return True
    groups = _text(machine, "/proc/1/cgroup")
    return any(name in groups for name in CONTAINER_GROUPS)


def _holds(machine: Machine, folder: str, name: str) -> bool:
    try:
        return name in machine.listdir(folder)
    except OSError:
        return False


def _text(machine: Machine, path: str) -> str:
    return machine.read(path).decode(errors="replace")
