"""The NVIDIA driver, asked through its management library (NVML). Starts no CUDA."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from lightning_app.doctor.facts import Nvml, NvmlGpu
from lightning_app.doctor.machine import Machine

T = TypeVar("T")

COMPUTE_MODES = {0: "default", 1: "exclusive-thread", 2: "prohibited", 3: "exclusive-process"}
UNTOLD = ("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_NO_PERMISSION")
"""Errors that say nothing of a GPU's health."""


def nvml(machine: Machine) -> Nvml:
    """Asks the driver for its version and its GPUs.

    An error of NVML is an answer, kept by its name; only a missing module is none.

    Raises:
        ImportError: If nvidia-ml-py is not installed.
    """
    library: Any = machine.nvml()
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        # The version of the library can be told even where it does not start.
        return Nvml(error=_name(library, error), library_version=_library_version(library))
    try:
        return _started(library)
    finally:
        _answer(library, library.nvmlShutdown)


def _started(library: Any) -> Nvml:
    cuda = _answer(library, library.nvmlSystemGetCudaDriverVersion_v2)
    try:
        indices: list[int] | None = list(range(library.nvmlDeviceGetCount()))
        error = None
    except library.NVMLError as failure:
        indices, error = None, _name(library, failure)
    return Nvml(
        error=error,
        driver_version=_text(_answer(library, library.nvmlSystemGetDriverVersion)),
        library_version=_library_version(library),
        # 12040 is CUDA 12.4.
        cuda_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        gpus=None if indices is None else tuple(_gpu(library, index) for index in indices),
    )


def _gpu(library: Any, index: int) -> NvmlGpu:
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
    except library.NVMLError as error:
        return NvmlGpu(index=index, error=_name(library, error))

    def ask(function: Callable[..., T]) -> T | None:
        return _answer(library, function, handle)

    pci = ask(library.nvmlDeviceGetPciInfo)
    capability = ask(library.nvmlDeviceGetCudaComputeCapability)
    mode = ask(library.nvmlDeviceGetComputeMode)
    mig = ask(library.nvmlDeviceGetMigMode)
    return NvmlGpu(
        index=index,
        name=_text(ask(library.nvmlDeviceGetName)),
        bus_id=None if pci is None else short_bus_id(_text(pci.busId) or ""),
        uuid=_text(ask(library.nvmlDeviceGetUUID)),
        serial=_text(ask(library.nvmlDeviceGetSerial)),
        capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        compute_mode=None if mode is None else COMPUTE_MODES.get(mode),
        num_processes=_num_processes(ask(library.nvmlDeviceGetComputeRunningProcesses)),
        mig=None if mig is None else mig[0] == 1,
        mig_uuids=_mig_uuids(library, handle) if mig is not None and mig[0] == 1 else None,
        error=_health(library, handle),
    )


def _health(library: Any, handle: Any) -> str | None:
    """A lost GPU still has a name; it no longer has a temperature."""
    try:
        library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)
    except library.NVMLError as error:
        name = _name(library, error)
        return None if name in UNTOLD else name
    return None


def _num_processes(processes: Any) -> int | None:
    if processes is None:
        return None
    own = os.getpid()
    return len([process for process in processes if process.pid != own])


def _mig_uuids(library: Any, handle: Any) -> tuple[str, ...] | None:
    most = _answer(library, library.nvmlDeviceGetMaxMigDeviceCount, handle)
    if most is None:
        return None
    # Places without an instance answer with an error.
    places = (
        _answer(library, library.nvmlDeviceGetMigDeviceHandleByIndex, handle, i)
        for i in range(most)
    )
    uuids = (_answer(library, library.nvmlDeviceGetUUID, place) for place in places if place)
    return tuple(text for uuid in uuids if (text := _text(uuid)))


def short_bus_id(bus_id: str) -> str:
    """Returns a PCI address as Linux writes it, with 4 digits of domain where NVML has 8.

    Args:
        bus_id: ``00000000:01:00.0``.
    """
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain.lstrip('0'):0>4}:{rest}"


def _library_version(library: Any) -> str | None:
    version = _text(_answer(library, library.nvmlSystemGetNVMLVersion))
    # NVML puts its own major version before that of the driver it came with: 12.570.133.07.
    return version.partition(".")[2] if version else None


def _answer(library: Any, function: Callable[..., T], *args: Any) -> T | None:
    try:
        return function(*args)
    except library.NVMLError:
        return None


def _name(library: Any, error: Any) -> str:
    """The constant's name for an error, as NVIDIA's documentation lists it."""
    names = (name for name in dir(library) if name.startswith("NVML_ERROR_"))
    return next((n for n in names if getattr(library, n) == error.value), f"NVML {error.value}")


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
