"""Machines made of dictionaries, and an NVML library made of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from lightning_app.doctor.machine import Answer, Machine

Files = Mapping[str, bytes | OSError]


def machine(
    system: str = "Linux",
    files: Files | None = None,
    environ: Mapping[str, str] | None = None,
    run: Callable[[Sequence[str]], Answer] | None = None,
    nvml: object | None = None,
    torch: object | None = None,
) -> Machine:
    """A machine that has only these files, and answers commands only by ``run``."""
    paths = files or {}

    def read(path: str) -> bytes:
        if path not in paths:
            raise FileNotFoundError(path)
        found = paths[path]
        if isinstance(found, OSError):
            raise found
        return found

    def listdir(path: str) -> list[str]:
        folder = path.rstrip("/") + "/"
        if isinstance(paths.get(folder), OSError):
            raise cast(OSError, paths[folder])
        names = {name[len(folder) :].split("/")[0] for name in paths if name.startswith(folder)}
        if not names:
            raise FileNotFoundError(path)
        return sorted(names - {""})

    def answer(command: Sequence[str], environ: Mapping[str, str], limit_s: float) -> Answer:
        if run is None:
            raise FileNotFoundError(command[0])
        return run(command)

    def load() -> ModuleType:
        if nvml is None:
            raise ImportError("No module named 'pynvml'")
        return cast(ModuleType, nvml)

    return Machine(
        system=system,
        environ=environ or {},
        run=answer,
        read=read,
        listdir=listdir,
        nvml=load,
        torch=lambda: cast("ModuleType | None", torch),
        interactive=False,
        num_cpus=4,
    )


def pci(
    slot: str, pci_class: str, pci_id: str, revision: int = 161, driver: str | None = None
) -> dict[str, bytes | OSError]:
    """The files of one PCI device in sysfs."""
    event = f"PCI_CLASS={pci_class}\nPCI_ID={pci_id}\nPCI_SLOT_NAME={slot}\n"
    if driver:
        event = f"DRIVER={driver}\n{event}"
    config = bytes([255] * 64) if revision == 255 else bytes([0] * 8 + [revision] + [0] * 55)
    folder = f"/sys/bus/pci/devices/{slot}"
    return {f"{folder}/uevent": event.encode(), f"{folder}/config": config}


class NvmlError(Exception):
    """As pynvml's: a number."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class FakeNvml:
    """The part of pynvml that the probe uses; a function listed in ``errors`` raises its code."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
    NVML_ERROR_UNKNOWN = 999

    def __init__(self, num_gpus: int = 1, **errors: int) -> None:
        """A driver with this many GPUs."""
        self.num_gpus = num_gpus
        self.errors = errors
        self.migs: dict[int, str] = {}
        self.own_pid = 0

    def __getattribute__(self, name: str) -> Any:
        """Wraps each NVML function, so that it can be made to fail."""
        found = super().__getattribute__(name)
        if not name.startswith("nvml"):
            return found

        def call(*args: Any) -> Any:
            if name in self.errors:
                raise NvmlError(self.errors[name])
            return found(*args)

        return call

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetNVMLVersion(self) -> str:
        return "13.580.95.05"

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12040

    def nvmlDeviceGetCount(self) -> int:
        return self.num_gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Card {handle}"

    def nvmlDeviceGetUUID(self, handle: int | str) -> str:
        return handle if isinstance(handle, str) else f"GPU-{handle}"

    def nvmlDeviceGetSerial(self, handle: int) -> str:
        return f"serial-{handle}"

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(busId=f"00000000:0{handle + 1}:00.0".upper().encode())

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> list[int]:
        return [8, 9]

    def nvmlDeviceGetComputeMode(self, handle: int) -> int:
        return 3

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=self.own_pid), SimpleNamespace(pid=-1)]

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        return [int(bool(self.migs)), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> str:
        if index not in self.migs:
            raise NvmlError(self.NVML_ERROR_NOT_FOUND)
        return self.migs[index]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 40
