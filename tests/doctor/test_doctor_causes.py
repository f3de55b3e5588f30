"""Each recorded machine: the cause named first, on what evidence, with which remedy."""

from __future__ import annotations

import pytest

from lightning_app.doctor.diagnose import CAUSES, LEFTOVER, RULES, diagnose, exit_code

from .recorded import NAMES, machine

# A machine, which has its cause's name; a line of the evidence, a piece of the remedy, the command.
EXPECTED: list[tuple[str, str, str, str | None]] = [
    (
        "adapter-without-cuda",
        "without CUDA: Intel(R) UHD Graphics",
        "train on the NVIDIA GPUs",
        None,
    ),
    (
        "amd-card-cuda-build",
        "PyTorch 2.13.0+cu130: torch.version.cuda is 13.0",
        "Install the ROCm build",
        None,
    ),
    (
        "nvidia-card-rocm-build",
        "PyTorch 2.13.0+rocm7.0: torch.version.hip is 7.0.51831",
        "Install a CUDA build",
        None,
    ),
    (
        "cpu-only-build",
        "PyTorch 2.13.0+cpu: torch.version.cuda is None, torch.version.hip is None",
        "on Windows the package index itself holds CPU-only builds",
        None,
    ),
    ("visible-devices-subset", "it leaves 1 of 2 GPUs", "Unset it", "unset CUDA_VISIBLE_DEVICES"),
    ("visible-devices-empty", 'CUDA_VISIBLE_DEVICES=""', "Unset it", "unset CUDA_VISIBLE_DEVICES"),
    (
        "visible-devices-out-of-range",
        "reading ends at the entry '5'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    ("visible-devices-repeated", "it leaves 0 of 2 GPUs", "Unset it", "unset CUDA_VISIBLE_DEVICES"),
    (
        "visible-devices-negative",
        "reading ends at the entry '-1'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-unknown-uuid",
        "reading ends at the entry 'GPU-unlisted-0000'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-not-a-device",
        "reading ends at the entry 'all'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    ("environment-changed", "this process counts 1, a fresh one 2", "restart this process", None),
    ("cuda-before-fork", "torch.cuda reports a bad fork in this process", "spawn", None),
    (
        "driver-too-old",
        "driver: 535.183.01, for CUDA up to 12.2",
        "Update the driver to 580 or newer",
        None,
    ),
    (
        "no-driver",
        "kernel driver bound to the adapter: nouveau",
        "Install the NVIDIA driver for this GPU",
        "sudo ubuntu-drivers install",
    ),
    (
        "driver-mismatch",
        "NVML: NVML_ERROR_LIB_RM_VERSION_MISMATCH",
        "Restart the machine",
        "sudo reboot",
    ),
    (
        "fabric-manager-missing",
        "CUDA: error 802 (system not yet initialized)",
        "Install the fabric manager",
        "sudo systemctl enable --now nvidia-fabricmanager",
    ),
    (
        "cuda-unknown-error",
        "CUDA: error 999 (unknown error)",
        "load the module nvidia_uvm anew",
        "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm",
    ),
    (
        "gpu-lost",
        "adapter at 0000:41:00.0: PCI revision ff",
        "Switch the machine off and on",
        "sudo dmesg | grep -i -e 'fallen off the bus' -e Xid",
    ),
    (
        "gpu-lost-windows",
        "NVIDIA GeForce RTX 3080: Windows stopped it, code 43",
        "Switch the machine off and on",
        None,
    ),
    (
        "arch-not-in-build",
        "NVIDIA GeForce RTX 5090 has compute capability 12.0",
        "a newer one for a newer GPU",
        None,
    ),
    (
        "counted-not-available",
        "torch.cuda.device_count() is 2, torch.cuda.is_available() is False",
        "install the driver again",
        "nvidia-smi",
    ),
    (
        "nvml-not-cuda",
        "not counted: NVIDIA GeForce GTX 750 Ti at 0000:81:00.0",
        "may no longer support one of its age",
        "nvidia-smi -q",
    ),
    (
        "exclusive-mode",
        "GPU 0 as nvidia-smi numbers it: compute mode exclusive-process, other processes: 1",
        "Wait for the other process",
        "sudo nvidia-smi -i 0 -c DEFAULT",
    ),
    (
        "mig",
        "GPU 0: MIG is on, instances: 3",
        "Train on one instance",
        "sudo nvidia-smi -i 0 -mig 0",
    ),
    (
        "device-order",
        "number 0: PyTorch means NVIDIA GeForce RTX 4090 at 0000:41:00.0, "
        "nvidia-smi NVIDIA T400 4GB at 0000:01:00.0",
        "Set CUDA_DEVICE_ORDER=PCI_BUS_ID",
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
    ),
    (
        "wsl-sli",
        "NVIDIA GPUs seen by Windows or its driver: 2, by CUDA: 1",
        "Turn SLI off",
        "wsl --shutdown",
    ),
    (
        "wsl-out-of-memory",
        "CUDA: error 2 (out of memory)",
        "Show CUDA fewer GPUs",
        "export CUDA_VISIBLE_DEVICES=0,1",
    ),
    (
        "container-without-gpus",
        "NVIDIA_VISIBLE_DEVICES is 'void'",
        "Start the container with its GPUs",
        "docker run --gpus all ...",
    ),
    (
        "container-one-of-eight",
        "device nodes /dev/nvidia<n> in the container: 1 of 8",
        "ask for nvidia.com/gpu",
        "docker run --gpus all ...",
    ),
    (
        "slurm-binding",
        "this process sees 1, the job has 4, the node 4",
        "Let every task see all GPUs of its job",
        "srun --gpus-per-node=4 --ntasks-per-node=4 --gpu-bind=none ...",
    ),
    (
        "interactive-session",
        "Python runs interactively, and PyTorch counts 2 GPUs",
        "in the notebook itself, DataParallelStrategy uses all GPUs in this one process",
        "python train.py --devices 2 --strategy ddp",
    ),
    (
        "torch-not-importable",
        "import torch: libcudart.so.13: cannot open shared object file: No such file or directory",
        "Install PyTorch again",
        None,
    ),
    ("mps-unavailable", "PyTorch 2.13.0: MPS is not available", "not Rosetta", None),
    (
        "allocation-failed",
        "GPU 1 (NVIDIA GeForce RTX 4090): CUDA out of memory. Tried to allocate 2.00 MiB.",
        "whether other processes fill its memory",
        "nvidia-smi",
    ),
    (
        "first-host-not-reached",
        "connecting to it: TimeoutError",
        "a name or an address that every host knows",
        None,
    ),
    (
        "host-name-is-loopback",
        "hosts, by srun: 2",
        "the host's own address in /etc/hosts",
        "export GLOO_SOCKET_IFNAME=eth0",
    ),
    (
        "unexplained",
        "NVIDIA adapters: 2, listed by the driver: 1, usable: 1",
        "the first that counts fewer is the place to look",
        None,
    ),
]
CAUSE_OF = {"gpu-lost-windows": "gpu-lost", "container-one-of-eight": "container-without-gpus"}

NOTES = {
    "adapter-without-cuda",
    "device-order",
    "first-host-not-reached",
    "host-name-is-loopback",
    "interactive-session",
}
HEALTHY = [name for name in NAMES if name.startswith("healthy")]


@pytest.mark.parametrize(
    ("name", "evidence", "remedy", "command"), EXPECTED, ids=[e[0] for e in EXPECTED]
)
def test_names_the_cause_first(name: str, evidence: str, remedy: str, command: str | None) -> None:
    findings, cause = diagnose(machine(name)), CAUSE_OF.get(name, name)
    first = findings[0]
    assert first.cause == cause
    assert evidence in first.evidence
    assert remedy in first.remedy
    assert first.command == command
    assert (first.severity == "note") == (cause in NOTES)
    assert exit_code(findings) == (0 if cause in NOTES else 1)


def test_every_cause_and_machine_is_covered() -> None:
    machines = {expected[0] for expected in EXPECTED}
    assert {CAUSE_OF.get(name, name) for name in machines} == set(CAUSES)
    assert machines | set(HEALTHY) == set(NAMES)
    assert not set(RULES) & set(LEFTOVER)
