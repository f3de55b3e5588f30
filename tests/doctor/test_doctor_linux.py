"""What sysfs, /proc and /dev say."""

from __future__ import annotations

import pytest

from lightning_app.doctor.facts import Adapter
from lightning_app.doctor.probes import linux

from .fakes import machine, pci

GARBAGE: dict[str, bytes | OSError] = {
    "/sys/bus/pci/devices/0000:09:00.0/uevent": b"\xff\xfe no equals sign\n=\nPCI_CLASS=\n",
    "/sys/bus/pci/devices/0000:0a:00.0/uevent": PermissionError("uevent"),
    "/sys/bus/pci/devices/0000:0b:00.0/uevent": b"PCI_CLASS=30000\nPCI_ID=what:ever\n",
    "/sys/bus/pci/devices/0000:0c:00.0/uevent": b"PCI_CLASS=30000\nPCI_ID=10DE:1\n",
    "/sys/bus/pci/devices/0000:0c:00.0/config": PermissionError("config"),
    "/sys/bus/pci/devices/0000:0d:00.0/uevent": b"PCI_CLASS=30000\nPCI_ID=10DE:1\n",
    "/sys/bus/pci/devices/0000:0d:00.0/config": b"short",
}


def test_lists_display_adapters_only() -> None:
    files = {
        **pci("0000:00:02.0", "30000", "8086:A780", revision=4, driver="i915"),
        **pci("0000:01:00.0", "30000", "10DE:2684", driver="nvidia"),
        **pci("0000:02:00.0", "30200", "10DE:2330"),
        **pci("0000:03:00.0", "38000", "1002:744C", revision=200, driver="amdgpu"),
        **pci("0000:04:00.0", "30000", "1A03:2000", revision=65, driver="ast"),
        **pci("0000:01:00.1", "40300", "10DE:22BA"),  # the sound of the graphics card
        **pci("0000:05:00.0", "68000", "10DE:22A3"),  # an NVSwitch
        **pci("0000:06:00.0", "13000", "10DE:0001"),
    }
    assert linux.adapters(machine(files=files)) == (
        Adapter(vendor="intel", bus_id="0000:00:02.0", revision=4, driver="i915"),
        Adapter(vendor="nvidia", bus_id="0000:01:00.0", revision=161, driver="nvidia"),
        Adapter(vendor="nvidia", bus_id="0000:02:00.0", revision=161),
        Adapter(vendor="amd", bus_id="0000:03:00.0", revision=200, driver="amdgpu"),
        Adapter(vendor="other", bus_id="0000:04:00.0", revision=65, driver="ast"),
    )


def test_a_lost_device_reads_as_ff() -> None:
    files = pci("0000:01:00.0", "30000", "10DE:2684", revision=255, driver="nvidia")
    assert linux.adapters(machine(files=files))[0].revision == 255


def test_garbage_and_permissions_cost_only_their_value() -> None:
    assert linux.adapters(machine(files=GARBAGE)) == (
        Adapter(vendor=None, bus_id="0000:0b:00.0"),
        Adapter(vendor="nvidia", bus_id="0000:0c:00.0"),
        Adapter(vendor="nvidia", bus_id="0000:0d:00.0"),
    )


@pytest.mark.parametrize("error", [PermissionError("bus"), FileNotFoundError("bus")])
def test_no_bus_to_list(error: OSError) -> None:
    with pytest.raises(OSError, match="bus"):
        linux.adapters(machine(files={"/sys/bus/pci/devices/": error}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b"NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC\n"
            b"GCC version:  gcc version 11.4.0\n",
            "535.183.01",
        ),
        (
            b"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.07  Release Build\n",
            "570.133.07",
        ),
        (b"NVRM version: something else 1.2\n", None),
        (b"\xff\x00", None),
    ],
)
def test_version_of_the_kernel_module(text: bytes, expected: str | None) -> None:
    files = {"/proc/driver/nvidia/version": text}
    assert linux.kernel_driver(machine(files=files)) == expected


def test_no_kernel_module_is_an_answer_and_a_denied_file_is_none() -> None:
    assert linux.kernel_driver(machine()) is None
    with pytest.raises(PermissionError):
        linux.kernel_driver(machine(files={"/proc/driver/nvidia/version": PermissionError("no")}))


def test_counts_gpu_nodes_only() -> None:
    names = ("null", "nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "nvidia-caps", "dri")
    assert linux.device_nodes(machine(files={f"/dev/{name}": b"" for name in names})) == 2
    assert linux.device_nodes(machine(files={"/dev/null": b""})) == 0


def test_wsl_by_its_kernel() -> None:
    wsl = b"Linux version 5.15.167.4-microsoft-standard-WSL2 (root@f9c826d3017f)"
    assert linux.in_wsl(machine(files={"/proc/version": wsl})) is True
    assert linux.in_wsl(machine(files={"/proc/version": b"Linux version 6.8.0-generic"})) is False


HOST = {"/proc/1/cgroup": b"0::/init.scope\n", "/etc/hosts": b"", "/run/lock": b""}


@pytest.mark.parametrize(
    ("files", "environ", "expected"),
    [
        ({}, {}, False),
        ({"/.dockerenv": b""}, {}, True),
        ({"/run/.containerenv": b""}, {}, True),
        ({"/proc/1/cgroup": b"12:pids:/docker/0123\n"}, {}, True),
        ({"/proc/1/cgroup": b"0::/kubepods/besteffort/pod1\n"}, {}, True),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ({}, {"container": "podman"}, True),
        ({"/run/": PermissionError("run")}, {}, False),
    ],
)
def test_containers_by_their_marks(
    files: dict[str, bytes | OSError], environ: dict[str, str], expected: bool
) -> None:
    assert linux.in_container(machine(files={**HOST, **files}, environ=environ)) is expected
