"""Rules on the NVIDIA driver: is it there, whole, and new enough, and does CUDA start on it?"""

from __future__ import annotations

from lightning_app.doctor.facts import Facts
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.layers import (
    adapters,
    cuda_error,
    has_cuda_build,
    messages,
    works,
)
from lightning_app.doctor.rules.surroundings import container_without_gpus

NO_DRIVER = ("NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_DRIVER_NOT_LOADED")
MISMATCH = "NVML_ERROR_LIB_RM_VERSION_MISMATCH"

MINIMUM_DRIVER = {11: 450, 12: 525, 13: 580}
"""First driver branch for each CUDA major version.

https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""


def no_driver(facts: Facts) -> Finding | None:
    """An NVIDIA adapter without NVIDIA's driver, or with only half of it.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlInitializationAndCleanup.html
    """
    cards = adapters(facts, "nvidia")
    error = facts.nvml.error if facts.nvml else None
    if not cards or error not in NO_DRIVER or works(facts) or container_without_gpus(facts):
        return None
    # Any other code than "no device" (100) is a driver's own.
    if cuda_error(facts) not in (None, 100):
        return None
    bound = sorted({card.driver for card in cards if card.driver})
    where = "on Windows (never inside WSL)" if facts.wsl else "for this GPU"
    return Finding(
        cause="no-driver",
        explanation="The machine has an NVIDIA GPU and no working NVIDIA driver.",
        evidence=(
            f"NVIDIA adapters: {len(cards)}",
            f"NVML: {error}",
            f"NVIDIA kernel module: {facts.kernel_driver or 'not seen'}",
            *(f"kernel driver bound to the adapter: {name}" for name in bound),
        ),
        remedy=f"Install the NVIDIA driver {where}, from the distribution or "
        "https://www.nvidia.com/drivers, and restart.",
        command="sudo ubuntu-drivers install"
        if facts.system == "Linux" and not facts.wsl
        else None,
    )


def driver_mismatch(facts: Facts) -> Finding | None:
    """Library and kernel module of different versions: an upgrade without a restart.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html (LIB_RM_VERSION_
    MISMATCH); CUDA's 803 in https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
    """
    error = facts.nvml.error if facts.nvml else None
    code = cuda_error(facts)
    if error != MISMATCH and code != 803:
        return None
    return Finding(
        cause="driver-mismatch",
        explanation="The NVIDIA library and the loaded kernel module are of different versions, "
        "as after an upgrade without a restart.",
        evidence=(
            f"NVML: {error or 'no error'}",
            f"CUDA: {'error 803' if code == 803 else 'no error 803'}",
            f"kernel module: {facts.kernel_driver or 'unknown'}",
            f"library: {(facts.nvml and facts.nvml.library_version) or 'unknown'}",
        ),
        remedy="Restart the machine, so that the new kernel module is loaded.",
        command="sudo reboot" if facts.system == "Linux" else None,
    )


def driver_too_old(facts: Facts) -> Finding | None:
    """A driver for an older CUDA than PyTorch was built with.

    Source: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
    """
    nvml, build = facts.nvml, facts.build
    failed = (nvml is not None and nvml.error is not None) or cuda_error(facts) is not None
    if build is None or not has_cuda_build(facts) or failed or works(facts):
        return None
    supported = _major(nvml.cuda_version if nvml else None)
    needed = _major(build.cuda)
    told = [text for text in messages(facts) if "driver on your system is too old" in text]
    older = supported is not None and needed is not None and supported < needed
    if not (told or older):
        return None
    branch = MINIMUM_DRIVER.get(needed or 0)
    return Finding(
        cause="driver-too-old",
        explanation="The NVIDIA driver is too old for the CUDA that PyTorch was built with.",
        evidence=(
            f"driver: {(nvml and nvml.driver_version) or 'unknown'}, "
            f"for CUDA up to {(nvml and nvml.cuda_version) or 'unknown'}",
            f"PyTorch {build.version} is built with CUDA {build.cuda}",
            *(f"PyTorch: {text}" for text in told),
        ),
        remedy=f"Update the driver{f' to {branch} or newer' if branch else ''}, or install a "
        "PyTorch build of an older CUDA (https://pytorch.org/get-started/locally/).",
    )


def fabric_manager_missing(facts: Facts) -> Finding | None:
    """Error 802 on a machine with NVSwitch: its fabric manager does not run.

    Source: https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/;
    https://github.com/pytorch/pytorch/issues/35710
    """
    if cuda_error(facts) != 802:
        return None
    return Finding(
        cause="fabric-manager-missing",
        explanation="CUDA answers that the system is not ready: GPUs joined by NVSwitch wait for "
        "the NVIDIA fabric manager.",
        evidence=("CUDA: error 802 (system not yet initialized)", *_texts(facts)),
        remedy="Install the fabric manager of the driver's own version, and start it; in a "
        "container or a rented machine that is the host's task.",
        command="sudo systemctl enable --now nvidia-fabricmanager",
    )


def cuda_unknown_error(facts: Facts) -> Finding | None:
    """Error 999, as after suspend: the memory module of the driver has to be loaded anew.

    Source: https://github.com/pytorch/pytorch/issues/88639;
    https://github.com/pytorch/pytorch/issues/49081
    """
    if cuda_error(facts) != 999:
        return None
    linux = facts.system == "Linux" and not facts.wsl
    return Finding(
        cause="cuda-unknown-error",
        explanation="CUDA fails to start with its unknown error, as it does after the machine was "
        "suspended.",
        evidence=("CUDA: error 999 (unknown error)", *_texts(facts)),
        remedy="End what uses the GPU and load the module nvidia_uvm anew, or restart the machine; "
        "in a container, look for a missing /dev/nvidia-uvm."
        if linux
        else "Restart the machine.",
        command="sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm" if linux else None,
    )


def _texts(facts: Facts) -> tuple[str, ...]:
    return tuple(f"PyTorch: {text}" for text in messages(facts))


def _major(version: str | None) -> int | None:
    head = (version or "").split(".")[0]
    return int(head) if head.isdecimal() else None
