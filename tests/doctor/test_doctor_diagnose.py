"""Healthy machines, several causes at once, and what a rule must not be misled by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_app.doctor.diagnose import LEFTOVER, RULES, diagnose, exit_code
from lightning_app.doctor.facts import (
    Adapter,
    Build,
    Facts,
    Nvml,
    NvmlGpu,
    Process,
    TorchGpu,
    TorchView,
)
from lightning_app.doctor.finding import Finding
from lightning_app.doctor.rules.build import runs_on

from .recorded import NAMES, machine

HEALTHY = [name for name in NAMES if name.startswith("healthy")]


def causes(facts: Facts) -> list[str]:
    """The causes named, in order."""
    return [finding.cause for finding in diagnose(facts)]


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


def test_what_cuda_counts_outweighs_how_the_variable_reads() -> None:
    facts = replace(machine("healthy-2-gpus"), environment={"CUDA_VISIBLE_DEVICES": "0,0"})
    assert causes(facts) == []


def with_gpus(facts: Facts, *gpus: NvmlGpu) -> Facts:
    """The same machine, as another driver lists it."""
    return replace(facts, nvml=replace(facts.nvml or Nvml(), gpus=gpus))


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([NvmlGpu(0, mig=True, mig_uuids=("MIG-1",))], []),
        ([NvmlGpu(0, mig=True)], []),
        ([NvmlGpu(0, mig=True, mig_uuids=())], ["mig"]),
        ([NvmlGpu(0, mig=True, mig_uuids=("MIG-1", "MIG-2"))], ["mig"]),
        ([NvmlGpu(0, mig=True, mig_uuids=("MIG-1",)), NvmlGpu(1, mig=False)], ["mig"]),
        ([NvmlGpu(0, mig=False)], []),
    ],
)
def test_mig_hides_where_there_is_more_than_the_one_instance(
    gpus: list[NvmlGpu], expected: list[str]
) -> None:
    assert causes(with_gpus(machine("healthy-1-gpu"), *gpus)) == expected


def test_the_exclusive_mode_of_another_gpu_is_not_to_blame() -> None:
    facts = machine("allocation-failed")  # GPU 1, in the default mode
    assert facts.nvml is not None
    assert facts.nvml.gpus is not None
    first, second = facts.nvml.gpus
    exclusive = replace(first, compute_mode="exclusive-process")
    assert causes(with_gpus(facts, exclusive, second)) == ["allocation-failed"]


def test_what_other_causes_explain_is_not_named_again() -> None:
    eight = machine("healthy-8-gpus").nvml
    assert causes(replace(machine("slurm-binding"), nvml=eight)) == ["slurm-binding"]
    started = TorchView(device_count=1, runtime_count=1, is_available=True, driver_error=0)
    silent = replace(machine("counted-not-available"), clean=started)
    assert causes(silent) == ["counted-not-available"]


def test_a_tensor_of_which_nothing_is_known_is_not_a_failed_one() -> None:
    facts = machine("healthy-1-gpu")
    assert facts.here is not None
    here = replace(facts.here, gpus=(TorchGpu(0),))
    assert causes(replace(facts, here=here)) == []


def test_inside_a_job_the_list_is_slurms() -> None:
    """Without control groups the driver lists every GPU, and only the variable binds."""
    hidden = machine("visible-devices-subset")
    job = {**(hidden.environment or {}), "SLURM_JOB_ID": "1", "SLURM_GPUS_ON_NODE": "2"}
    assert causes(replace(hidden, environment=job)) == ["slurm-binding"]


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
