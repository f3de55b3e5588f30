"""What the doctor learnt about a machine: plain values, no judgement.

Every field may be ``None`` (or absent in a file): it could not be learnt. A tuple that is empty was
looked at and found empty. ``Facts`` goes to JSON and back unchanged; the files under
``tests/doctor/machines`` and ``docs/doctor.md`` show its shape.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_app.doctor.codec import decode

SCHEMA = 1
"""Version of the JSON forms of the facts and of the report; a change of meaning raises it."""


@dataclass(frozen=True)
class Adapter:
    """A display adapter as the operating system lists it."""

    vendor: str | None = None
    """``nvidia``, ``amd``, ``intel``, ``apple`` or ``other``."""
    name: str | None = None
    bus_id: str | None = None
    """PCI address in lower case, ``0000:01:00.0``."""
    revision: int | None = None
    """PCI revision (0 to 255), read from the device itself; one that is gone reads as 255."""
    driver: str | None = None
    """Kernel driver bound to it (Linux)."""
    problem_code: int | None = None
    """Device Manager problem code (Windows); 0 is none."""


@dataclass(frozen=True)
class NvmlGpu:
    """A GPU as the NVIDIA driver lists it, numbered as in ``nvidia-smi``."""

    index: int | None = None
    name: str | None = None
    bus_id: str | None = None
    uuid: str | None = None
    serial: str | None = None
    capability: str | None = None
    """Compute capability, ``8.9``."""
    compute_mode: str | None = None
    """``default``, ``exclusive-process``, ``exclusive-thread`` or ``prohibited``."""
    num_processes: int | None = None
    """Compute processes on it, this one not counted."""
    mig: bool | None = None
    """Whether MIG mode is on."""
    mig_uuids: tuple[str, ...] | None = None
    """Its MIG instances."""
    error: str | None = None
    """Name of the NVML error that this GPU answered with."""


@dataclass(frozen=True)
class Nvml:
    """What the NVIDIA management library answers."""

    error: str | None = None
    """Name of the error of its start, ``NVML_ERROR_LIBRARY_NOT_FOUND``; None if it started."""
    driver_version: str | None = None
    library_version: str | None = None
    """Version of the user-space library, which an upgrade can leave ahead of the kernel module."""
    cuda_version: str | None = None
    """Newest CUDA that the driver supports, ``12.4``."""
    gpus: tuple[NvmlGpu, ...] | None = None


@dataclass(frozen=True)
class Build:
    """The installed PyTorch, as built."""

    version: str | None = None
    cuda: str | None = None
    """CUDA that it was built with; None in a CPU-only or ROCm build."""
    hip: str | None = None
    archs: tuple[str, ...] | None = None
    """GPU architectures in it, ``sm_80`` or ``compute_90``."""
    mps: bool | None = None
    """Whether Metal can be used here (macOS)."""
    error: str | None = None
    """Why ``import torch`` failed."""


@dataclass(frozen=True)
class TorchGpu:
    """A GPU as PyTorch numbers it, after one tensor was asked of it."""

    index: int | None = None
    name: str | None = None
    capability: str | None = None
    bus_id: str | None = None
    allocated: bool | None = None
    error: str | None = None


@dataclass(frozen=True)
class TorchView:
    """What PyTorch counts in a fresh process."""

    device_count: int | None = None
    """``torch.cuda.device_count()``, which asks NVML as long as CUDA has not started."""
    runtime_count: int | None = None
    """What the CUDA runtime itself counts."""
    is_available: bool | None = None
    """``torch.cuda.is_available()``, asked of the CUDA runtime."""
    driver_error: int | None = None
    """Result code of ``cuInit``: 0 is success."""
    message: str | None = None
    """What PyTorch warned of while it counted."""
    gpus: tuple[TorchGpu, ...] | None = None
    """None where no tensor was asked for."""


@dataclass(frozen=True)
class Process:
    """The process that asks, where PyTorch is already loaded in it."""

    device_count: int | None = None
    """``torch.cuda.device_count()``, asked only once CUDA has started."""
    initialized: bool | None = None
    """Whether CUDA has started in it."""
    bad_fork: bool | None = None
    """Whether it was forked from a process in which CUDA had started."""


@dataclass(frozen=True)
class Launch:
    """What a launcher that has started processes on several hosts tells the one that asks."""

    launcher: str | None = None
    """``torchrun`` or ``srun``."""
    num_hosts: int | None = None
    name_is_loopback: bool | None = None
    """Whether this host's name stands for an address that no other host reaches."""
    first_host_error: str | None = None
    """Kind of the error with which the first host cannot be reached."""


@dataclass(frozen=True)
class Facts:
    """Everything the probes learnt about one machine."""

    source: str | None = None
    """Where recorded facts come from; None for this machine, now."""
    system: str | None = None
    """``Linux``, ``Windows`` or ``Darwin``."""
    wsl: bool | None = None
    container: bool | None = None
    num_cpus: int | None = None
    interactive: bool | None = None
    """Whether Python runs interactively (a prompt, a notebook)."""
    adapters: tuple[Adapter, ...] | None = None
    kernel_driver: str | None = None
    """Version of the loaded NVIDIA kernel module (Linux)."""
    device_nodes: int | None = None
    """Number of ``/dev/nvidia0``, ``/dev/nvidia1``, ... (Linux)."""
    environment: dict[str, str] | None = None
    """The variables that choose devices, as far as they are set."""
    nvml: Nvml | None = None
    build: Build | None = None
    process: Process | None = None
    """The asking process; None from the command line, which loads no PyTorch itself."""
    here: TorchView | None = None
    """A fresh process with this environment."""
    clean: TorchView | None = None
    """A fresh process without the variables that choose devices."""
    launch: Launch | None = None
    """None where no launcher has started processes on several hosts."""
    unknown: tuple[str, ...] = field(default=())
    """What could not be learnt, and why, a line each."""

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as plain JSON values, every field present."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Facts:
        """Reads facts back; fields that are left out are unknown.

        Args:
            value: Parsed JSON, as ``to_json`` gives it.

        Raises:
            ValueError: If a field does not exist or has another type; the message names it.
        """
        return decode(cls, value, "facts")
