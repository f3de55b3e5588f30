"""What the commands of Windows and macOS say, and what they may say instead."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from lightning_app.doctor.facts import Adapter
from lightning_app.doctor.machine import Answer
from lightning_app.doctor.probes import macos, windows

from .fakes import machine

INTEL = {
    "Name": "Intel(R) UHD Graphics",
    "PNPDeviceID": "PCI\\VEN_8086&DEV_9A60&SUBSYS_13121043&REV_01\\3&11583659&0&10",
    "ConfigManagerErrorCode": 0,
}
NVIDIA = {
    "Name": "NVIDIA GeForce RTX 3060 Laptop GPU",
    "PNPDeviceID": "PCI\\VEN_10DE&DEV_2520&SUBSYS_13121043&REV_A1\\4&1B3D5F&0&0008",
    "ConfigManagerErrorCode": 43,
}
REMOTE = {"Name": "Remote Display", "PNPDeviceID": "SWD\\REMOTE\\1", "ConfigManagerErrorCode": None}
MAC = {
    "SPDisplaysDataType": [
        {
            "_name": "Apple M2 Pro",
            "sppci_model": "Apple M2 Pro",
            "spdisplays_vendor": "sppci_vendor_Apple",
        },
        {"_name": "Radeon Pro 560X", "spdisplays_vendor": "sppci_vendor_amd"},
        {"_name": "NVIDIA GeForce GT 750M", "spdisplays_vendor": "NVIDIA (0x10de)"},
        {"_name": "Intel UHD Graphics 630", "spdisplays_vendor": "Intel"},
        {"_name": 7},
    ]
}


def windows_adapters(stdout: str, returncode: int | None = 0) -> tuple[Adapter, ...]:
    def run(command: Sequence[str]) -> Answer:
        assert command[0] == "powershell.exe"
        assert "Win32_VideoController" in command[-1]
        return Answer(stdout, returncode)

    return windows.adapters(machine("Windows", run=run), 1.0)


def macos_adapters(stdout: str, returncode: int | None = 0) -> tuple[Adapter, ...]:
    def run(command: Sequence[str]) -> Answer:
        assert command == ("/usr/sbin/system_profiler", "SPDisplaysDataType", "-json")
        return Answer(stdout, returncode)

    return macos.adapters(machine("Darwin", run=run), 1.0)


def test_several_controllers_are_a_list() -> None:
    assert windows_adapters("\ufeff" + json.dumps([INTEL, NVIDIA, REMOTE])) == (
        Adapter(vendor="intel", name="Intel(R) UHD Graphics", problem_code=0),
        Adapter(vendor="nvidia", name="NVIDIA GeForce RTX 3060 Laptop GPU", problem_code=43),
        Adapter(vendor="other", name="Remote Display"),
    )


def test_one_controller_is_an_object_and_none_is_silence() -> None:
    assert [each.vendor for each in windows_adapters(json.dumps(NVIDIA))] == ["nvidia"]
    assert windows_adapters("\r\n") == ()


@pytest.mark.parametrize("stdout", ["not json", "[1]", '"text"'])
def test_other_output_is_refused(stdout: str) -> None:
    with pytest.raises(ValueError, match=r"no list of controllers|Expecting value"):
        windows_adapters(stdout)


def test_a_failed_command_is_refused() -> None:
    with pytest.raises(ValueError, match="ended with 1"):
        windows_adapters("", returncode=1)
    with pytest.raises(TimeoutError, match="no answer in 1 s"):
        windows_adapters("", returncode=None)
    with pytest.raises(FileNotFoundError):
        windows.adapters(machine("Windows"), 1.0)


def test_macos_lists_graphics() -> None:
    assert macos_adapters(json.dumps(MAC)) == (
        Adapter(vendor="apple", name="Apple M2 Pro"),
        Adapter(vendor="amd", name="Radeon Pro 560X"),
        Adapter(vendor="nvidia", name="NVIDIA GeForce GT 750M"),
        Adapter(vendor="intel", name="Intel UHD Graphics 630"),
        Adapter(vendor="other"),
    )


@pytest.mark.parametrize("stdout", ["", "[]", '{"SPDisplaysDataType": 1}', "not json"])
def test_macos_other_output_is_refused(stdout: str) -> None:
    with pytest.raises(ValueError, match=r"no list of graphics|Expecting value"):
        macos_adapters(stdout)


def test_macos_time_limit() -> None:
    with pytest.raises(TimeoutError, match="no answer in 1 s"):
        macos_adapters("", returncode=None)
