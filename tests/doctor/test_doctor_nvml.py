"""NVML's answers and errors, from a library made of objects."""

from __future__ import annotations

import os

import pynvml  # type: ignore[import-untyped]
import pytest

from lightning_app.doctor.facts import Nvml, NvmlGpu
from lightning_app.doctor.probes.nvml import nvml, short_bus_id

from .fakes import FakeNvml, machine


def ask(library: FakeNvml) -> Nvml:
    return nvml(machine(nvml=library))


def test_the_fake_has_only_what_pynvml_has() -> None:
    names = [name for name in vars(FakeNvml) if name.lower().startswith("nvml")]
    assert len(names) > 25
    for name in names:
        assert hasattr(pynvml, name), name
        if name.startswith("NVML_"):
            assert getattr(pynvml, name) == getattr(FakeNvml, name)


def test_a_driver_with_a_gpu() -> None:
    library = FakeNvml()
    library.own_pid = os.getpid()
    assert ask(library) == Nvml(
        driver_version="580.95.05",
        library_version="580.95.05",
        cuda_version="12.4",
        gpus=(
            NvmlGpu(
                index=0,
                name="Card 0",
                bus_id="0000:01:00.0",
                uuid="GPU-0",
                serial="serial-0",
                capability="8.9",
                compute_mode="exclusive-process",
                num_processes=1,  # this process is not counted
                mig=False,
            ),
        ),
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [(getattr(FakeNvml, name), name) for name in vars(FakeNvml) if name.startswith("NVML_ERROR_")],
)
def test_errors_of_its_start_have_their_name(code: int, name: str) -> None:
    found = ask(FakeNvml(nvmlInit=code))
    assert found == Nvml(error=name, library_version="580.95.05")


def test_a_code_without_a_name() -> None:
    assert ask(FakeNvml(nvmlInit=77)).error == "NVML 77"


def test_the_real_library_gives_every_error_its_name() -> None:
    """Here, without a driver, pynvml itself raises; with one, it starts."""
    found = nvml(machine(nvml=pynvml))
    assert found.error in {None, "NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_DRIVER_NOT_LOADED"}
    assert (found.error is None) == (found.gpus is not None)


def test_a_count_that_fails() -> None:
    found = ask(FakeNvml(nvmlDeviceGetCount=999))
    assert found.error == "NVML_ERROR_UNKNOWN"
    assert found.gpus is None
    assert found.driver_version == "580.95.05"


def test_a_lost_gpu_without_a_handle() -> None:
    gpus = ask(FakeNvml(2, nvmlDeviceGetHandleByIndex=15)).gpus
    assert gpus == tuple(NvmlGpu(index=i, error="NVML_ERROR_GPU_IS_LOST") for i in range(2))


def test_a_lost_gpu_with_a_handle() -> None:
    gpus = ask(FakeNvml(nvmlDeviceGetTemperature=15)).gpus
    assert gpus is not None
    assert gpus[0].error == "NVML_ERROR_GPU_IS_LOST"
    assert gpus[0].name == "Card 0"


def test_what_is_not_supported_is_unknown_and_no_error() -> None:
    per_gpu = (
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetSerial",
        "nvmlDeviceGetPciInfo",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetComputeMode",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetTemperature",
    )
    found = ask(FakeNvml(1, **dict.fromkeys(per_gpu, 3)))
    assert found.gpus == (NvmlGpu(index=0),)


def test_mig_instances() -> None:
    library = FakeNvml()
    library.migs = {0: "MIG-a", 3: "MIG-b"}
    gpus = ask(library).gpus
    assert gpus is not None
    assert gpus[0].mig is True
    assert gpus[0].mig_uuids == ("MIG-a", "MIG-b")
    library.errors["nvmlDeviceGetMaxMigDeviceCount"] = 3
    gpus = ask(library).gpus
    assert gpus is not None
    assert gpus[0].mig_uuids is None


def test_a_missing_module_is_no_answer() -> None:
    with pytest.raises(ImportError):
        nvml(machine())


def test_bus_ids_are_written_as_the_system_writes_them() -> None:
    assert short_bus_id("00000000:0A:00.0") == "0000:0a:00.0"
    assert short_bus_id("00010000:81:00.0") == "10000:81:00.0"
