"""Rules for what no other rule explained; each is told which causes were found before it."""

from __future__ import annotations

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.layers import (
    adapters,
    cuda_count,
    cuda_error,
    has_cuda_build,
    messages,
    num_nvidia,
    num_usable,
    nvml_gpus,
    tried_gpus,
    variable,
    works,
)
from lightning_app.doctor.rules.gpus import healthy

NO_START = frozenset(
    {
        "no-driver",
        "driver-mismatch",
        "driver-too-old",
        "fabric-manager-missing",
        "cuda-unknown-error",
        "wsl-out-of-memory",
        "container-without-gpus",
        "gpu-lost",
        "mig",
        "nvidia-card-rocm-build",
        "cuda-before-fork",
    }
)
"""Causes for which CUDA may not start at all."""


def counted_not_available(facts: Facts, found: frozenset[str]) -> Finding | None:
    """GPUs are counted (by NVML), and CUDA does not start.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.cuda.is_available.html and
    torch.cuda.device_count.html: one asks the CUDA runtime, the other NVML.
    """
    here = facts.here
    cpu_only = facts.build is not None and not (facts.build.cuda or facts.build.hip)
    if cpu_only or here is None or not here.device_count or here.is_available is not False:
        return None
    if found & NO_START:
        return None
    code = cuda_error(facts)
    given = variable(facts, "NVIDIA_DRIVER_CAPABILITIES")
    return Finding(
        cause="counted-not-available",
        explanation="PyTorch counts GPUs through the driver's library, and CUDA does not start.",
        evidence=(
            f"torch.cuda.device_count() is {here.device_count}, torch.cuda.is_available() is False",
            f"CUDA: {f'error {code}' if code else 'no error code'}",
            *(f"PyTorch: {text}" for text in messages(facts)),
            *([f"NVIDIA_DRIVER_CAPABILITIES={given}"] if given else []),
        ),
        remedy="Restart the machine; if it stays so, install the driver again, and look for CUDA "
        "libraries of another version on the library path; a container needs the driver "
        "capability compute.",
        command="nvidia-smi",
    )


def nvml_not_cuda(facts: Facts, found: frozenset[str]) -> Finding | None:
    """The driver lists a GPU that CUDA, which starts, leaves out.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html (NVML's devices
    need not be CUDA's)
    """
    listed = [gpu for gpu in nvml_gpus(facts) if healthy(gpu)]
    count = cuda_count(facts.clean)
    if not has_cuda_build(facts) or works(facts) is not True:
        return None
    if count is None or count >= len(listed):
        return None
    if found & (NO_START | {"counted-not-available", "wsl-sli", "slurm-binding"}):
        return None
    counted = {gpu.bus_id for gpu in tried_gpus(facts)}
    missing = [gpu for gpu in listed if gpu.bus_id and counted and gpu.bus_id not in counted]
    return Finding(
        cause="nvml-not-cuda",
        explanation="The driver lists a GPU that CUDA leaves out.",
        evidence=(
            f"NVML lists {len(listed)} GPUs, CUDA counts {count} without any variable set",
            *(f"not counted: {gpu.name or 'a GPU'} at {gpu.bus_id}" for gpu in missing),
        ),
        remedy="Restart, then look at nvidia-smi and the kernel log for that GPU; a driver or CUDA "
        "may no longer support one of its age.",
        command="nvidia-smi -q",
    )


def allocation_failed(facts: Facts, found: frozenset[str]) -> Finding | None:
    """A GPU is counted, and one tensor cannot be put on it.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management
    """
    failed = [gpu for gpu in tried_gpus(facts) if gpu.allocated is False]
    if (
        not failed
        or found & {"arch-not-in-build", "exclusive-mode", "gpu-lost"}
        or found & NO_START
    ):
        return None
    return Finding(
        cause="allocation-failed",
        explanation="A GPU is counted, and not one tensor can be put on it.",
        evidence=tuple(
            f"GPU {gpu.index}{f' ({gpu.name})' if gpu.name else ''}: {gpu.error or 'no answer'}"
            for gpu in failed
        ),
        remedy="See in nvidia-smi whether other processes fill its memory, and end them; otherwise "
        "restart the machine.",
        command="nvidia-smi",
    )


def unexplained(facts: Facts, found: frozenset[str]) -> Finding | None:
    """Fewer GPUs can be used than there are, and no rule says why.

    Source: none, by its nature.
    """
    known, usable = num_nvidia(facts), num_usable(facts)
    if found or facts.system == "Darwin" or usable >= known:
        return None
    # A CUDA build that gave no count hung or crashed; without even a build nothing was learnt.
    if facts.here is None and not has_cuda_build(facts):
        return None
    return Finding(
        cause="unexplained",
        explanation="Fewer GPUs can be used than there are, for none of the known causes.",
        evidence=(
            f"NVIDIA adapters: {len(adapters(facts, 'nvidia'))}, listed by the driver: "
            f"{len(nvml_gpus(facts))}, usable: {usable}",
            *(["PyTorch gave no count: it hung or crashed"] if facts.here is None else []),
            *(f"PyTorch: {text}" for text in messages(facts)),
        ),
        remedy="Compare the layers above: the first that counts fewer is the place to look. A "
        "driver may no longer support a GPU of its age.",
    )
