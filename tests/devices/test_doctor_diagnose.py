"""Each recorded machine: the cause named first, on what evidence, with which remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_app.devices.diagnose import CAUSES, LEFTOVER, RULES, diagnose, exit_code
from lightning_app.devices.facts import Adapter, Build, Facts, Nvml, Process
from lightning_app.devices.finding import Finding
from lightning_app.devices.rules.build import runs_on

from .recorded import NAMES, machine

# Machine, cause, a line of its evidence, a piece of its remedy, its command.
EXPECTED: list[tuple[str, str, str, str, str | None]] = [
    (
        "adapter-without-cuda",
        "adapter-without-cuda",
        "without CUDA: Intel(R) UHD Graphics",
        "train on the NVIDIA GPUs",
        None,
    ),
    (
        "amd-card-cuda-build",
        "amd-card-cuda-build",
        "PyTorch 2.13.0+cu130: torch.version.cuda is 13.0",
        "Install the ROCm build",
        None,
    ),
    (
        "nvidia-card-rocm-build",
        "nvidia-card-rocm-build",
        "PyTorch 2.13.0+rocm7.0: torch.version.hip is 7.0.51831",
        "Install a CUDA build",
        None,
    ),
    (
        "cpu-only-build",
        "cpu-only-build",
        "PyTorch 2.13.0+cpu: torch.version.cuda is None, torch.version.hip is None",
        "on Windows the package index itself holds CPU-only builds",
        None,
    ),
    (
        "visible-devices-subset",
        "visible-devices-subset",
        "it leaves 1 of 2 GPUs",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-empty",
        "visible-devices-empty",
        'CUDA_VISIBLE_DEVICES=""',
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-out-of-range",
        "visible-devices-out-of-range",
        "reading ends at the entry '5'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-repeated",
        "visible-devices-repeated",
        "it leaves 0 of 2 GPUs",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-negative",
        "visible-devices-negative",
        "reading ends at the entry '-1'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-unknown-uuid",
        "visible-devices-unknown-uuid",
        "reading ends at the entry 'GPU-unlisted-0000'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "visible-devices-not-a-device",
        "visible-devices-not-a-device",
        "reading ends at the entry 'all'",
        "Unset it",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    (
        "environment-changed",
        "environment-changed",
        "this process counts 1, a fresh one 2",
        "restart this process",
        None,
    ),
    (
        "cuda-before-fork",
        "cuda-before-fork",
        "torch.cuda reports a bad fork in this process",
        "spawn",
        None,
    ),
    (
        "driver-too-old",
        "driver-too-old",
        "driver: 535.183.01, for CUDA up to 12.2",
        "Update the driver to 580 or newer",
        None,
    ),
    (
        "no-driver",
        "no-driver",
        "kernel driver bound to the adapter: nouveau",
        "Install the NVIDIA driver for this GPU",
        "sudo ubuntu-drivers install",
    ),
    (
        "driver-mismatch",
        "driver-mismatch",
        "NVML: NVML_ERROR_LIB_RM_VERSION_MISMATCH",
        "Restart the machine",
        "sudo reboot",
    ),
    (
        "fabric-manager-missing",
        "fabric-manager-missing",
        "CUDA: error 802 (system not yet initialized)",
        "Install the fabric manager",
        "sudo systemctl enable --now nvidia-fabricmanager",
    ),
    (
        "cuda-unknown-error",
        "cuda-unknown-error",
        "CUDA: error 999 (unknown error)",
        "load the module nvidia_uvm anew",
        "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm",
    ),
    (
        "gpu-lost",
        "gpu-lost",
        "adapter at 0000:41:00.0: PCI revision ff",
        "Switch the machine off and on",
        "sudo dmesg | grep -i -e 'fallen off the bus' -e Xid",
    ),
    (
        "gpu-lost-windows",
        "gpu-lost",
        "NVIDIA GeForce RTX 3080: Windows stopped it, code 43",
        "Switch the machine off and on",
        None,
    ),
    (
        "arch-not-in-build",
        "arch-not-in-build",
        "NVIDIA GeForce RTX 5090 has compute capability 12.0",
        "a newer one for a newer GPU",
        None,
    ),
    (
        "counted-not-available",
        "counted-not-available",
        "torch.cuda.device_count() is 2, torch.cuda.is_available() is False",
        "install the driver again",
        "nvidia-smi",
    ),
    (
        "nvml-not-cuda",
        "nvml-not-cuda",
        "not counted: NVIDIA GeForce GTX 750 Ti at 0000:81:00.0",
        "may no longer support one of its age",
        "nvidia-smi -q",
    ),
    (
        "exclusive-mode",
        "exclusive-mode",
        "GPU 0 as nvidia-smi numbers it: compute mode exclusive-process, other processes: 1",
        "Wait for the other process",
        "sudo nvidia-smi -i 0 -c DEFAULT",
    ),
    (
        "mig",
        "mig",
        "GPU 0: MIG is on, instances: 3",
        "Train on one instance",
        "sudo nvidia-smi -i 0 -mig 0",
    ),
    (
        "device-order",
        "device-order",
        "number 0: PyTorch means NVIDIA GeForce RTX 4090 at 0000:41:00.0, "
        "nvidia-smi NVIDIA T400 4GB at 0000:01:00.0",
        "Set CUDA_DEVICE_ORDER=PCI_BUS_ID",
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
    ),
    (
        "wsl-sli",
        "wsl-sli",
        "NVIDIA GPUs seen by Windows or its driver: 2, by CUDA: 1",
        "Turn SLI off",
        "wsl --shutdown",
    ),
    (
        "wsl-out-of-memory",
        "wsl-out-of-memory",
        "CUDA: error 2 (out of memory)",
        "Show CUDA fewer GPUs",
        "export CUDA_VISIBLE_DEVICES=0,1",
    ),
    (
        "container-without-gpus",
        "container-without-gpus",
        "NVIDIA_VISIBLE_DEVICES is 'void'",
        "Start the container with its GPUs",
        "docker run --gpus all ...",
    ),
    (
        "container-one-of-eight",
        "container-without-gpus",
        "device nodes /dev/nvidia<n> in the container: 1 of 8",
        "ask for nvidia.com/gpu",
        "docker run --gpus all ...",
    ),
    (
        "slurm-binding",
        "slurm-binding",
        "this process sees 1, the job has 4, the node 4",
        "Let every task see all GPUs of its job",
        "srun --gpus-per-node=4 --ntasks-per-node=4 --gpu-bind=none ...",
    ),
    (
        "interactive-session",
        "interactive-session",
        "Python runs interactively, and PyTorch counts 2 GPUs",
        "dp uses all GPUs in this one process",
        "python train.py --devices 2 --strategy ddp",
    ),
    (
        "torch-not-importable",
        "torch-not-importable",
        "import torch: libcudart.so.13: cannot open shared object file: No such file or directory",
        "Install PyTorch again",
        None,
    ),
    (
        "mps-unavailable",
        "mps-unavailable",
        "PyTorch 2.13.0: MPS is not available",
        "not Rosetta",
        None,
    ),
    (
        "allocation-failed",
        "allocation-failed",
        "GPU 1 (NVIDIA GeForce RTX 4090): CUDA out of memory. Tried to allocate 2.00 MiB.",
        "whether other processes fill its memory",
        "nvidia-smi",
    ),
    (
        "unexplained",
        "unexplained",
        "NVIDIA adapters: 2, listed by the driver: 1, usable: 1",
        "the first that counts fewer is the place to look",
        None,
    ),
]

NOTES = {"adapter-without-cuda", "device-order", "interactive-session"}
HEALTHY = [name for name in NAMES if name.startswith("healthy")]


def causes(facts: Facts) -> list[str]:
    """The causes named, in order."""
    return [finding.cause for finding in diagnose(facts)]


@pytest.mark.parametrize(
    ("name", "cause", "evidence", "remedy", "command"), EXPECTED, ids=[e[0] for e in EXPECTED]
)
def test_names_the_cause_first(
    name: str, cause: str, evidence: str, remedy: str, command: str | None
) -> None:
    findings = diagnose(machine(name))
    first = findings[0]
    assert first.cause == cause
    assert evidence in first.evidence
    assert remedy in first.remedy
    assert first.command == command
    assert (first.severity == "note") == (cause in NOTES)
    assert exit_code(findings) == (0 if cause in NOTES else 1)


def test_every_cause_and_machine_is_covered() -> None:
    assert {expected[1] for expected in EXPECTED} == set(CAUSES)
    assert {expected[0] for expected in EXPECTED} | set(HEALTHY) == set(NAMES)
    assert not set(RULES) & set(LEFTOVER)


def test_each_rule_gives_its_own_cause() -> None:
    for cause, rule in RULES.items():
        given = {found.cause for name in NAMES if (found := rule(machine(name)))}
        assert given == {cause}


def test_each_rule_cites_its_source() -> None:
    for cause, rule in {**RULES, **LEFTOVER}.items():
        shared = cause.startswith("visible-devices")  # one page, cited once for all of them
        assert shared or "Source: " in (rule.__doc__ or ""), cause


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_machine_has_no_finding(name: str) -> None:
    assert diagnose(machine(name)) == []
    assert exit_code([]) == 0


def test_knowing_nothing_finds_nothing() -> None:
    assert diagnose(Facts()) == []


def test_the_healthy_machines_have_one_two_and_eight_gpus() -> None:
    for count, name in ((1, "healthy-1-gpu"), (2, "healthy-2-gpus"), (8, "healthy-8-gpus")):
        nvml = machine(name).nvml
        assert nvml is not None
        assert nvml.gpus is not None
        assert len(nvml.gpus) == count


INTEL = Adapter(vendor="intel", name="Intel(R) UHD Graphics")


def with_intel(facts: Facts) -> Facts:
    """The same machine with integrated graphics."""
    return replace(facts, adapters=(INTEL, *(facts.adapters or ())))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (with_intel(machine("cpu-only-build")), ["cpu-only-build", "adapter-without-cuda"]),
        (
            with_intel(machine("visible-devices-empty")),
            ["visible-devices-empty", "adapter-without-cuda"],
        ),
        (with_intel(machine("no-driver")), ["no-driver", "adapter-without-cuda"]),
        (
            replace(machine("cpu-only-build"), environment={"CUDA_VISIBLE_DEVICES": "-1"}),
            ["cpu-only-build", "visible-devices-negative"],
        ),
        (
            replace(machine("driver-too-old"), environment={"CUDA_VISIBLE_DEVICES": "0"}),
            ["visible-devices-subset", "driver-too-old"],
        ),
        (
            replace(machine("gpu-lost"), environment={"CUDA_VISIBLE_DEVICES": "0,0"}),
            ["visible-devices-repeated", "gpu-lost"],
        ),
        (
            replace(machine("slurm-binding"), container=True, device_nodes=1),
            ["slurm-binding", "container-without-gpus"],
        ),
        (
            replace(machine("device-order"), interactive=True),
            ["interactive-session", "device-order"],
        ),
        (
            replace(machine("allocation-failed"), interactive=True),
            ["allocation-failed", "interactive-session"],
        ),
        (
            replace(
                machine("visible-devices-subset"),
                process=Process(device_count=2, initialized=True, bad_fork=False),
            ),
            ["environment-changed", "visible-devices-subset"],
        ),
        (
            replace(machine("arch-not-in-build"), process=Process(bad_fork=True)),
            ["cuda-before-fork", "arch-not-in-build"],
        ),
        (
            replace(machine("no-driver"), build=Build(version="2.13.0+cpu"), adapters=(INTEL,) * 2),
            ["adapter-without-cuda"],
        ),
    ],
)
def test_two_causes_at_once(facts: Facts, expected: list[str]) -> None:
    assert causes(facts) == expected


def test_cuda_visible_devices_that_hides_nothing_is_no_finding() -> None:
    facts = machine("healthy-2-gpus")
    for value in ("0,1", "GPU-hidden-0000,GPU-hidden-0001"):
        assert causes(replace(facts, environment={"CUDA_VISIBLE_DEVICES": value})) == []


def test_uuids_cannot_be_judged_without_the_driver() -> None:
    facts = machine("visible-devices-unknown-uuid")
    silent = replace(facts, nvml=Nvml(error="NVML_ERROR_UNKNOWN"))
    # What CUDA counts with and without the variable still tells that it hides.
    assert causes(silent) == ["visible-devices-subset"]


def test_a_hidden_gpu_does_not_hide_an_old_driver() -> None:
    """Hiding every GPU is error 100 in that process, which says nothing of the driver."""
    old, empty = machine("driver-too-old"), machine("visible-devices-empty")
    facts = replace(old, environment=empty.environment, here=empty.here)
    assert causes(facts) == ["visible-devices-empty", "driver-too-old"]


def test_windows_remedies_are_for_powershell() -> None:
    facts = replace(machine("visible-devices-empty"), system="Windows")
    assert diagnose(facts)[0].command == "Remove-Item Env:CUDA_VISIBLE_DEVICES"
    facts = replace(machine("device-order"), system="Windows")
    assert diagnose(facts)[0].command == "$env:CUDA_DEVICE_ORDER = 'PCI_BUS_ID'"


def test_a_process_does_not_blame_the_gpu_it_holds_itself() -> None:
    own = Process(device_count=2, initialized=True, bad_fork=False)
    assert "exclusive-mode" not in causes(replace(machine("exclusive-mode"), process=own))


def test_a_cuda_build_that_gives_no_count_is_a_problem() -> None:
    facts = replace(machine("healthy-1-gpu"), here=None, clean=None)
    first = diagnose(facts)[0]
    assert first.cause == "unexplained"
    assert "PyTorch gave no count: it hung or crashed" in first.evidence


def test_slurm_without_any_gpu_asked_for() -> None:
    """The job asked for no GPU: CUDA says there is no device (100)."""
    base = machine("slurm-binding")
    assert base.here is not None
    none = replace(
        base.here, device_count=0, runtime_count=0, is_available=False, driver_error=100, gpus=()
    )
    facts = replace(
        base, here=none, clean=none, environment={"SLURM_JOB_ID": "1"}, nvml=Nvml(gpus=())
    )
    finding = diagnose(facts)[0]
    assert finding.cause == "slurm-binding"
    assert finding.explanation == "SLURM gave this job some of the GPUs of the node."


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        (("sm_80",), "8.0", True),
        (("sm_80",), "8.9", True),
        (("sm_86",), "8.0", False),
        (("sm_80", "sm_90"), "12.0", False),
        (("sm_90a",), "9.0", True),
        (("sm_90a",), "9.1", False),
        (("sm_100f",), "10.3", True),
        (("sm_80", "compute_90"), "12.0", True),
        (("compute_90a",), "12.0", False),
        (("compute_90",), "8.9", False),
        (("sm_120",), "12.1", True),
        (("gfx1100",), "11.0", None),
        (("sm_80",), "unknown", None),
        ((), "8.0", False),
    ],
)
def test_which_gpu_a_build_has_code_for(
    archs: tuple[str, ...], capability: str, expected: bool | None
) -> None:
    assert runs_on(archs, capability) is expected


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_whole_and_short(name: str) -> None:
    for finding in diagnose(machine(name)):
        assert isinstance(finding, Finding)
        assert finding.explanation.endswith(".")
        assert all(finding.evidence)
        assert finding.remedy.endswith(".")
        # A command is copied: it must not break at 80 columns.
        assert len(finding.command or "") <= 72
